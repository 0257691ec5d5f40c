"""Two ways of keeping an int8 model's accuracy, on one run: our `--int8-auto`, and NNCF's accuracy-aware quantisation.

    python benchmarks/int8_accuracy.py RUN [RUN …] --out int8-accuracy --report reports/int8-accuracy.md [--ours]

Both calibrate on the same training images, restore layers to float until the validation images agree with the float
model as the int8 bounds ask, and are judged once on the test split. Beside them stand plain int8 of both, and ours
after finetuning (`--qat`). Latencies are measured in OpenVINO, in turns. Needs the extra `quantise`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino
from numpy.typing import NDArray

from ttl_deploy import artifact as artifacts
from ttl_deploy import files, hardware
from ttl_deploy.artifact import Artifact
from ttl_deploy.cli.console import ConsoleReporter, line
from ttl_deploy.complexity import count
from ttl_deploy.formats.exporter import ExportJob
from ttl_deploy.formats.images import RunImages, Sample
from ttl_deploy.formats.onnx_graph import GraphOptions, typed_graph
from ttl_deploy.formats.quantise_auto import choose_float_layers
from ttl_deploy.formats.quantise_qat import finetuned
from ttl_deploy.formats.quantiser import Quantiser
from ttl_deploy.latency import Job
from ttl_deploy.latency.duel import block_medians, measure_in_turns
from ttl_deploy.latency.persistent import Block
from ttl_deploy.parity.compare import Comparison, Verdict, compare, verdict
from ttl_deploy.runtime.ov_core import core
from ttl_deploy.signal_stack import kept_signal_stack
from ttl_deploy.spec import Bounds, Placement, SourceRun
from ttl_deploy.training.run import Run, finished_run, run_data
from ttl_deploy.training.train import load_model

_IMAGES = 300
_TITLE = f"""# Keeping an int8 model's accuracy

Ours (`--int8-auto`) and NNCF's accuracy-aware quantisation calibrate on the same {_IMAGES} training images and restore
layers to float until the validation images agree with the float model: ours until the parity verdict, with its 95 %
intervals, passes; NNCF until the share of equal labels, the only thing it is told, is at most the bound away from 1.
Ours begins with the layers that lose most for every millisecond that they save in OpenVINO; beside it stands the order
by what they lose alone.
"""


@dataclass(frozen=True)
class Made:
    """One int8 model.

    Attributes:
        how: What made it.
        artifact: It.
        seconds: What making it took.
        int8_layers: Convolutions and matrix products that compute in int8.
        comparison: With the float model on the test split.
        verdict: By the default bounds of int8.
    """

    how: str
    artifact: Artifact
    seconds: float
    int8_layers: int
    comparison: Comparison
    verdict: Verdict


def main() -> int:
    """Makes them for every run, judges and measures them, and writes the report."""
    options = _parser().parse_args()
    parts = [part for number, folder in enumerate(options.runs) for part in _one(finished_run(folder), number, options)]
    files.write_text(options.report, "\n".join([_TITLE, *parts, _made()]))
    return 0


def _one(run: Run, number: int, options: argparse.Namespace) -> list[str]:
    """A run's part of the report."""
    prepared = run_data(run, cache=options.cache, reporter=ConsoleReporter())
    images = RunImages(prepared, run.config.preprocess)
    job = ExportJob(
        load_model(run), run.config.preprocess, "int8", GraphOptions(), images, reporter=ConsoleReporter(quiet=True)
    )
    setting = _Setting(run, job, images, Sample(prepared, run.config.preprocess, prepared.indices("test")))
    out = options.out / str(number)
    ways = {
        how: build for how, build in setting.ways(options.qat).items() if not (options.ours and how.startswith("NNCF"))
    }
    made = [setting.make(how, build, out) for how, build in ways.items()]
    return _report(run, made, _latencies(made, options.threads))


class _Setting:
    """What all ways share: the float graph, the images, and the float model's answers."""

    def __init__(self, run: Run, job: ExportJob, images: RunImages, test: Sample) -> None:
        self.run, self.job, self.test = run, job, test
        self.plain = typed_graph(ExportJob(job.model, job.preprocess, "fp32", job.options)).proto
        self.floats = _read(_unnamed(self.plain))
        self.calibration = images.calibration(_IMAGES, batch_size=4)
        self.validation = images.validation(batch_size=1)

    def ways(self, epochs: int) -> dict[str, Callable[[], openvino.Model]]:
        ways = {
            "ours, all layers": lambda: _read(self._quantiser().quantise()),
            "ours, `--int8-auto`": lambda: self._ours("openvino"),
            "ours, layers by accuracy alone": lambda: self._ours(None),
            "NNCF, all layers": lambda: nncf.quantize(
                self.floats, self._batches(self.calibration), subset_size=_IMAGES, preset=nncf.QuantizationPreset.MIXED
            ),
            "NNCF, accuracy-aware": self._nncf,
        }
        return ways | ({f"ours, all layers, `--qat {epochs}`": lambda: self._tuned(epochs)} if epochs else {})

    def make(self, how: str, build: Callable[[], openvino.Model], out: Path) -> Made:
        begin = time.monotonic()
        with kept_signal_stack():  # NNCF makes cores of its own; see ttl_deploy.runtime.ov_core
            model = build()
        seconds = time.monotonic() - begin
        place = out / "".join(c if c.isalnum() else "-" for c in how)
        artifact = artifacts.write_artifact(place, self._fields(), lambda folder: _save(model, folder), overwrite=True)
        reference, candidate = self._answers(self.floats), self._answers(model)
        compared = compare(self.test.labels, reference, candidate, self.run.task)
        judged = verdict(compared, Bounds.for_precision("int8"))
        line(f"{how}: {judged.result}, {judged.reason}; {seconds:.0f} s")
        return Made(how, artifact, seconds, _int8_layers(model), compared, judged)

    def _quantiser(self) -> Quantiser:
        return Quantiser.calibrated(self.plain, self.calibration, method="minmax").for_openvino()

    def _tuned(self, epochs: int) -> openvino.Model:
        tuned = finetuned(self.job, epochs, self.calibration)
        plain = typed_graph(ExportJob(tuned, self.job.preprocess, "fp32", self.job.options)).proto
        return _read(Quantiser.calibrated(plain, self.calibration, method="minmax").for_openvino().quantise())

    def _ours(self, engine: str | None) -> openvino.Model:
        quantiser = self._quantiser()
        return _read(quantiser.quantise(choose_float_layers(quantiser, self.job, engine=engine).float_layers))

    def _nncf(self) -> openvino.Model:
        bounds = Bounds.for_precision("int8")
        labels = _logits(core().compile_model(self.floats), self.validation).argmax(axis=1)

        def agreement(model: openvino.CompiledModel, batches: Iterable[Any]) -> tuple[float, list[float]]:
            # NNCF validates on parts of the images too, so each comes with the label it must keep.
            given = [(float(model(images)[0].argmax() == label)) for images, label in batches]
            return float(np.mean(given)), given

        pairs = list(zip(self.validation, labels, strict=True))
        return nncf.quantize_with_accuracy_control(
            self.floats,
            calibration_dataset=self._batches(self.calibration),
            validation_dataset=nncf.Dataset(pairs, lambda pair: pair[0]),
            validation_fn=agreement,
            max_drop=1 - (bounds.min_label_agreement or 0.99),
            drop_type=nncf.DropType.ABSOLUTE,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=_IMAGES,
        )

    def _batches(self, sample: Sample) -> nncf.Dataset:
        return nncf.Dataset([image[None] for batch in sample for image in batch])

    def _answers(self, model: openvino.Model) -> NDArray[np.float32]:
        return _logits(core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}), self.test)

    def _fields(self) -> dict[str, Any]:
        spec = self.job.model.spec
        cost = count(self.job.model, spec.input_shape)
        source = SourceRun(name=self.run.name, weights_sha256=files.sha256(self.run.weights), config_digest="")
        return {
            "format": "openvino",
            "precision": "int8",
            "model": spec,
            "preprocess": self.job.preprocess,
            "parameters": cost.parameters,
            "macs": cost.macs,
            "source": source,
            "tools": hardware.library_versions(),
        }


def _unnamed(proto: Any) -> Any:
    """A graph without what it says of itself: NNCF would keep it in an int8 model, float precision included."""
    copied = type(proto)()
    copied.CopyFrom(proto)
    copied.ClearField("metadata_props")
    return copied


def _read(proto: Any) -> openvino.Model:
    return core().read_model(proto.SerializeToString())


def _save(model: openvino.Model, folder: Path) -> str:
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    return "model.xml"


def _logits(compiled: openvino.CompiledModel, sample: Sample) -> NDArray[np.float32]:
    return np.concatenate([np.array(compiled(batch)[0]) for batch in sample])


def _int8_layers(model: openvino.Model) -> int:
    """Layers whose input is rounded: by a FakeQuantize, or by the pair that a Q/DQ graph becomes."""
    layers = [op for op in model.get_ops() if op.get_type_name() in ("Convolution", "GroupConvolution", "MatMul")]
    return sum(_rounded(layer) for layer in layers)


def _rounded(layer: Any) -> bool:
    source = layer.input_value(0).get_node()
    while source.get_type_name() in ("Reshape", "Squeeze", "Unsqueeze", "Transpose"):
        source = source.input_value(0).get_node()
    # Dequantisation is Convert, Subtract and Multiply behind the rounded values.
    return source.get_type_name() in ("FakeQuantize", "Multiply", "Subtract")


def _latencies(made: list[Made], threads: int | None) -> list[float]:
    where = Placement(runtime="openvino", threads=threads)
    jobs = [Job(label=m.how, artifact=str(m.artifact.folder.resolve()), placement=where) for m in made]
    block = Block(min_samples=5, min_seconds=0.4, max_seconds=30)
    measured = measure_in_turns(jobs, blocks=12, block=block, reporter=ConsoleReporter())
    return [float(np.median(block_medians(m))) for m in measured]


def _report(run: Run, made: list[Made], times: list[float]) -> list[str]:
    spec = run.config.model
    head = (
        *("how", "int8 layers", "test label agreement", "AUROC drop", "AUPRC drop", "verdict"),
        *("OpenVINO ms", "made in (s)"),
    )
    rows = [
        (
            m.how,
            str(m.int8_layers),
            f"{m.comparison.label_agreement:.2%}",
            _drop(m.comparison.auroc),
            _drop(m.comparison.auprc),
            m.verdict.result,
            f"{ms:.2f}",
            f"{m.seconds:.0f}",
        )
        for m, ms in zip(made, times, strict=True)
    ]
    model = f"{spec.backbone} {spec.method.upper()} {spec.cut or ''}".strip()
    return [
        f"## {model}, {spec.input.told}: {', '.join(spec.classes)}",
        "",
        f"{len(run.history())} epochs of training. Judged on {made[0].comparison.images} test images by the default "
        "bounds of int8 (99 % of labels the same, at most 0.005 of AUROC and AUPRC lost).",
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def _made() -> str:
    made = f"Made by `python {' '.join(sys.argv)}` on {hardware.describe().name}"
    return f"{made}; NNCF {nncf.__version__}, {hardware.library_words()}.\n"


def _drop(pair: tuple[float, float] | None) -> str:
    return f"{pair[0] - pair[1]:.4f}" if pair is not None else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a finished run")
    parser.add_argument("--out", type=Path, required=True, help="folder for the models")
    parser.add_argument("--qat", type=int, default=2, help="epochs of finetuning; 0: none")
    parser.add_argument(
        "--ours", action="store_true", help="without NNCF, which takes long for a network of many layers"
    )
    parser.add_argument("--report", type=Path, default=Path("reports/int8-accuracy.md"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cache", type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(main())
