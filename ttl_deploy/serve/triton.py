"""A Triton model repository of an artifact: what NVIDIA's inference server needs to serve it.

`DIR/NAME/config.pbtxt`, `DIR/NAME/labels.txt`, `DIR/NAME/1/` with the model, and a copy of the manifest, which tells a
client how to preprocess. The server runs the model only; its input is the preprocessed tensor, its output the logits,
of masks (1, H, W) and without labels, as Triton's classification is of vectors. An operating point is told among the
parameters, for the client to decide by: Triton's own labels are of the largest logit.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path, PurePosixPath

from ttl_deploy import files
from ttl_deploy.artifact import MANIFEST, Artifact
from ttl_deploy.errors import BadInputError
from ttl_deploy.runtime import refuse_unbound
from ttl_deploy.serve.model import VERSION, served_name
from ttl_deploy.spec import PreprocessSpec
from ttl_deploy.tasks import task_of

LABELS = "labels.txt"
MAX_BATCH = 64
MAX_DELAY_MICROSECONDS = 500
"""How long Triton holds a request back to run it together with others."""

_BACKENDS = {"onnx": ("onnxruntime", "model.onnx"), "openvino": ("openvino", "model.xml")}
"""By artifact format: the backend, and the file name that it looks for."""


_TAKEN = "choose another --triton, or pass --overwrite to replace it"


def refuse_windows(preprocess: PreprocessSpec, where: str | Path) -> None:
    """Raises `BadInputError` for what reads studies in windows: Triton answers for each window alone.

    Args:
        preprocess: Of a run or of an artifact.
        where: Its folder.
    """
    if preprocess.windows is not None:
        what = "reads studies in windows, over which Triton takes no maximum"
        raise BadInputError(what, where=where, fix="leave --triton out: serve it with `ttl-deploy serve`")


def write_repository(artifact: Artifact, folder: Path, *, name: str | None = None, overwrite: bool = False) -> Path:
    """Writes a model into a repository, beside the models that are there.

    Args:
        artifact: What Triton shall serve.
        folder: The repository.
        name: The model's name; None: that of the run it was exported from.
        overwrite: Replace a model of that name.

    Returns:
        The model's folder.

    Raises:
        BadInputError: Triton has no backend for the format, the name cannot be used or is taken.
        IntegrityError: The manifest is not the model file's.
        StorageError: The disk is full, read-only or failing; what was there is still there.
    """
    refuse_unbound(artifact)
    refuse_windows(artifact.manifest.preprocess, artifact.folder)
    chosen = served_name(artifact, name)
    place = folder / chosen
    content = config(artifact, chosen)
    if overwrite and place.exists() and not (place / "config.pbtxt").is_file():
        raise BadInputError("is no Triton model and is left alone", where=place, fix="choose another folder or name")
    with files.atomic_folder(place, overwrite=overwrite, fix=_TAKEN) as temporary:
        version = temporary / VERSION
        for source in _model_files(artifact):
            target = version / source
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(artifact.folder / source, target)
        if not task_of(artifact.manifest.model).DENSE:
            files.write_text(temporary / LABELS, "".join(f"{label}\n" for label in artifact.manifest.model.classes))
        files.write_text(temporary / "config.pbtxt", content)
        shutil.copyfile(artifact.folder / MANIFEST, temporary / MANIFEST)
    return place


def config(artifact: Artifact, name: str) -> str:
    """The model's configuration in protobuf's text format (message `inference.ModelConfig`).

    Raises:
        BadInputError: Triton has no backend for the format, or a class name holds a line break.
    """
    manifest = artifact.manifest
    if manifest.format not in _BACKENDS:
        raise BadInputError(
            f"no Triton backend is known for the format {manifest.format}",
            where=artifact.folder,
            fix=f"export with --format {' or '.join(_BACKENDS)}",
        )
    task = task_of(manifest.model)
    if any("\n" in label or "\r" in label for label in manifest.model.classes):
        raise BadInputError("a class name holds a line break, which a labels file cannot", where=artifact.folder)
    backend, usual_file = _BACKENDS[manifest.format]
    data_type = "TYPE_UINT8" if manifest.input_type == "uint8" else "TYPE_FP32"
    lines = [
        f"name: {_quoted(name)}",
        f"backend: {_quoted(backend)}",
        f"max_batch_size: {MAX_BATCH}",
        *([] if manifest.model_file == usual_file else [f"default_model_filename: {_quoted(manifest.model_file)}"]),
        *_tensor("input", manifest.input_name, manifest.input_shape, data_type),
        *_tensor(
            "output",
            manifest.output_name,
            task.outputs(manifest.model.input.size),
            **({} if task.DENSE else {"label_filename": LABELS}),
        ),
        "dynamic_batching {",
        f"  max_queue_delay_microseconds: {MAX_DELAY_MICROSECONDS}",
        "}",
        *(_parameter(key, value) for key, value in manifest.told.items()),
        "version_policy { latest { num_versions: 1 } }",
        *(_precision(manifest.precision) if backend == "openvino" else []),
    ]
    return "\n".join(lines) + "\n"


def _precision(precision: str) -> list[str]:
    """What tells OpenVINO the precision that was verified, in place of its default of bfloat16.

    The backend reads `ENFORCE_BF16` up to Triton 22 and `HINT_BF16`, which can only be YES, after; it passes over the
    others. float32 is therefore asked for by the IR itself too, see `ttl_deploy.formats.openvino_precision`.
    """
    half = precision == "bf16"
    told = {"INFERENCE_PRECISION_HINT": "bf16" if half else "f32", "ENFORCE_BF16": "YES" if half else "NO"}
    told |= {"HINT_BF16": "YES"} if half else {}
    return [_parameter(key, value) for key, value in told.items()]


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"


def _tensor(kind: str, name: str, shape: tuple[int, ...], data_type: str = "TYPE_FP32", **more: str) -> list[str]:
    """One tensor; Triton adds the batch in front of `dims` itself."""
    return [
        f"{kind} {{",
        f"  name: {_quoted(name)}",
        f"  data_type: {data_type}",
        f"  dims: [ {', '.join(map(str, shape))} ]",
        *(f"  {key}: {_quoted(value)}" for key, value in more.items()),
        "}",
    ]


def _model_files(artifact: Artifact) -> list[str]:
    """The model and what lies beside it for it: weights of an IR, external data of an ONNX graph."""
    stem = PurePosixPath(artifact.manifest.model_file).stem
    return [name for name in artifact.manifest.files if PurePosixPath(name).name.partition(".")[0] == stem]


def _quoted(text: str) -> str:
    """A string of protobuf's text format, whose escapes of quotes and backslashes are JSON's."""
    return json.dumps(text, ensure_ascii=False)
