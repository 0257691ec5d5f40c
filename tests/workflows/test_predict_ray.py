"""Prediction over a Ray cluster of two workers: the same numbers as without one."""

from pathlib import Path

import pytest

from ttl_deploy.errors import UnreadableImageError
from ttl_deploy.workflows.predict import predict
from ttl_deploy.workflows.predict_ray import predict_ray

for _part in ("ray", "pandas", "pyarrow"):
    pytest.importorskip(_part, reason=f"Ray Data needs {_part}, which is not installed")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own, of its own dependencies
def test_two_workers_predict_what_one_process_does(trained: Path, synthetic: Path, tmp_path: Path) -> None:
    artifact, images = trained / "onnx-fp32", [str(synthetic / "lesion")]
    alone = list(predict(artifact, images, threads=1))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    spread = list(predict_ray(artifact, [*images, str(broken)], threads=1, workers=2, skip_unreadable=True))
    assert [p.image for p in spread] == [p.image for p in alone]
    for ours, theirs in zip(spread, alone, strict=True):
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-6)
    with pytest.raises(UnreadableImageError, match=r"broken\.png"):
        list(predict_ray(artifact, [str(broken)], threads=1, workers=1))
