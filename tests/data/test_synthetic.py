"""The synthetic set: seeded, balanced, and told apart by texture scale alone."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ttl_deploy.data.synthetic import write_synthetic
from ttl_deploy.errors import BadInputError


def pixels(folder: Path, name: str) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path), dtype=float) for path in sorted((folder / name).glob("*.png"))])


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_synthetic(tmp_path / name, images=20, size=32, seed=seed)
    content = {name: [path.read_bytes() for path in sorted((tmp_path / name).rglob("*.*"))] for name in ("a", "b", "c")}
    assert content["a"] == content["b"]
    assert content["a"] != content["c"]


def test_half_of_each_class_and_patients_of_one_class(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "set", images=41, size=32, seed=0)
    with (tmp_path / "set" / "labels.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    labels = [row["label"] for row in rows]
    assert (labels.count("lesion"), labels.count("healthy")) == (20, 21)
    owners: dict[str, set[str]] = {}
    for row in rows:
        owners.setdefault(row["patient_id"], set()).add(row["label"])
        assert (tmp_path / "set" / row["path"]).exists()
    assert all(len(found) == 1 for found in owners.values())


def test_brightness_and_contrast_do_not_tell_the_classes_but_fine_structure_does(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "set", images=160, size=64, seed=0)
    lesion, healthy = (pixels(tmp_path / "set", name) for name in ("lesion", "healthy"))

    def separation(statistic: np.ndarray, other: np.ndarray) -> float:
        return float(abs(statistic.mean() - other.mean()) / np.hypot(statistic.std(), other.std()))

    axes = (1, 2)
    assert separation(lesion.mean(axes), healthy.mean(axes)) < 0.25
    assert separation(lesion.std(axes), healthy.std(axes)) < 0.35

    def band(images: np.ndarray) -> np.ndarray:
        """Share of the spectrum at 16 to 24 cycles per image, where the lesions' texture is."""
        power = np.abs(np.fft.fft2(images - images.mean(axes, keepdims=True))) ** 2
        frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64))) * 64
        return np.asarray(power[:, (frequency > 16) & (frequency < 24)].sum(1) / power.sum(axes))

    assert separation(band(lesion), band(healthy)) > 0.5


@pytest.mark.parametrize(("options", "said"), [({"images": 10}, "too few"), ({"size": 8}, "32 to 1024")])
def test_sizes_out_of_range_are_refused(tmp_path: Path, options: dict[str, int], said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        write_synthetic(tmp_path / "set", **options)
    assert not (tmp_path / "set").exists()
