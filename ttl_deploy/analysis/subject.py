"""A finished run as the analyses look at it; what is slow is made when it is first wanted, and once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.analysis.networks import start_of_run
from ttl_deploy.data.prepared import Prepared, read_split
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import TrainConfig
from ttl_deploy.training.engine import Accelerator
from ttl_deploy.training.run import Predictions, Run, read_predictions, run_data
from ttl_deploy.training.train import load_model
from ttl_deploy.transfer import TransferModel
from ttl_deploy.zoo import BACKBONES

Indices = NDArray[np.int64]

IMAGES = 2000
"""Most images of a side, or of a comparison."""


@dataclass(frozen=True)
class Asked:
    """What a user may say of how runs are looked at.

    Attributes:
        images: Most images of a side, or of a comparison.
        seed: Of drawn images, positions and channels.
        data: Where the images of the run are now; None: where they were.
        cache: Folder of the pixel cache; None: the user's.
        accelerator: Where networks run.
    """

    images: int = IMAGES
    seed: int = 0
    data: Path | None = None
    cache: Path | None = None
    accelerator: Accelerator = "cpu"


@dataclass(frozen=True, eq=False)
class Subject:
    """A run under analysis.

    Attributes:
        run: Finished.
        asked: How it is looked at.
        reporter: Told of long work.
        alias: What it is called where another run has its name too; empty: its name.
    """

    run: Run
    asked: Asked = Asked()
    reporter: Reporter = SILENT
    alias: str = ""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.alias or self.run.name

    @cached_property
    def config(self) -> TrainConfig:
        """The run's, but for the device."""
        return self.run.config.model_copy(update={"accelerator": self.asked.accelerator})

    @cached_property
    def trained(self) -> TransferModel:
        """The best model."""
        return load_model(self.run)

    @cached_property
    def start(self) -> TransferModel:
        """The same before the first step; raises as `start_of_run`."""
        return start_of_run(self.run, self.trained)

    @cached_property
    def prepared(self) -> Prepared:
        """The images; raises as `run_data`."""
        return run_data(self.run, data=self.asked.data, cache=self.asked.cache, reporter=self.reporter)

    @cached_property
    def cuts(self) -> tuple[str, ...]:
        """Where the run's network could be cut, as far as it goes, bottom first."""
        return tuple(name for name, _ends in self._points)

    @cached_property
    def ends(self) -> tuple[str, ...]:
        """Those of the cuts at which a block ends, and the topmost."""
        return tuple(name for name, ends in self._points if ends or name == self.cuts[-1])

    @cached_property
    def _points(self) -> tuple[tuple[str, bool], ...]:
        backbone = BACKBONES.get(self.config.model.backbone).at(self.config.model.input.size)
        held = {unit.name for unit in self.trained.chain}
        return tuple((point.name, point.ends_block) for point in backbone.cut_points if point.name in held)

    @cached_property
    def test_side(self) -> dict[str, tuple[str, str]]:
        """Label and content digest of the images of the test side, by id."""
        return {row.id: (row.label, row.digest) for row in read_split(self.run.split) if row.side == "test"}

    @cached_property
    def predictions(self) -> Predictions:
        """What was said of the test side when the run was evaluated."""
        return read_predictions(self.run).side("test")

    def side(self, name: str) -> Indices:
        """Images of a side, at most so many as were asked for, drawn at random where there are more."""
        return self._some(self.prepared.indices(name))

    @property
    def seen(self) -> Indices:
        """Images that are not of the test side, on which networks are compared as a search compares them."""
        return self._some(np.flatnonzero(self.prepared.sides != "test").astype(np.int64))

    def _some(self, rows: Indices) -> Indices:
        if len(rows) <= self.asked.images:
            return rows
        return np.sort(np.random.default_rng(self.asked.seed).choice(rows, self.asked.images, replace=False))
