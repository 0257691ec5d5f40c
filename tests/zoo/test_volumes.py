"""A backbone that reads volumes says so, in every command that takes one, before images are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from torch import Tensor, nn

from ttl_deploy.cli.main import run
from ttl_deploy.zoo import BACKBONES, Backbone, Unit
from ttl_deploy.zoo.backbone import mark_block_ends


class Volumes(Backbone):
    name = "tiny3d"
    first_weight = "0.weight"
    dims = 3
    units = mark_block_ends([Unit("stem", 0, ""), Unit("block", 1, "")])

    def build(self, channels: int = 3) -> dict[str, nn.Module]:
        return {"stem": nn.Conv3d(channels, 4, 3), "block": nn.Conv3d(4, 4, 3)}

    def slim(self, unit: Unit, original: nn.Module, channels: int, factor: int) -> tuple[nn.Module, int]:
        return nn.Conv3d(channels, 4 // factor, 3), 4 // factor

    def pretrained(self) -> Mapping[str, Tensor]:
        return {}


@pytest.mark.parametrize("method", ["ttl", "ftl", "lwft", "search"])
def test_a_backbone_of_volumes_is_one_line(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    BACKBONES.names()
    monkeypatch.setitem(BACKBONES._entries, "tiny3d", Volumes())

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the images were read")

    monkeypatch.setattr("ttl_deploy.data.manifest.read_dataset", fail)
    out = ["--backbone", "tiny3d", "--out", str(tmp_path / "out")]
    cut = [] if method == "ftl" else ["--cut", "stem"]
    arguments = {"search": ["search", str(tmp_path), *out]}.get(
        method, ["train", str(tmp_path), "--method", method, "--weights", "random", *cut, *out]
    )
    assert run(arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: backbone tiny3d wants volumes of 3 dimensions, and images have 2; choose a backbone that reads images"
    )
    assert not (tmp_path / "out").exists()
