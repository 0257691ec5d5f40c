"""Verdicts on a made-up table: each kind of row, judged."""

from pathlib import Path

import pytest

from ttl_deploy.complexity import RowResult, load_tables, reproduce
from ttl_deploy.complexity.verdicts import norm_scales, tally
from ttl_deploy.spec import ModelSpec

HEAD = 'name = "t"\ntitle = "t"\nsource = "s"\n'
BACKBONE = 11_176_512
"""Parameters of torchvision's ResNet-18 (11,689,512) without its 1000-way classifier (513,000)."""


RESNET18_G = 0.037177858
"""Thousand millions of MACs of torchvision's ResNet-18 for two classes at 32 pixels, by ptflops without functions."""


def row(name: str, parameters: float, more: str = "", macs: float | None = None, **construction: str) -> str:
    made = {"backbone": "resnet18", "parameters_of": "features", **construction}
    printed = "" if macs is None else f", macs_g = {macs}"
    fields = ", ".join(f'{key} = "{value}"' for key, value in made.items())
    return (
        f'[[rows]]\nname = "{name}"\nprinted = {{ parameters_m = {parameters / 1e6}{printed} }}\n'
        f'construction = {{ {fields}, method = "ftl", head = "gap", outputs = 2, input = [3, 32, 32] }}\n{more}\n'
    )


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RowResult]:
    folder = tmp_path_factory.mktemp("tables")
    rows = [
        row("exact", BACKBONE),
        row("rounded", 11_180_000),
        row("cut off", 11_170_000),
        row("a digit more", 11_190_000),
        row("a digit less", 11_160_000),
        row("the last of many digits", BACKBONE + 1),
        row("known", BACKBONE * 2, 'inconsistent = ["parameters"]\nnote = "a slip"'),
        row("rounded MACs", BACKBONE, macs=round(RESNET18_G, 4)),
        row("a digit more of MACs", BACKBONE, macs=round(RESNET18_G + 1e-4, 4)),
        row("missing", 5, backbone="a_network_of_the_future"),
        row("whole", BACKBONE + 2 * 512 + 2, parameters_of="model"),
    ]
    (folder / "t.toml").write_text(HEAD + "".join(rows))
    return {result.row.name: result for result in reproduce(load_tables(Path(folder)))}


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("exact", "reproduced"),
        ("rounded", "reproduced"),
        ("cut off", "reproduced"),
        ("a digit more", "deviates"),
        ("a digit less", "deviates"),
        ("the last of many digits", "deviates"),
        ("known", "explained"),
        ("missing", "not yet in the zoo"),
        ("whole", "reproduced"),
        ("rounded MACs", "reproduced"),
        ("a digit more of MACs", "deviates"),
    ],
)
def test_each_kind_of_row(name: str, verdict: str, judged: dict[str, RowResult]) -> None:
    assert judged[name].verdict == verdict


def test_the_deviation_is_relative_to_the_paper(judged: dict[str, RowResult]) -> None:
    assert judged["exact"].cells["parameters"].deviation == 0
    assert judged["known"].cells["parameters"].deviation == pytest.approx(-0.5)
    assert judged["whole"].cells["parameters"].ours == BACKBONE + 2 * 512 + 2


def test_missing_rows_are_counted(judged: dict[str, RowResult]) -> None:
    assert tally(list(judged.values())) == {"reproduced": 5, "explained": 1, "deviates": 4, "not yet in the zoo": 1}
    assert judged["missing"].cells == {}


def test_a_network_is_counted_once(judged: dict[str, RowResult]) -> None:
    assert judged["exact"].cost is judged["rounded"].cost


def test_the_scales_of_batch_norms_are_one_a_channel() -> None:
    """ResNet-18: its stem's norm, and in each stage two a block and one in the shortcut that changes the channels."""
    by_hand = 64 + 64 * 4 + 128 * 5 + 256 * 5 + 512 * 5
    spec = ModelSpec(backbone="resnet18", method="ftl", classes=("a", "b"), image_size=32)
    assert norm_scales(spec) == by_hand
