"""The engine an export is judged in: the one that is fast on the processor, which is then the artifact's default."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ttl_deploy import hardware, runtime
from ttl_deploy.artifact import Artifact, open_artifact, update_manifest
from ttl_deploy.formats import export_run as room
from ttl_deploy.formats.int8_speed import AgainstFloat, against_float
from ttl_deploy.latency.duel import block_medians, ratio_of_medians
from ttl_deploy.parity import Bounds
from ttl_deploy.parity.verify import verify
from ttl_deploy.runtime import RUNTIMES, quickest, runtime_for
from ttl_deploy.spec import Placement

LAX = Bounds(max_auroc_drop=0.2, max_auprc_drop=0.2, min_label_agreement=0.8)

Processor = Callable[..., None]


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Processor:
    """Makes this machine's processor one of these instruction sets."""
    plain = hardware.describe()

    def become(*isa: str) -> None:
        monkeypatch.setattr(hardware, "describe", lambda: dataclasses.replace(plain, isa=isa))

    return become


@pytest.fixture
def int8(trained: Path, tmp_path: Path, pixel_cache: Path) -> Callable[[], Artifact]:
    def export() -> Artifact:
        place = tmp_path / "int8"
        return room.export_run(trained, precision="int8", out=place, bounds=LAX, cache=pixel_cache, overwrite=True)

    return export


@pytest.mark.parametrize(
    ("precision", "isa", "engine"),
    [
        ("int8", ("avx2",), None),
        ("int8", ("avx2", "avx512_vnni"), "openvino"),
        ("int8", ("avx_vnni",), "openvino"),
        ("int8", ("amx_int8",), "openvino"),
        ("fp32", ("avx512_vnni", "amx_int8"), None),
    ],
)
def test_eight_bits_are_openvinos_where_the_processor_multiplies_them(
    make_artifact: Callable[..., Artifact],
    processor: Processor,
    precision: str,
    isa: tuple[str, ...],
    engine: str | None,
) -> None:
    processor(*isa)
    assert quickest(make_artifact("one", precision=precision), "cpu") == engine


def test_the_engine_that_was_judged_is_the_artifacts_default(
    int8: Callable[[], Artifact], processor: Processor, monkeypatch: pytest.MonkeyPatch, trained: Path
) -> None:
    processor("avx512_vnni")
    made = open_artifact(int8().folder)
    assert made.manifest.parity is not None
    assert made.manifest.parity.runtime == "openvino"
    processor()  # another machine changes nothing of what was judged
    assert runtime_for(made).name == "openvino"
    assert runtime_for(made, Placement(runtime="onnxruntime")).name == "onnxruntime"
    assert verify(made.folder, against=trained, bounds=LAX).runtime == "openvino"
    openvino = RUNTIMES.get("openvino")
    gone = dataclasses.replace(openvino, available=lambda: "not here")
    monkeypatch.setitem(RUNTIMES._entries, "openvino", gone)
    assert runtime_for(made).name == "onnxruntime"


def test_the_formats_first_engine_is_not_written(int8: Callable[[], Artifact], processor: Processor) -> None:
    processor()
    made = int8()
    assert made.manifest.parity is not None
    assert made.manifest.parity.runtime is None
    assert '"runtime"' not in (made.folder / "manifest.json").read_text()
    assert runtime_for(made).name == "onnxruntime"


def test_where_the_fast_engine_fails_parity_the_first_is_judged(
    int8: Callable[[], Artifact], processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor("avx512_vnni")
    plain, judged = room.check, list[str]()

    def failing(made: Artifact, session: runtime.Session, *arguments: Any, **options: Any) -> Any:
        judged.append(session.runtime)
        found = plain(made, session, *arguments, **options)
        if session.runtime == "onnxruntime":
            return found
        return dataclasses.replace(found, verdict=found.verdict.model_copy(update={"result": "fail", "within": False}))

    monkeypatch.setattr(room, "check", failing)
    made = int8()
    assert judged == ["openvino", "onnxruntime"]
    assert made.manifest.parity is not None
    assert made.manifest.parity.runtime is None


def test_eight_bits_are_timed_beside_float_and_the_slower_is_told(
    int8: Callable[[], Artifact], trained: Path, pixel_cache: Path, processor: Processor
) -> None:
    processor("avx512_vnni")
    made = int8()
    found = against_float(trained, made, cache=pixel_cache)
    assert found is not None
    assert (found.int8.precision, found.other.precision, found.precision) == ("int8", "fp32", "fp32")
    assert (found.int8.runtime, found.other.runtime) == ("openvino", "openvino")
    assert found.ratio == ratio_of_medians(block_medians(found.int8), block_medians(found.other))
    plain = update_manifest(made, precision="fp32")
    assert against_float(trained, plain, cache=pixel_cache) is None


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        ((0.5, 0.4, 0.6), "int8 is 2.0 times faster here"),
        ((1.5, 1.2, 1.8), "--format openvino --precision bf16 is faster here, 1.5 times"),
        ((1.1, 0.9, 1.3), "no difference was shown here"),
    ],
)
def test_what_is_said_of_the_two(ratio: tuple[float, float, float], words: str) -> None:
    two: list[Any] = [SimpleNamespace(typical_ms=ms, threads=2) for ms in (2.0, 4.0)]
    said = AgainstFloat(*two, "bf16", ratio).words
    assert said == f"2.00 ms an image in int8, 4.00 ms an image in bf16 (2 threads); {words}"
