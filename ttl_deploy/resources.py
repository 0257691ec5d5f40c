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


def data_tables(name: str, folder: Path | None = None, of: str = "tables") -> list[Path]:
    """The TOML files of a folder of tables, by name.

    Args:
        name: Of the program's own folder, as for `data_folder`.
        folder: Another one to read instead.
        of: What they are.

    Raises:
        IntegrityError: It is not there, or holds none.
    """
    found = sorted((folder or data_folder(name)).glob("*.toml"))
    if not found:
        raise IntegrityError(f"holds no {of}", where=folder or name, fix="install ttl-deploy again")
    return found
