"""`search`: the cheapest cut that is as accurate. The work is the room of the search's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ttl_deploy.cut_search import search as searching
from ttl_deploy.cut_search.engines import TrialEngine
from ttl_deploy.cut_search.outcome import SearchOutcome
from ttl_deploy.papers.recipes import with_recipe
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import Data, Network
from ttl_deploy.spec.search import SearchOptions, SearchProtocol


def search(
    data: Data,
    network: Network,
    protocol: SearchProtocol,
    out: str | Path,
    *,
    options: SearchOptions | None = None,
    engine: TrialEngine | None = None,
    reuse: Sequence[Path] = (),
    overwrite: bool = False,
    log: str | Sequence[str] = (),
    reporter: Reporter = SILENT,
) -> SearchOutcome:
    """Finds the cut and trains the winner.

    Started again with the same options after a kill at any moment, it goes on and repeats no finished trial.

    Args:
        data: The images.
        network: What is to be cut.
        protocol: How every trial is trained. Where it names a recipe, what nobody said of data, network and protocol is
            as the recipe says.
        out: Folder of the search. `winner` in it is an ordinary run; `data.json` says what was understood of the data.
        options: How to search; default: `SearchOptions()` with a thread per core.
        engine: Where trials run; default: here, one after the other.
        reuse: Folders of other searches whose finished trials may stand for equal ones here.
        overwrite: Replace what is at `out`.
        log: Loggers that are told of every epoch too: csv, tensorboard, mlflow; words, or text with commas between.
        reporter: Told what happens.

    Raises:
        BadInputError: Bad data or options, another search at `out`, or no candidate within the budget.
        TtlDeployError: A trial failed; finished ones are kept.
    """
    return searching.search(
        *with_recipe(data, network, protocol),
        out,
        options=options,
        engine=engine,
        reuse=reuse,
        overwrite=overwrite,
        log=log,
        reporter=reporter,
    )
