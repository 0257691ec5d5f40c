"""The devices of `export/targets/`: peak rates from the makers' papers, and an estimate of a network's least time.

What is estimated here was never run: it is always said to be estimated, and where the device is this very machine,
the estimate's error is told.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from ttl_deploy.documents import read_toml
from ttl_deploy.errors import BadInputError, IntegrityError, near
from ttl_deploy.hardware import Hardware
from ttl_deploy.latency.roofline import Floor, Peaks, Work, floor
from ttl_deploy.resources import data_tables
from ttl_deploy.spec import SCHEMA_VERSION, Record, read_record

FOLDER = "export/targets"

Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8"]


class Target(Record):
    """One device.

    Attributes:
        name: What `--target` calls it: the file's name.
        title: Its maker's name for it.
        kind: `cpu`, `gpu`, or `module` for a board with both whose GPU is meant.
        match: Parts of the name by which the system calls it, whole words; any of them means this device.
        cores: Cores, or CUDA cores of a GPU.
        memory_gib: Memory of the device; None for a processor.
        cache_mib: Last-level cache.
        gb_s: Memory bandwidth, 10^9 bytes per second.
        gop_s: Peak rate by precision, thousand millions of operations per second, dense, 2 per multiply-add. A
            precision that the device computes no faster than another is given that one's rate; one it cannot, none.
        compute_capability: Of an NVIDIA GPU, such as 8.6: which engines it runs; None for a processor.
        sources: Where each figure comes from, by field.
        note: What a reader should know.
    """

    schema_version: int = SCHEMA_VERSION
    name: str = Field(pattern=r"^[a-z0-9-]+$")
    title: str
    kind: Literal["cpu", "gpu", "module"]
    match: tuple[str, ...] = Field(min_length=1)
    cores: int = Field(gt=0)
    memory_gib: float | None = Field(default=None, gt=0)
    cache_mib: float = Field(ge=0)
    gb_s: float = Field(gt=0)
    gop_s: dict[Precision, float] = Field(min_length=1)
    compute_capability: str | None = Field(default=None, pattern=r"^\d+\.\d$")
    sources: dict[str, str]
    note: str | None = None

    @model_validator(mode="after")
    def _sourced(self) -> Self:
        figures = ["cores", "cache_mib", "gb_s", *(f"gop_s.{precision}" for precision in self.gop_s)]
        figures += ["compute_capability"] if self.compute_capability else []
        missing = [figure for figure in figures if not self.sources.get(figure)]
        if missing:
            raise ValueError(f"{missing[0]} has no source")
        unknown = set(self.sources) - {*figures, "memory_gib"}
        if unknown:
            raise ValueError(f"there is a source for {min(unknown)}, which is no figure")
        if min(self.gop_s.values()) <= 0:
            raise ValueError("a peak rate is above 0")
        return self

    @property
    def peaks(self) -> Peaks:
        """Its rates as a roofline takes them."""
        return Peaks(gop_s=dict(self.gop_s), gb_s=self.gb_s, cache_mib=self.cache_mib)

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""
        return "cpu" if self.kind == "cpu" else "cuda"

    def is_here(self, machine: Hardware) -> bool:
        """Whether a machine has this device, by the names its system gives."""
        return any(machine.is_device(name) for name in self.match)

    def estimate(self, work: Work) -> Floor | None:
        """The least time it can take on the device; None at a precision that it does not compute in."""
        return floor(work, self.peaks)


def load_targets(folder: Path | None = None) -> tuple[Target, ...]:
    """Reads every device.

    Args:
        folder: Holds the TOML files; None: those that come with the program.

    Raises:
        IntegrityError: A file is not TOML, or a figure is missing, unknown, wrong or without a source.
    """
    return tuple(_read(path) for path in data_tables(FOLDER, folder, "devices"))


def get_target(name: str) -> Target:
    """The device of a name.

    Raises:
        BadInputError: There is none; the error lists the nearest.
    """
    targets = {target.name: target for target in load_targets()}
    if name not in targets:
        raise BadInputError(f"unknown target device {name!r}", fix=near(name, targets))
    return targets[name]


def targets_of(machine: Hardware) -> tuple[Target, ...]:
    """The described devices that a machine has."""
    return tuple(target for target in load_targets() if target.is_here(machine))


def _read(path: Path) -> Target:
    target = read_record(Target, read_toml(path), path)
    if target.name != path.stem:
        raise IntegrityError(f"calls its device {target.name}", where=path, fix="name the file like the device")
    return target
