"""The options of the formats, a record each.

The command line makes its options of them: no torch and no onnx here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ttl_deploy.errors import BadInputError
from ttl_deploy.spec.options import Options, OptionTable
from ttl_deploy.spec.said import Said

if TYPE_CHECKING:
    from ttl_deploy.formats.kit.build_engine import Settings

INPUT = "images"

LARGEST_MIB = 1900
"""A protobuf message ends at 2 GiB; above this, weights go to a file of their own."""

CALIBRATION_IMAGES = 300
"""Calibrated on unless told otherwise; NNCF's own default, and enough for ranges to settle."""

GROUP = "ttl_deploy.exporters"

FORMAT_OPTIONS = OptionTable("format", GROUP)

Batch = Annotated[int, Field(ge=1)]
Cards = Annotated[
    str | None,
    Field(
        description="The cards to build for, an engine each: sm75, sm86 …, or devices of export/targets/, with commas "
        "between (sm75,rtx-4090). trt: where full TensorRT or the GPU is missing, trt-rtx builds them."
    ),
    Said(("--for",), default="the GPU here"),
]
Samples = Annotated[
    int,
    Field(
        ge=0,
        le=256,
        description="Validation images kept beside the engine, to check it with on the card; 0: made-up pixels, so "
        "that no image leaves this machine.",
    ),
]


class ExportOptions(Options):
    """Base of every format's options.

    A format without options uses this class itself.
    """


class CalibrationOptions(ExportOptions):
    """What every format that writes int8 asks for."""

    calibration_images: Annotated[
        int, Field(ge=2, description="int8: training images, as many of each class as there are.")
    ] = CALIBRATION_IMAGES
    calibration_seed: Annotated[int, Field(ge=0, description="int8: seed of their draw.")] = 0


class GraphOptions(CalibrationOptions):
    """Options of every format that begins with an ONNX graph."""

    opset: Annotated[
        int | None,
        Field(ge=15, le=23, description="ONNX opset of the graph; older engines need older ones."),
        # 22 is the first with convolutions in bfloat16.
        Said(default="20; bf16: 22"),
    ] = None
    embed_preprocessing: Annotated[
        bool, Field(description="Put scaling and normalisation into the graph: uint8 NHWC in.")
    ] = False
    activation: Annotated[
        Literal["none", "softmax", "sigmoid"], Field(description="none, softmax or sigmoid behind the logits.")
    ] = "none"
    calibration: Annotated[
        Literal["minmax", "entropy", "percentile"],
        Field(
            description="int8: how ranges follow from the calibration images: minmax, entropy or percentile.",
        ),
    ] = "minmax"
    int8_auto: Annotated[
        bool,
        Field(
            description="int8: leave layers in float until parity passes on validation, those first that lose most "
            "accuracy per millisecond saved.",
        ),
    ] = False
    qat: Annotated[
        int,
        Field(ge=0, le=100, description="int8: epochs of finetuning, towards the float model's own answers."),
    ] = 0


class OnnxOptions(GraphOptions):
    """Options of the format `onnx`."""

    external_data_mib: Annotated[
        float,
        Field(
            ge=0,
            le=LARGEST_MIB,
            allow_inf_nan=False,
            description="Size in MiB from which weights go to a file of their own; protobuf allows no larger one.",
        ),
    ] = LARGEST_MIB


class BatchOptions(GraphOptions):
    """Options of every engine of TensorRT's, beside those of the graph."""

    min_batch: Annotated[Batch, Field(description="Smallest batch the engine takes.")] = 1
    opt_batch: Annotated[Batch, Field(description="The batch it is made fast for.")] = 1
    max_batch: Annotated[Batch, Field(description="Largest batch; a longer one is run in parts.")] = 32
    workspace_mib: Annotated[
        int | None, Field(ge=1, description="Most scratch memory of a layer, MiB."), Said(default="the GPU's")
    ] = None

    def refuse_disorder(self) -> None:
        """Raises `BadInputError` where the batches are not in order."""
        if not self.min_batch <= self.opt_batch <= self.max_batch:
            raise BadInputError(
                f"batches {self.min_batch} (min), {self.opt_batch} (opt) and {self.max_batch} (max) are not in order"
            )

    def settings(self, precision: str, input_shape: tuple[int, ...]) -> Settings:
        """What the builder is told.

        Args:
            precision: Of the engine.
            input_shape: Shape of one input, without the batch.

        Raises:
            BadInputError: The batches are not in order.
        """
        from ttl_deploy.formats.kit.build_engine import Settings

        self.refuse_disorder()
        return Settings(
            precision=precision,
            input=INPUT,
            minimum=(self.min_batch, *input_shape),
            optimum=(self.opt_batch, *input_shape),
            maximum=(self.max_batch, *input_shape),
            workspace_mib=self.workspace_mib,
            optimization_level=None,
        )


class EngineOptions(BatchOptions):
    """Options of an engine of full TensorRT, built here or by a kit."""

    optimization_level: Annotated[int, Field(ge=0, le=5, description="0 builds fast, 5 searches longest.")] = 3
    version_compatible: Annotated[
        bool, Field(description="Let later versions of TensorRT load the engine; larger, and a little slower.")
    ] = False
    hardware: Annotated[
        Literal["none", "same-compute-capability", "ampere-plus"],
        Field(
            description="GPUs the engine runs on: none (this model only), same-compute-capability (TensorRT 10.9 or "
            "later), or ampere-plus, which leaves out Turing (Quadro RTX 6000) and older."
        ),
    ] = "none"

    def settings(self, precision: str, input_shape: tuple[int, ...]) -> Settings:
        """What the builder is told; see `BatchOptions.settings`."""
        return replace(
            super().settings(precision, input_shape),
            optimization_level=self.optimization_level,
            version_compatible=self.version_compatible,
            hardware=self.hardware,
        )


class TrtOptions(EngineOptions):
    """Options of the format `trt`."""

    targets: Cards = None
    samples: Samples = 0


class RtxOptions(BatchOptions):
    """Options of the format `trt-rtx`: of those of `trt`, the ones that this edition of the library heeds."""

    targets: Cards = None
    samples: Samples = 0


class KitOptions(EngineOptions):
    """Options of a build kit, beside those of the engine."""

    samples: Samples = 16


class Pt2Options(ExportOptions):
    """Options of the format `pt2`."""

    aot: Annotated[bool, Field(description="Also compile a package for C++ programs with AOTInductor.")] = False


class TorchTrtOptions(CalibrationOptions):
    """Options of the format `torch-trt`."""

    min_batch: Annotated[Batch, Field(description="Smallest batch the engine takes.")] = 1
    opt_batch: Annotated[Batch, Field(description="The batch it is made fast for.")] = 1
    max_batch: Annotated[Batch, Field(description="Largest batch.")] = 32
    optimization_level: Annotated[int, Field(ge=0, le=5, description="0 builds fast, 5 searches longest.")] = 3
    aot: Annotated[
        bool, Field(description="Also compile a package for C++ programs, which load it together with libtorchtrt.")
    ] = False


FORMAT_OPTIONS.add("onnx", OnnxOptions)
FORMAT_OPTIONS.add("openvino", GraphOptions)
FORMAT_OPTIONS.add("trt", TrtOptions)
FORMAT_OPTIONS.add("trt-kit", KitOptions)
FORMAT_OPTIONS.add("trt-rtx", RtxOptions)
FORMAT_OPTIONS.add("pt2", Pt2Options)
FORMAT_OPTIONS.add("torch-trt", TorchTrtOptions)
FORMAT_OPTIONS.add("torchscript", ExportOptions)
