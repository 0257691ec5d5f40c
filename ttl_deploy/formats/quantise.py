"""int8 as a user asks for it: calibrated on training images, and with `--int8-auto` some layers left in float."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ttl_deploy.formats.images import Sample
from ttl_deploy.formats.quantiser import Quantiser

if TYPE_CHECKING:
    from ttl_deploy.formats.exporter import ExportJob
    from ttl_deploy.formats.options import CalibrationOptions, GraphOptions

_CALIBRATION_BATCH = 4
"""Small, because histogram calibration holds every activation of a batch at once."""


@dataclass(frozen=True)
class Quantised:
    """A quantised graph.

    Attributes:
        proto: With Q/DQ pairs.
        details: How it was made, for the manifest.
        records: Further records to keep beside the model, by file name.
    """

    proto: onnx.ModelProto
    details: dict[str, Any]
    records: dict[str, Any] = field(default_factory=dict)


def quantise_job(
    plain: onnx.ModelProto, job: ExportJob, options: GraphOptions, *, symmetric: bool, fused: bool
) -> Quantised:
    """Quantises a job's graph as its options say.

    Args:
        plain: The job's float32 graph.
        job: Whose training images are calibrated on.
        options: Calibration, and whether layers may be left in float.
        symmetric: Activations around zero, without zero points, as TensorRT demands.
        fused: For OpenVINO; see `Quantiser`.

    Raises:
        BadInputError: The job has no images, or only of one class.
    """
    sample = job.run_images().calibration(
        options.calibration_images, seed=options.calibration_seed, batch_size=_CALIBRATION_BATCH
    )
    with job.reporter.task("calibrating", len(sample)) as advance:
        quantiser = Quantiser.calibrated(plain, _told(sample, advance), method=options.calibration, symmetric=symmetric)
    if fused:
        quantiser = quantiser.for_openvino()
    details = calibration_facts(options.calibration, len(sample), options, symmetric=symmetric)
    details["layers"] = len(quantiser.layers)
    if not options.int8_auto:
        return Quantised(quantiser.quantise(), details)
    from ttl_deploy.formats.layer_times import engine_of_int8
    from ttl_deploy.formats.quantise_auto import choose_float_layers

    # TensorRT's graphs are symmetric, and no card's times are known where they are made.
    choice = choose_float_layers(quantiser, job, engine=None if symmetric else engine_of_int8(fused))
    details |= {"float_layers": list(choice.float_layers), "int8_macs": choice.trials[-1].int8_macs}
    return Quantised(quantiser.quantise(choice.float_layers), details, {choice.FILE: choice.record()})


def calibration_facts(method: str, images: int, options: CalibrationOptions, *, symmetric: bool) -> dict[str, Any]:
    """How a graph was calibrated, for the manifest; all layers int8.

    Args:
        method: `minmax`, `entropy` or `percentile`.
        images: How many were used.
        options: The seed of their draw.
        symmetric: Activations around zero.
    """
    return {
        "calibration": method,
        "images": images,
        "seed": options.calibration_seed,
        "split": "train",
        "per_channel": True,
        "symmetric_activations": symmetric,
        "float_layers": [],
        "int8_macs": 1.0,
    }


def _told(sample: Sample, advance: Any) -> Iterator[NDArray[np.float32]]:
    for batch in sample:
        yield batch
        advance(len(batch), "")
