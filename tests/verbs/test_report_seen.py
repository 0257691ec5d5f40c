"""The report in a browser: nothing is cut off on a telephone or a desk, nothing is asked of a network, dark is dark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from browser import in_browser, seen
from written_run import two_classes, write_run

from ttl_deploy.spec import TaskSpec
from ttl_deploy.verbs.report import report

pytestmark = in_browser
LONG = "a finding with a name so long that no column of a telephone is wide enough for it"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of two classes, and one of many labels with a long name."""
    folder = tmp_path_factory.mktemp("seen")
    runs = [write_run(folder / f"seed{seed}", ("healthy", "ill"), *two_classes(seed=seed)) for seed in range(2)]
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, (80, 12))
    logits = generator.normal(size=(80, 12)).astype(np.float32)
    names = (LONG, "Verylongwordwithoutanyplacetobreakitinthemiddle", *(f"label {k}" for k in range(10)))
    runs.append(write_run(folder / "many", names, labels, logits, task=TaskSpec(kind="multilabel")))
    return report(runs, out=folder / "report.html").out


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_cut_off_or_asked_of_a_network_and_nothing_complains(page: Path, width: int) -> None:
    found = seen(page, width)
    assert found["width"] == width
    assert found["scrolled"] <= width
    assert found["outside"] == found["hidden"] == []
    assert found["cut"] == []
    assert found["told"] == []
    assert found["asked"] == []


def test_a_click_sorts_by_number_and_dark_is_dark(page: Path) -> None:
    found = seen(page, 1280, dark=True)
    numbers = [float(cell.split()[0]) for cell in found["sorted"]]
    assert numbers == sorted(numbers)
    assert len(numbers) == 3
    assert found["ground"] == "rgb(18, 24, 31)"
    assert seen(page, 1280)["ground"] == "rgb(255, 255, 255)"
