"""Data sets as they are published: a tiny imitation of each, with its names, columns and quirks, read by the options
that README gives, divided and decoded."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ttl_deploy.cli.main import run
from ttl_deploy.data.items import Dataset
from ttl_deploy.data.manifest import dataset_of
from ttl_deploy.data.prepared import Prepared, prepare
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import Data, InputSpec, Model, PreprocessSpec
from ttl_deploy.tasks import UNKNOWN
from ttl_deploy.training.train import kind_of

CHEXPERT = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices\n"
)
COMPETITION = "Cardiomegaly,Edema,Consolidation,Atelectasis,Pleural Effusion"
CHEST14 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImage[Width,"
    "Height],OriginalImagePixelSpacing[x,y],\n"
)


def picture(path: Path, number: int, kind: str = "L") -> None:
    """An image of its own colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "I;16":
        Image.fromarray(np.full((8, 8), 257 * number, np.uint16)).save(path)
    else:
        Image.new(kind, (8, 8), number if kind == "L" else (number, 0, 0)).save(path)


SMALL = PreprocessSpec(input=InputSpec.image(8))
VOLUMES = PreprocessSpec.of(InputSpec(kind="volume", channels=1, size=(28, 28, 28)))


def prepared(data: Data, dataset: Dataset, spec: PreprocessSpec = SMALL) -> Prepared:
    return prepare(dataset, spec, data.division, cache_folder=data.cache)


def ask(path: Path, **more: Any) -> Data:
    return Data(path=path, cache=path.parent / "cache", **more)


def colours(found: Prepared) -> dict[str, int]:
    """The first sample of each image's pixels as they are in the cache."""
    pixels = found.pixels(np.arange(len(found.ids)))
    return {name: int(pixels[i, 0, 0, 0]) for i, name in enumerate(found.ids)}


def chexpert(root: Path) -> Path:
    """The small edition: paths begin with the folder that the tables lie in."""
    folder = root / "CheXpert-v1.0-small"
    for side, count in (("train", 12), ("valid", 4)):
        rows = []
        for i in range(count):
            patient = i // 2 + 1 if side == "train" else 64541 + i
            name = f"{side}/patient{patient:05d}/study1/view{i % 2 + 1}_{'frontal' if i % 2 == 0 else 'lateral'}.jpg"
            picture(folder / name, 10 * i)
            some = ["1.0", "0.0", "-1.0", ""]
            findings = ["" for _ in range(14)]
            findings[2], findings[5] = some[i % 4], some[(i + 1) % 4] if side == "train" else "0.0"
            findings[6], findings[8], findings[10] = some[i % 2], some[1 - i % 2], some[i // 2 % 2]
            view = "Frontal,AP" if i % 2 == 0 else "Lateral,"
            rows.append(f"{folder.name}/{name},Female,{60 + i},{view},{','.join(findings)}\n")
        (folder / f"{side}.csv").write_text(CHEXPERT + "".join(rows))
    return folder / "train.csv"


def test_chexpert(tmp_path: Path) -> None:
    table = chexpert(tmp_path)
    data = ask(
        table,
        task="multilabel",
        path_template="../{}",
        label_columns=COMPETITION,
        patient_pattern=r"(patient\d+)",
        test_data=table.with_name("valid.csv"),
    )
    dataset = dataset_of(data)
    assert dataset.classes == tuple(COMPETITION.split(","))
    first, second, third = dataset.items[:3]
    assert (first.id, first.patient, first.split) == (
        "train/patient00001/study1/view1_frontal.jpg",
        "patient00001",
        "train",
    )
    assert (first.label, second.label) == ((1, 0, 1, 0, 1), (0, UNKNOWN, 0, 1, 1))
    assert third.label == (UNKNOWN, UNKNOWN, 1, 0, 0)
    assert [item.id for item in dataset.items if item.split == "test"] == [
        f"valid/patient{64541 + i}/study1/view{i % 2 + 1}_{'lateral' if i % 2 else 'frontal'}.jpg" for i in range(4)
    ]
    assert dataset.reading.notes[-1] == "test side from valid.csv: 4 images"
    found = prepared(data, dataset)
    assert sorted(set(found.sides.tolist())) == ["test", "train", "val"]
    assert {found.patients[i] for i in found.indices("val")}.isdisjoint(
        found.patients[i] for i in found.indices("train")
    )
    assert colours(found)["train/patient00002/study1/view1_frontal.jpg"] == 20


def test_chexpert_without_its_validation_set_is_divided_by_patient_and_finds_its_labels(tmp_path: Path) -> None:
    data = ask(chexpert(tmp_path), task="multilabel", path_template="../{}", patient_pattern=r"(patient\d+)")
    with pytest.raises(BadInputError, match="class 'No Finding' has no images"):
        dataset_of(data.model_copy(update={"label_columns": ("No Finding", "Edema")}))
    dataset = dataset_of(data)
    assert dataset.classes == ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
    assert {item.split for item in dataset.items} == {None}
    assert len({item.patient for item in dataset.items}) == 6


def chest14(root: Path) -> Path:
    """Two of the twelve folders, the header with its stray cells, and the list of test images."""
    folder = root / "ChestX-ray14"
    rows, tested = [], []
    words = ["Cardiomegaly", "No Finding", "Hernia|Infiltration", "Cardiomegaly|Infiltration"]
    for i in range(24):
        name = f"{i // 2 + 1:08d}_{i % 2:03d}.png"
        picture(folder / f"images_{i // 12 + 1:03d}" / "images" / name, i)
        rows.append(f"{name},{words[i // 2 % 4]},{i % 2},{i // 2 + 1},058Y,M,PA,2682,2749,0.143,0.143,\n")
        tested += [name] if i >= 16 else []
    (folder / "Data_Entry_2017.csv").write_text(CHEST14 + "".join(rows))
    (folder / "test_list.txt").write_text("\n".join(tested))
    return folder / "Data_Entry_2017.csv"


def test_chestxray14(tmp_path: Path) -> None:
    table = chest14(tmp_path)
    data = ask(
        table,
        task="multilabel",
        path_column="Image Index",
        label_column="Finding Labels",
        path_template="images_*/images/{}",
        test_data=table.with_name("test_list.txt"),
    )
    dataset = dataset_of(data)
    assert dataset.classes == ("Cardiomegaly", "Hernia", "Infiltration")
    assert dataset.reading.columns == {"path": "Image Index", "label": "Finding Labels", "patient": "Patient ID"}
    by_name = {item.id: item for item in dataset.items}
    assert by_name["images_001/images/00000001_001.png"].label == (1, 0, 0)
    assert by_name["images_001/images/00000002_000.png"].label == (0, 0, 0)
    assert by_name["images_002/images/00000007_000.png"].label == (0, 1, 1)
    assert by_name["images_002/images/00000012_001.png"].patient == "12"
    assert sum(item.split == "test" for item in dataset.items) == 8
    assert "no label where the data says No Finding (6)" in dataset.reading.notes
    found = prepared(data, dataset)
    assert colours(found)["images_002/images/00000012_001.png"] == 23
    assert [found.ids[i][-16:] for i in found.indices("test")] == [
        f"{i // 2 + 1:08d}_{i % 2:03d}.png" for i in range(16, 24)
    ]


def aptos(root: Path) -> Path:
    folder = root / "aptos2019"
    ids = [f"{i:012x}" for i in range(70)]
    for i, name in enumerate(ids):
        picture(folder / "train_images" / f"{name}.png", i, "RGB")
    (folder / "train.csv").write_text(
        "id_code,diagnosis\n" + "".join(f"{name},{i % 5}\n" for i, name in enumerate(ids))
    )
    return folder / "train.csv"


def test_aptos(tmp_path: Path) -> None:
    data = ask(
        aptos(tmp_path),
        task="ordinal",
        path_column="id_code",
        label_column="diagnosis",
        path_template="train_images/{}.png",
        split="70/15/15",
        positive_from="3",
    )
    dataset = dataset_of(data)
    assert dataset.classes == ("0", "1", "2", "3", "4")
    assert dataset.items[7].id == "train_images/000000000007.png"
    assert dataset.labels.tolist() == [i % 5 for i in range(70)]
    assert dataset.reading.notes == ("images at train_images/{}.png",)
    found = prepared(data, dataset)
    assert colours(found)["train_images/00000000001d.png"] == 29
    assert [len(found.indices(side)) for side in ("train", "val", "test")] == [50, 10, 10]


ISIC = "MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"


def isic(root: Path, columns: str = ISIC, used: int = 8, name: str = "ISIC_2019_Training") -> Path:
    folder = root / "isic"
    rows = []
    width = len(columns.split(","))
    for i in range(10 * used):
        image = f"ISIC_{i:07d}{'_downsampled' if i % 7 == 0 else ''}"
        picture(folder / f"{name}_Input" / f"{image}.jpg", 3 * i)
        rows.append(f"{image},{','.join('1.0' if k == i % used else '0.0' for k in range(width))}\n")
    (folder / f"{name}_GroundTruth.csv").write_text(f"image,{columns}\n" + "".join(rows))
    return folder / f"{name}_GroundTruth.csv"


def test_isic_2019(tmp_path: Path) -> None:
    data = ask(
        isic(tmp_path),
        path_column="image",
        path_template="ISIC_2019_Training_Input/{}.jpg",
        label_columns="MEL,NV,BCC,AK,BKL,DF,VASC,SCC",
    )
    dataset = dataset_of(data)
    assert dataset.classes == ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
    assert dataset.labels.tolist() == [i % 8 for i in range(80)]
    assert dataset.items[7].id == "ISIC_2019_Training_Input/ISIC_0000007_downsampled.jpg"
    assert dataset.reading.unused == ("UNK",)
    assert dataset.reading.notes[0] == "labels from the columns MEL, NV, BCC, AK, BKL, DF, VASC, SCC"
    found = prepared(data, dataset)
    assert len(found.indices("test")) == 16
    assert found.words[:2] == ["MEL", "NV"]


def test_isic_2018_task_3(tmp_path: Path) -> None:
    columns = "MEL,NV,BCC,AKIEC,BKL,DF,VASC"
    table = isic(tmp_path, columns, 7, "ISIC2018_Task3_Training")
    data = ask(table, path_column="image", path_template="ISIC2018_Task3_Training_Input/{}.jpg", label_columns=columns)
    dataset = dataset_of(data)
    assert dataset.counts == dict.fromkeys(columns.split(","), 10)
    assert len(prepared(data, dataset).ids) == 70


def test_images_of_no_named_column_are_told_and_can_be_left_out(tmp_path: Path) -> None:
    table = isic(tmp_path)
    table.write_text(table.read_text() + "ISIC_0000001,0,0,0,0,0,0,0,0,1\n".replace("0000001", "0000099"))
    picture(tmp_path / "isic" / "ISIC_2019_Training_Input" / "ISIC_0000099.jpg", 9)
    data = ask(
        table,
        path_column="image",
        path_template="ISIC_2019_Training_Input/{}.jpg",
        label_columns="MEL,NV,BCC,AK,BKL,DF,VASC,SCC",
    )
    with pytest.raises(BadInputError, match=r"GroundTruth.csv:82: none of MEL, NV, BCC, .* is 1; name the column"):
        dataset_of(data)
    whole = data.model_copy(update={"label_columns": tuple(ISIC.split(","))})
    assert dataset_of(whole).classes[-1] == "UNK"
    fewer = whole.model_copy(update={"classes": ("MEL", "NV"), "ignore_other_labels": True})
    assert dataset_of(fewer).counts == {"MEL": 10, "NV": 10}
    assert dataset_of(fewer).reading.left_out["UNK"] == 1


def camelyon(folder: Path, compression: str | None = "gzip") -> Path:
    h5py = pytest.importorskip("h5py")
    folder.mkdir(parents=True)
    for side, count in (("train", 12), ("valid", 4), ("test", 6)):
        start = folder / f"camelyonpatch_level_2_split_{side}"
        x = np.zeros((count, 96, 96, 3), np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None] * 10
        y = (np.arange(count) % 2).astype(np.uint8).reshape(count, 1, 1, 1)
        chunks = None if compression is None else (min(5, count), 96, 96, 3)
        with h5py.File(f"{start}_x.h5", "w") as file:
            file.create_dataset("x", data=x, compression=compression, chunks=chunks)
        with h5py.File(f"{start}_y.h5", "w") as file:
            file.create_dataset("y", data=y)
        rows = (f"{i},{i},{i},False,False,camelyon16_{side}_normal_{i // 2:03d}\n" for i in range(count))
        Path(f"{start}_meta.csv").write_text(",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi\n" + "".join(rows))
    return folder


@pytest.mark.parametrize("compression", ["gzip", None])
def test_patchcamelyon(tmp_path: Path, compression: str | None) -> None:
    data = ask(camelyon(tmp_path / "pcam", compression), classes=("normal", "tumour"), patient_column="wsi")
    dataset = dataset_of(data)
    assert [(item.id, item.label, item.split) for item in dataset.items[11:14]] == [
        ("train/00011", 1, "train"),
        ("val/00000", 0, "val"),
        ("val/00001", 1, "val"),
    ]
    assert dataset.items[3].patient == "camelyon16_train_normal_001"
    assert dataset.reading.columns == {"patient": "wsi"}
    assert dataset.counts == {"normal": 11, "tumour": 11}
    found = prepared(data, dataset)
    assert colours(found)["train/00007"] == 70
    assert colours(found)["test/00005"] == 50
    assert [len(found.indices(side)) for side in ("train", "val", "test")] == [12, 4, 6]


def medmnist(path: Path, shape: tuple[int, ...], labels: int = 1) -> Path:
    numbers = np.random.default_rng(0)
    arrays = {}
    for side, count in (("train", 20), ("val", 10), ("test", 10)):
        arrays[f"{side}_images"] = numbers.integers(0, 256, (count, *shape), np.uint8)
        marks = np.arange(count * labels).reshape(count, labels) // 2 % 2
        arrays[f"{side}_labels"] = marks.astype(np.uint8)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path


def test_medmnist_in_two_dimensions(tmp_path: Path) -> None:
    for name, shape in (("pneumoniamnist", (28, 28)), ("pathmnist", (28, 28, 3))):
        data = ask(medmnist(tmp_path / f"{name}.npz", shape), classes=("normal", "pneumonia"))
        found = prepared(data, dataset_of(data))
        assert [len(found.indices(side)) for side in ("train", "val", "test")] == [20, 10, 10]
        assert found.labels[:4].tolist() == [0, 0, 1, 1]


def test_medmnists_chest_set_has_several_labels(tmp_path: Path) -> None:
    data = ask(medmnist(tmp_path / "chestmnist.npz", (28, 28), 14), task="multilabel")
    dataset = dataset_of(data)
    assert dataset.classes == tuple(map(str, range(14)))
    assert dataset.items[1].label == (1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1)
    assert len(prepared(data, dataset).indices("test")) == 10


def bimcv(root: Path) -> Path:
    """BIDS: a folder for each subject and session, 16-bit images, and the authors' table."""
    rows = []
    for i in range(20):
        name = f"sub-S{i // 2:05d}/ses-E{i:05d}/mod-rx/sub-S{i // 2:05d}_ses-E{i:05d}_run-1_bp-chest_vp-pa_cr.png"
        picture(root / name, i + 1, "I;16")
        rows.append(f"{name},{'positive' if i // 2 % 2 else 'negative'}\n")
    (root / "bimcv.csv").write_text("path,label\n" + "".join(rows))
    return root / "bimcv.csv"


def test_bimcv(tmp_path: Path) -> None:
    data = ask(bimcv(tmp_path), patient_pattern="(sub-S[0-9]+)")
    dataset = dataset_of(data)
    assert dataset.counts == {"negative": 10, "positive": 10}
    assert len({item.patient for item in dataset.items}) == 10
    found = prepared(data, dataset)
    first = "sub-S00001/ses-E00003/mod-rx/sub-S00001_ses-E00003_run-1_bp-chest_vp-pa_cr.png"
    assert colours(found)[first] == 4


@pytest.mark.parametrize("shape", [(28, 28, 28), (64, 64, 64)])
def test_medmnist_in_three_dimensions(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Read by a backbone of volumes; another says so in one line."""
    data = ask(medmnist(tmp_path / "organmnist3d.npz", shape))
    assert {item.source.pixels(VOLUMES).shape for item in dataset_of(data, "volume").items} == {
        VOLUMES.input.array_shape
    }
    with pytest.raises(BadInputError, match=r"organmnist3d.npz: .*volumes"):
        dataset_of(data)


README = Path(__file__).parents[2] / "README.md"


def said_in_readme() -> list[str]:
    """What README's table gives to `train`, one for each set."""
    table = README.read_text().split("## Data sets as they are published")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    return [words for row in rows for words in re.findall("`(.+?)`", row.split(" | ")[1].split(" (")[0])]


MADE: dict[str, Callable[[Path], Path]] = {
    "CheXpert-v1.0-small/train.csv": chexpert,
    "ChestX-ray14/Data_Entry_2017.csv": chest14,
    "aptos2019/train.csv": aptos,
    "isic/ISIC_2019_Training_GroundTruth.csv": isic,
    "isic/ISIC2018_Task3_Training_GroundTruth.csv": lambda root: isic(
        root, "MEL,NV,BCC,AKIEC,BKL,DF,VASC", 7, "ISIC2018_Task3_Training"
    ),
    "pcam": lambda root: camelyon(root / "pcam"),
    "pathmnist.npz": lambda root: medmnist(root / "pathmnist.npz", (28, 28, 3)),
    "chestmnist.npz": lambda root: medmnist(root / "chestmnist.npz", (28, 28), 14),
    "organmnist3d.npz": lambda root: medmnist(root / "organmnist3d.npz", (28, 28, 28)),
    "bimcv.csv": bimcv,
}


def test_readme_has_a_line_for_each_set() -> None:
    assert [words.split()[0] for words in said_in_readme()] == list(MADE)


@pytest.mark.parametrize("words", said_in_readme(), ids=lambda words: words.split()[0])
def test_the_words_of_readme_read_and_divide_each_set(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MADE[words.split()[0]](tmp_path)
    asked: list[tuple[Data, str]] = []

    def taken(data: Data, model: Model, *_: object, **__: object) -> None:
        asked.append((data, kind_of(model)))
        raise BadInputError("enough")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ttl_deploy.verbs.train.train", taken)
    assert run(["train", *shlex.split(words), "--out", "run", "--cache", str(tmp_path / "cache")]) == 2
    ((data, kind),) = asked
    found = prepared(data, dataset_of(data, kind), VOLUMES if kind == "volume" else SMALL)
    assert all(len(found.indices(side)) for side in ("train", "val", "test"))
