"""Whether every tensor of a TorchScript archive lies within the record that holds its numbers.

LibTorch takes the size of a storage from a pickle and the numbers from a record of the archive, and holds the one
against the other nowhere: of a record that is too short it reads on behind its end, which kills the process or shows
other memory. The pickles are read here by a reader that knows nothing but names that stand for nothing.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

SIZES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}
"""Bytes of an element of each kind of storage that our exports hold."""

MOST_BYTES = 2**24
"""Of a pickle: a hundred bytes describe a tensor."""


def misplaced(records: Mapping[str, int], read: Callable[[str], bytes]) -> str | None:
    """What is wrong with the tensors of an archive, in words; None where nothing is.

    Args:
        records: Bytes of every record, by name.
        read: Gives a record's content.

    Raises:
        ValueError: A pickle is damaged.
    """
    for name, folder in (("data.pkl", "data"), ("constants.pkl", "constants")):
        if name not in records:
            continue
        if records[name] > MOST_BYTES:
            return f"a pickle of {records[name]:,} bytes ({name})"
        try:
            _Names(read(name), folder, records).load()
        except _MisplacedError as error:
            return str(error)
        except Exception as error:
            raise ValueError(f"{name}: {error}") from error
    return None


class _MisplacedError(Exception):
    """A tensor that its record does not hold, or a name that no export has."""


class _Thing:
    """Stands for an object of a script; its state is let go."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


class _Names(pickle._Unpickler):
    """Python's own reader in Python, whose memo no index can make gigabytes of; it calls nothing but what is here."""

    def __init__(self, content: bytes, folder: str, records: Mapping[str, int]) -> None:
        super().__init__(io.BytesIO(content))
        self._folder, self._records = folder, records

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in SIZES:
            return SIZES[name]
        if module.startswith("__torch__") or (module == "torch.jit._pickle" and name.isidentifier()):
            return _Thing
        known = {("torch._utils", "_rebuild_tensor_v2"): _fitting, ("collections", "OrderedDict"): OrderedDict}
        if (module, name) not in known:
            raise _MisplacedError(f"the name {module}.{name} in a pickle")
        return known[module, name]

    def persistent_load(self, pid: Any) -> int:
        """Elements of a storage, whose record has to have as many."""
        kind, size, key, _device, count = pid
        record = f"{self._folder}/{key}"
        if kind != "storage" or not isinstance(size, int) or self._records.get(record) != size * count:
            raise _MisplacedError(f"a record {record!r} of another size than its tensor")
        return int(count)


def _fitting(storage: int, offset: int, shape: Sequence[int], strides: Sequence[int], *_: Any) -> None:
    if len(shape) != len(strides) or min((offset, *shape, *strides), default=0) < 0:
        raise _MisplacedError("a tensor of no shape")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage:
        raise _MisplacedError("a tensor beyond its numbers")
