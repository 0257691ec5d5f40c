"""The machine's state, against counters set by hand and against a process that is really busy."""

import subprocess
import sys
import time

import psutil
import pytest

from ttl_deploy import hardware
from ttl_deploy.latency import machine
from ttl_deploy.latency.machine import Watch, gpu_state


def test_shares_follow_from_the_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    # 20 processor seconds in 5 s of 4 cores: 12 idle, 1 stolen, 7 busy, of which 4 are this process's own.
    counters = iter([(100.0, 1.0, 50.0), (120.0, 2.0, 62.0)])
    own, wall = iter([10.0, 14.0]), iter([1000.0, 1005.0])
    monkeypatch.setattr(machine, "_cpu_seconds", lambda: next(counters))
    monkeypatch.setattr(machine.time, "process_time", lambda: next(own))
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(wall))
    state = Watch().stop()
    assert state.seconds == 5
    assert state.others_cores == pytest.approx(3 / 5)
    assert state.steal_percent == pytest.approx(5)


def test_a_busy_process_is_seen() -> None:
    code = "import time\nprint('on', flush=True)\nend = time.time() + 60\nwhile time.time() < end: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        watch = Watch()
        time.sleep(1.0)
        state = watch.stop()
        child.kill()
    assert state.busy_processes is not None
    assert state.busy_processes >= 1
    assert state.others_cores is not None
    assert state.others_cores > 0.2
    assert state.cores == psutil.cpu_count()


def test_processor_seconds_are_not_counted_twice() -> None:
    times = psutil.cpu_times()
    total, steal, idle = machine._cpu_seconds()
    assert total == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME) * (psutil.cpu_count() or 1), rel=0.05)
    assert steal <= total
    assert idle >= times.idle


def test_throttling_events_are_added_up(monkeypatch: pytest.MonkeyPatch, tmp_path: machine.Path) -> None:
    for core, count in ((0, 3), (1, 4)):
        folder = tmp_path / f"cpu{core}" / "thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text(f"{count}\n")
        (folder / "package_throttle_count").write_text("5\n")
    (tmp_path / "cpu0" / "cpufreq").mkdir()
    (tmp_path / "cpu0" / "cpufreq" / "scaling_governor").write_text("powersave\n")
    monkeypatch.setattr(machine, "_CPUS", tmp_path)
    assert machine._throttle_count() == 3 + 4 + 5
    watch = Watch()
    (tmp_path / "cpu1" / "thermal_throttle" / "core_throttle_count").write_text("6\n")
    state = watch.stop()
    assert (state.throttled, state.governor) == (2, "powersave")


def test_the_gpus_mask_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"event": [], "throttle": [["1755", "2619", "83", "0x0000000000000060"]]}
    monkeypatch.setattr(hardware, "query_gpus", lambda fields: answers["event" if "event" in fields else "throttle"])
    state = gpu_state()
    assert state is not None
    assert (state.sm_mhz, state.memory_mhz, state.temperature_c) == (1755, 2619, 83)
    assert state.slowed == ("software thermal slowdown", "hardware thermal slowdown")
    answers["throttle"] = [["[N/A]", "2619", "40", "0x0000000000000005"]]
    state = gpu_state()
    assert state is not None
    assert (state.sm_mhz, state.slowed) == (None, ()), "idle and the ordinary power cap are no throttling"
    answers["throttle"] = []
    assert gpu_state() is None
