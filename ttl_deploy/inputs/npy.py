"""Arrays as NumPy's `save` writes them, read without believing what they say of themselves."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.errors import UnreadableImageError

MAGIC = b"\x93NUMPY"
"""How a file begins."""

HEADER = 2**14
"""Bytes within which the description of an array ends."""


def described(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether it is in Fortran order, type and offset of the values of an array whose file begins so.

    Raises:
        ValueError: It is no such file, or one of structured values.
    """
    stream = io.BytesIO(head)
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"format version {version} is not read")
    shape, is_fortran, dtype = readers[version](stream)
    if min(shape, default=0) < 0:
        raise ValueError(f"shape {shape}")
    if dtype.names or dtype.subdtype or not dtype.itemsize:
        raise ValueError(f"values of type {dtype} are not read")
    return shape, is_fortran, dtype, stream.tell()


def read_array(content: bytes, where: str, fix: str) -> NDArray[Any]:
    """As `array_of`, of an input.

    Args:
        content: Of the file.
        where: What an error calls it.
        fix: The way out.

    Raises:
        UnreadableImageError: As `array_of`.
    """
    try:
        return array_of(content)
    except ValueError as error:
        what = f"is a damaged array: {' '.join(str(error).split())}"
        raise UnreadableImageError(what, where=where, fix=fix) from error


def array_of(content: bytes) -> NDArray[Any]:
    """The array of a file's content, not to be written to.

    Raises:
        ValueError: It is no such file, holds pickled objects, which are never executed, or not the values it declares.
    """
    try:
        shape, is_fortran, dtype, start = described(content[:HEADER])
    except Exception as error:  # NumPy evaluates the header, and raises whatever that does
        raise ValueError(str(error) or type(error).__name__) from error
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which are never executed")
    declared, stored = math.prod(shape) * dtype.itemsize, len(content) - start
    if declared != stored:
        raise ValueError(f"it declares shape {shape} of {dtype}, {declared:,} bytes, and has {stored:,}")
    values = np.frombuffer(content, dtype, offset=start) if declared else np.empty(0, dtype)
    return values.reshape(shape, order="F" if is_fortran else "C")
