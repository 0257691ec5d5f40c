"""Event files in the run's folder `tensorboard`: `tensorboard --logdir RUNS` shows all runs below a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import yaml

from ttl_deploy.errors import needing
from ttl_deploy.training.loggers import LOGGERS, Ending, Entry, Log, Logger, Row, numbers

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


class TensorboardEvents(Log):
    """Scalars by epoch, under the names that the history has, and the configuration as text.

    A process that goes on writes a file of its own, which tells all epochs again in place of the files before: an
    epoch that was told and not kept, or kept and not told, is then as the run has it.
    """

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._writer: SummaryWriter | None = None
        self._told = 0

    def update(self, rows: Sequence[Row]) -> None:
        """See `Log.update`."""
        writer = self._opened()
        for row in rows[self._told :]:
            for name, value in numbers(row).items():
                writer.add_scalar(name, value, row["epoch"])
        self._told = len(rows)
        writer.flush()

    def result(self, measured: Mapping[str, float], epoch: int) -> None:
        """See `Log.result`."""
        for name, value in measured.items():
            self._opened().add_scalar(name, value, epoch)

    def close(self, ending: Ending) -> None:
        """See `Log.close`."""
        if self._writer is not None:
            self._writer.close()

    def _opened(self) -> SummaryWriter:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            folder = self._entry.folder / FOLDER
            # Readers take files by name, which says the second and the process: one begun in the second of an earlier
            # may sort before it, and be voided by it. Step 0 voids for readers that have read an earlier one.
            begun = sorted(folder.glob("events.out.tfevents.*"))
            for file in begun:
                file.unlink()
            self._writer = SummaryWriter(str(folder), purge_step=0 if begun else None)
            self._writer.add_text("config", f"```yaml\n{yaml.safe_dump(dict(self._entry.params))}```", 0)
        return self._writer


def _check() -> None:
    with needing("tensorboard", "--log tensorboard needs", "tensorboard"):
        import torch.utils.tensorboard  # noqa: F401 - whether it can be


LOGGERS.register("tensorboard", Logger(TensorboardEvents, _check))
