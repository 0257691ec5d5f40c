"""DICOM as pydicom reads it where no further decoder is installed, whatever is installed here."""

from __future__ import annotations

import pytest
from pydicom.pixels import decoders

FURTHER = ("pylibjpeg", "pyjpegls", "gdcm")


def hide_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves only what Pillow and pydicom decode; of the others, which were asked when pydicom was loaded, none."""
    for name in FURTHER:
        monkeypatch.setattr(f"pydicom.pixels.decoders.{name}.is_available", lambda uid: False)
    for decoder in (entry for name, entry in vars(decoders).items() if name.endswith("Decoder")):
        there = {name: decode for name, decode in decoder._available.items() if name not in FURTHER}
        hidden = {name: (name,) for name in decoder._available if name in FURTHER}
        monkeypatch.setattr(decoder, "_available", there)
        monkeypatch.setattr(decoder, "_unavailable", {**decoder._unavailable, **hidden})
