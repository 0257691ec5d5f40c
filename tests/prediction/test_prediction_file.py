"""A file of predictions survives a killed process, and nobody adds rows of another model to it."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest

from ttl_deploy.artifact import Artifact
from ttl_deploy.cli.main import run
from ttl_deploy.errors import BadInputError, IntegrityError, StorageError, UnreadableImageError
from ttl_deploy.prediction.file import PredictionFile
from ttl_deploy.prediction.predict import predict
from ttl_deploy.prediction.predictor import provenance_of
from ttl_deploy.spec import Placement, Stream


@pytest.fixture
def scans(synthetic: Path) -> list[str]:
    return [str(path) for path in sorted(synthetic.glob("*/*.png"))[:20]]


@pytest.fixture(params=["csv", "jsonl"])
def whole(request: pytest.FixtureRequest, artifact: Artifact, scans: list[str], tmp_path: Path) -> Path:
    """A finished file of twenty rows."""
    out = tmp_path / f"whole.{request.param}"
    assert predict(artifact.folder, scans, out=out).written == 20
    return out


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def cut(whole: Path, size: int) -> Path:
    """What a process killed after `size` bytes leaves."""
    out = whole.with_name("cut" + whole.suffix)
    out.write_bytes(whole.read_bytes()[:size])
    meta = whole.with_name(whole.name + ".meta.json")
    out.with_name(out.name + ".meta.json").write_bytes(meta.read_bytes())
    return out


def test_the_rows_are_the_predictions(whole: Path, artifact: Artifact, scans: list[str]) -> None:
    expected = list(predict(artifact.folder, scans))
    if whole.suffix == ".csv":
        rows = rows_of(whole)
        found = [(r["image"], r["label"], {n: float(r[n]) for n in ("healthy", "ill", "unclear")}) for r in rows]
    else:
        records = [json.loads(line) for line in whole.read_text().splitlines()]
        found = [(r["image"], r["label"], r["probabilities"]) for r in records]
    assert [(image, label) for image, label, _ in found] == [(p.image, p.label) for p in expected]
    for (_, _, probabilities), prediction in zip(found, expected, strict=True):
        assert probabilities == pytest.approx(prediction.probabilities, abs=1e-6)


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.5, 0.77, 0.999, 1.0])
def test_a_file_cut_anywhere_is_completed(whole: Path, artifact: Artifact, scans: list[str], part: float) -> None:
    out = cut(whole, round(part * whole.stat().st_size))
    summary = predict(artifact.folder, scans, out=out)
    assert out.read_bytes() == whole.read_bytes()
    assert summary.written + summary.present == 20
    assert summary.present >= int(20 * part) - 2


def test_names_that_need_quotes(artifact: Artifact, scans: list[str], tmp_path: Path) -> None:
    """A line end inside a quoted name is not the end of a row."""
    odd = [tmp_path / name for name in ('a,"b.png', "two\nlines.png", "é.png", os.fsdecode(b"bytes\xff.png"))]
    for path in odd:
        path.write_bytes(Path(scans[0]).read_bytes())
    for suffix in ("csv", "jsonl"):
        out = tmp_path / f"odd.{suffix}"
        predict(artifact.folder, [str(path) for path in odd], out=out)
        whole = out.read_bytes()
        for size in range(0, len(whole), 29):
            out.write_bytes(whole[:size])
            predict(artifact.folder, [str(path) for path in odd], out=out)
            assert out.read_bytes() == whole, (suffix, size)


def test_a_killed_process_is_gone_on_with(trained: Path, scans: list[str], tmp_path: Path) -> None:
    table = tmp_path / "many.csv"
    table.write_text("path,id\n" + "".join(f"{scans[i % 20]},{i}\n" for i in range(3000)))
    out = tmp_path / "out.csv"
    command = [sys.executable, "-m", "ttl_deploy", "predict", str(trained / "onnx-fp32"), str(table)]
    arguments = [*command, "--out", str(out), "--batch-size", "4", "--threads", "1"]
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    while process.poll() is None and (not out.exists() or out.stat().st_size < 20_000):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    before = len(out.read_bytes().splitlines())
    assert 100 < before < 3000
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert f"{3000 - (before - 1)} written" in done.stderr or f"{3000 - (before - 2)} written" in done.stderr
    rows = rows_of(out)
    assert [row["id"] for row in rows] == [str(i) for i in range(3000)]


def test_images_added_later_are_added(artifact: Artifact, scans: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    predict(artifact.folder, scans[5:9], out=out)
    summary = predict(artifact.folder, scans, out=out)
    assert (summary.written, summary.present) == (16, 4)
    assert len({row["image"] for row in rows_of(out)}) == 20


def test_repeated_rows_of_a_table_are_counted(artifact: Artifact, scans: list[str], tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("path\n" + f"{scans[0]}\n" * 5)
    out = tmp_path / "out.csv"
    predict(artifact.folder, [str(table)], out=out)
    out.write_bytes(b"".join(out.read_bytes().splitlines(keepends=True)[:3]))
    summary = predict(artifact.folder, [str(table)], out=out)
    assert (summary.written, summary.present) == (3, 2)


def test_unreadable_images_are_tried_again(artifact: Artifact, scans: list[str], tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    out = tmp_path / "out.csv"
    with pytest.raises(UnreadableImageError):
        predict(artifact.folder, [scans[0], str(bad)], out=out, stream=Stream(batch_size=1))
    assert len(out.read_text().splitlines()) == 2
    first = predict(artifact.folder, [scans[0], str(bad)], out=out, stream=Stream(skip_unreadable=True))
    assert (first.written, first.present, first.unreadable) == (0, 1, 1)
    bad.write_bytes(Path(scans[1]).read_bytes())
    assert predict(artifact.folder, [scans[0], str(bad)], out=out).written == 1


def test_another_model_or_file_is_refused(
    whole: Path, artifact: Artifact, make_artifact: object, scans: list[str], tmp_path: Path
) -> None:
    before = whole.read_bytes()
    with pytest.raises(BadInputError, match="another model or engine"):
        predict(artifact.folder, scans, out=whole, placement=Placement(runtime="openvino"))
    foreign = tmp_path / "thesis.csv"
    foreign.write_text("chapter,words\n1,9000\n")
    with pytest.raises(BadInputError, match="not written by"):
        predict(artifact.folder, scans, out=foreign)
    assert foreign.read_text() == "chapter,words\n1,9000\n"
    assert whole.read_bytes() == before
    other = predict(artifact.folder, scans, out=whole, overwrite=True, placement=Placement(runtime="openvino"))
    assert other.written == 20


def test_another_header_or_a_damaged_row_is_refused(whole: Path, artifact: Artifact, scans: list[str]) -> None:
    lines = whole.read_bytes().splitlines(keepends=True)
    whole.write_bytes(b"".join([*lines[:4], b"garbage\n", *lines[4:]]))
    with pytest.raises(IntegrityError, match=r":5: the row is damaged"):
        predict(artifact.folder, scans, out=whole)
    if whole.suffix == ".csv":
        whole.write_bytes(b"".join([lines[0].replace(b"ill", b"sick"), *lines[1:]]))
        with pytest.raises(BadInputError, match="has the columns"):
            predict(artifact.folder, scans, out=whole)


def test_a_folder_as_file_and_a_full_disk(
    artifact: Artifact, scans: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInputError, match="is a folder"):
        predict(artifact.folder, scans, out=tmp_path)

    def full(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), (tmp_path / "out.csv").stat()):
            raise OSError(28, "No space left on device")

    predict(artifact.folder, scans[:5], out=tmp_path / "out.csv")
    with monkeypatch.context() as patch:
        patch.setattr("ttl_deploy.prediction.file.os.fsync", full)
        with pytest.raises(StorageError, match="the disk is full"):
            predict(artifact.folder, scans, out=tmp_path / "out.csv")
    assert predict(artifact.folder, scans, out=tmp_path / "out.csv").present == 20


def test_the_command_and_its_formats(
    artifact: Artifact, scans: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["predict", str(artifact.folder), *scans[:3]]
    assert run([*base, "--format", "jsonl"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert run([*base, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == lines
    assert run([*base, "--out", str(tmp_path / "a.jsonl"), "--workers", "3"]) == 0
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == lines
    assert "3 written" in capsys.readouterr().err
    assert run([*base, "--out", str(tmp_path / "a.json"), "--format", "json"]) == 2
    assert "jsonl" in capsys.readouterr().err


def test_memory_does_not_grow_with_the_number_of_images(artifact: Artifact, scans: list[str]) -> None:
    def peak(count: int) -> int:
        def stream() -> Iterator[str]:
            yield from repeat(scans[0], count)

        tracemalloc.reset_peak()
        where, how = Placement(threads=1), Stream(batch_size=16, workers=2)
        assert sum(1 for _ in predict(artifact.folder, stream(), placement=where, stream=how)) == count
        return tracemalloc.get_traced_memory()[1]

    tracemalloc.start()
    try:
        peak(200)
        small, large = peak(200), peak(2000)
    finally:
        tracemalloc.stop()
    assert large < small + 300_000, (small, large)


@pytest.mark.slow
def test_twenty_thousand_images_in_a_table_need_no_more_memory_than_a_few(
    artifact: Artifact, scans: list[str], tmp_path: Path
) -> None:
    """The whole process as the operating system sees it."""
    sizes = []
    for count in (500, 20_000):
        table = tmp_path / f"{count}.csv"
        table.write_text("path,id\n" + "".join(f"{scans[i % 20]},{i}\n" for i in range(count)))
        out = tmp_path / f"{count}-out.csv"
        sizes.append(peak_mib("predict", artifact.folder, table, "--threads", "1", "--out", out))
    assert len((tmp_path / "20000-out.csv").read_text().splitlines()) == 20_001
    assert max(sizes) < sizes[0] + 12, sizes


def test_one_image_loads_no_library_that_training_or_exporting_needs(trained: Path, scans: list[str]) -> None:
    """They are what a cold start would wait for."""
    code = (
        "import sys\nfrom ttl_deploy.cli.main import run\n"
        f"code = run({['predict', str(trained / 'onnx-fp32'), scans[0], '--format', 'csv', '--threads', '1']!r})\n"
        "sys.exit(code or ' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    loaded = set(done.stderr.split())
    assert "onnxruntime" in loaded, done.stderr
    heavy = {"torch", "torchvision", "timm", "onnx", "openvino", "scipy", "sklearn", "pandas", "matplotlib", "yaml"}
    assert not loaded & heavy


def test_one_image_needs_little_memory(trained: Path, scans: list[str]) -> None:
    assert peak_mib("predict", trained / "onnx-fp32", scans[0], "--format", "csv") < 200


def peak_mib(*arguments: str | Path) -> float:
    """Peak resident memory of a command; a child's `ru_maxrss` would begin at the size of this process."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the operating system does not tell")
    code = (
        "from ttl_deploy.cli.main import run\n"
        f"assert run({[str(argument) for argument in arguments]!r}) == 0\n"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-2]) / 1024


def ir_of(weight: float, folder: Path) -> Artifact:
    """A network in OpenVINO's format: two of one architecture differ in `model.bin` alone."""
    import openvino
    from openvino import opset13 as op

    from ttl_deploy.artifact import write_artifact
    from ttl_deploy.spec import ModelSpec, PreprocessSpec, SourceRun

    def build(place: Path) -> str:
        images = op.parameter([-1, 3, 8, 8], np.float32, name="images")
        flat = op.reshape(images, op.constant(np.array([-1, 192])), False)
        logits = op.matmul(flat, op.constant(np.full((192, 2), weight, np.float32)), False, False)
        images.output(0).set_names({"images"})
        logits.output(0).set_names({"logits"})
        model = openvino.Model([logits], [images], "net")
        for position, operation in enumerate(model.get_ordered_ops()):
            operation.set_friendly_name(f"operation.{position}")
        openvino.save_model(model, place / "model.xml", compress_to_fp16=False)
        return "model.xml"

    fields = {
        "format": "openvino",
        "precision": "fp32",
        "model": ModelSpec(backbone="tiny", classes=("healthy", "ill"), image_size=8),
        "preprocess": PreprocessSpec(image_size=8),
        "parameters": 384,
        "macs": 384,
        "source": SourceRun(name="run", weights_sha256="0" * 64, config_digest="1" * 64),
        "tools": {},
    }
    return write_artifact(folder, fields, build)


def test_rows_of_another_ir_of_the_same_architecture_are_refused(scans: list[str], tmp_path: Path) -> None:
    one, other = ir_of(0.5, tmp_path / "one"), ir_of(-0.25, tmp_path / "other")
    assert one.model_path.read_bytes() == other.model_path.read_bytes()
    out = tmp_path / "rows.csv"
    predict(one.folder, scans[:5], out=out)
    with pytest.raises(BadInputError, match=r"another model or engine .*files differ"):
        predict(other.folder, scans, out=out)
    assert predict(one.folder, scans, out=out).present == 5


@pytest.mark.parametrize(("field", "value"), [("precision", "fp16"), ("activation", "softmax")])
def test_rows_of_another_precision_or_activation_are_refused(
    artifact: Artifact, scans: list[str], tmp_path: Path, field: str, value: str
) -> None:
    provenance = provenance_of(artifact, Placement(runtime="onnxruntime"))
    out = tmp_path / "rows.csv"
    classes = artifact.manifest.model.classes
    with PredictionFile(out, None, classes, False, provenance) as file:
        file.write("a.png", None, "ill", dict.fromkeys(classes, 1 / 3))
    changed = provenance.model_copy(update={field: value})
    with pytest.raises(BadInputError, match=f"{field} differ"):
        PredictionFile(out, None, classes, False, changed)


def test_a_file_of_an_older_version_goes_on_where_its_one_model_file_tells_the_weights(
    artifact: Artifact, scans: list[str], tmp_path: Path
) -> None:
    """Older files recorded neither the hashes of all files nor the activation."""
    for made, goes_on in ((artifact, True), (ir_of(0.5, tmp_path / "ir"), False)):
        out = tmp_path / f"{made.folder.name}.csv"
        predict(made.folder, scans[:3], out=out)
        meta = out.with_name(out.name + ".meta.json")
        content = json.loads(meta.read_text())
        del content["files"], content["activation"]
        meta.write_text(json.dumps(content))
        if goes_on:
            assert predict(made.folder, scans, out=out).present == 3
        else:
            with pytest.raises(BadInputError, match="files differ"):
                predict(made.folder, scans, out=out)
