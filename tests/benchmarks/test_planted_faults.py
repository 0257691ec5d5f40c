"""The faults that the gate is tried with: enough of them, and each damages what it says."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import planted_faults
import pytest


@pytest.fixture(scope="module")
def planted() -> ModuleType:
    return planted_faults


def test_there_are_thirty_kinds_for_every_precision(planted: ModuleType) -> None:
    for precision in planted.PRECISIONS:
        assert len([fault for fault in planted.faults() if precision in fault.precisions]) >= 30


def test_every_fault_of_a_float_graph_changes_it_and_leaves_it_valid(planted: ModuleType, trained: Path) -> None:
    sound = onnx.load(trained / "onnx-fp32" / "model.onnx")
    content = sound.SerializeToString()
    for fault in planted.faults():
        if fault.edit is None or "fp32" not in fault.precisions:
            continue
        damaged = onnx.load_from_string(content)
        fault.edit(damaged, fault.sizes[0])
        onnx.checker.check_model(damaged)
        assert damaged.SerializeToString() != content, fault.name


def test_every_fault_of_the_pixels_changes_them_and_keeps_their_shape(planted: ModuleType) -> None:
    pixels = np.random.default_rng(0).integers(20, 230, (3, 32, 32, 3), dtype=np.uint8)
    for fault in planted.faults():
        if fault.alter is not None:
            changed = fault.alter(pixels, fault.sizes[0])
            assert (changed.shape, changed.dtype) == (pixels.shape, np.uint8), fault.name
            assert (changed != pixels).any(), fault.name


def test_a_factor_behind_the_logits_is_what_the_graph_then_gives(planted: ModuleType, trained: Path) -> None:
    from ttl_deploy.parity.graphs import logits

    sound = onnx.load(trained / "onnx-fp32" / "model.onnx")
    images = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    before = logits(sound, images)
    fault = next(fault for fault in planted.faults() if fault.name == "logits multiplied by")
    fault.edit(sound, 5.0)
    np.testing.assert_allclose(logits(sound, images), 5 * before, rtol=1e-5)
