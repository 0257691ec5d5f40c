"""The parity report: one HTML page with the facts, their intervals, the verdict and the images that differ most."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy import __version__, files, hardware
from ttl_deploy.inputs.overlay import Colour, overlay
from ttl_deploy.inputs.reading import picture
from ttl_deploy.pages.html import render
from ttl_deploy.parity.location import Location
from ttl_deploy.parity.paired import Change, Changes
from ttl_deploy.parity.verify import Check
from ttl_deploy.training.measures.overlap import unpacked
from ttl_deploy.training.metrics import TITLES
from ttl_deploy.verbs.acceptance import Acceptance

if TYPE_CHECKING:
    from PIL.Image import Image

_THUMBNAIL = 96
"""Pixels of a thumbnail's side."""
_REFERENCE, _ARTIFACT = (40, 140, 240), (230, 60, 40)


def write_report(
    check: Check, page: Path, location: Location | None = None, acceptance: Acceptance | None = None
) -> None:
    """Writes the page.

    Args:
        check: What was found.
        page: The file; replaced if it is there.
        location: Where the two part, if that was asked.
        acceptance: What became of acceptance criteria, if there are any.

    Raises:
        StorageError: The disk is full, read-only or failing.
    """
    template = "parity.html.j2" if check.masks is None else "parity_masks.html.j2"
    files.write_text(page, render(template, **_facts(check, location), acceptance=acceptance))


def as_dict(check: Check, location: Location | None = None, acceptance: Acceptance | None = None) -> dict[str, Any]:
    """The comparison in plain types, for JSON; `criteria` is in it only where there are some."""
    return {
        "artifact": str(check.artifact.folder),
        "reference": check.record.reference,
        "images": check.record.split,
        "runtime": check.runtime,
        "precision": check.record.precision,
        "verdict": check.verdict.model_dump(mode="json"),
        "comparison": check.comparison.model_dump(mode="json"),
        "worst": check.worst,
        "examples": [example.__dict__ for example in check.examples],
        "notes": check.notes,
        "location": location.model_dump(mode="json") if location else None,
        **({"criteria": acceptance.model_dump(mode="json")} if acceptance else {}),
    }


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
        "first": headline[0] if headline else None,
        "measures": [
            *headline,
            *_beside(changes),
        ],
        "similarity": check.comparison.similarity,
        "verdict": check.verdict,
        "precision": check.record.precision,
        "classes": task.classes,
        "notes": check.notes,
        "shown": task.telling,
        "examples": list(zip(check.examples, _thumbnails(check), strict=True)),
        "location": location,
        "command": hardware.command(),
        "version": __version__,
        "machine": hardware.describe().name,
        "when": datetime.now(UTC).strftime("%Y-%m-%d"),
        "libraries": hardware.library_versions(),
    }


def _beside(changes: Changes) -> list[tuple[str, Change]]:
    """The measures beside the headline."""
    if changes.dice is not None and changes.jaccard is not None:
        return [(TITLES["jaccard"], changes.jaccard)]
    return [
        ("calibration error (ECE)", changes.ece),
        ("ECE of the reference's decisions, in its bins", changes.calibration),
        ("Brier score", changes.brier),
    ]


def _thumbnails(check: Check) -> list[bytes]:
    indices = check.prepared.positions(check.worst)
    shown = [picture(pixels) for pixels in check.prepared.pixels(indices)]
    if check.masks is None:
        return [_png(pixels) for pixels in shown]
    size = shown[0].shape[:2]
    pairs = zip(shown, *(unpacked(masks, size) for masks in check.masks), strict=True)
    return [_drawn(pixels, ((before, _REFERENCE), (after, _ARTIFACT))) for pixels, before, after in pairs]


def _drawn(pixels: NDArray[np.uint8], masks: Sequence[tuple[NDArray[np.uint8], Colour]]) -> bytes:
    return _small(overlay(pixels, masks, tint=0.0), 2 * _THUMBNAIL)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    # Of channels that are no colours the first is shown.
    return _small(Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0]), _THUMBNAIL)


def _small(image: Image, side: int) -> bytes:
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
