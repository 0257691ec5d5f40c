"""The table of known cuts says what counting gives, and nothing where something that a count depends on is another."""

from __future__ import annotations

import importlib.metadata
import json

import pytest

from ttl_deploy.complexity import cut_costs
from ttl_deploy.complexity import cut_table as table
from ttl_deploy.errors import BadInputError
from ttl_deploy.zoo import BACKBONES

NAMES = sorted(json.loads(table.TABLE.read_bytes())["cuts"])
QUICK = ("cbr_tiny", "resnet18", "densenet121", "r3d_18", "swin_tiny_patch4_window7_224")
MAKE = "run `python benchmarks/cut_table.py`"


@pytest.fixture(autouse=True, scope="module")
def _tested_libraries() -> None:
    held, here = json.loads(table.TABLE.read_bytes())["counted_with"], table.counted_with()
    others = [name for name in table.LIBRARIES if held.get(name) != here[name]]
    if others:
        pytest.skip(f"the table is of other versions of {', '.join(others)}, and is not used with these")


def recounted(name: str) -> None:
    found = table.known_cuts(name, None)
    assert found is not None, MAKE
    given, known = found
    backbone = BACKBONES.get(name)
    assert given == backbone.input_spec()
    assert known == cut_costs(backbone, given), MAKE


def test_the_table_is_of_this_code_and_these_libraries() -> None:
    assert json.loads(table.TABLE.read_bytes())["counted_with"] == table.counted_with(), MAKE


def test_every_backbone_of_the_package_is_in_it() -> None:
    own = {name for name in BACKBONES.names() if type(BACKBONES.get(name)).__module__.startswith("ttl_deploy.")}
    assert own == set(NAMES), MAKE


@pytest.mark.parametrize("name", QUICK)
def test_it_says_what_counting_gives(name: str) -> None:
    recounted(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in QUICK])
def test_it_says_what_counting_gives_of_all(name: str) -> None:
    recounted(name)


def test_a_name_in_capitals_and_the_usual_size_said_in_words_are_known() -> None:
    assert table.known_cuts("ResNet18", "224x224") == table.known_cuts("resnet18", None)
    assert table.known_cuts("r3d_18", "16x112x112") == table.known_cuts("r3d_18", None)


def test_another_size_or_backbone_is_counted() -> None:
    assert table.known_cuts("resnet18", "64") is None
    assert table.known_cuts("timm:resnet18", None) is None
    with pytest.raises(BadInputError, match="is 2 numbers, not 3"):
        table.known_cuts("resnet18", "16x112x112")


@pytest.mark.parametrize("library", table.LIBRARIES)
def test_another_version_of_a_library_is_counted(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0" if name == library else real(name))
    assert table.known_cuts("resnet18", None) is None


def test_changed_code_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "counted_with", lambda: {"code": "another"})
    assert table.known_cuts("resnet18", None) is None
