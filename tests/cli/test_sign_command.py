"""`ttl-deploy sign`, and `--key` and `--trust` of the commands that open an artifact."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ttl_deploy.artifact import Artifact, update_manifest
from ttl_deploy.cli.main import run

COMMANDS = ("predict", "verify", "bench", "serve")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "scan.png"
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(path)
    return path


def command_on(name: str, artifact: Artifact, picture: Path) -> list[str]:
    return [name, str(artifact.folder), *([str(picture), "--format", "json"] if name == "predict" else [])]


def test_keys_are_made_an_artifact_signed_and_predicted_with(
    artifact: Artifact, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, public = str(tmp_path / "k.pem"), str(tmp_path / "k.pub.pem")
    assert run(["sign", "--new-key", key]) == 0
    assert public in capsys.readouterr().out
    assert run(["sign", str(artifact.folder), "--key", key]) == 0
    assert "model.sig" in capsys.readouterr().out
    assert run([*command_on("predict", artifact, picture), "--key", public]) == 0
    assert set(json.loads(capsys.readouterr().out)[0]["probabilities"]) == set(artifact.manifest.model.classes)
    assert run(["sign", str(artifact.folder), "--key", key]) == 2
    assert "pass --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_what_the_key_has_not_signed(
    name: str, artifact: Artifact, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, public = str(tmp_path / "k.pem"), str(tmp_path / "k.pub.pem")
    run(["sign", "--new-key", key])
    command = [*command_on(name, artifact, picture), "--key", public]
    assert run(command) == 2
    assert "is not signed (no model.sig)" in capsys.readouterr().err
    run(["sign", str(artifact.folder), "--key", key])
    update_manifest(artifact, macs=10)
    capsys.readouterr()
    assert run(command) == 2
    shown = capsys.readouterr()
    assert "is not what was signed" in shown.err
    assert len(shown.err.splitlines()) == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_asks_for_trust_before_native_code(
    name: str,
    make_artifact: Callable[..., Artifact],
    picture: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The artifact names a package that is not there: with trust that is what is told."""
    details = {"aot": {"file": "model-aot.pt2", "device": "cpu", "isa": []}}
    artifact = make_artifact(format="pt2", details=details)
    command = [*command_on(name, artifact, picture), "--runtime", "torch-aot"]
    command += ["--no-whole"] if name == "bench" else []
    if name == "verify":
        command += ["--against", str(make_artifact("reference").folder), "--data", str(picture.parent)]
    assert run(command) == 2
    shown = capsys.readouterr().err
    assert "runtime torch-aot would run native code: an AOTInductor package" in shown
    assert "--trust" in shown
    run([*command, "--trust"])
    assert "native code" not in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--key", "k.pem"], ["a", "--new-key", "k.pem"]])
def test_sign_says_what_it_needs(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["sign", *arguments]) == 2
    assert not list(tmp_path.iterdir())
    shown = capsys.readouterr()
    assert "--new-key" in shown.out + shown.err
