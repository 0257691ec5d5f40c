"""What must not change a prediction does not, and what training must not see it does not see.

| what | of | where |
|---|---|---|
| order, batch size, company, threads | sessions of every format and CPU engine | here |
| order, batch size, threads, decoders | `predict` | here |
| cache empty, full or damaged; batch size | PyTorch's predictions of a run | here |
| cluster | `predict --engine ray` | `tests/verbs/` |
| workers, batch size | augmented training images | `tests/data/test_torch_data.py` |
| order of the images | the division | `tests/data/test_splits.py` |
| decoding in other processes | `serve` | `tests/serve/test_decoders.py` |
| workers, cache, place of the images | trained weights, division, predictions | here |
| labels of the test split | trained weights, calibrated int8 graph | here |
"""

import csv
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from small import MODEL, PROTOCOL, but

from ttl_deploy import runtime as runtimes
from ttl_deploy.artifact import open_artifact
from ttl_deploy.cut_search.trial import limited_threads
from ttl_deploy.formats.export_run import export_run
from ttl_deploy.inputs.image import normalise
from ttl_deploy.parity import Bounds
from ttl_deploy.prediction.predict import predict
from ttl_deploy.spec import Data, Placement, Stream
from ttl_deploy.tasks import softmax
from ttl_deploy.training.run import Run, finished_run, read_predictions, run_data
from ttl_deploy.training.train import load_model, predict_fp32, train

Floats = NDArray[np.floating]

TOLERANCE = 1e-5
"""Of a probability. Engines choose kernels, and with them the order of sums, by batch and number of threads."""

LAX = Bounds(preset="mlperf-99").model_copy(update={"min_metric_ratio": 0.01})

ENGINES = [
    ("onnx", "fp32", "onnxruntime"),
    ("onnx", "fp32", "openvino"),
    ("onnx", "int8", "onnxruntime"),
    ("onnx", "int8", "openvino"),
    ("openvino", "fp32", "openvino"),
    ("pt2", "fp32", "torch"),
    ("torchscript", "fp32", "torch"),
]


@pytest.fixture(scope="module")
def artifact_of(
    trained: Path, pixel_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """The run's artifact of a format and precision, exported once."""
    folder = tmp_path_factory.mktemp("artifacts")

    def one(format: str, precision: str) -> Path:
        place = folder / f"{format}-{precision}"
        if not place.exists():
            bounds = LAX if precision == "int8" else None
            export_run(trained, format=format, precision=precision, out=place, bounds=bounds, cache=pixel_cache)
        return place

    return one


@pytest.fixture(scope="module")
def batch(trained: Path, pixel_cache: Path) -> NDArray[np.float32]:
    """Seventeen images of the run, the first of them twice."""
    run = finished_run(trained)
    prepared = run_data(run, cache=pixel_cache)
    return normalise(prepared.pixels(np.array([*range(16), 0])), run.config.preprocess)


@pytest.mark.parametrize(("format", "precision", "engine"), ENGINES)
def test_neither_order_nor_company_nor_threads_change_what_an_engine_says(
    artifact_of: Callable[[str, str], Path], batch: NDArray[np.float32], format: str, precision: str, engine: str
) -> None:
    artifact = open_artifact(artifact_of(format, precision))
    order = np.random.default_rng(0).permutation(len(batch))

    def parts(size: int) -> Iterator[NDArray[np.float32]]:
        return (batch[start : start + size] for start in range(0, len(batch), size))

    with limited_threads(1):
        found: dict[str, Floats] = {}
        for threads in (1, 2):
            with runtimes.load(artifact, Placement(runtime=engine, threads=threads)) as session:
                for size in (1, 5, len(batch)):
                    logits = np.concatenate([session.run(part) for part in parts(size)])
                    found[f"{threads} threads, batches of {size}"] = softmax(logits)
                found[f"{threads} threads, another order"] = softmax(session.run(batch[order]))[np.argsort(order)]
    reference = found["1 threads, batches of 1"]
    # The images differ by far more than the tolerance, or a mix-up of them would pass.
    assert np.ptp(reference[:16, 0]) > 100 * TOLERANCE
    for how, answer in found.items():
        np.testing.assert_allclose(answer, reference, rtol=0, atol=TOLERANCE, err_msg=how)
        np.testing.assert_allclose(answer[16], answer[0], rtol=0, atol=TOLERANCE, err_msg=how)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_neither_order_nor_batches_nor_threads_nor_decoders_change_what_predict_says(
    trained: Path, synthetic: Path, engine: str
) -> None:
    images = [str(path) for path in sorted((synthetic / "lesion").glob("*.png"))]
    shuffled = [images[i] for i in np.random.default_rng(1).permutation(len(images))]

    def answers(paths: list[str], threads: int, **how: int) -> dict[str, list[float]]:
        where = Placement(runtime=engine, threads=threads)
        found = predict(trained / "onnx-fp32", paths, placement=where, stream=Stream(**how))
        return {one.image: list(one.probabilities.values()) for one in found}

    reference = answers(images, batch_size=1, threads=1, workers=1)
    assert np.ptp([values[0] for values in reference.values()]) > 100 * TOLERANCE
    for batch_size, threads, workers in ((7, 1, 4), (64, 2, 1), (3, 3, 8)):
        found = answers(shuffled, batch_size=batch_size, threads=threads, workers=workers)
        assert list(found) == shuffled
        for image, values in reference.items():
            assert found[image] == pytest.approx(values, abs=TOLERANCE)


def test_neither_the_cache_nor_batches_nor_threads_change_what_pytorch_says(trained: Path, tmp_path: Path) -> None:
    run, cache = finished_run(trained), tmp_path / "cache"
    recorded = read_predictions(run).side("test").logits

    def logits(threads: int = 1, batch_size: int = 16) -> Floats:
        config = run.config.model_copy(update={"batch_size": batch_size})
        with limited_threads(threads):
            return predict_fp32(load_model(run), run_data(run, cache=cache), "test", config).logits

    empty = logits()
    np.testing.assert_array_equal(logits(), empty)
    for pixels in cache.rglob("pixels.u8"):
        content = bytearray(pixels.read_bytes())
        content[:3000] = bytes(3000)
        pixels.write_bytes(content)
    np.testing.assert_array_equal(logits(), empty)
    for other in (recorded, logits(threads=2), logits(batch_size=1), logits(batch_size=5)):
        np.testing.assert_allclose(softmax(other), softmax(empty), rtol=0, atol=TOLERANCE)


SHORT = but(PROTOCOL, epochs=2)


def divided(trained: Path, synthetic: Path, table: Path, *, flipped: str | None = None) -> Path:
    """The images with the run's division as a table, in which one side's labels may be swapped."""
    rows = list(csv.DictReader((trained / "split.csv").read_text().splitlines()))
    other = {"healthy": "lesion", "lesion": "healthy"}
    with table.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(("path", "id", "label", "patient_id", "split"))
        for row in rows:
            label = other[row["label"]] if row["split"] == flipped else row["label"]
            writer.writerow((synthetic / row["id"], row["id"], label, row["patient_id"], row["split"]))
    return table


def int8_graph(run: Run, cache: Path) -> bytes:
    """The calibrated graph without the record of the run it is from, which names the table."""
    place = run.folder.with_name(f"{run.name}-int8")
    artifact = export_run(run.folder, precision="int8", out=place, bounds=LAX, cache=cache)
    proto = onnx.load(artifact.folder / "model.onnx")
    del proto.metadata_props[:]
    return proto.SerializeToString(deterministic=True)


def test_labels_of_the_test_split_change_no_bit_of_what_is_trained_or_calibrated(
    trained: Path, synthetic: Path, pixel_cache: Path, tmp_path: Path
) -> None:
    runs = {}
    for flipped in (None, "test", "train"):
        table = divided(trained, synthetic, tmp_path / f"{flipped}.csv", flipped=flipped)
        with limited_threads(1):
            runs[flipped] = train(Data(path=table, cache=pixel_cache), MODEL, SHORT, tmp_path / str(flipped))
    honest, blind = runs[None], runs["test"]
    assert blind.weights.read_bytes() == honest.weights.read_bytes()
    assert blind.history() == honest.history()
    np.testing.assert_array_equal(read_predictions(blind).logits, read_predictions(honest).logits)
    assert int8_graph(blind, pixel_cache) == int8_graph(honest, pixel_cache)
    # The flip is real, and labels that training sees do change it.
    assert blind.metrics()["test"]["auroc"] == pytest.approx(1 - honest.metrics()["test"]["auroc"])
    assert blind.metrics()["val"]["auroc"] == honest.metrics()["val"]["auroc"]
    assert runs["train"].weights.read_bytes() != honest.weights.read_bytes()


def test_neither_workers_nor_the_cache_nor_the_images_place_change_a_bit_of_what_is_trained(
    synthetic: Path, pixel_cache: Path, tmp_path: Path
) -> None:
    elsewhere = Path(shutil.copytree(synthetic, tmp_path / "elsewhere"))
    runs = []
    for place, workers, cache in ((synthetic, 0, pixel_cache), (elsewhere, 2, tmp_path / "cold")):
        protocol, data = but(SHORT, epochs=1, workers=workers), Data(path=place / "labels.csv", cache=cache)
        with limited_threads(1):
            runs.append(train(data, MODEL, protocol, tmp_path / f"{workers} workers"))
    for name in ("best.safetensors", "history.jsonl", "split.csv", "predictions.csv"):
        assert (runs[0].folder / name).read_bytes() == (runs[1].folder / name).read_bytes()
