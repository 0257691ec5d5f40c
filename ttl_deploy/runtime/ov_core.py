"""OpenVINO's core, one for the process: its CPU plugin may be loaded only once.

Every core loads a plugin of its own, which puts an alternate signal stack under the thread and frees it when core and
models are gone, out of order and whether or not the thread still uses it (`SigAltStackSetup` in OpenVINO's
`intel_cpu/src/plugin.cpp`). After two cores the thread's stack is freed memory, and its next signal kills the process.
"""

from __future__ import annotations

import functools
from typing import Any

from ttl_deploy.signal_stack import kept_signal_stack


@functools.cache
def core() -> Any:
    """`openvino.Core`, its CPU plugin loaded; lives as long as the process, and leaves the signal stack alone."""
    import openvino

    with kept_signal_stack():
        made = openvino.Core()  # noqa: TID251 - the one place
        made.get_property("CPU", "FULL_DEVICE_NAME")
    return made
