"""Printed accuracies beside those of a run: what `metrics.json` and `summary.json` keep of the comparison."""

from __future__ import annotations

from pydantic import Field

from ttl_deploy.spec.record import PathText, Record


class RowBeside(Record):
    """One printed number beside ours.

    Attributes:
        table: Short name of the table.
        row: The row, with the images where the table has several sets.
        network: Backbone, method and cut.
        metric: Name, as in `metrics.json`.
        printed: As printed.
        value: What it means, as a fraction.
        spread: Likewise.
        ours: Of the run, or the mean of several.
        interval: 95 %, where there is one.
        deviation: Of several runs, or of a mask's images.
        slip: What is wrong with the printed row.
    """

    table: str
    row: str
    network: str
    metric: str
    printed: str
    value: float
    spread: float | None
    ours: float
    interval: tuple[float, float] | None = None
    deviation: float | None = None
    slip: str | None = None

    @property
    def title(self) -> str:
        """Table and row."""
        return f"{self.table}: {self.row}"

    @property
    def paper_text(self) -> str:
        """As printed where that is a fraction, else what it means; a star where there is a slip."""
        if self.slip is None and self.printed.startswith("0."):
            return self.printed
        spread = "" if self.spread is None else f" ± {self.spread:.2g}"
        return f"{self.value:.4g}{spread}{'' if self.slip is None else '*'}"

    @property
    def ours_text(self) -> str:
        """Value, deviation and interval, as far as there are any."""
        deviation = "" if self.deviation is None else f" ± {self.deviation:.4f}"
        bounds = "" if self.interval is None else f" [{self.interval[0]:.4f}, {self.interval[1]:.4f}]"
        return f"{self.ours:.4f}{deviation}{bounds}"


class Beside(Record):
    """The rows of a recipe's tables that are of a run's network.

    Attributes:
        recipe: Its name or file.
        rows: In the order of the tables; not empty.
        differs: What differs besides the numbers, in one sentence.
    """

    recipe: PathText
    rows: tuple[RowBeside, ...] = Field(min_length=1)
    differs: str

    @property
    def slips(self) -> tuple[str, ...]:
        """What is wrong with printed rows, a sentence each."""
        return tuple(dict.fromkeys(f"{row.title}: {row.slip}" for row in self.rows if row.slip))
