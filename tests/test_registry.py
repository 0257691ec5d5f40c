"""Registries: found by looking, unknown names list neighbours, third parties join through entry points."""

import importlib.metadata
from collections.abc import Iterator
from typing import Any

import pytest

from ttl_deploy.errors import BadInputError
from ttl_deploy.registry import Registry


def test_a_name_is_taken_once() -> None:
    registry: Registry[int] = Registry("number", "ttl_deploy.zoo")
    registry.register("one", 1)
    with pytest.raises(ValueError, match="'one' is registered twice"):
        registry.register("one", 2)


def test_third_parties_join_through_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[int] = Registry("number", "ttl_deploy.cli", "somebody.numbers")

    class Point:
        def load(self) -> Any:
            return registry.register("theirs", 7)

    def points(group: str) -> Iterator[Point]:
        assert group == "somebody.numbers"
        yield Point()

    monkeypatch.setattr(importlib.metadata, "entry_points", points)
    assert registry.get("theirs") == 7
    assert registry.names() == ["theirs"]
    with pytest.raises(BadInputError, match="unknown number 'their'; valid: theirs"):
        registry.get("their")


def test_a_module_that_fails_to_import_is_told_again_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[int] = Registry("number", "no_such_package_anywhere")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError):
            registry.get("one")
