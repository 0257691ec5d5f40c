"""What this machine can export and run, and why not the rest: asked of the exporters and the runtimes themselves.

Nothing is exported or run, and neither PyTorch nor an engine is imported: a format that is usable here may still fail,
and then says why. Of PyTorch the native libraries are held against the list of what was installed, and of all
packages the versions against what they want of each other.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import importlib.util
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement

from ttl_deploy import hardware
from ttl_deploy.data.cache import default_folder
from ttl_deploy.formats.known import FORMATS, Format
from ttl_deploy.formats.options import GROUP
from ttl_deploy.runtime import RUNTIMES
from ttl_deploy.runtime.cuda_driver import Cuda, CudaError
from ttl_deploy.spec import Record

_LIBRARY = re.compile(r"\.(so(\.\d+)*|pyd|dll|dylib)$")


class Usable(Record):
    """One format in one precision, or one runtime on one device.

    Attributes:
        kind: `format` or `runtime`.
        name: Its name.
        variant: The precision or the device.
        reason: Why it cannot be used here; None where it can.
    """

    kind: str
    name: str
    variant: str
    reason: str | None


class Diagnosis(Record):
    """A machine and what can be done on it.

    Attributes:
        facts: Name and value, in the order to read them.
        formats: Every format in every precision.
        runtimes: Every runtime on every device.
    """

    facts: dict[str, str]
    formats: tuple[Usable, ...]
    runtimes: tuple[Usable, ...]


def doctor(*, cache: Path | None = None) -> Diagnosis:
    """Looks at this machine.

    Args:
        cache: Folder whose disk is looked at; None: the user's cache folder.
    """
    return Diagnosis(facts=_facts(cache), formats=tuple(_formats()), runtimes=tuple(_runtimes()))


def _facts(cache: Path | None) -> dict[str, str]:
    machine = hardware.describe()
    gpus = ", ".join(f"{g.name} ({g.memory_mib / 1024:.0f} GiB)" for g in machine.gpus)
    return {
        "system": machine.system,
        "processor": f"{machine.cpu}, {machine.usable_cores} of {machine.logical_cores} cores usable",
        "instruction sets": ", ".join(machine.isa) or "none that matters",
        "memory": f"{machine.memory_gib:g} GiB",
        "GPU": gpus or "none",
        "driver": _driver(machine),
        "torch": _torch(),
        "packages": "; ".join(filter(None, (_other_build(), *_misfits()))) or "fit together",
        "TensorRT": _version("tensorrt", "torch-tensorrt"),
        "TensorRT for RTX": _version("tensorrt-rtx-cu13-bindings", "tensorrt-rtx", missing="not installed (extra rtx)"),
        "licence of both": "not for medical, life-critical use without an agreement with NVIDIA (its clause 2.1)",
        "onnxruntime": _version("onnxruntime-gpu", "onnxruntime"),
        "openvino": _version("openvino"),
        "signatures": _signatures(),
        "cache": _disk(cache or default_folder()),
        "C++ compiler": next((name for name in ("g++", "clang++") if shutil.which(name)), "none (pt2 --aot needs one)"),
    }


def _formats() -> list[Usable]:
    if importlib.util.find_spec("torch") is None:
        return []
    damaged = _damage("torch") or _other_build()
    return [
        Usable(kind="format", name=format.name, variant=precision, reason=damaged or format.available(precision))
        for format in _known()
        for precision in format.precisions
    ]


def _known() -> Iterable[Format]:
    """Every format; another package tells its own by what exports it, which imports PyTorch."""
    if not importlib.metadata.entry_points(group=GROUP):
        return FORMATS
    from ttl_deploy.formats.exporter import EXPORTERS

    return EXPORTERS


def _runtimes() -> list[Usable]:
    return [
        Usable(kind="runtime", name=runtime.name, variant=device, reason=runtime.available() or _no_device(device))
        for runtime in RUNTIMES
        for device in runtime.devices
    ]


def _no_device(device: str) -> str | None:
    return "no NVIDIA GPU is here" if device == "cuda" and not hardware.describe().gpus else None


def _driver(machine: hardware.Hardware) -> str:
    try:
        with Cuda() as cuda:
            capability = cuda.device().compute_capability
            return f"{machine.gpus[0].driver if machine.gpus else '?'}, CUDA {cuda.driver_version()}, sm_{capability}"
    except CudaError as error:
        return f"none ({error})"


def _torch() -> str:
    """PyTorch's version and the CUDA it was built for, which asking torch itself would mean importing it."""
    said = _version_module("torch")
    if said is None:
        return "not installed"
    built = re.search(r"cuda\b[^=]*= '([\d.]+)'", said)
    return f"{_version('torch')}, built for {f'CUDA {built[1]}' if built else 'the CPU'}"


def _other_build() -> str | None:
    """What keeps torchvision from being imported: that its operators were compiled for another build of PyTorch."""
    builds = {package: _build(package) for package in ("torch", "torchvision")}
    if not all(builds.values()) or len({*builds.values()}) == 1:
        return None
    told = " and ".join(f"{package} is built for {build}" for package, build in builds.items())
    return f"{told}: install both from one place"


def _build(package: str) -> str | None:
    """What its version says behind the plus: `cu130`, `cpu`."""
    found = re.search(r"__version__ = '[^'+]+\+([\w.]+)'", _version_module(package) or "")
    return found[1] if found else None


def _version_module(package: str) -> str | None:
    """The text of a package's `version.py`; None where it is not installed."""
    spec = importlib.util.find_spec(package)
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    return file.read_text() if file and file.exists() else None


def _misfits() -> Iterator[str]:
    """What this program and the packages that it names want of others and do not find."""
    own = [*_requirements("ttl-deploy")]
    for name in ("ttl-deploy", *(requirement.name for requirement in own)):
        for wanted in _requirements(name):
            try:
                here = importlib.metadata.version(wanted.name)
            except importlib.metadata.PackageNotFoundError:
                yield f"{name} needs {wanted}, which is not installed"
                continue
            if not wanted.specifier.contains(here, prereleases=True):
                yield f"{name} needs {wanted.name}{wanted.specifier}, and {here} is installed"


def _requirements(name: str) -> Iterator[Requirement]:
    """What an installed package needs on this machine; none of one that is not there."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for text in importlib.metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                yield requirement


def _signatures() -> str:
    found = _version("model-signing")
    usable = importlib.util.find_spec("model_signing") and importlib.util.find_spec("OpenSSL")
    return found if usable else "not installed (extra signing)"


def _version(*packages: str, missing: str = "not installed") -> str:
    for package in packages:
        try:
            return f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return missing


def _damage(package: str) -> str | None:
    """What a broken installation of a package would say when it is imported, without waiting for that.

    Returns:
        The first of its native libraries that is gone, or of another size than the one that was installed; None: none,
        or nobody wrote down what was installed.
    """
    try:
        installed = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    for name, _, size in csv.reader((installed.read_text("RECORD") or "").splitlines()):
        if _LIBRARY.search(name) and size:
            file = Path(str(installed.locate_file(name)))
            found = file.stat().st_size if file.exists() else 0
            if found != int(size):
                return f"{package} is damaged: {name} has {found:,} of {int(size):,} bytes; install {package} again"
    return None


def _disk(folder: Path) -> str:
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    usage = shutil.disk_usage(existing)
    return f"{folder}: {usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GiB free"
