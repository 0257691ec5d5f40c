"""The rule by which stored samples tell a wrong engine from a sound one. What runs them is tested with the runtimes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ttl_deploy.errors import IntegrityError
from ttl_deploy.formats.kit.verify_engine import TOLERANCE as OF_THE_KIT
from ttl_deploy.runtime.stored_samples import TOLERANCE, fault, read_samples


def test_what_the_comparison_bears() -> None:
    expected = np.array([[1.0, 2.0], [2.0, 1.0], [0.0, 3.0]])
    for precision, bound in TOLERANCE.items():
        assert fault(expected, expected + 0.5 * bound * expected.std(axis=0).max(), precision) is None
        assert "differ by up to" in str(fault(expected, expected + 2, precision))
        assert "not finite" in str(fault(expected, expected * np.nan, precision))
        assert "are 0" in str(fault(expected, expected * 0, precision))
        assert "shape" in str(fault(expected, expected[:2], precision))
    # Outputs that hardly vary leave rounding its due.
    flat = np.full((4, 2), 8.0) + 1e-4 * np.arange(8).reshape(4, 2)
    assert fault(flat, flat + 4e-3, "fp16") is None
    assert fault(flat, flat * 0, "fp16") is not None


def test_the_kit_s_check_and_the_runtime_s_agree() -> None:
    assert {name: TOLERANCE[name] for name in OF_THE_KIT} == OF_THE_KIT


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + bytes(96)])
def test_damaged_samples_are_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "samples.npz").write_bytes(content)
    with pytest.raises(IntegrityError, match="holds no samples to check an engine with") as error:
        read_samples(tmp_path / "samples.npz")
    assert "\n" not in str(error.value)
