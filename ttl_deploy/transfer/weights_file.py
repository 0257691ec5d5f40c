"""Files of tensors, safetensors and PyTorch's: nothing is unpickled, nothing larger than the file is allocated.

Whatever the libraries raise becomes one `WeightsError` that names the file. What they read is looked at before it is
used: tensors are dense, on the CPU, inside their storage, and hold finite numbers.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load
from torch import Tensor

from ttl_deploy import documents
from ttl_deploy.errors import BadInputError, WeightsError

_DAMAGED = "is damaged or not a file of weights"
_AGAIN = "fetch or save it again, or choose another"
_LENGTH_BYTES = 8
"""Of a safetensors header's length, with which the file begins (format specification)."""

_HEADER = documents.Limits(bytes=100 * 2**20, depth=8)
"""Of a safetensors header; the library takes no longer one."""

_ARCHIVE = b"PK\x03\x04"
"""How an archive begins that holds anything."""

Result = TypeVar("Result")


def read_safetensors(path: Path) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        WeightsError: It is missing or damaged, or a tensor is not dense or holds a number that is not finite.
    """
    # From memory: the library opens no path that is not UTF-8.
    content = _content(path)
    metadata = _header(content, path).get("__metadata__", {})
    return finite(_parsed(lambda: load(content), path), path), metadata


def read_metadata(path: Path) -> Mapping[str, str]:
    """The metadata of a safetensors file alone.

    Raises:
        WeightsError: It is missing or damaged.
    """
    metadata: Mapping[str, str] = _header(_content(path), path).get("__metadata__", {})
    return metadata


def read_torch(path: Path) -> Any:
    """What a PyTorch file holds, on the CPU.

    Raises:
        WeightsError: It is missing or damaged, holds other Python objects, or claims to be larger than it is.
    """
    if not path.is_file():
        raise WeightsError("is not a file" if path.exists() else "no such file", where=path, fix=_AGAIN)
    _refuse_compressed(path)
    with warnings.catch_warnings():
        # The one error line says more than the library's notes on how the file was pickled.
        warnings.simplefilter("ignore")
        try:
            return _parsed(lambda: torch.load(path, map_location="cpu", weights_only=True), path)
        except WeightsError as error:
            if not isinstance(error.__cause__, pickle.UnpicklingError):
                raise
            raise WeightsError(
                "holds Python objects besides tensors, which are never loaded",
                where=path,
                fix="save it again as torch.save(model.state_dict(), FILE) or as .safetensors",
            ) from error


def finite(state: Mapping[str, Tensor], source: str | Path) -> Mapping[str, Tensor]:
    """The same tensors.

    Raises:
        WeightsError: One of them, used or not, is not dense, or holds NaN or an infinity, and so would the model's
            answers.
    """
    for name, tensor in state.items():
        _refuse_unusual(name, tensor, source)
    bad = [name for name, tensor in state.items() if not _all_finite(tensor)]
    if bad:
        more = f" and {len(bad) - 1} more tensors" if len(bad) > 1 else ""
        raise WeightsError(
            f"holds values that are not finite numbers, in {bad[0]!r}{more}",
            where=source,
            fix="save it again from a sound training, or choose another",
        )
    return state


def _refuse_unusual(name: str, tensor: Tensor, source: str | Path) -> None:
    fix = "save it again as dense tensors, or choose another"
    kind = _unusual(tensor)
    if kind is not None:
        raise WeightsError(f"holds {name!r} as {kind}, which no layer can be", where=source, fix=fix)
    held = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > held:
        what = f"{name!r} claims {tensor.numel():,} numbers and holds {held:,} bytes of them"
        raise WeightsError(what, where=source, fix=fix)


def _unusual(tensor: Tensor) -> str | None:
    if tensor.is_nested or tensor.layout != torch.strided:
        return "a sparse or nested tensor"
    if tensor.is_meta:
        return "a tensor without its numbers (meta)"
    if tensor.is_quantized or tensor.is_complex():
        return f"{str(tensor.dtype).removeprefix('torch.')} numbers"
    return None


def _all_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    # PyTorch does not look at numbers of 8 bits itself.
    wide = tensor.float() if tensor.element_size() == 1 else tensor
    return bool(torch.isfinite(wide).all())


def _content(path: Path) -> bytes:
    try:
        return documents.read_bytes(path)
    except BadInputError as error:
        raise WeightsError(error.what, where=path, fix=_AGAIN) from error


def _header(content: bytes, path: Path) -> dict[str, Any]:
    size = int.from_bytes(content[:_LENGTH_BYTES], "little")
    if len(content) < _LENGTH_BYTES or not 0 < size <= min(len(content) - _LENGTH_BYTES, _HEADER.bytes):
        raise WeightsError(f"{_DAMAGED} (its header)", where=path, fix=_AGAIN)
    text = content[_LENGTH_BYTES : _LENGTH_BYTES + size]
    found = _parsed(lambda: documents.parse_json(text, path, _HEADER), path)
    metadata = found.get("__metadata__", {}) if isinstance(found, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise WeightsError(f"{_DAMAGED} (its header)", where=path, fix=_AGAIN)
    return dict(found)


def _parsed(parse: Callable[[], Result], path: Path) -> Result:
    """The one boundary: the libraries' errors share no base class."""
    try:
        return parse()
    except Exception as error:
        raise WeightsError(_DAMAGED, where=path, fix=_AGAIN) from error


def _refuse_compressed(path: Path) -> None:
    """PyTorch stores its records as they are; a few compressed bytes can become any number."""
    if not _parsed(lambda: zipfile.is_zipfile(path), path):
        # PyTorch goes by the first bytes, and looks for the end of an archive where Python does not.
        if _parsed(lambda: _begins_as_archive(path), path):
            raise WeightsError(_DAMAGED, where=path, fix=_AGAIN)
        return
    size = path.stat().st_size
    held = _parsed(lambda: _claimed(path), path)
    if held > size:
        raise WeightsError(f"claims {held:,} bytes in a file of {size:,}", where=path, fix=_AGAIN)


def _begins_as_archive(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(len(_ARCHIVE)) == _ARCHIVE


def _claimed(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def state_of(content: Any) -> Mapping[str, Tensor]:
    """The named tensors among what a mapping holds."""
    if not isinstance(content, Mapping):
        return {}
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
