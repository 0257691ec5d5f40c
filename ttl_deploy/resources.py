"""Data that the project keeps at its top level and the program reads: the paper's tables and the target devices.

In an installed wheel they lie inside the package, in a checkout where the project keeps them.
"""

from __future__ import annotations

from pathlib import Path

from ttl_deploy.errors import IntegrityError

_PACKAGE = Path(__file__).parent


def data_folder(name: str) -> Path:
    """A folder of data files.

    Args:
        name: Its path from the project's top, such as `benchmarks/paper`.

    Raises:
        IntegrityError: It is not there.
    """
    for root in (_PACKAGE / "_data", _PACKAGE.parent):
        if (root / name).is_dir():
            return root / name
    raise IntegrityError("the installation lacks it", where=name, fix="install ttl-deploy again")
