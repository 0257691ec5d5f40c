"""`train`: data and a cut become a run; `resume`: an interrupted one goes on. The work is the training room's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ttl_deploy.papers.recipes import with_recipe
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import Data, Model, Protocol, SplitSpec
from ttl_deploy.training import train as training
from ttl_deploy.training.loop import Judge
from ttl_deploy.training.run import Run
from ttl_deploy.training.train import resume

__all__ = ["resume", "train"]


def train(
    data: Data,
    model: Model,
    protocol: Protocol,
    out: str | Path,
    *,
    split: SplitSpec | None = None,
    division: str | Path | None = None,
    overwrite: bool = False,
    finish: bool = True,
    judge: Judge | None = None,
    log: str | Sequence[str] = (),
    reporter: Reporter = SILENT,
) -> Run:
    """Trains one run.

    Args:
        data: The images.
        model: What to train.
        protocol: How to train it. Where it names a recipe, what nobody said of data, model and protocol is as it
            says; several runs, as recipes may ask for, are the command's.
        out: Folder of the run.
        split: How to divide the images in place of what `data` says: a fold.
        division: A `split.csv` to follow instead.
        overwrite: Replace what is at `out`.
        finish: Evaluate the best model when training ends. Without it the run stays one that `resume` goes on with.
        judge: May end the training early.
        log: Loggers that are told of every epoch too: csv, tensorboard, mlflow; words, or text with commas between.
        reporter: Told what happens.

    Returns:
        The finished run.

    Raises:
        TtlDeployError: Bad data, options or weights (nothing was written), or training failed (the finished epochs
            are kept).
    """
    return training.train(
        *with_recipe(data, model, protocol),
        out,
        split=split,
        division=division,
        overwrite=overwrite,
        finish=finish,
        judge=judge,
        log=log,
        reporter=reporter,
    )
