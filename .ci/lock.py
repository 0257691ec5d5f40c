"""The lock: every package of the tested environment, with the SHA-256 of each file that its version was published as.

`make` writes the locks anew from `constraints.txt`, which stays the readable list; it needs uv and a package index.
`check` needs neither: it says where the locks, `constraints.txt` and `pyproject.toml` disagree, and with `--report`
whether what pip installed is what was locked.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical
from packaging.version import Version

ROOT = Path(__file__).parents[1]
CONSTRAINTS = "constraints.txt"
LOCK = "requirements.lock"
DOCKER = "export/docker/requirements"
"""With `.in`, what the image needs; with `.lock`, that and all it depends on."""
BUILD_LOCK = "export/docker/build.lock"
"""What builds the wheel that goes into the image."""

PYTHONS = ("3.11", "3.12")
_PLATFORM = {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux", "os_name": "posix"}
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})$")


@dataclass(frozen=True)
class Locked:
    """One package of a lock.

    Attributes:
        version: The only version allowed.
        hashes: Hex SHA-256 of every file of that version.
    """

    version: str
    hashes: set[str] = field(default_factory=set)


def read_lock(text: str) -> dict[str, Locked]:
    """Package by normalised name.

    Raises:
        ValueError: A line that is neither `name==version` nor a SHA-256 of one, or a package without any.
    """
    found: dict[str, Locked] = {}
    last = None
    for line in text.splitlines():
        words = line.removesuffix("\\").strip()
        if not words or words.startswith("#"):
            continue
        if match := _HASH.match(words):
            if last is None:
                raise ValueError(f"a hash before any package: {words}")
            last.hashes.add(match[1])
        else:
            name, version = pinned(words)
            last = found[name] = Locked(version)
    bare = [name for name, locked in found.items() if not locked.hashes]
    if bare:
        raise ValueError(f"no hash of {', '.join(bare)}")
    return found


def pinned(line: str) -> tuple[str, str]:
    """Normalised name and version of `name==version`.

    Raises:
        ValueError: It says anything else, such as an address or a range.
    """
    match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)==([\w.!+]+)", line.split(" ;")[0].strip())
    if match is None:
        raise ValueError(f"not of the form name==version: {line}")
    return canonical(match[1]), match[2]


def read_constraints(root: Path = ROOT) -> dict[str, str]:
    """Version by normalised name."""
    lines = (root / CONSTRAINTS).read_text(encoding="utf-8").splitlines()
    return dict(pinned(line) for line in lines if line.strip() and not line.startswith("#"))


def requirements(project: Mapping[str, object], extra: str | None = None) -> Iterator[Requirement]:
    """What `pyproject.toml` asks for on the tested platform, with one extra and those that it names."""
    section = project["project"]
    assert isinstance(section, dict)
    lines = section["dependencies"] if extra is None else section["optional-dependencies"][extra]
    for requirement in map(Requirement, lines):
        if canonical(requirement.name) == canonical(section["name"]):
            for other in sorted(requirement.extras):
                yield from requirements(project, other)
        elif any(applies(requirement, python) for python in PYTHONS):
            yield requirement


def applies(requirement: Requirement, python: str) -> bool:
    """Whether its marker holds on the tested platform."""
    environment = {**_PLATFORM, "python_version": python, "python_full_version": f"{python}.0"}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def disagreements(root: Path = ROOT) -> list[str]:
    """What the locks, the constraints and the project say of each other that is not true, one sentence each."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    constraints = read_constraints(root)
    lock, docker, build = (_open(root / name) for name in (LOCK, f"{DOCKER}.lock", BUILD_LOCK))
    wanted = [*requirements(project), *requirements(project, "dev")]
    return [
        *_compared(LOCK, {name: locked.version for name, locked in lock.items()}, constraints),
        *_unmet(LOCK, lock, wanted),
        *_unmet(f"{DOCKER}.lock", docker, docker_requirements(root)),
        *_unmet(BUILD_LOCK, build, map(Requirement, project["build-system"]["requires"])),
        *_elsewhere(f"{DOCKER}.lock", docker, as_in_the_image(constraints)),
        *_elsewhere(BUILD_LOCK, build, constraints),
    ]


def docker_requirements(root: Path = ROOT) -> list[Requirement]:
    """What the image needs."""
    lines = (root / f"{DOCKER}.in").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def as_in_the_image(constraints: Mapping[str, str]) -> dict[str, str]:
    """The constraints with ONNX Runtime for processors, at the version that was tested with CUDA's providers in it."""
    return {**constraints, "onnxruntime": constraints["onnxruntime-gpu"]}


def not_as_locked(reports: Iterable[Mapping[str, object]], lock: Mapping[str, Locked]) -> list[str]:
    """What pip's installation reports hold that the lock does not, one sentence each."""
    return [sentence for report in reports for item in _items(report) for sentence in _judge(item, lock)]


def _items(report: Mapping[str, object]) -> list[dict[str, dict[str, object]]]:
    items = report["install"]
    assert isinstance(items, list)
    return items


def _judge(item: Mapping[str, Mapping[str, object]], lock: Mapping[str, Locked]) -> Iterator[str]:
    name, version = canonical(str(item["metadata"]["name"])), item["metadata"]["version"]
    download = item["download_info"]
    if "dir_info" in download:
        return
    archive = download.get("archive_info")
    sha256 = archive.get("hashes", {}).get("sha256") if isinstance(archive, dict) else None
    locked = lock.get(name)
    if locked is None:
        yield f"{name} {version} was installed and is not in {LOCK}"
    elif locked.version != version:
        yield f"{name} {version} was installed, {LOCK} has {locked.version}"
    elif sha256 not in locked.hashes:
        yield f"the file of {name} {version} that was installed has SHA-256 {sha256}, which {LOCK} does not list"


def _open(path: Path) -> dict[str, Locked]:
    try:
        return read_lock(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _compared(name: str, lock: Mapping[str, str], constraints: Mapping[str, str]) -> Iterator[str]:
    for package in sorted({*lock, *constraints}):
        if lock.get(package) != constraints.get(package):
            yield (
                f"{package}: {name} has {lock.get(package, 'nothing')}, "
                f"{CONSTRAINTS} has {constraints.get(package, 'nothing')}"
            )


def _elsewhere(name: str, lock: Mapping[str, Locked], constraints: Mapping[str, str]) -> Iterator[str]:
    both = {package: locked.version for package, locked in lock.items() if package in constraints}
    yield from _compared(name, both, {package: constraints[package] for package in both})


def _unmet(name: str, lock: Mapping[str, Locked], wanted: Iterable[Requirement]) -> Iterator[str]:
    for requirement in wanted:
        locked = lock.get(canonical(requirement.name))
        if locked is None:
            yield f"{requirement.name}: needed and not in {name}"
        elif not requirement.specifier.contains(Version(locked.version), prereleases=True):
            yield f"{requirement}: {name} has {locked.version}"


def make(root: Path = ROOT) -> None:
    """Writes the locks.

    Raises:
        CalledProcessError: uv found no such version, or no index.
        OSError: uv is not installed.
    """
    constraints = read_constraints(root)
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    everything = [f"{name}=={version}" for name, version in constraints.items()]
    _compile(root / LOCK, everything, {}, "--no-deps")
    _compile(root / f"{DOCKER}.lock", map(str, docker_requirements(root)), as_in_the_image(constraints))
    _compile(root / BUILD_LOCK, project["build-system"]["requires"], constraints)


def _compile(target: Path, wanted: Iterable[str], constraints: Mapping[str, str], *options: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        limits = Path(folder) / "constraints.txt"
        limits.write_text("".join(f"{name}=={version}\n" for name, version in constraints.items()))
        command = ["uv", "pip", "compile", "-", "--quiet", "--generate-hashes", "--no-header", "--no-annotate"]
        command += ["--no-config", "--python-version", PYTHONS[0], "--python-platform", "x86_64-manylinux_2_28"]
        done = subprocess.run(
            [*command, "--constraints", str(limits), *options],
            input="\n".join(wanted),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        sys.stderr.write(done.stderr)
        done.check_returncode()
    read_lock(done.stdout)
    target.write_text(f"# Made by `python .ci/lock.py make`; see CONTRIBUTING.md.\n{done.stdout}", encoding="utf-8")


def main() -> int:
    """Makes or checks the locks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("make", "check"))
    parser.add_argument("--report", type=Path, action="append", default=[], help="an installation report of pip")
    given = parser.parse_args()
    if given.what == "make":
        make()
    reports = [json.loads(path.read_bytes()) for path in given.report]
    wrong = [*disagreements(), *not_as_locked(reports, _open(ROOT / LOCK))]
    sys.stderr.writelines(f"{sentence}\n" for sentence in wrong)
    if wrong:
        sys.stderr.write("mend constraints.txt or pyproject.toml, then run `python .ci/lock.py make`\n")
        return 1
    installed = sum(len(_items(report)) for report in reports)
    sys.stdout.write(f"the locks, {CONSTRAINTS} and pyproject.toml agree" + f"; {installed} installed" * bool(reports))
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
