"""Archives that readers of zip disagree on."""

from __future__ import annotations

import struct


def of_two_disks(archive: bytes) -> bytes:
    """One that says it is the first of two: Python's own question whether it is an archive raises an error."""
    end = archive.rindex(b"PK\5\6")
    return archive[:end] + b"PK\6\7" + struct.pack("<LQL", 0, 0, 2) + archive[end:]
