"""Prediction over a Ray cluster of two workers: the same numbers as without one."""

import csv
from pathlib import Path

import pytest

from ttl_deploy.cli.main import run as command
from ttl_deploy.errors import UnreadableImageError
from ttl_deploy.prediction import cluster as module
from ttl_deploy.prediction.predict import predict
from ttl_deploy.spec import Placement, Stream

for _part in ("ray", "pandas", "pyarrow"):
    pytest.importorskip(_part, reason=f"Ray Data needs {_part}, which is not installed")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own, of its own dependencies
def test_two_workers_predict_what_one_process_does(trained: Path, synthetic: Path, tmp_path: Path) -> None:
    artifact, images = trained / "onnx-fp32", [str(synthetic / "lesion")]
    alone = list(predict(artifact, images, placement=Placement(threads=1)))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    spread = list(
        predict(
            artifact,
            [*images, str(broken)],
            stream=Stream(engine="ray", workers=2, skip_unreadable=True),
            placement=Placement(threads=1),
        )
    )
    assert [p.image for p in spread] == [p.image for p in alone]
    for ours, theirs in zip(spread, alone, strict=True):
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-6)
    with pytest.raises(UnreadableImageError, match=r"broken\.png"):
        list(predict(artifact, [str(broken)], stream=Stream(engine="ray", workers=1), placement=Placement(threads=1)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_goes_on_with_the_file_that_one_process_began(
    trained: Path, synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, folders = trained / "onnx-fp32", [str(synthetic / "lesion"), str(synthetic / "healthy")]
    whole, shared = tmp_path / "whole.csv", tmp_path / "shared.csv"
    predict(artifact, folders, out=whole, placement=Placement(threads=1))
    begun = predict(artifact, folders[:1], out=shared, placement=Placement(threads=1))
    monkeypatch.setattr(module, "PORTION", 17)  # several portions, the last of them not full
    done = predict(
        artifact, folders, out=shared, stream=Stream(engine="ray", workers=2), placement=Placement(threads=1)
    )
    assert (done.present, done.written) == (begun.written, len(whole.read_text().splitlines()) - 1 - begun.written)
    ours, theirs = (list(csv.reader(path.open())) for path in (shared, whole))
    assert [row[:2] for row in ours] == [row[:2] for row in theirs]
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        assert list(map(float, one[2:])) == pytest.approx(list(map(float, other[2:])), abs=2e-6)
    # Nothing is left to do: no cluster is started, and by the command neither.
    monkeypatch.setattr(module, "ray_cluster", None)
    assert command(["predict", str(artifact), *folders, "--engine", "ray", "--threads", "1", "--out", str(shared)]) == 0
