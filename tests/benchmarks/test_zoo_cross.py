"""The program that tries every backbone, method and initialisation: it finds what is wrong, and finds nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import zoo_cross
from zoo_cross import INITS, Row, attempt, report, tried, written

from ttl_deploy.transfer import METHODS, TransferModel


def test_a_small_network_by_every_method_from_every_initialisation() -> None:
    rows = list(tried(["cbr_tiny"]))
    assert len(rows) == len(METHODS.names()) * len(INITS)
    assert all(row.holds and row.refusal is None for row in rows)
    assert "| cbr_tiny | 6 | 6 | 6 | 6 |" in report(rows)


def test_a_refusal_is_told_with_its_reason_and_counts_as_none_that_agrees() -> None:
    rows = list(tried(["deit_tiny_patch16_224"], ["random"]))
    assert all(row.holds for row in rows)
    text = report(rows)
    assert "| deit_tiny_patch16_224 | 1 | 1 | refused | 1 |" in text
    assert "- method tf cannot slim deit_tiny_patch16_224: " in text


def test_an_export_that_computes_another_thing_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    exported = zoo_cross.to_onnx

    def another(model: TransferModel) -> object:
        graph = exported(model)
        torch.nn.init.normal_(model.state_dict()["head.fc.bias"])
        return graph

    monkeypatch.setattr(zoo_cross, "to_onnx", another)
    row = attempt("cbr_tiny", "ttl", "random", written("cbr_tiny", tmp_path))
    assert not row.holds
    assert "**FAILED** from random" in report([row])


def test_a_step_that_changes_nothing_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(zoo_cross, "step", lambda model, _images: model.eval())
    assert not attempt("cbr_tiny", "ttl", "random", written("cbr_tiny", tmp_path)).holds


def test_the_exit_code_tells_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(zoo_cross, "tried", lambda _names: iter([Row("cbr_tiny", "ttl", "random", apart=0.5)]))
    monkeypatch.setattr(sys, "argv", ["zoo_cross.py", "--report", str(tmp_path / "zoo.md")])
    assert zoo_cross.main() == 1
    assert "FAILED" in (tmp_path / "zoo.md").read_text()
