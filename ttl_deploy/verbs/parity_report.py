"""The parity report: one HTML page with the facts, their intervals, the verdict and the images that differ most."""

from __future__ import annotations

import io
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy import __version__, files, hardware
from ttl_deploy.parity.location import Location
from ttl_deploy.parity.verify import Check
from ttl_deploy.report.html import render
from ttl_deploy.training.metrics import TITLES

_THUMBNAIL = 96
"""Pixels of a thumbnail's side."""


def write_report(check: Check, page: Path, location: Location | None = None) -> None:
    """Writes the page.

    Args:
        check: What was found.
        page: The file; replaced if it is there.
        location: Where the two part, if that was asked.

    Raises:
        StorageError: The disk is full, read-only or failing.
    """
    files.write_text(page, render("parity.html.j2", **_facts(check, location)))


def _facts(check: Check, location: Location | None) -> dict[str, Any]:
    changes, task = check.comparison.changes, check.prepared.task
    headline = [(TITLES[name], change) for name, change in changes.headline.items()]
    return {
        "artifact": f"{check.artifact.manifest.format} {check.artifact.manifest.precision} ({check.artifact.folder})",
        "runtime": check.runtime,
        "reference": check.record.reference,
        "split": check.record.split,
        "comparison": check.comparison,
        "changes": changes,
        "first": headline[0],
        "measures": [
            *headline,
            ("calibration error (ECE)", changes.ece),
            ("ECE of the reference's decisions, in its bins", changes.calibration),
            ("Brier score", changes.brier),
        ],
        "similarity": check.comparison.similarity,
        "verdict": check.verdict,
        "precision": check.record.precision,
        "classes": task.classes,
        "notes": check.notes,
        "shown": task.telling,
        "examples": list(zip(check.examples, _thumbnails(check), strict=True)),
        "location": location,
        "command": "ttl-deploy " + shlex.join(sys.argv[1:]) if sys.argv[1:] else "ttl-deploy verify",
        "version": __version__,
        "machine": hardware.describe().name,
        "when": datetime.now(UTC).strftime("%Y-%m-%d"),
        "libraries": hardware.library_versions(),
    }


def _thumbnails(check: Check) -> list[bytes]:
    place = {image: i for i, image in enumerate(check.prepared.ids)}
    indices = np.array([place[image] for image in check.worst], dtype=np.int64)
    return [_png(pixels) for pixels in check.prepared.pixels(indices)]


def _png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    # Of channels that are no colours the first is shown.
    image = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
