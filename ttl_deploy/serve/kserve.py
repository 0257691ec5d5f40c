"""The KServe v2 inference protocol (open inference protocol, REST) with Triton's binary tensor extension, as functions.

Bytes in, bytes out, no web framework. Inputs: the tensor (N, *shape) under the artifact's input name, preprocessed,
FP32, or pixels, UINT8, where the graph preprocesses; or `image`, BYTES (N), the contents of image files. Outputs:
`logits`, unless the graph has an activation, and `probabilities`, FP32 (N, classes), `label`, BYTES (N), and
`classes`, BYTES (classes).

Of a model that says masks, logits and probabilities are (N, 1, H, W) in the network's size, and there are two more
outputs. `mask`, UINT8 (N, 1, H, W), is 0 and 1, 1 from a probability of one half on. `mask_png`, BYTES (N), base64 in
JSON, is of `image` only: each mask in the size of the image itself, upright, as the PNG of 0 and 255 that
`predict --masks` writes. It is `mask` laid back by the rule of the preprocessing (steps 8 and 9 of
`ttl_deploy.inputs.image`): with the crop `center` enlarged to the largest centred part with the proportions of H x W,
outside of which nothing is inside, with `none` to the whole image, each time by the nearest pixel.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import reprlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.inputs.overlay import mask_file
from ttl_deploy.serve.bounded_json import JsonLimits, parse_object
from ttl_deploy.serve.model import VERSION, Answer, ServedModel
from ttl_deploy.serve.request_error import RequestError

IMAGE_INPUT = "image"
WHOLE_MASKS = "mask_png"
LENGTH_HEADER = "Inference-Header-Content-Length"

_SPARE_VALUES = 4096
"""JSON values of a request besides those of its tensor."""

_DATATYPES = {"float32": "FP32", "uint8": "UINT8"}

_Values = NDArray[Any] | list[bytes]
_Output = NDArray[Any] | Sequence[str] | Sequence[bytes]


@dataclass(frozen=True)
class InferRequest:
    """A request that was understood.

    Attributes:
        id: What the client calls it, given back in the answer.
        tensor: The batch, if the client preprocessed.
        images: The encoded images otherwise.
        outputs: Names of the outputs wanted, and whether each goes out as binary.
    """

    id: str | None
    tensor: NDArray[Any] | None
    images: list[bytes]
    outputs: dict[str, bool]


def model_metadata(model: ServedModel) -> dict[str, Any]:
    """What `/v2/models/NAME` says."""
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": _platform(model),
        "inputs": [
            {"name": model.input_name, "datatype": _DATATYPES[model.input_type], "shape": [-1, *model.input_shape]},
            {"name": IMAGE_INPUT, "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": shape} for name, (datatype, shape) in _outputs(model).items()
        ],
    }


def model_config(model: ServedModel) -> dict[str, Any]:
    """What `/v2/models/NAME/config` says, as Triton's `ModelConfig`.

    Shapes are whole, as in the metadata, and so `max_batch_size` is 0, which says that none is added in front.
    """
    metadata = model_metadata(model)
    told = {"max_batch": str(model.max_batch), **model.artifact.manifest.told}
    return {
        "name": model.name,
        "platform": _platform(model),
        "backend": model.runtime,
        "max_batch_size": 0,
        "version_policy": {"latest": {"num_versions": 1}},
        # One of the inputs is given.
        "input": [{**_config_tensor(tensor), "optional": True} for tensor in metadata["inputs"]],
        "output": [_config_tensor(tensor) for tensor in metadata["outputs"]],
        "instance_group": [{"name": model.name, "kind": "KIND_MODEL", "count": model.sessions}],
        "parameters": {key: {"string_value": value} for key, value in told.items()},
    }


def model_statistics(model: ServedModel) -> dict[str, Any]:
    """What `/v2/models/NAME/stats` says."""
    return {"model_stats": [{"name": model.name, "version": VERSION, **model.statistics.as_dict()}]}


def repository_index(model: ServedModel, *, ready: bool) -> list[dict[str, str]]:
    """What `/v2/repository/index` says."""
    state, reason = ("READY", "") if ready else ("UNAVAILABLE", "the server is stopping")
    return [{"name": model.name, "version": VERSION, "state": state, "reason": reason}]


def infer(model: ServedModel, body: bytes, header_length: str | None) -> tuple[bytes, int | None]:
    """Answers one request.

    Args:
        model: Who answers.
        body: The request's body.
        header_length: Value of the header `Inference-Header-Content-Length`, if it is there.

    Returns:
        The answer's body, and the length of its JSON part where binary tensors follow it.

    Raises:
        RequestError: The request is malformed or asks for what the model does not have.
    """
    request = read_request(body, header_length, model)
    answer = model.of_tensor(request.tensor) if request.tensor is not None else model.of_images(request.images)
    return write_answer(request, answer, model)


def _platform(model: ServedModel) -> str:
    return f"{model.runtime}_{model.artifact.manifest.format}"


def _config_tensor(tensor: dict[str, Any]) -> dict[str, Any]:
    kind = "STRING" if tensor["datatype"] == "BYTES" else tensor["datatype"]
    return {"name": tensor["name"], "data_type": f"TYPE_{kind}", "dims": tensor["shape"]}


def _outputs(model: ServedModel) -> dict[str, tuple[str, list[int]]]:
    """Datatype and shape of each output, -1 for the number of images."""
    of_one = [-1, *model.output_shape]
    return {
        **({"logits": ("FP32", of_one)} if model.gives_logits else {}),
        "probabilities": ("FP32", of_one),
        **({"mask": ("UINT8", of_one), WHOLE_MASKS: ("BYTES", [-1])} if model.gives_masks else {}),
        "label": ("BYTES", [-1]),
        "classes": ("BYTES", [len(model.classes)]),
    }


def read_request(body: bytes, header_length: str | None, model: ServedModel) -> InferRequest:
    """Understands a request.

    Raises:
        RequestError: It is malformed.
    """
    tensor_name = model.input_name
    head, tail = _divide(body, header_length)
    content = parse_object(head, _json_limits(model))
    values: dict[str, _Values] = {}
    position = 0
    for entry in _objects(content, "inputs"):
        name = _text(entry, "name")
        if name not in (tensor_name, IMAGE_INPUT) or name in values:
            raise RequestError(f"unexpected input {name!r:.80}; give {tensor_name} or {IMAGE_INPUT}, once")
        size = _binary_size(entry)
        binary = None if size is None else tail[position : position + size]
        if binary is not None and len(binary) != size:
            raise RequestError(f"{name} announces {size} bytes, {len(binary)} follow")
        if binary is not None and "data" in entry:
            raise RequestError(f"{name} has both data and binary_data_size; give one")
        position += size or 0
        values[name] = _tensor(entry, binary, model.input_type) if name == tensor_name else _bytes(entry, binary)
    if len(values) != 1:
        raise RequestError(f"give either the input {tensor_name} or the input {IMAGE_INPUT}")
    if position != len(tail):
        raise RequestError(f"{len(tail) - position} bytes follow that no input announces")
    (given,) = values.values()
    known = [name for name in _outputs(model) if name != WHOLE_MASKS or isinstance(given, list)]
    request_id = content.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise RequestError("id is not a string")
    if isinstance(given, list):
        return InferRequest(request_id, None, given, _wanted(content, known))
    return InferRequest(request_id, given, [], _wanted(content, known))


def write_answer(request: InferRequest, answer: Answer, model: ServedModel) -> tuple[bytes, int | None]:
    """The answer's body, and the length of its JSON part where binary tensors follow it."""
    outputs, tail = [], []
    for name, as_binary in request.outputs.items():
        entry, binary = _output(name, _value(name, answer, model), as_binary)
        outputs.append(entry)
        tail += [binary] if as_binary else []
    first = {"id": request.id} if request.id is not None else {}
    head = json.dumps(
        {"model_name": model.name, "model_version": VERSION, **first, "outputs": outputs}, separators=(",", ":")
    ).encode()
    return b"".join([head, *tail]), len(head) if tail else None


def _value(name: str, answer: Answer, model: ServedModel) -> _Output:
    if name == WHOLE_MASKS:
        return [mask_file(mask) for mask in model.whole_masks(answer)]
    found: dict[str, _Output | None] = {
        "logits": answer.logits,
        "probabilities": answer.probabilities,
        "mask": answer.masks,
        "label": answer.labels,
        "classes": model.classes,
    }
    value = found[name]
    assert value is not None
    return value


def _divide(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    if not header_length.isascii() or not header_length.isdigit() or int(header_length[:12]) > len(body):
        raise RequestError(f"{LENGTH_HEADER} is {header_length[:40]!r}, the body has {len(body)} bytes")
    return body[: int(header_length[:12])], body[int(header_length[:12]) :]


def _json_limits(model: ServedModel) -> JsonLimits:
    """Enough for the largest tensor, each number an element, in as many nested arrays as its axes make."""
    sizes = list(accumulate((model.max_batch, *model.input_shape), mul))
    return JsonLimits(
        values=sizes[-1] + _SPARE_VALUES,
        arrays=sum(sizes[:-1]) + _SPARE_VALUES,
        strings=model.max_batch + _SPARE_VALUES,
    )


def _objects(content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = content.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(entry, dict) for entry in found):
        raise RequestError(f"{key} is not a list of objects")
    return found


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise RequestError(f"an input or output has no {key}")
    return value


def _parameters(entry: dict[str, Any]) -> dict[str, Any]:
    found = entry.get("parameters", {})
    if not isinstance(found, dict):
        raise RequestError("parameters is not an object")
    return found


def _binary_size(entry: dict[str, Any]) -> int | None:
    size = _parameters(entry).get("binary_data_size")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
        raise RequestError(f"binary_data_size is {_shown(size)}, not a number of bytes")
    return size


def _shape(entry: dict[str, Any]) -> list[int]:
    shape = entry.get("shape")
    good = isinstance(shape, list) and 0 < len(shape) <= 8
    if not good or not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**31 for n in shape or ()):
        raise RequestError(f"{entry['name']} has the shape {_shown(shape)}, not a list of sizes")
    assert isinstance(shape, list)
    return shape


def _refuse_datatype(entry: dict[str, Any], datatype: str) -> None:
    if entry.get("datatype") != datatype:
        raise RequestError(f"{entry['name']} has the datatype {_shown(entry.get('datatype'))}, expected {datatype}")


def _tensor(entry: dict[str, Any], binary: bytes | None, kind: str) -> NDArray[Any]:
    """A FP32 or UINT8 tensor, from little-endian bytes or from JSON numbers, nested or flat."""
    _refuse_datatype(entry, _DATATYPES[kind])
    shape, dtype = _shape(entry), np.dtype(kind)
    try:
        if binary is None:
            flat = _numbers(_flat(entry["name"], entry.get("data"), shape), dtype)
        else:
            flat = np.frombuffer(binary, dtype=dtype.newbyteorder("<"))
    except (ValueError, OverflowError) as error:
        raise RequestError(f"{entry['name']}: the data are not numbers") from error
    if flat.size != math.prod(shape):
        raise RequestError(f"{entry['name']} has {flat.size} values, its shape {shape} needs {math.prod(shape)}")
    return flat.reshape(shape).astype(dtype, copy=False)


def _flat(name: str, data: Any, shape: list[int]) -> list[Any]:
    """The elements of JSON data, which are flat or nested exactly as the shape says.

    Raises:
        RequestError: They are nested otherwise, or no list.
    """
    if not isinstance(data, list):
        raise RequestError(f"{name}: data is {_shown(data)}, not a list of values")
    flat: list[Any] = data
    if list not in set(map(type, flat)):
        return flat
    whole = len(flat) == shape[0]
    for size in shape[1:]:
        whole = whole and set(map(type, flat)) == {list} and set(map(len, flat)) == {size}
        if not whole:
            raise RequestError(f"{name}: the data are nested otherwise than the shape {shape} says; give them flat")
        flat = list(chain.from_iterable(flat))
    return flat


def _numbers(data: list[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """JSON numbers as an array; ValueError where one is none, or a pixel no whole number from 0 to 255."""
    if not set(map(type, data)) <= {int, float}:
        raise ValueError("not numbers")
    if dtype == np.float32:
        with np.errstate(over="ignore"):  # becomes infinity, which is refused as such
            return np.array(data, dtype=dtype)
    given = np.array(data, dtype=np.float64)
    if not ((given >= 0) & (given <= 255) & (given == np.floor(given))).all():
        raise ValueError("not pixels")
    return given.astype(dtype)


def _bytes(entry: dict[str, Any], binary: bytes | None) -> list[bytes]:
    """A BYTES tensor of one axis, or two of which the second is 1; in JSON its strings are base64."""
    _refuse_datatype(entry, "BYTES")
    shape = _shape(entry)
    if len(shape) > 2 or shape[1:] not in ([], [1]):
        raise RequestError(f"{entry['name']} has the shape {shape}, expected [N]")
    found = _strings(entry, shape) if binary is None else _lengths(entry["name"], binary)
    if len(found) != shape[0]:
        raise RequestError(f"{entry['name']} has {len(found)} elements, its shape says {shape[0]}")
    return found


def _strings(entry: dict[str, Any], shape: list[int]) -> list[bytes]:
    try:
        return [base64.b64decode(item, validate=True) for item in _flat(entry["name"], entry.get("data"), shape)]
    except (binascii.Error, ValueError, TypeError) as error:
        raise RequestError(f"{entry['name']}: in JSON an image is a base64 string") from error


def _lengths(name: str, binary: bytes) -> list[bytes]:
    """Elements of a binary BYTES tensor: each 4 bytes of length, little-endian, and then its content."""
    found: list[bytes] = []
    position = 0
    while position < len(binary):
        if position + 4 > len(binary):
            raise RequestError(f"{name}: the data end inside a length")
        (length,) = struct.unpack_from("<I", binary, position)
        position += 4
        if position + length > len(binary):
            raise RequestError(f"{name}: an element of {length} bytes is longer than the data")
        found.append(binary[position : position + length])
        position += length
    return found


def _wanted(content: dict[str, Any], known: Sequence[str]) -> dict[str, bool]:
    all_binary = _flag(_parameters(content), "binary_data_output", default=False)
    if "outputs" not in content:
        return dict.fromkeys(known, all_binary)
    wanted: dict[str, bool] = {}
    for entry in _objects(content, "outputs"):
        name, parameters = _text(entry, "name"), _parameters(entry)
        if name == WHOLE_MASKS and "mask" in known and name not in known:
            raise RequestError(
                f"{name} has the size of an encoded image; give the input {IMAGE_INPUT}, or ask for mask"
            )
        if name not in known:
            raise RequestError(f"unknown output {name!r:.80}; valid: {', '.join(known)}")
        if parameters.get("classification"):
            raise RequestError("the classification extension is not supported; ask for probabilities and classes")
        wanted[name] = _flag(parameters, "binary_data", default=all_binary)
    return wanted


def _flag(parameters: dict[str, Any], key: str, *, default: bool) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise RequestError(f"{key} is {_shown(value)}, not true or false")
    return value


def _shown(value: Any) -> str:
    """A value for an error message; of a large one only the beginning is ever written."""
    return f"{reprlib.repr(value):.60}"


def _output(name: str, values: _Output, as_binary: bool) -> tuple[dict[str, Any], bytes]:
    """An output's entry, and its bytes where they follow the JSON."""
    datatype = _DATATYPES[values.dtype.name] if isinstance(values, np.ndarray) else "BYTES"
    shape = list(values.shape) if isinstance(values, np.ndarray) else [len(values)]
    entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
    if not as_binary:
        return {**entry, "data": _json_values(values)}, b""
    binary = _binary_values(values)
    return {**entry, "parameters": {"binary_data_size": len(binary)}}, binary


def _json_values(values: _Output) -> list[Any]:
    if isinstance(values, np.ndarray):
        found: list[Any] = values.ravel().tolist()
        return found
    return [value if isinstance(value, str) else base64.b64encode(value).decode() for value in values]


def _binary_values(values: _Output) -> bytes:
    """Little-endian numbers, or elements as `_lengths` reads them."""
    if isinstance(values, np.ndarray):
        return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    return b"".join(struct.pack("<I", len(value)) + value for value in encoded)
