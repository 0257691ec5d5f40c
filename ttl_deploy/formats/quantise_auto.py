"""Which layers to leave in float so that an int8 model keeps its accuracy: measured, not guessed.

Every layer is quantised alone, and the error it makes is its sensitivity: leaving one in float at a time ranks worse,
because rounding errors of several layers cancel by chance. The engine that will run the graph tells how many
milliseconds each layer wins by eight bits. Then those that cost most accuracy for a millisecond are left in float, more
and more of them, until parity passes. All of it on validation images; the test split judges once, at the end of the
export.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray

from ttl_deploy.errors import CheckFailedError
from ttl_deploy.formats.exporter import ExportJob
from ttl_deploy.formats.images import Sample
from ttl_deploy.formats.layer_times import layer_times
from ttl_deploy.formats.quantiser import Quantiser
from ttl_deploy.parity.compare import Comparison, Verdict, compare, verdict
from ttl_deploy.parity.verify import patient_groups
from ttl_deploy.runtime.base import default_threads
from ttl_deploy.spec import Bounds
from ttl_deploy.tasks import Task

Logits = NDArray[np.float32]
Measure = Callable[[onnx.ModelProto], float]

LEAST_INT8 = 0.5
"""Below this share of multiply-adds in int8, half precision is as fast or faster (ResNet-50, AVX-512 VNNI and BF16)."""

SENSITIVITY_IMAGES = 64
"""Validation images on which single layers are compared: enough to rank them, and every layer costs a run over them."""


@dataclass(frozen=True)
class Mix:
    """One mix of precisions on the validation split.

    Attributes:
        float_layers: How many layers were left in float.
        int8_macs: Fraction of all multiply-adds that stay int8: what the accuracy is paid with.
        divergence: Mean Kullback-Leibler divergence from the float model's probabilities, nats.
        comparison: With the float model.
        verdict: The parity verdict.
    """

    float_layers: int
    int8_macs: float
    divergence: float
    comparison: Comparison
    verdict: Verdict

    def row(self) -> dict[str, Any]:
        """Plain types, for JSON and tables."""
        return {
            "float_layers": self.float_layers,
            "int8_macs": self.int8_macs,
            "divergence": self.divergence,
            "label_agreement": self.comparison.label_agreement,
            "auroc": self.comparison.auroc,
            "auprc": self.comparison.auprc,
            "mean_logit_difference": self.comparison.mean_difference,
            "verdict": self.verdict.result,
            "reason": self.verdict.reason,
        }


@dataclass(frozen=True)
class Saved:
    """What eight bits save on this machine, one image at a time.

    Attributes:
        engine: Where it was measured.
        threads: Of the engine.
        milliseconds: By layer, against float32; negative where int8 is slower.
    """

    engine: str
    threads: int
    milliseconds: dict[str, float]

    def words(self, float_layers: Collection[str]) -> str:
        """What is left of it with some layers in float."""
        whole = sum(self.milliseconds.values())
        left = whole - sum(self.milliseconds[name] for name in float_layers)
        return f"by its layers in int8 this mix saves {left:.2f} of {whole:.2f} ms an image in {self.engine} here"


@dataclass(frozen=True)
class Choice:
    """The layers to leave in float, and why.

    Attributes:
        float_layers: Their names, in the order in which they were left.
        sensitivity: By layer, most sensitive first: the divergence when it alone is int8.
        trials: Every mix that was tried, in order; the last passes.
        images: Validation images that judged the trials.
        saved: What eight bits save; None where no engine here tells it.
    """

    FILE: ClassVar[str] = "sensitivity.json"

    float_layers: tuple[str, ...]
    sensitivity: dict[str, float]
    trials: tuple[Mix, ...]
    images: int
    saved: Saved | None = None

    def record(self) -> dict[str, Any]:
        """Plain types, for `sensitivity.json`."""
        return {
            "split": "val",
            "images": self.images,
            "float_layers": list(self.float_layers),
            "engine": self.saved.engine if self.saved else None,
            "sensitivity": [
                {"layer": name, "divergence": value, "saved_ms": self.saved.milliseconds[name] if self.saved else None}
                for name, value in self.sensitivity.items()
            ],
            "trials": [trial.row() for trial in self.trials],
        }


def choose_float_layers(quantiser: Quantiser, job: ExportJob, *, engine: str | None = None) -> Choice:
    """Leaves as few layers in float as the validation split allows, those first that are dearest.

    Where every such mix fails, the most sensitive go first.

    Args:
        quantiser: A calibrated graph.
        job: Gives the validation images, the bounds and the reporter.
        engine: Where the graph will run, as `layer_times` knows it; a layer's price is then its sensitivity by the
            milliseconds that it saves there. None: its sensitivity alone.

    Raises:
        CheckFailedError: Not even a model with one int8 layer passes.
    """
    sample = job.run_images().validation()
    reference = logits_of(quantiser.plain, sample)
    ranking = sensitivities(quantiser, job, sample, reference)
    saved = saved_by_int8(quantiser, next(iter(sample))[:1], engine) if engine else None
    trials: list[Mix] = []
    for chosen in _choices(ranking, saved):
        trials.append(_trial(quantiser, job, sample, reference, chosen))
        if trials[-1].verdict.result == "pass":
            if saved and chosen:
                job.reporter.info(saved.words(chosen))
            if trials[-1].int8_macs < LEAST_INT8:
                job.reporter.info(
                    f"only {trials[-1].int8_macs:.0%} of the multiply-adds stay int8: bf16 or fp16 may be faster, "
                    "--format auto measures it; or finetune with --qat, or widen the bound that decided"
                )
            return Choice(chosen, ranking, tuple(trials), len(sample), saved)
    raise CheckFailedError(
        f"no mix of int8 and float passes on the {len(sample)} validation images: {trials[-1].verdict.reason}",
        fix="finetune with --qat 3, widen the bounds, or export fp16 or bf16",
    )


def saved_by_int8(quantiser: Quantiser, image: NDArray[np.float32], engine: str) -> Saved:
    """Measures every layer in float and in int8, in a second or two.

    Args:
        quantiser: A calibrated graph.
        image: (1, ...) what it takes.
        engine: As for `layer_times`.
    """
    threads = default_threads()
    before, after = (
        layer_times(graph, quantiser.layers, image, engine=engine, threads=threads)
        for graph in (quantiser.plain, quantiser.quantise())
    )
    return Saved(engine, threads, {name: round(before[name] - after[name], 4) for name in quantiser.layers})


def by_price(sensitivity: Mapping[str, float], saved: Mapping[str, float]) -> list[str]:
    """Layers, those first that lose most for every millisecond that they save.

    What saves nothing counts as a hundredth of what a layer saves in the mean: it still need not be in float where it
    loses nothing.

    Args:
        sensitivity: What each loses, most first.
        saved: Milliseconds.
    """
    least = 0.01 * sum(max(value, 0.0) for value in saved.values()) / len(saved)
    if not least:
        return [*sensitivity]
    return sorted(sensitivity, key=lambda name: -sensitivity[name] / max(saved[name], least))


def sensitivities(quantiser: Quantiser, job: ExportJob, sample: Sample, reference: Logits) -> dict[str, float]:
    """The divergence from the float model when a layer alone is int8, largest first.

    Args:
        quantiser: A calibrated graph.
        job: Its reporter is told.
        sample: Validation images; the first `SENSITIVITY_IMAGES` in turns of the classes are used.
        reference: (N, classes) logits of the float model on them.
    """
    few = _few(sample)
    rows = np.searchsorted(sample.indices, few.indices)
    batches = list(few)
    found = {}
    with job.reporter.task("measuring each layer's sensitivity", len(quantiser.layers)) as advance:
        for layer in quantiser.layers:
            others = [other for other in quantiser.layers if other != layer]
            found[layer] = divergence(reference[rows], logits_of(quantiser.quantise(others), batches), job.task)
            advance(1, layer)
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def divergence(reference: Logits, candidate: Logits, task: Task) -> float:
    """Mean Kullback-Leibler divergence of the candidate's probabilities from the reference's, nats.

    Of labels, which have a probability each, the sum over the labels.

    Args:
        reference: (N, classes) logits.
        candidate: (N, classes) logits.
        task: What they mean.
    """
    p, q = (_outcomes(task, task.probabilities(logits)) for logits in (reference, candidate))
    tiny = np.finfo(np.float64).tiny
    return float((p * (np.log(np.maximum(p, tiny)) - np.log(np.maximum(q, tiny)))).sum(axis=1).mean())


def _outcomes(task: Task, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, outcomes): of a sigmoid the no beside the yes."""
    if task.ACTIVATION == "softmax":
        return probabilities
    return np.concatenate([probabilities, 1 - probabilities], axis=1)


def logits_of(proto: onnx.ModelProto, batches: Iterable[NDArray[np.float32]]) -> Logits:
    """(N, classes) float32 of a graph in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = proto.graph.input[0].name
    return np.concatenate([session.run(None, {name: batch})[0] for batch in batches])


def _trial(quantiser: Quantiser, job: ExportJob, sample: Sample, reference: Logits, chosen: tuple[str, ...]) -> Mix:
    logits = logits_of(quantiser.quantise(chosen), sample)
    # By patient, as the test split will be judged: the images of one patient are no independent evidence.
    groups = patient_groups(sample.prepared, sample.ids)
    comparison = compare(sample.labels, reference, logits, job.task, groups=groups)
    judged = verdict(comparison, (job.bounds or Bounds()).filled("int8"))
    macs = quantiser.macs
    kept = sum(macs.values()) - sum(macs[name] for name in chosen)
    job.reporter.info(f"{len(chosen)} layers in float: {judged.result} on validation: {judged.reason}")
    return Mix(len(chosen), kept / sum(macs.values()), divergence(reference, logits, job.task), comparison, judged)


def _few(sample: Sample) -> Sample:
    """The first images of each class in turns, in the order of the sample."""
    labels = sample.prepared.task.strata(sample.labels)
    order = np.argsort(labels, kind="stable")
    turn = np.empty(len(order), dtype=np.int64)
    starts = np.searchsorted(labels[order], labels[order])
    turn[order] = np.arange(len(order)) - starts
    chosen = np.sort(np.argsort(turn, kind="stable")[:SENSITIVITY_IMAGES])
    return Sample(sample.prepared, sample.preprocess, sample.indices[chosen], sample.batch_size)


def _choices(sensitivity: Mapping[str, float], saved: Saved | None) -> Iterator[tuple[str, ...]]:
    """Layers to leave in float, the dearest first, and where that is not enough the most sensitive first.

    What saves much and loses much stays in int8 to the last by its price, and may alone be too much.
    """
    orders = [[*sensitivity]] if saved is None else [by_price(sensitivity, saved.milliseconds), [*sensitivity]]
    yield from dict.fromkeys(tuple(order[:count]) for order in orders for count in _counts(len(order)))


def _counts(layers: int) -> Iterator[int]:
    """0, 1, 2, 3, 5, 8 …, and at last all layers but one."""
    last, count, step = layers - 1, 0, 1
    while count < last:
        yield count
        count, step = count + step, max(1, count)
    yield last
