"""Untrained models as yardsticks, above all the whole network: exported once and kept in the cache folder.

Latency does not depend on the weights, so nothing is trained. Run as a program it exports one, so that the caller
need not load torch.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import platformdirs

from ttl_deploy import artifact as artifacts
from ttl_deploy import hardware
from ttl_deploy.artifact import Artifact
from ttl_deploy.errors import IntegrityError, TtlDeployError
from ttl_deploy.spec import ModelSpec, PreprocessSpec, SourceRun, version_of
from ttl_deploy.tasks import TASKS


def whole_network(spec: ModelSpec, *, cache: Path | None = None) -> Artifact:
    """The FTL network of a spec's backbone as an ONNX artifact with random weights.

    Args:
        spec: Backbone, classes, image size and channels are taken from it.
        cache: Folder to keep it in; None: the user's cache folder.

    Raises:
        TtlDeployError: The export failed.
    """
    return untrained(whole_spec(spec), cache=cache)


def untrained(spec: ModelSpec, *, cache: Path | None = None) -> Artifact:
    """The model of a spec as an ONNX artifact with random weights; its latency is the trained one's.

    Args:
        spec: The model.
        cache: Folder to keep it in; None: the user's cache folder.

    Raises:
        TtlDeployError: The export failed.
    """
    place = (cache or Path(platformdirs.user_cache_dir("ttl-deploy"))) / "references" / _key(spec)
    try:
        return artifacts.open_artifact(place)
    except (IntegrityError, TtlDeployError):
        pass
    command = [sys.executable, "-P", "-m", "ttl_deploy.formats.reference", str(place)]
    done = subprocess.run(command, input=spec.model_dump_json(), capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise TtlDeployError(f"an untrained {spec.backbone} {spec.method} cannot be exported to be measured: {last}")
    return artifacts.open_artifact(place)


def whole_spec(spec: ModelSpec) -> ModelSpec:
    """The FTL spec of the same backbone, classes and input."""
    kept = {name: getattr(spec, name) for name in ("backbone", "task", "classes", "input")}
    if TASKS.get(spec.task.kind).DENSE:
        kept["head"] = spec.head
    return ModelSpec(**kept)


def _key(spec: ModelSpec) -> str:
    versions = hardware.library_versions()
    content = spec.digest() + versions.get("torch", "") + versions.get("onnxscript", "")
    return f"{spec.backbone.replace(':', '-')}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def write_untrained(spec: ModelSpec, folder: Path) -> Artifact:
    """Exports a model with random weights, in this process.

    Args:
        spec: The model.
        folder: Where the ONNX artifact goes; replaced if it exists.
    """
    from ttl_deploy.complexity import count
    from ttl_deploy.formats.exporter import ExportJob
    from ttl_deploy.formats.onnx_graph import OnnxExporter
    from ttl_deploy.transfer import build

    model = build(spec).eval()
    cost = count(model, spec.input_shape)
    preprocess = PreprocessSpec.of(spec.input)
    exporter = OnnxExporter()
    fields = {
        "format": exporter.name,
        "precision": "fp32",
        "model": spec,
        "preprocess": preprocess,
        "parameters": cost.parameters,
        "macs": cost.macs,
        "source": SourceRun(name="untrained reference", weights_sha256="", config_digest=""),
        "tools": hardware.library_versions(),
        "schema_version": version_of(spec.input),
    }
    job = ExportJob(model, preprocess, "fp32", cost=cost)
    return artifacts.write_artifact(folder, fields, lambda place: exporter.write(job, place).model_file, overwrite=True)


def _main() -> None:
    write_untrained(ModelSpec.model_validate_json(sys.stdin.read()), Path(sys.argv[1]))


if __name__ == "__main__":
    _main()
