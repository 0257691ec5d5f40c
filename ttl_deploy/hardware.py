"""What this machine is: processor, instruction sets, cores, memory, GPU and the versions of the libraries in use.

Reads the operating system only; no heavy library is imported. Every measurement and artifact carries the result.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from ttl_deploy.cores import usable_cores

_LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxruntime-gpu",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "torch-tensorrt",
    "numpy",
    "pillow",
)
_INTERESTING_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "i8mm",
)


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU as its driver names it."""

    name: str
    memory_mib: int
    driver: str


@dataclass(frozen=True)
class Hardware:
    """A machine. `isa` holds the instruction sets that decide which precisions are fast."""

    cpu: str
    isa: tuple[str, ...]
    physical_cores: int
    logical_cores: int
    usable_cores: int
    memory_gib: float
    system: str
    gpus: tuple[Gpu, ...]

    @property
    def fast_bf16(self) -> bool:
        """Whether the processor multiplies bfloat16 in hardware (AVX-512 BF16, AMX or Arm BF16)."""
        return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(self.isa))

    @property
    def name(self) -> str:
        """One line for tables: the processor, the cores in use and the GPUs."""
        gpus = "".join(f" + {gpu.name}" for gpu in self.gpus)
        return f"{self.cpu} ({self.usable_cores} cores){gpus}"

    def is_device(self, pattern: str) -> bool:
        """Whether the processor or a GPU goes by this name.

        Args:
            pattern: A part of the name as the system writes it, whole words, any case: `Quadro RTX 6000` or
                `i9-9920X`. It does not match inside a longer word, so that `L4` is not an `L40`.
        """
        words = re.compile(rf"(?<![\w-]){re.escape(pattern)}(?![\w-])", re.IGNORECASE)
        return any(words.search(name) for name in (self.cpu, *(gpu.name for gpu in self.gpus)))

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)


def last_level_cache_mib() -> float:
    """Size of one last-level cache, MiB; 0 where the system does not say."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        number, unit = path.read_text().strip()[:-1], path.read_text().strip()[-1:]
        if number.isdigit() and unit in "KM":
            sizes.append(int(number) / (1024 if unit == "K" else 1))
    return max(sizes, default=0.0)


@functools.cache
def describe() -> Hardware:
    """Looks at this machine once."""
    flags = set(_cpuinfo("flags").split()) | set(_cpuinfo("Features").split())
    return Hardware(
        cpu=_cpuinfo("model name") or _cpuinfo("Model") or platform.processor() or platform.machine(),
        isa=tuple(flag for flag in _INTERESTING_FLAGS if flag in flags),
        physical_cores=psutil.cpu_count(logical=False) or 1,
        logical_cores=psutil.cpu_count() or 1,
        usable_cores=usable_cores(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        gpus=_gpus(),
    )


def command() -> str:
    """The command of this process: `ttl-deploy` or another program, without its folder, and what was said to it."""
    program = Path(sys.argv[0])
    name = "ttl-deploy" if (program.stem, program.parent.name) == ("__main__", "ttl_deploy") else program.name
    return shlex.join([name, *sys.argv[1:]])


def library_versions() -> dict[str, str]:
    """Versions of the installed libraries that shape a model or a latency."""
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def library_words(versions: Mapping[str, str] | None = None) -> str:
    """Versions, by default those of `library_versions`, as text for a report's last line."""
    return ", ".join(f"{name} {version}" for name, version in (versions or library_versions()).items())


def _cpuinfo(key: str) -> str:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return ""
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def query_gpus(fields: str) -> list[list[str]]:
    """What `nvidia-smi` answers, one row per GPU; empty where there is no GPU or the driver does not answer.

    Args:
        fields: Comma-separated names as `nvidia-smi --help-query-gpu` lists them.
    """
    return _nvidia_smi(f"--query-gpu={fields}")


def process_gpu_mib() -> float | None:
    """GPU memory that the driver counts for this process now, MiB; None where it does not say."""
    rows = _nvidia_smi("--query-compute-apps=pid,used_memory")
    own = [row[1] for row in rows if len(row) == 2 and row[0] == str(os.getpid())]
    numbers = [float(value) for value in own if value.replace(".", "", 1).isdigit()]
    return sum(numbers) if numbers else None


def _nvidia_smi(query: str) -> list[list[str]]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [[cell.strip() for cell in line.split(",")] for line in answer.splitlines() if line.strip()]


def _gpus() -> tuple[Gpu, ...]:
    rows = query_gpus("name,memory.total,driver_version")
    return tuple(Gpu(name, int(float(memory)), driver) for name, memory, driver in rows)
