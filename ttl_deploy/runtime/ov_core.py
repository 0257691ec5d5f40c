"""OpenVINO's core, one for the process: its CPU plugin may be loaded only once.

Every core loads a plugin of its own, which puts an alternate signal stack under the thread and frees it when core and
models are gone, out of order and whether or not the thread still uses it (`SigAltStackSetup` in OpenVINO's
`intel_cpu/src/plugin.cpp`). After two cores the thread's stack is freed memory, and its next signal kills the process.

The package is imported here alone, because importing it would tell its maker: a process of its own posts an event.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

from ttl_deploy.first_use import importing
from ttl_deploy.signal_stack import kept_signal_stack


def import_openvino() -> Any:
    """The package `openvino`, its telemetry off: what it does where `openvino_telemetry` is not installed.

    Raises:
        ImportError: It is not installed or broken.
    """
    if "openvino" not in sys.modules:
        modules: dict[str, Any] = sys.modules
        modules.setdefault("openvino_telemetry", None)
    with importing():
        return importlib.import_module("openvino")


@functools.cache
def core() -> Any:
    """`openvino.Core`, its CPU plugin loaded; lives as long as the process, and leaves the signal stack alone."""
    openvino = import_openvino()
    with kept_signal_stack():
        made = openvino.Core()
        made.get_property("CPU", "FULL_DEVICE_NAME")
    return made
