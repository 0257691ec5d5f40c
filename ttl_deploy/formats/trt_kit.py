"""TensorRT without TensorRT: a folder that builds and checks the engine on the machine that has the GPU.

The kit is an ONNX artifact too: its typed graph passed parity in ONNX Runtime before it was kept, and every file's hash
is in its manifest, which the kit's own scripts check.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from ttl_deploy import files
from ttl_deploy.errors import BadInputError
from ttl_deploy.formats.exporter import EXPORTERS, OUTPUT, Exporter, ExportJob, Written
from ttl_deploy.formats.kit import build_engine
from ttl_deploy.formats.kit.build_engine import Settings
from ttl_deploy.formats.onnx_graph import MODEL_FILE, graph_fields, save_onnx
from ttl_deploy.formats.options import INPUT, LARGEST_MIB, KitOptions
from ttl_deploy.formats.trt_engine import typed_job
from ttl_deploy.preprocess import normalise

SAMPLES_FILE = "samples.npz"

_PACKAGE = Path(__file__).parent.parent
_SCRIPTS = {
    "build_engine.py": _PACKAGE / "formats" / "kit" / "build_engine.py",
    "verify_engine.py": _PACKAGE / "formats" / "kit" / "verify_engine.py",
    "trt_engine_run.py": _PACKAGE / "runtime" / "trt_engine_run.py",
    "cuda_driver.py": _PACKAGE / "runtime" / "cuda_driver.py",
}
"""Files that travel word for word, so that what builds and runs there is what builds and runs here."""


class TrtKitExporter(Exporter):
    """Writes the kit; what `--format trt --defer-build` asks for."""

    name = "trt-kit"
    precisions = ("fp32", "tf32", "fp16", "int8")
    options = KitOptions

    def write(self, job: ExportJob, folder: Path) -> Written:
        """Writes the kit's files into `folder`.

        Raises:
            BadInputError: TensorRT would not take the graph.
        """
        options = job.options if isinstance(job.options, KitOptions) else KitOptions()
        typed, settings = typed_job(job)
        if typed.proto.ByteSize() > LARGEST_MIB * 2**20:
            raise BadInputError(f"the graph has {typed.proto.ByteSize() / 2**20:.0f} MiB, a kit takes {LARGEST_MIB}")
        save_onnx(typed.proto, folder)
        typed.save_records(folder)
        files.write_json(folder / "profile.json", settings.as_dict())
        files.write_bytes(folder / SAMPLES_FILE, _samples(job, options, typed.proto))
        files.write_text(folder / "README.md", _readme(job, settings, options))
        files.write_text(folder / "trtexec.sh", _trtexec(settings))
        for name, source in _SCRIPTS.items():
            files.write_bytes(folder / name, source.read_bytes())
        precision = {"precision": "fp32"} if job.precision == "tf32" else {}
        details = {**typed.details, "kit": {"for": "trt", "precision": job.precision}}
        return Written(MODEL_FILE, details, {**graph_fields(options), "format": "onnx", **precision}, "onnxruntime")


EXPORTERS.register("trt-kit", TrtKitExporter())


def _samples(job: ExportJob, options: KitOptions, proto: onnx.ModelProto) -> bytes:
    """The inputs the engine will get, and what the typed graph and PyTorch make of them on this CPU."""
    import onnxruntime
    import torch

    pixels = _pixels(job, options)
    batch = normalise(pixels, job.preprocess)
    with torch.inference_mode():
        reference = job.model(torch.from_numpy(batch)).float().numpy()
    inputs = pixels if options.embed_preprocessing else batch
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = np.concatenate([session.run([OUTPUT], {INPUT: inputs[i : i + 1]})[0] for i in range(len(inputs))])
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        pixels=pixels,
        mean=np.array(job.preprocess.mean),
        std=np.array(job.preprocess.std),
        embedded=np.array(options.embed_preprocessing),
        expected=expected,
        pytorch=reference,
        activation=np.array(options.activation),
        sigmoid=np.array(job.task.ACTIVATION == "sigmoid"),
    )
    return buffer.getvalue()


def _pixels(job: ExportJob, options: KitOptions) -> NDArray[np.uint8]:
    """(N, H, W, C); spread evenly over the validation split, which is in no order of classes."""
    if options.samples == 0 or job.images is None:
        shape = (8, *job.model.spec.input_shape[1:], job.model.spec.channels)
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    indices = job.images.validation().indices
    chosen = np.unique(np.linspace(0, len(indices) - 1, min(options.samples, len(indices))).astype(np.int64))
    return job.images.prepared.pixels(indices[chosen])


def _trtexec(settings: Settings) -> str:
    ten, eleven = (build_engine.trtexec(settings, major=major) for major in (10, 11))
    return (
        "#!/bin/sh\n# The same build with NVIDIA's own program. It checks no precision: see layers.json.\n"
        f"# TensorRT 11:\n{eleven}\n# TensorRT 10:\n# {ten}\n"
    )


def _readme(job: ExportJob, settings: Settings, options: KitOptions) -> str:
    spec = job.model.spec
    of = f"{spec.backbone} {spec.method} {spec.cut or ''}".strip()
    batches = f"{settings.minimum[0]} to {settings.maximum[0]}, fastest at {settings.optimum[0]}"
    images = "random pixels" if options.samples == 0 else "images of the run's validation split; treat them as such"
    return f"""# TensorRT build kit: {of}, {settings.precision}

On the machine with the GPU, with `tensorrt` 10 or 11 (10.9 or later for `same-compute-capability`) and `numpy`:

    python build_engine.py     # model.onnx -> artifact/model.engine; refused if it does not run {settings.precision}
    python verify_engine.py    # runs the engine on samples.npz and compares; exit code 1 if it differs

`artifact/` is then an artifact for `ttl-deploy predict`, `bench` and `verify --against RUN`, each with `--trust`, as an
engine is native code and it was you who built this one. Only `verify` on the whole test split says whether the engine
is still the validated model.

| file | is |
|---|---|
| `model.onnx` | the typed graph: its tensors have the types they are computed in, int8 as Q/DQ pairs |
| `profile.json` | batches {batches}, and the options |
| `samples.npz` | {images}, with what ONNX Runtime and PyTorch made of them |
| `trtexec.sh` | the equivalent line for NVIDIA's `trtexec`, 10 and 11 |
| `manifest.json` | where the model comes from, its parity, and the SHA-256 of every file |

`timing.cache` appears after the first build and makes the next one faster on the same GPU and version.
"""
