"""Rooflines worked out by hand, and the described devices: complete, sourced, and known on sight."""

from dataclasses import replace
from pathlib import Path

import pytest

from ttl_deploy.errors import BadInputError, IntegrityError
from ttl_deploy.hardware import Gpu, describe
from ttl_deploy.latency.roofline import Peaks, Work, floor
from ttl_deploy.latency.targets import get_target, load_targets, targets_of

RESNET50 = Work(
    macs=4_130_000_000, parameters=23_510_000, precision="fp32", batch=1, input_shape=(3, 224, 224), outputs=2
)


def test_a_floor_worked_out_by_hand() -> None:
    found = floor(RESNET50, Peaks(gop_s={"fp32": 189.0}, gb_s=30.0))
    assert found is not None
    assert (found.ms, found.limit) == (pytest.approx(8.26 / 189 * 1000), "operations")
    slow_memory = floor(RESNET50, Peaks(gop_s={"fp32": 189.0}, gb_s=1.0))
    assert slow_memory is not None
    assert slow_memory.limit == "memory"
    assert slow_memory.ms == pytest.approx((23_510_000 * 4 + (3 * 224 * 224 + 2) * 4) / 1e6)
    cached = floor(RESNET50, Peaks(gop_s={"fp32": 189.0}, gb_s=1.0, cache_mib=100))
    assert cached is not None
    assert cached.limit == "operations", "weights that fit the cache are not read again"
    assert floor(RESNET50, Peaks(gop_s={"int8": 1.0}, gb_s=1.0)) is None


def test_batches_and_precisions_scale_the_work() -> None:
    int8 = replace(RESNET50, precision="int8", batch=8)
    assert int8.operations == 8 * RESNET50.operations
    assert int8.bytes == 23_510_000 + 8 * (3 * 224 * 224 + 2) * 4


def test_the_papers_devices_are_there_with_the_makers_figures() -> None:
    turing, skylake = get_target("quadro-rtx-6000"), get_target("core-i9-9920x")
    assert (turing.cores, turing.gb_s, turing.gop_s["fp32"], turing.gop_s["int8"]) == (4608, 672, 16300, 261000)
    # Cores x 2 operations x boost clock (1.77 GHz) is where the maker's figure comes from.
    assert turing.gop_s["fp32"] == pytest.approx(4608 * 2 * 1.77, rel=0.01)
    assert (skylake.cores, skylake.device) == (12, "cpu")
    assert skylake.gb_s == pytest.approx(4 * 8 * 2.666, rel=0.001)


@pytest.mark.parametrize("target", load_targets(), ids=lambda target: target.name)
def test_every_device_is_plausible(target: object) -> None:
    from ttl_deploy.latency.targets import Target

    assert isinstance(target, Target)
    rates = target.gop_s
    assert rates["fp32"] <= min(rates.values())
    assert rates["int8"] >= rates.get("fp16", 0)
    least = target.estimate(RESNET50)
    assert least is not None
    assert 0 < least.ms < 100


@pytest.mark.parametrize(
    ("cpu", "gpus", "expected"),
    [
        ("Intel(R) Core(TM) i9-9920X CPU @ 3.50GHz", (), ["core-i9-9920x"]),
        ("AMD EPYC", ("Quadro RTX 6000",), ["quadro-rtx-6000"]),
        ("AMD EPYC", ("NVIDIA RTX 6000 Ada Generation",), []),
        ("AMD EPYC", ("NVIDIA L40",), []),
        ("AMD EPYC", ("NVIDIA L4",), ["l4"]),
        ("Intel(R) Xeon(R) Platinum 8480+", ("NVIDIA H100 80GB HBM3",), ["h100-sxm", "xeon-platinum-8480-plus"]),
        ("AMD EPYC", ("NVIDIA H200",), ["h200-sxm"]),
        ("AMD EPYC", ("NVIDIA A10",), ["a10"]),
        ("AMD EPYC", ("NVIDIA A10G",), []),
        ("AMD EPYC", ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition",), ["rtx-pro-6000"]),
        ("Intel(R) Core(TM) i9-9920XE", (), []),
    ],
)
def test_devices_are_known_by_the_systems_names(cpu: str, gpus: tuple[str, ...], expected: list[str]) -> None:
    machine = replace(describe(), cpu=cpu, gpus=tuple(Gpu(name, 1, "1") for name in gpus))
    assert [target.name for target in targets_of(machine)] == expected


def test_every_nvidia_gpu_says_its_compute_capability() -> None:
    for target in load_targets():
        assert (target.compute_capability is not None) == (target.kind != "cpu"), target.name
    expected = {
        "quadro-rtx-6000": "7.5",
        "t4": "7.5",
        "a10": "8.6",
        "l4": "8.9",
        "rtx-4090": "8.9",
        "rtx-pro-6000": "12.0",
    }
    assert {name: get_target(name).compute_capability for name in expected} == expected


def test_unknown_and_unsourced_devices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="nearest: quadro-rtx-6000"):
        get_target("quadro-rtx-600")
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\ntitle = "Mine"\nkind = "cpu"\nmatch = ["x"]\ncores = 1\ncache_mib = 1\ngb_s = 1.0\n'
        '[gop_s]\nfp32 = 1.0\n[sources]\ncores = "a"\ncache_mib = "b"\ngb_s = "c"\n'
    )
    with pytest.raises(IntegrityError, match=r"gop_s\.fp32 has no source"):
        load_targets(tmp_path)
    (tmp_path / "mine.toml").write_text("name = ")
    with pytest.raises(IntegrityError, match="not valid TOML"):
        load_targets(tmp_path)
    (tmp_path / "mine.toml").unlink()
    with pytest.raises(IntegrityError, match="holds no devices"):
        load_targets(tmp_path)
