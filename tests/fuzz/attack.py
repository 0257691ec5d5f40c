"""The whole attack by one command: thousands of hostile inputs and interruptions, and what became of them, counted.

    python tests/fuzz/attack.py --work attack --report reports/reliability.json

The cases are those of `hostile.py` and, with kills, full disks and commands that run twice at once, of
`../faults/interrupted.py`, drawn from `--seed`. Each runs in a worker process with others of its category; a case
survives where the program gave a right result or one line that names the input, in at most 5 seconds of processor time
and 2 GiB of memory more than it began with. A worker that dies, or says nothing for ten minutes, is a case that did
not survive, and another worker goes on with the next. Ends with exit code 1 where any case did not survive.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

sys.path.append(str(Path(__file__).parents[1] / "faults"))  # run as a program, only this file's folder is there

import hostile
import interrupted

from ttl_deploy import hardware

LONGEST_S = 5.0
"""Processor time of a case, seconds."""
MOST_BYTES = 2 * 2**30
"""Memory that a case may take on top of what its process had."""
SILENCE_S = 600.0
"""Seconds of wall time after which a worker that says nothing is ended; some cases train twice."""
SHOWN = 20
"""So many of the cases that did not survive are shown of each category."""


def _commands(make: Callable[..., hostile.Cases]) -> Callable[[hostile.Place, int, int], hostile.Cases]:
    """A category of `interrupted` as one of `hostile`."""

    def cases(place: hostile.Place, count: int, seed: int) -> hostile.Cases:
        what = interrupted.commands(place.data.absolute(), place.run.absolute(), place.artifacts["onnx"].absolute())
        return make(what, place.scratch.absolute() / make.__name__, count, seed)

    return cases


CATEGORIES: Mapping[str, tuple[int, Callable[[hostile.Place, int, int], hostile.Cases]]] = {
    **hostile.CATEGORIES,
    "kills": (40, _commands(interrupted.kills)),
    "full disks": (20, _commands(interrupted.disks)),
    "two at once": (10, _commands(interrupted.pairs)),
}
"""By name: how many of 10,170 cases, and what makes them."""


@dataclass
class Tally:
    """What became of the cases of one category.

    Attributes:
        cases: How many there were.
        survived: How many kept the contract.
        longest_s: Most processor time of one that survived, seconds.
        most_bytes: Most memory that one of them took, bytes.
        faults: Names of those that did not, and how.
    """

    cases: int = 0
    survived: int = 0
    longest_s: float = 0.0
    most_bytes: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, fault: str | None, seconds: float, memory: int) -> None:
        self.cases += 1
        if fault is not None:
            self.faults.append((name, fault))
            return
        self.survived += 1
        self.longest_s, self.most_bytes = max(self.longest_s, seconds), max(self.most_bytes, memory)


def main(arguments: list[str]) -> int:
    """Runs the attack, or as a worker one part of it."""
    options = _parser().parse_args(arguments)
    place = hostile.made_place(options.work)
    if options.worker:
        _work(place, options.worker, options.cases, options.seed, options.first)
        return 0
    share = options.cases / sum(count for count, _ in CATEGORIES.values())
    tallies = {}
    for name, (count, _) in CATEGORIES.items():
        if options.only and name not in options.only.split(","):
            continue
        if name == "full disks" and (why := interrupted.why_no_disks(options.work)):
            print(f"{name}: left out: {why}", flush=True)
            continue
        tallies[name] = tally = attacked(options.work, name, max(1, round(count * share)), options.seed)
        print(f"{name}: {tally.cases} cases, {tally.survived} survived", flush=True)
        for case, fault in tally.faults[:SHOWN]:
            print(f"  {case}: {fault}", flush=True)
    if options.report is not None:
        found = {
            "command": " ".join(sys.argv),
            "categories": {name: asdict(tally) for name, tally in tallies.items()},
            "hardware": hardware.describe().as_dict(),
            "libraries": hardware.library_versions(),
        }
        options.report.write_text(json.dumps(found, indent=1, ensure_ascii=True) + "\n")
    cases, survived = (sum(getattr(tally, what) for tally in tallies.values()) for what in ("cases", "survived"))
    print(f"{cases} cases, {survived} survived")
    return int(survived < cases)


def attacked(work: Path, category: str, count: int, seed: int) -> Tally:
    """Runs a category's cases in workers, one after the other."""
    tally = Tally()
    while tally.cases < count:
        before = tally.cases
        ended = _one_worker(work, category, count, seed, tally)
        if tally.cases < count and (ended is not None or tally.cases == before):
            tally.add(f"case {tally.cases}", ended or "its worker ended without a word", 0, 0)
    return tally


def _one_worker(work: Path, category: str, count: int, seed: int, tally: Tally) -> str | None:
    """Adds what a worker says; how it ended where that was before its last case."""
    command = [sys.executable, __file__, "--work", str(work), "--worker", category]
    command += ["--cases", str(count), "--seed", str(seed), "--first", str(tally.cases)]
    lines: queue.Queue[str | None] = queue.Queue()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as worker:
        assert worker.stdout is not None
        threading.Thread(target=_pump, args=(worker.stdout, lines), daemon=True).start()
        while True:
            try:
                line = lines.get(timeout=SILENCE_S)
            except queue.Empty:
                worker.kill()
                return f"no end within {SILENCE_S:.0f} s"
            if line is None:
                break
            if line.startswith("{"):
                tally.add(**json.loads(line))
    return f"its process ended with {worker.returncode}" if worker.returncode else None


def _pump(source: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in source:
        lines.put(line)
    lines.put(None)


def _work(place: hostile.Place, category: str, count: int, seed: int, first: int) -> None:
    """One line of JSON on standard output per case."""
    stream = os.fdopen(os.dup(1), "w")
    _, make = CATEGORIES[category]
    for number, (name, attempt) in enumerate(make(place, count, seed)):
        if number >= first:
            stream.write(json.dumps({"name": name, **judged(attempt)}) + "\n")
            stream.flush()


def judged(attempt: hostile.Attempt) -> dict[str, Any]:
    _forget_peak()
    memory, started = _status("VmRSS"), time.process_time()
    try:
        fault = attempt()
    except Exception as error:
        fault = f"raised {type(error).__name__}: {error}"[:500]
    seconds, taken = time.process_time() - started, max(0, _status("VmHWM") - memory)
    if fault is None and seconds > LONGEST_S:
        fault = f"took {seconds:.1f} s"
    if fault is None and taken > MOST_BYTES:
        fault = f"took {taken / 2**30:.1f} GiB"
    return {"fault": fault, "seconds": seconds, "memory": taken}


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    """A size of this process, bytes."""
    lines: Iterator[str] = iter(Path("/proc/self/status").read_text().splitlines())
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the sound run and of what attempts write")
    parser.add_argument("--cases", type=int, default=sum(count for count, _ in CATEGORIES.values()))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="categories, comma-separated")
    parser.add_argument("--report", type=Path, help="counts and faults, as JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
