from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ttl_deploy.artifact import MANIFEST, Artifact, open_artifact, update_manifest, write_artifact
from ttl_deploy.errors import BadInputError, IntegrityError
from ttl_deploy.spec import ParityRecord


def edit_manifest(artifact: Artifact, change: Callable[[dict[str, Any]], None]) -> None:
    path = artifact.folder / MANIFEST
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_written_is_read_back(artifact: Artifact) -> None:
    again = open_artifact(artifact.folder)
    assert again == artifact
    record = again.manifest.files["model.onnx"]
    content = again.model_path.read_bytes()
    assert (record.sha256, record.size) == (hashlib.sha256(content).hexdigest(), len(content))


def test_a_file_inside_stands_for_the_folder(artifact: Artifact) -> None:
    assert open_artifact(artifact.model_path).folder == artifact.folder


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_changed_byte_is_refused(artifact: Artifact, place: int) -> None:
    content = bytearray(artifact.model_path.read_bytes())
    content[place] ^= 1
    artifact.model_path.write_bytes(content)
    with pytest.raises(IntegrityError, match="has changed") as error:
        open_artifact(artifact.folder)
    assert "model.onnx" in one_line(error)
    assert open_artifact(artifact.folder, verify=False) == artifact


def test_a_truncated_file_is_refused_even_without_hashing(artifact: Artifact) -> None:
    artifact.model_path.write_bytes(artifact.model_path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="bytes, the manifest says"):
        open_artifact(artifact.folder, verify=False)


def test_a_missing_file_is_refused(artifact: Artifact) -> None:
    artifact.model_path.unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        open_artifact(artifact.folder)


def test_a_newer_schema_is_refused(artifact: Artifact) -> None:
    edit_manifest(artifact, lambda content: content.update(schema_version=99, something_new=1))
    with pytest.raises(IntegrityError, match="newer than this program's") as error:
        open_artifact(artifact.folder)
    assert "upgrade ttl-deploy" in one_line(error)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\udcff", '{"format": "onnx"}', "[" * 100_000])
def test_a_damaged_manifest_is_one_line(artifact: Artifact, text: str) -> None:
    (artifact.folder / MANIFEST).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(IntegrityError) as error:
        open_artifact(artifact.folder)
    assert MANIFEST in one_line(error)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret", "..\\secret", "C:\\secret", "", "\0"])
def test_a_path_out_of_the_folder_is_refused(artifact: Artifact, name: str) -> None:
    secret = artifact.folder.parent / "secret"
    secret.write_bytes(b"x")
    record = {"sha256": hashlib.sha256(b"x").hexdigest(), "size": 1}
    edit_manifest(artifact, lambda content: content["files"].update({name: record}))
    with pytest.raises(IntegrityError, match="outside the artifact"):
        open_artifact(artifact.folder)


def test_a_link_out_of_the_folder_is_refused(artifact: Artifact) -> None:
    outside = artifact.folder.parent / "outside.onnx"
    artifact.model_path.rename(outside)
    artifact.model_path.symlink_to(outside)
    with pytest.raises(IntegrityError, match="outside the artifact"):
        open_artifact(artifact.folder)


def test_the_model_file_must_be_among_the_files(artifact: Artifact) -> None:
    edit_manifest(artifact, lambda content: content.update(model_file="../other.onnx"))
    with pytest.raises(IntegrityError, match="does not list its model file"):
        open_artifact(artifact.folder)


def test_other_folders_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no such artifact"):
        open_artifact(tmp_path / "nothing")
    with pytest.raises(BadInputError, match="is not an artifact"):
        open_artifact(tmp_path)
    with pytest.raises(BadInputError, match="cannot be read: File name too long"):
        open_artifact(tmp_path / ("x" * 5000))
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(BadInputError, match="is a run; export it first with `ttl-deploy export "):
        open_artifact(tmp_path)


def test_an_artifact_is_only_replaced_when_told_to(artifact: Artifact) -> None:
    fields = artifact.manifest.model_dump(exclude={"files", "model_file"})

    def build(folder: Path) -> str:
        (folder / "other.onnx").write_bytes(b"other")
        return "other.onnx"

    with pytest.raises(BadInputError, match="exists already"):
        write_artifact(artifact.folder, fields, build)
    assert open_artifact(artifact.folder) == artifact
    replaced = write_artifact(artifact.folder, fields, build, overwrite=True)
    assert sorted(path.name for path in replaced.folder.iterdir()) == [MANIFEST, "other.onnx"]


def test_overwriting_leaves_a_folder_alone_that_is_no_artifact(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInputError, match="is left alone"):
        write_artifact(tmp_path, {}, lambda _folder: "x", overwrite=True)
    assert (tmp_path / "thesis.txt").exists()


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> str:
        (folder / "half").write_bytes(b"x")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        write_artifact(tmp_path / "new", {}, build)
    assert list(tmp_path.iterdir()) == []


def test_the_parity_result_is_stored(artifact: Artifact) -> None:
    record = ParityRecord(
        reference="pytorch",
        images=3,
        split="test",
        max_logit_difference=None,
        mean_logit_difference=1e-6,
        label_agreement=1.0,
        auroc=(0.9, 0.9),
        auprc=(None, 0.8),
        verdict="pass",
        reason="fine",
    )
    updated = update_manifest(artifact, parity=record)
    assert open_artifact(artifact.folder) == updated
    assert updated.manifest.parity == record
    assert updated.manifest.files == artifact.manifest.files


def test_an_unknown_field_is_refused_and_the_old_manifest_stands(artifact: Artifact) -> None:
    with pytest.raises(BadInputError, match="colour"):
        update_manifest(artifact, colour="blue")
    assert open_artifact(artifact.folder) == artifact
