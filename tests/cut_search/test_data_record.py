"""A search keeps what was understood of its data beside its plan, as a run does."""

import json
from pathlib import Path

import pytest
from small import NETWORK, TRIALS

from ttl_deploy.cut_search import search as room
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import Data


def test_the_folder_of_a_search_says_what_was_understood_of_the_data(
    synthetic: Path, pixel_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first trial, and again in a folder that an earlier version began."""

    def no_budget(*_: object) -> None:
        raise BadInputError("no candidate meets the budget")

    monkeypatch.setattr(room, "_exclude", no_budget)
    data = Data(path=synthetic / "labels.csv", cache=pixel_cache)
    record = tmp_path / "search" / "data.json"
    for _ in range(2):
        with pytest.raises(BadInputError, match="no candidate"):
            room.search(data, NETWORK, TRIALS, tmp_path / "search")
        assert json.loads(record.read_text())["images"]["all"] == 60
        record.unlink()
