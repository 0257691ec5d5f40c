"""The machine's ceiling: the arithmetic, against NumPy's own matrix product, and what is kept."""

import platform
import time
from pathlib import Path

import numpy as np
import pytest

from ttl_deploy.cli.bench_tables import print_ceiling
from ttl_deploy.latency import ceiling as room
from ttl_deploy.latency import products
from ttl_deploy.latency.ceiling import Ceiling, ceiling, measure_here
from ttl_deploy.latency.machine import MachineState


@pytest.fixture(scope="module")
def small() -> Ceiling:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "SIZE", {"cpu": 512})
        patch.setattr(room, "_SECONDS", 0.2)
        patch.setattr(room, "_ARRAY_BYTES", 2**24)
        return measure_here(1, "cpu")


def test_it_reaches_what_numpy_reaches(small: Ceiling) -> None:
    a = np.ones((512, 512), dtype=np.float32)
    best, end = float("inf"), time.perf_counter() + 0.3
    while time.perf_counter() < end:
        begin = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - begin)
    numpy_gop_s = 2 * 512**3 / best / 1e9
    # NumPy may use both cores here; a machine that is busy meanwhile is why this is a factor and not a per cent.
    assert small.peaks.gop_s["fp32"] > 0.15 * numpy_gop_s
    # On a busy machine eight bits may be measured below sixteen, and are then refused.
    assert {*small.peaks.gop_s, *small.refused} >= {"fp32", "bf16", "int8"}
    assert not {*small.peaks.gop_s} & {*small.refused}
    assert small.peaks.gb_s > 0.5


def test_rates_are_operations_by_the_shortest_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, *(t for pair in ((0.0, 0.0, 0.2), (0.2, 0.2, 0.3), (0.3, 0.3, 0.5)) for t in pair), 9.0])
    monkeypatch.setattr(room.time, "perf_counter", lambda: next(clock))
    assert room._products(lambda: None, 1000, room._no_wait) == pytest.approx(2.0 / 0.1)


def test_each_precision_is_tried_in_several_ways_and_the_best_is_the_ceiling(small: Ceiling) -> None:
    for what in ("fp32", "bf16", "int8"):
        tried = {rate.by: rate.value for rate in small.tries if rate.what == what}
        assert len(tried) >= 2
        best = next(rate for rate in small.rates if rate.what == what)
        assert (best.value, best.by) == (max(tried.values()), max(tried, key=lambda by: tried[by]))
    assert {rate.by for rate in small.tries if rate.what == "int8"} >= {"torch._int_mm", "ONNX Runtime MatMulInteger"}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads the names of x86 kernels")
def test_it_says_which_instruction_set_ran(small: Ceiling) -> None:
    kernels = {(rate.by, rate.what): rate.kernel for rate in small.tries}
    assert small.isa
    assert (kernels["oneDNN matmul", "int8"] or "").startswith(("brg_matmul:", "jit", "gemm:", "ref"))
    assert (kernels["OpenVINO MatMul", "int8"] or "").endswith("I8"), "quantised, or it would be a product in fp32"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads the names of x86 kernels")
def test_a_second_ceiling_of_one_process_says_it_too(small: Ceiling) -> None:
    assert products.onednn_isa() == small.isa


def test_what_oneDNN_says_stays_off_the_users_screen(capfd: pytest.CaptureFixture[str]) -> None:
    products.onednn_isa.__wrapped__()
    assert capfd.readouterr().out == ""


def test_a_way_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> object:
        raise OSError("no such instruction")

    both = [products.Way("int8", "broken", broken), products.Way("int8", "sound", lambda: None)]
    monkeypatch.setattr(room, "ways", lambda *_: iter(both))
    monkeypatch.setattr(room, "_SECONDS", 0.01)
    assert [rate.by for rate in room._tries(1, "cpu")] == ["sound"]


def of_rates(small: Ceiling, **values: float) -> Ceiling:
    rates = [room.Rate(what=what, value=value, by="x") for what, value in {**values, "copy": 9.0}.items()]
    return small.model_copy(update={"rates": tuple(rates)})


def test_a_narrow_type_below_a_wider_one_is_no_ceiling(small: Ceiling) -> None:
    # As seen on a processor with a matrix unit, by torch._int_mm alone and by oneDNN's own product.
    assert of_rates(small, fp32=189, bf16=681, int8=1551).refused == {}
    misled = of_rates(small, fp32=189, bf16=749, int8=738)
    assert misled.refused == {"int8": "738 GOP/s in int8 is below 749 in bf16, so it is no ceiling"}
    assert dict(misled.peaks.gop_s) == {"fp32": 189, "bf16": 749}
    emulated = of_rates(small, fp32=189, bf16=40, int8=300)
    assert set(emulated.refused) == {"bf16"}
    assert set(of_rates(small, fp32=189, int8=100).refused) == {"int8"}


def test_a_refused_rate_is_told_where_the_ceiling_is_printed(
    small: Ceiling, capsys: pytest.CaptureFixture[str]
) -> None:
    print_ceiling(of_rates(small, bf16=749, int8=738))
    shown = capsys.readouterr().out
    assert "int8: 738 GOP/s in int8 is below 749 in bf16" in shown
    assert "rows in int8 get no per cent of the roofline" in shown


def test_a_ceiling_measured_in_another_way_is_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = room._place(1, "cpu", tmp_path)
    monkeypatch.setattr(room, "_REVISION", room._REVISION + 1)
    assert room._place(1, "cpu", tmp_path) != before


def test_it_is_kept_for_the_machine_unless_it_was_disturbed(
    small: Ceiling, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers = [small.model_copy(update={"noise": noise}) for noise in ("busy", None)]
    monkeypatch.setattr(room, "_measure_apart", lambda threads, device: answers.pop(0))
    assert ceiling(threads=1, cache=tmp_path).noise == "busy"
    assert ceiling(threads=1, cache=tmp_path).noise is None
    assert ceiling(threads=1, cache=tmp_path).rates == small.rates, "the third is read from the cache"
    with pytest.raises(IndexError):
        ceiling(threads=2, cache=tmp_path)
    with pytest.raises(IndexError):
        ceiling(threads=1, cache=tmp_path, refresh=True)


def test_peaks_take_the_better_of_both_memory_tests(small: Ceiling) -> None:
    rates = (room.Rate(what="copy", value=9, by="x"), room.Rate(what="triad", value=11, by="x"))
    found = small.model_copy(update={"rates": rates, "machine": MachineState(seconds=1)})
    assert (found.peaks.gb_s, dict(found.peaks.gop_s)) == (11, {})
