"""`history.csv` beside the run's other files: a row for each epoch, empty where a value is no finite number."""

from __future__ import annotations

from collections.abc import Sequence

from ttl_deploy import files
from ttl_deploy.training.loggers import LOGGERS, Entry, Log, Logger, Row

TABLE = "history.csv"


class CsvTable(Log):
    """The table of a run, written anew at every epoch: whole or as it was before."""

    def __init__(self, entry: Entry) -> None:
        self._path = entry.folder / TABLE

    def update(self, rows: Sequence[Row]) -> None:
        """See `Log.update`."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        if columns:
            lines = [files.csv_row(columns), *(files.csv_row(row.get(name) for name in columns) for row in rows)]
            files.write_text(self._path, "".join(lines))


LOGGERS.register("csv", Logger(CsvTable))
