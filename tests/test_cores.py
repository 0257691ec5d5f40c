"""Cores and threads, against what the operating system grants."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ttl_deploy import cores
from ttl_deploy.runtime import base
from ttl_deploy.runtime.base import default_threads
from ttl_deploy.spec.search import SearchOptions


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no processor affinity")
def test_affinity_limits_the_usable_cores() -> None:
    code = (
        "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from ttl_deploy.cores import usable_cores\nprint(usable_cores())"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "1"
    )


def in_groups(folder: Path, own: str, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The usable cores of eight where Linux tells these control groups."""
    for name, text in files.items():
        (folder / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "groups" / name).write_text(text)
    (folder / "own").write_text(own)
    monkeypatch.setattr(cores, "_GROUPS", folder / "groups")
    monkeypatch.setattr(cores, "_OWN_GROUPS", folder / "own")
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return cores.usable_cores()


@pytest.mark.parametrize(
    ("own", "files", "found"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "5000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, 8),
        ("0::/\n", {}, 8),
        ("0::/a/b\n", {"cpu.max": "max 100000", "a/cpu.max": "300000 100000", "a/b/cpu.max": "400000 100000"}, 3),
        ("0::/docker/0a\n", {"cpu.max": "100000 50000\n"}, 2),
        (
            "3:cpuset:/\n1:cpu,cpuacct:/\n0::/\n",
            {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"},
            4,
        ),
        ("1:cpu:/x\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ("1:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "100000\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, 1),
        ("0::/\n", {"cpu.max": "what is this\n"}, 8),
        ("0::/\n", {"cpu.max": "100000 0\n"}, 8),
    ],
)
def test_a_container_s_share_of_time_limits_the_usable_cores(
    own: str, files: dict[str, str], found: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert in_groups(tmp_path, own, files, monkeypatch) == found


@pytest.mark.parametrize(("share", "said", "told"), [("2", None, "2"), ("2", "4", "4"), ("max", None, None)])
def test_openmp_is_told_of_a_share_that_it_does_not_see(
    share: str, said: str | None, told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = share if share == "max" else f"{share}00000"
    in_groups(tmp_path, "0::/\n", {"cpu.max": f"{quota} 100000\n"}, monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", said or "")
    if said is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    cores.tell_openmp()
    assert os.environ.get("OMP_NUM_THREADS") == told


def test_without_control_groups_affinity_alone_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_OWN_GROUPS", tmp_path / "gone")
    assert cores.usable_cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("said", "threads"),
    [("1", 1), ("2,1", 2), ("100", 3), ("0", 3), ("", 3), ("many", 3), ("-2", 3)],
)
def test_the_variable_of_openmp_limits_every_engine(said: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cores, base):
        monkeypatch.setattr(module, "usable_cores", lambda: 3)
    monkeypatch.setattr(base.psutil, "cpu_count", lambda logical=True: 4)
    monkeypatch.setattr(base.os, "cpu_count", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert (cores.usable_threads(), default_threads(), SearchOptions().cores) == (threads, threads, threads)
