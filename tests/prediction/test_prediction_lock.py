"""One process at a time adds to a file of predictions; the lock of a dead one is no obstacle and leaves nothing."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ttl_deploy.artifact import Artifact
from ttl_deploy.cli.main import run
from ttl_deploy.errors import BadInputError
from ttl_deploy.prediction.file import PredictionFile
from ttl_deploy.prediction.predict import predict
from ttl_deploy.prediction.predictor import provenance_of
from ttl_deploy.spec import Placement

HOLDER = """
    import sys
    from pathlib import Path
    from ttl_deploy.artifact import open_artifact
    from ttl_deploy.prediction.predictor import provenance_of
    from ttl_deploy.prediction.file import PredictionFile
    from ttl_deploy.spec import Placement
    artifact = open_artifact(Path(sys.argv[1]))
    classes = artifact.manifest.model.classes
    provenance = provenance_of(artifact, Placement(runtime="onnxruntime"))
    with PredictionFile(Path(sys.argv[2]), None, classes, False, provenance) as file:
        file.write("first.png", None, classes[0], dict.fromkeys(classes, 0.5))
        print("in", flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
def scans(synthetic: Path) -> list[str]:
    return [str(path) for path in sorted(synthetic.glob("*/*.png"))[:4]]


def holding(artifact: Artifact, out: Path) -> "subprocess.Popen[str]":
    """A process that writes to a file until it gets a line."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(artifact.folder), str(out)]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "in\n"
    return child


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_the_second_of_two_writers_is_refused_in_one_line_that_names_the_first(
    artifact: Artifact, scans: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    out = tmp_path / "out.csv"
    with holding(artifact, out) as child:
        assert run(["predict", str(artifact.folder), *scans, "--out", str(out), *more]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said == (f"error: {out}: process {child.pid} is writing to it; wait for it, or choose another --out")
        child.communicate("go\n", timeout=60)
    assert [line.split(",")[0] for line in out.read_text().splitlines()] == ["image", "first.png"]
    assert predict(artifact.folder, scans, out=out).written == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["artifact", "out.csv", "out.csv.meta.json"]


def test_a_killed_writer_is_no_obstacle(artifact: Artifact, scans: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    with holding(artifact, out) as child:
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=60)
    # As if it had been killed while it wrote what says who made the rows.
    machine = re.sub(r"[^A-Za-z0-9]", "_", platform.node())[:32]
    (tmp_path / f".out.csv.meta.json.{machine}-{child.pid}-0123abcd.tmp").write_bytes(b"half")
    assert predict(artifact.folder, scans, out=out).written == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["artifact", "out.csv", "out.csv.meta.json"]
    writer = json.loads((tmp_path / "out.csv.meta.json").read_text())["writer"]
    assert writer["process"] == os.getpid()


def test_a_writer_that_is_gone_is_not_named(artifact: Artifact, scans: list[str], tmp_path: Path) -> None:
    """Another process may hold the file and not have said so yet; the name in the record is then that of the last."""
    out, meta = tmp_path / "out.csv", tmp_path / "out.csv.meta.json"
    with holding(artifact, out) as child:
        record = json.loads(meta.read_text())
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        meta.write_text(json.dumps({**record, "writer": {**record["writer"], "process": gone.pid}}))
        with pytest.raises(BadInputError, match=r"out\.csv: another process is writing to it"):
            predict(artifact.folder, scans, out=out)
        elsewhere = {"machine": "node17", "process": 7}
        meta.write_text(json.dumps({**record, "writer": elsewhere}))
        with pytest.raises(BadInputError, match="process 7 on node17 is writing"):
            predict(artifact.folder, scans, out=out)
        child.communicate("go\n", timeout=60)


def test_a_refusal_lets_go_of_the_file_and_leaves_none(artifact: Artifact, tmp_path: Path) -> None:
    provenance, classes = provenance_of(artifact, Placement(runtime="onnxruntime")), artifact.manifest.model.classes
    out = tmp_path / ("x" * 250)
    for _ in range(2):
        with pytest.raises(Exception, match="the name is longer than the file system allows; choose a shorter name"):
            PredictionFile(out, None, classes, False, provenance)
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]
    good = tmp_path / "out.csv"
    with PredictionFile(good, None, classes, False, provenance) as file:
        file.write("a.png", None, "ill", dict.fromkeys(classes, 1 / 3))
    for _ in range(2):
        with pytest.raises(BadInputError, match="another model or engine"):
            PredictionFile(good, None, classes, False, provenance.model_copy(update={"precision": "fp16"}))
    with PredictionFile(good, None, classes, False, provenance) as file:
        assert file.take("a.png")


def test_a_device_is_no_file_of_predictions_and_stays(artifact: Artifact, scans: list[str], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    with pytest.raises(BadInputError, match="is no ordinary file"):
        predict(artifact.folder, scans, out=pipe, overwrite=True)
    assert pipe.is_fifo()
