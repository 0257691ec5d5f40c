"""What this machine can do at most, as a user asks for it: measured anew, whatever is known, and kept for `bench`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ttl_deploy import files
from ttl_deploy.latency import ceiling as room
from ttl_deploy.latency.ceiling import Ceiling
from ttl_deploy.progress import SILENT, Reporter


def ceiling(
    *,
    threads: int | Sequence[int] | None = None,
    device: str = "cpu",
    cache: str | Path | None = None,
    out: str | Path | None = None,
    reporter: Reporter = SILENT,
) -> tuple[Ceiling, ...]:
    """Measures this machine's ceiling, for each number of threads.

    Args:
        threads: Threads on a CPU, several one after the other; None: one per physical core that may be used.
        device: `cpu` or `cuda`.
        cache: Folder that keeps what was not disturbed; None: the user's cache folder.
        out: JSON file for all of them with every try.
        reporter: Told what happens.

    Raises:
        TtlDeployError: It cannot be measured.
    """
    counts = (threads,) if threads is None or isinstance(threads, int) else tuple(dict.fromkeys(threads))
    kept = files.as_path(cache)
    found = tuple(
        room.ceiling(threads=count, device=device, cache=kept, refresh=True, reporter=reporter) for count in counts
    )
    if out is not None:
        files.write_json(Path(out), [each.model_dump(mode="json") for each in found])
    return found
