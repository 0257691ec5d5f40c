"""TensorRT without TensorRT: a folder that builds and checks the engine on the machine that has the GPU.

The kit is an ONNX artifact too: its typed graph passed parity in ONNX Runtime before it was kept, and every file's hash
is in its manifest, which the kit's own scripts check.
"""

from __future__ import annotations

from pathlib import Path

from ttl_deploy import files
from ttl_deploy.errors import BadInputError
from ttl_deploy.formats.exporter import EXPORTERS, Exporter, ExportJob, Written
from ttl_deploy.formats.kit import build_engine
from ttl_deploy.formats.kit.build_engine import Settings
from ttl_deploy.formats.known import TrtKitFormat
from ttl_deploy.formats.onnx_graph import MODEL_FILE, graph_fields, save_onnx
from ttl_deploy.formats.options import LARGEST_MIB, KitOptions
from ttl_deploy.formats.samples import SAMPLES_FILE, samples
from ttl_deploy.formats.trt_engine import typed_job

_PACKAGE = Path(__file__).parent.parent
_SCRIPTS = {
    "build_engine.py": _PACKAGE / "formats" / "kit" / "build_engine.py",
    "verify_engine.py": _PACKAGE / "formats" / "kit" / "verify_engine.py",
    "trt_engine_run.py": _PACKAGE / "runtime" / "trt_engine_run.py",
    "cuda_driver.py": _PACKAGE / "runtime" / "cuda_driver.py",
}
"""Files that travel word for word, so that what builds and runs there is what builds and runs here."""


class TrtKitExporter(TrtKitFormat, Exporter):
    """Writes the kit; what `--format trt --defer-build` asks for."""

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
        files.write_bytes(folder / SAMPLES_FILE, samples(job, typed.proto, options.samples))
        files.write_text(folder / "README.md", _readme(job, settings, options))
        files.write_text(folder / "trtexec.sh", _trtexec(settings))
        for name, source in _SCRIPTS.items():
            files.write_bytes(folder / name, source.read_bytes())
        precision = {"precision": "fp32"} if job.precision == "tf32" else {}
        details = {**typed.details, "kit": {"for": "trt", "precision": job.precision}}
        return Written(MODEL_FILE, details, {**graph_fields(options), "format": "onnx", **precision}, "onnxruntime")


EXPORTERS.register("trt-kit", TrtKitExporter())


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
    images = (
        "random pixels"
        if options.samples == 0
        else "images of the run's validation split, which `artifact/` holds too; treat both as such"
    )
    return f"""# TensorRT build kit: {of}, {settings.precision}

On the machine with the GPU, with `tensorrt` 10 or 11 (10.9 or later for `same-compute-capability`) and `numpy`:

    python build_engine.py     # model.onnx -> artifact/model.engine; refused if it does not run {settings.precision}
    python verify_engine.py    # runs the engine on samples.npz and compares; exit code 1 if it differs

Without `tensorrt`, TensorRT for RTX builds, the edition for RTX and Quadro cards (`tensorrt_rtx_cu13_bindings` and
`tensorrt_rtx_cu13_libs`, from PyPI): `artifact/` is then the graph with an engine for the card. It needs no GPU, and
also builds for cards that are elsewhere: `python build_engine.py --for sm75,sm86`.

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
