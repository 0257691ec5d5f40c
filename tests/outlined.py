"""Images with a disc that is outlined, and a tiny U-Net trained on them, for the tests of masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BRIEF = ("--epochs", "3", "--batch-size", "8", "--lr", "3e-3", "--device", "cpu", "--precision", "fp32")
NETWORK = ("--backbone", "resnet18", "--weights", "random", "--image-size", "32", "--channels", "1")


def disc(size: tuple[int, int], centre: tuple[float, float], radius: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.asarray((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2)


def write_pairs(folder: Path) -> Path:
    """Noise with a bright disc, and the disc as a mask; two images of every patient, not square."""
    generator = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    lines = ["image,mask,patient_id"]
    for number in range(48):
        row, column = generator.uniform(14, 26, 2)
        inside = disc((40, 48), (row, column), generator.uniform(6, 11))
        pixels = generator.normal(80, 15, inside.shape) + 110 * inside
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / "images" / f"{number}.png")
        Image.fromarray(inside.astype(np.uint8) * 255).save(folder / "masks" / f"{number}_mask.png")
        lines.append(f"images/{number}.png,masks/{number}_mask.png,p{number // 2}")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder


def train_masks(pairs: Path, out: Path) -> Path:
    """The folder of a finished run of `write_pairs`' images."""
    from ttl_deploy.cli.main import run as call  # PyTorch, which reads what `conftest` sets

    asked = ("--task", "segmentation", "--classes", "lung", "--cut", "layer2.0")
    assert call(["train", str(pairs / "pairs.csv"), *asked, *NETWORK, *BRIEF, "--out", str(out)]) == 0
    return out
