"""The rates this machine itself reaches: matrix products per precision, and memory bandwidth.

Measured in a process of its own and kept for the machine, so that a latency can be read as a share of what is possible.
`python -m ttl_deploy.latency.ceiling` measures; importing this module loads no engine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import platformdirs

from ttl_deploy import files, hardware
from ttl_deploy.documents import read_json
from ttl_deploy.errors import BadInputError, TtlDeployError
from ttl_deploy.latency.isolate import environment, last_words
from ttl_deploy.latency.machine import MachineState, Watch
from ttl_deploy.latency.noise import judge
from ttl_deploy.latency.products import onednn_isa, ways
from ttl_deploy.latency.roofline import Peaks
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.runtime.base import default_threads
from ttl_deploy.spec import Record, read_record

SIZE = {"cpu": 1536, "cuda": 8192}
"""Rows and columns of the matrices: large enough to reach the peak, small enough for many tries."""

_REVISION = 2
"""Of how a ceiling is measured; one that was kept by another is measured again."""

_SECONDS = 0.6
_ARRAY_BYTES = 2**27
"""Bytes of each array of the bandwidth test: several times any last-level cache, so that memory is what is timed."""


class Rate(Record):
    """The best rate that something reached.

    Attributes:
        what: `fp32`, `bf16`, `fp16` or `int8` for matrix products, `copy` or `triad` for memory.
        value: GOP/s, 2 operations per multiply-add, or GB/s, every byte read or written counted once.
        by: What reached it.
        kernel: The code that ran, where its library names it: it tells the instruction set.
    """

    what: str
    value: float
    by: str
    kernel: str | None = None


class Ceiling(Record):
    """What a machine can do, by its best tries.

    Attributes:
        device: `cpu` or `cuda`.
        threads: Threads on a CPU.
        rates: The best rate of each kind.
        cache_mib: Last-level cache.
        machine: The machine's state meanwhile.
        noise: Why the rates may be too low; such a ceiling is not kept.
        hardware: The machine.
        libraries: Versions of the libraries.
        tries: Every try, so that one can see how far apart they lie.
        isa: The instruction set that oneDNN chose, in its words; None on a GPU or where it does not say.
    """

    device: str
    threads: int
    rates: tuple[Rate, ...]
    cache_mib: float
    machine: MachineState
    noise: str | None
    hardware: dict[str, Any]
    libraries: dict[str, str]
    tries: tuple[Rate, ...] = ()
    isa: str | None = None

    @property
    def peaks(self) -> Peaks:
        """As a roofline takes them; a rate that is refused is none."""
        memory = {rate.what: rate.value for rate in self.rates if rate.what in _MEMORY}
        products = {rate.what: rate.value for rate in self.rates if rate.what not in {*_MEMORY, *self.refused}}
        return Peaks(gop_s=products, gb_s=max(memory.values()), cache_mib=self.cache_mib)

    @property
    def refused(self) -> dict[str, str]:
        """Precisions whose rate cannot be the ceiling, with the reason.

        What fits a narrow type can be multiplied in a wider one, so a narrower type's ceiling is never the lower one:
        where it was measured so, no way that was tried uses what the processor has for it.
        """
        reached = {rate.what: rate.value for rate in self.rates if rate.what not in _MEMORY}
        wider = {
            what: max((name for name in _WIDER[what] if name in reached), key=lambda name: reached[name], default=None)
            for what in reached
        }
        return {
            what: f"{reached[what]:.0f} GOP/s in {what} is below {reached[other]:.0f} in {other}, so it is no ceiling"
            for what, other in wider.items()
            if other is not None and reached[what] < reached[other]
        }


_MEMORY = ("copy", "triad")
_WIDER = {"fp32": (), "bf16": ("fp32",), "fp16": ("fp32",), "int8": ("fp32", "bf16", "fp16")}


def ceiling(
    *,
    threads: int | None = None,
    device: str = "cpu",
    cache: Path | None = None,
    refresh: bool = False,
    reporter: Reporter = SILENT,
) -> Ceiling:
    """This machine's ceiling, from the cache or measured now, which takes some seconds.

    Args:
        threads: Threads on a CPU; None: one per physical core that may be used.
        device: `cpu` or `cuda`.
        cache: Folder to keep it in; None: the user's cache folder.
        refresh: Measure even where it is known.
        reporter: Told when it is measured.

    Raises:
        TtlDeployError: It cannot be measured.
    """
    threads = threads or default_threads()
    place = _place(threads, device, cache)
    if not refresh and (known := _read(place)):
        return known
    with reporter.task("measuring the machine's ceiling", None):
        found = _measure_apart(threads, device)
    if found.noise is None:
        files.write_text(place, found.model_dump_json(indent=2) + "\n")
    return found


def _place(threads: int, device: str, cache: Path | None) -> Path:
    """File for this machine, these libraries and these threads: with any other, the ceiling is another."""
    facts = {"revision": _REVISION, "hardware": hardware.describe().as_dict(), "libraries": hardware.library_versions()}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    root = cache or Path(platformdirs.user_cache_dir("ttl-deploy"))
    return root / "ceilings" / f"{digest}-{device}-{threads}.json"


def _read(place: Path) -> Ceiling | None:
    try:
        return read_record(Ceiling, read_json(place), place)
    except BadInputError:
        return None


def _measure_apart(threads: int, device: str) -> Ceiling:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ttl_deploy.latency.ceiling", str(threads), device],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(threads),
        check=False,
    )
    if done.returncode:
        raise TtlDeployError(f"the machine's ceiling cannot be measured: {last_words(done.returncode, done.stderr)}")
    return Ceiling.model_validate_json(done.stdout)


def measure_here(threads: int, device: str) -> Ceiling:
    """Measures in this process, in every way there is (`ttl_deploy.latency.products`): the best is the ceiling."""
    isa = onednn_isa() if device == "cpu" else None  # first: the products make oneDNN speak too
    watch = Watch()
    tries = [*_tries(threads, device), *_torch_memory(threads, device)]
    machine = watch.stop(gpu=device == "cuda")
    best: dict[str, Rate] = {}
    for rate in tries:
        if rate.what not in best or rate.value > best[rate.what].value:
            best[rate.what] = rate
    return Ceiling(
        device=device,
        threads=threads,
        rates=tuple(best.values()),
        tries=tuple(tries),
        isa=isa,
        cache_mib=hardware.last_level_cache_mib() if device == "cpu" else 0.0,
        machine=machine,
        noise=judge([], [machine], threads),
        hardware=hardware.describe().as_dict(),
        libraries=hardware.library_versions(),
    )


def _tries(threads: int, device: str) -> Iterator[Rate]:
    """What every way of a product reached."""
    wait = _wait(device)
    for way in ways(threads, device, SIZE[device]):
        # An engine may build a product and then not run it on this processor: other ways remain.
        with contextlib.suppress(Exception):
            value = _products(way.once, SIZE[device], wait)
            yield Rate(what=way.what, value=value, by=way.by, kernel=way.kernel())


def _wait(device: str) -> Callable[[], None]:
    if device == "cpu":
        return _no_wait
    import torch

    return torch.cuda.synchronize


def _torch_memory(threads: int, device: str) -> Iterator[Rate]:
    import torch

    torch.set_num_threads(threads)
    wait = _wait(device)
    a, b, c = (torch.ones(_ARRAY_BYTES // 4, device=device) for _ in range(3))
    yield Rate(what="copy", value=2 * a.nbytes / _best_seconds(lambda: c.copy_(a), wait) / 1e9, by="torch copy_")
    triad = _best_seconds(lambda: torch.add(a, b, alpha=3.0, out=c), wait)
    yield Rate(what="triad", value=3 * a.nbytes / triad / 1e9, by="torch add")


def _products(once: Callable[[], object], size: int, wait: Callable[[], None]) -> float:
    """GOP/s of a product of two square matrices."""
    return 2 * size**3 / _best_seconds(once, wait) / 1e9


def _best_seconds(once: Callable[[], object], wait: Callable[[], None]) -> float:
    """The shortest of the tries: a ceiling is what can be reached, not what is usual."""
    once()
    wait()
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        begin = time.perf_counter()
        once()
        wait()
        best = min(best, time.perf_counter() - begin)
    return best


def _no_wait() -> None:
    """What a CPU computes is done when the call returns."""


def _main(arguments: list[str]) -> None:
    answer = os.dup(1)
    os.dup2(2, 1)
    found = measure_here(int(arguments[0]), arguments[1])
    with os.fdopen(answer, "w") as stream:
        stream.write(found.model_dump_json())


if __name__ == "__main__":
    _main(sys.argv[1:])
