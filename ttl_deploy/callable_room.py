"""Lets a room be called: `ttl_deploy.export(run)` where `ttl_deploy.export` is also the package of the exporters.

The function behind it is imported on the first call only.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


def make_callable(room: str, home: str, function: str) -> None:
    """Makes the module `room` call `home.function`.

    Args:
        room: Name of an imported module.
        home: Module that holds the function.
        function: Its name.
    """

    class CallableRoom(ModuleType):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return getattr(importlib.import_module(home), function)(*args, **kwargs)

    sys.modules[room].__class__ = CallableRoom
