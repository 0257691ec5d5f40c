"""TorchScript, for hosts whose PyTorch or LibTorch is older than exported programs: traced and frozen, in fp32.

PyTorch calls it deprecated and its warnings are kept from the user; a host that can should take `pt2`. The file is not
reproducible within a process: PyTorch numbers the names of traced classes.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch

from ttl_deploy import files
from ttl_deploy.formats.exporter import EXPORTERS, Exporter, ExportJob, Written
from ttl_deploy.formats.known import TorchScriptFormat
from ttl_deploy.formats.program import example, extra_file, in_precision
from ttl_deploy.runtime.binding import EXTRA_FILE

MODEL_FILE = "model.pt"

_WRITTEN_BY_ITSELF = ("version", "byteorder", ".data/serialization_id")


class TorchScriptExporter(TorchScriptFormat, Exporter):
    """Writes `model.pt`: float32 images of any batch to float32 logits."""

    maps = True

    def write(self, job: ExportJob, folder: Path) -> Written:
        """Exports into `folder`."""
        module = in_precision(job.model, job.precision)
        buffer = io.BytesIO()
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Its own check would run the trace again with the deprecated machinery; parity checks more.
            traced = torch.jit.trace(module, example(job.model), check_trace=False)  # type: ignore[no-untyped-call]
            notes = {EXTRA_FILE: extra_file(job.metadata(precision=job.precision))}
            torch.jit.save(torch.jit.freeze(traced), buffer, _extra_files=notes)
        files.write_bytes(folder / MODEL_FILE, _without_source_paths(buffer))
        return Written(MODEL_FILE, {"dynamic_batch": True})


EXPORTERS.register("torchscript", TorchScriptExporter())


def _without_source_paths(archive: io.BytesIO) -> memoryview:
    """The archive without its debug records, which name files of the exporting machine."""
    archive.seek(0)
    reader = torch._C.PyTorchFileReader(archive)
    clean = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(clean)
    writer.set_min_version(int(reader.get_record("version")))
    for name in reader.get_all_records():
        if not name.endswith(".debug_pkl") and name not in _WRITTEN_BY_ITSELF:
            content = reader.get_record(name)
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return clean.getbuffer()
