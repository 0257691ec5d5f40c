"""TensorRT for RTX: the edition of TensorRT for workstation and consumer cards, whose engines are built on any machine.

Imports the library when it is asked for, and never torch.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from ttl_deploy.errors import MissingDependencyError

INSTALL = "pip install 'ttl-deploy[rtx]'"

DETAILS = "rtx"
"""Where an artifact's details say what engines of this library it holds."""

MODULES = ("tensorrt_rtx_bindings", "tensorrt_rtx")
"""Names under which the library is installed: by its wheels, and by NVIDIA's archive."""


def import_rtx() -> Any:
    """TensorRT for RTX's Python package.

    Raises:
        MissingDependencyError: It is not installed or cannot be imported; the error says why.
    """
    name = _installed()
    if name is None:
        raise MissingDependencyError("TensorRT for RTX is not installed", fix=INSTALL)
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingDependencyError(f"{name} cannot be imported ({error})", fix=INSTALL) from error


def missing() -> str | None:
    """The reason why the library cannot be imported here, without importing it, or None."""
    return None if _installed() else f"TensorRT for RTX is not installed ({INSTALL})"


def _installed() -> str | None:
    return next((name for name in MODULES if importlib.util.find_spec(name) is not None), None)
