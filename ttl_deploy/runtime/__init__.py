"""The engines that execute an artifact, one file each: `load(artifact)` gives a `Session`, its `run(array)` logits.

Importing this package loads no engine; an engine is imported when a session is asked of it.
"""

from ttl_deploy.runtime.base import (
    RUNTIMES,
    Runtime,
    Session,
    Stages,
    able,
    home_device,
    is_first,
    load,
    quickest,
    runtime_for,
    suitable,
)
from ttl_deploy.runtime.binding import refuse_unbound
from ttl_deploy.runtime.native import native_code

__all__ = [
    "RUNTIMES",
    "Runtime",
    "Session",
    "Stages",
    "able",
    "home_device",
    "is_first",
    "load",
    "native_code",
    "quickest",
    "refuse_unbound",
    "runtime_for",
    "suitable",
]
