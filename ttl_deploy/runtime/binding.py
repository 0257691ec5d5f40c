"""Does an artifact's manifest say what its model file says? Where the two differ, the manifest was edited or swapped.

What a graph shows of itself is compared (names, types, shapes, stored precision, activation), then what its exporter
wrote into it (classes, preprocessing, the model's spec, sizes, the run). Files of older exporters carry less; what they
do not carry is not compared. No torch.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ttl_deploy import documents
from ttl_deploy.artifact import MANIFEST, Artifact
from ttl_deploy.errors import DamagedError, IntegrityError
from ttl_deploy.runtime.graph_facts import GraphFacts, Port, graph_facts
from ttl_deploy.runtime.graph_size import refuse_oversized
from ttl_deploy.spec import ArtifactManifest
from ttl_deploy.tasks import task_of

EXTRA_FILE = "ttl_deploy.json"
"""Where PyTorch's formats carry the metadata: an extra file of the archive, one JSON object."""

_ARCHIVES = ("pt2", "torchscript", "torch-trt")
_AGAIN = "export the run again with `ttl-deploy export --overwrite`"
_FAR = 2
"""A graph of an older exporter, which wrote no count into it, holds fewer numbers than this times the manifest's
parameters and more than them over this: folded batch norms and what a quantisation adds change a count by percents."""


def refuse_unbound(artifact: Artifact) -> None:
    """Compares an artifact's manifest with its model file, without an engine.

    A session compares what its engine tells when it opens; this looks inside the graph too. What cannot be read here,
    because onnx or openvino is not installed, is left to that.

    Raises:
        IntegrityError: They differ, and the error says in what and gives both values; or the graph asks for more memory
            than a network can need.
    """
    if artifact.manifest.format in _ARCHIVES:
        refuse(artifact, metadata_differences(artifact.manifest, archive_metadata(artifact.model_path)))
        return
    if artifact.manifest.format == "onnx":
        refuse_oversized(artifact.model_path)
    facts = graph_facts(artifact.model_path, artifact.manifest.format)
    if facts is not None:
        refuse(artifact, differences(artifact.manifest, facts))


def differences(manifest: ArtifactManifest, facts: GraphFacts) -> Iterator[str]:
    """In what a manifest is not a graph's, a phrase each with both values.

    Args:
        manifest: Of the artifact.
        facts: What its model file says.
    """
    yield from port_differences(manifest, facts.inputs, facts.outputs)
    if facts.activation is not None:
        yield from _pair("activation", facts.activation, manifest.activation)
    if facts.precision is not None:
        yield from _precision(manifest, facts.precision)
    yield from metadata_differences(manifest, facts.metadata)
    if facts.numbers is not None and "model" in facts.metadata and "parameters" not in facts.metadata:
        yield from _size(manifest, facts.numbers)


def port_differences(manifest: ArtifactManifest, inputs: tuple[Port, ...], outputs: tuple[Port, ...]) -> Iterator[str]:
    """In what a manifest's input and output are not the graph's; the batch must be free."""
    given = [put for put in inputs if manifest.input_name in put.names]
    answers = [put for put in outputs if manifest.output_name in put.names]
    if len(inputs) != 1 or not given or not answers:
        found = f"{_names(inputs)} to {_names(outputs)}"
        yield f"the graph maps {found}, the manifest says {manifest.input_name} to {manifest.output_name}"
        return
    yield from _port("input", given[0], manifest.input_type, manifest.input_shape)
    yield from _port("output", answers[0], "float32", task_of(manifest.model).outputs(manifest.model.input.size))


def metadata_differences(manifest: ArtifactManifest, metadata: Mapping[str, str]) -> Iterator[str]:
    """In what a manifest is not what the exporter wrote into the model file.

    Args:
        manifest: Of the artifact.
        metadata: JSON by key, as `ExportJob.metadata` gives it; keys that are missing are not compared.
    """
    record = manifest.model_dump(mode="json")
    for name, of_manifest in _SAID.items():
        if name in metadata:
            yield from _values(name, _parsed(metadata[name]), of_manifest(record))


_SAID: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "classes": lambda record: record["model"]["classes"],
    "preprocess": lambda record: record["preprocess"],
    "model": lambda record: record["model"],
    "precision": lambda record: record["precision"],
    "activation": lambda record: record["activation"],
    "input_type": lambda record: record["input_type"],
    "parameters": lambda record: record["parameters"],
    "macs": lambda record: record["macs"],
    "operating_point": lambda record: record.get("operating_point"),
    "weights_sha256": lambda record: record["source"]["weights_sha256"],
    "config_digest": lambda record: record["source"]["config_digest"],
}
"""What a model file's metadata holds, and where the manifest has the same."""


def archive_metadata(path: Path) -> dict[str, str]:
    """The metadata in an archive of PyTorch's; empty where there is none, or no archive (the engine says why)."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((n for n in archive.namelist() if n.endswith(f"extra/{EXTRA_FILE}")), None)
            if name is None or archive.getinfo(name).file_size > documents.CONFIG.bytes:
                return {}
            content = documents.parse_json(archive.read(name), path, documents.CONFIG)
    except Exception:  # noqa: BLE001,RUF100 - a zip of any form raises errors of any kind
        return {}
    return content if isinstance(content, dict) else {}


def refuse(artifact: Artifact, found: Iterator[str]) -> None:
    """Raises `IntegrityError` with the first difference, if there is one."""
    differing = list(found)
    if differing:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise IntegrityError(
            f"is not the manifest of {artifact.manifest.model_file}: {differing[0]}{more}",
            where=artifact.folder / MANIFEST,
            fix=_AGAIN,
        )


def _pair(what: str, graph: Any, manifest: Any) -> Iterator[str]:
    if graph != manifest:
        yield f"{what} is {_words(graph)} in the graph, the manifest says {_words(manifest)}"


def _values(what: str, graph: Any, manifest: Any) -> Iterator[str]:
    """Records are compared in the fields that both know: a newer version may have added some."""
    if isinstance(graph, dict) and isinstance(manifest, dict):
        for key in graph.keys() & manifest.keys():
            yield from _pair(f"{what}.{key}", graph[key], manifest[key])
    else:
        yield from _pair(what, graph, manifest)


def _port(what: str, put: Port, type: str, shape: tuple[int, ...]) -> Iterator[str]:
    if put.type != type:
        yield f"the {what} {put.names[0]} is {put.type} in the graph, the manifest says {type}"
    batch, *rest = put.shape or (None,)
    if len(rest) != len(shape) or any(size not in (None, wanted) for size, wanted in zip(rest, shape, strict=True)):
        yield (
            f"the {what} {put.names[0]} is ({_dims(put.shape)}) in the graph, the manifest says "
            f"({_dims((None, *shape))})"
        )
    elif batch is not None:
        yield f"the batch of the {what} {put.names[0]} is fixed to {batch} in the graph, artifacts take any batch"


def _precision(manifest: ArtifactManifest, stored: str) -> Iterator[str]:
    """OpenVINO's bf16 is fp32 weights and a hint."""
    hinted = manifest.format == "openvino" and manifest.precision == "bf16" and stored == "fp32"
    if not hinted:
        yield from _pair("precision", stored, manifest.precision)


def _size(manifest: ArtifactManifest, numbers: Mapping[str, int]) -> Iterator[str]:
    held = sum(count for name, count in numbers.items() if name not in ("int64", "i64"))
    if not manifest.parameters / _FAR <= held <= manifest.parameters * _FAR:
        yield f"the graph holds {held:,} numbers, the manifest says {manifest.parameters:,} parameters"


def _parsed(text: str) -> Any:
    """A text that is no JSON stands for itself."""
    try:
        return documents.parse_json(text, "metadata", documents.CONFIG)
    except DamagedError:
        return text


def _names(ports: tuple[Port, ...]) -> str:
    return ", ".join("/".join(port.names) or "?" for port in ports) or "nothing"


def _dims(shape: tuple[int | None, ...]) -> str:
    return ", ".join("N" if size is None else str(size) for size in shape)


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
