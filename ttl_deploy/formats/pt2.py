"""PyTorch's own format: an exported program that PyTorch loads without the model's code, and an AOTInductor package.

The program's file is reproducible: the same run gives the same bytes with the same PyTorch. The package holds machine
code that a C++ compiler made for this processor: it is not reproducible, and runs where the instruction sets are.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch.export import ExportedProgram

from ttl_deploy import files, hardware
from ttl_deploy.errors import BadInputError, MissingDependencyError
from ttl_deploy.formats.exporter import EXPORTERS, Exporter, ExportJob, Written
from ttl_deploy.formats.known import Pt2Format
from ttl_deploy.formats.options import Pt2Options
from ttl_deploy.formats.program import example, export_program, extra_file, in_precision
from ttl_deploy.runtime.binding import EXTRA_FILE

MODEL_FILE = "model.pt2"
PACKAGE_FILE = "model-aot.pt2"


class Pt2Exporter(Pt2Format, Exporter):
    """Writes `model.pt2`, and with `aot` a compiled package beside it."""

    maps = True
    options = Pt2Options

    def write(self, job: ExportJob, folder: Path) -> Written:
        """Exports into `folder`.

        Raises:
            MissingDependencyError: `aot` without a C++ compiler.
            BadInputError: PyTorch cannot trace or compile the model.
        """
        assert isinstance(job.options, Pt2Options)
        program = _trace(job)
        details = {"opset": "aten", "dynamic_batch": True}
        if job.options.aot:
            details |= _compile(program, folder / PACKAGE_FILE)
        save_program(program, folder / MODEL_FILE, job.metadata(precision=job.precision))
        return Written(MODEL_FILE, details)


EXPORTERS.register("pt2", Pt2Exporter())


def save_program(program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    """Saves a program without the example inputs: they are the only part that PyTorch would pickle.

    Args:
        program: Loses its example inputs.
        path: The file.
        metadata: What the file says of itself.
    """
    program.example_inputs = None
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(program, buffer, extra_files={EXTRA_FILE: extra_file(metadata)})
    files.write_bytes(path, buffer.getbuffer())


def _trace(job: ExportJob) -> ExportedProgram:
    try:
        with quiet():
            return export_program(in_precision(job.model, job.precision), example(job.model))
    except RuntimeError as error:
        raise BadInputError(f"PyTorch cannot export the model: {' '.join(str(error).split())[:300]}") from error


def _compile(program: ExportedProgram, path: Path) -> dict[str, object]:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        raise MissingDependencyError(
            "AOTInductor compiles with a C++ compiler, and neither g++ nor clang++ is here",
            fix="install one, or leave --aot out",
        )
    with quiet():
        torch._inductor.aoti_compile_and_package(program, package_path=str(path.absolute()))
    return {"aot": {"file": path.name, "device": "cpu", "isa": list(hardware.describe().isa)}}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter and the compiler talk in logs and warnings; none of it is for our user."""
    loggers = [
        logging.getLogger(name)
        for name in ("torch.export", "torch._inductor", "torch._export", "torch.utils.cpp_extension")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
