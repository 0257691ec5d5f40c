"""What `predict` is given becomes a stream: lazily, each image once, in constant memory."""

import glob
import io
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ttl_deploy.cli import main
from ttl_deploy.errors import BadInputError
from ttl_deploy.inputs.image_kinds import is_image
from ttl_deploy.prediction import sources as image_sources
from ttl_deploy.prediction.sources import ImageSources


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images two folders deep, and what is none; the test stands in the folder."""
    for name in ("a.png", "b.PNG", "sub/c.jpg", "sub/deep/d.dcm", "sub2/e.png", ".f.png", ".g/h.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*sources: str | Path) -> list[str]:
    return [image.path for image in ImageSources([str(source) for source in sources])]


def test_a_folder_is_searched_to_the_bottom_in_order(tree: Path) -> None:
    names = ["a.png", "b.PNG", "sub/c.jpg", "sub/deep/d.dcm", "sub2/e.png"]
    assert found(".") == names
    assert found(tree) == [str(tree / name) for name in names]


@pytest.mark.parametrize(
    "pattern", ["*.png", "sub*/*", "**/*.png", "*/deep/*", "sub/**/*.dcm", "**/d.dcm", "s*b/**/*", "[ab].*", "*/?.jpg"]
)
def test_patterns_find_what_pythons_glob_finds(tree: Path, pattern: str) -> None:
    for form in (pattern, str(tree / pattern), "./" + pattern):
        every = glob.glob(form, recursive=True)  # noqa: PTH207 - the independent source of this test
        wanted = {os.path.normpath(path) for path in every if Path(path).is_file()}
        assert set(found(form)) == wanted
        assert len(found(form)) == len(wanted)


def test_each_image_comes_once(tree: Path) -> None:
    assert found("a.png", ".", "*.png", "sub", "a.png") == [
        "a.png",
        "b.PNG",
        "sub/c.jpg",
        "sub/deep/d.dcm",
        "sub2/e.png",
    ]
    assert found("*.png", "a.png", ".")[:1] == ["a.png"]
    assert sorted(found("sub", "sub2")) == ["sub/c.jpg", "sub/deep/d.dcm", "sub2/e.png"]


def test_a_table_names_images_relative_to_itself(tree: Path) -> None:
    (tree / "list.csv").write_text("id;path;note\nx1;sub/c.jpg;\n\nx2;a.png;again\nx3;a.png;twice\n")
    images = list(ImageSources([str(tree / "list.csv")]))
    assert [(image.id, image.path) for image in images] == [
        ("x1", str(tree / "sub/c.jpg")),
        ("x2", str(tree / "a.png")),
        ("x3", str(tree / "a.png")),
    ]
    assert ImageSources(["list.csv"]).has_ids
    assert not ImageSources(["sub"]).has_ids


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file\na.png\n", "no column path"),
        ("", "lists no images"),
        ("path\n", "no image"),
        ("path,id\na.png,\n", "list.csv:2: the id is blank"),
        ("path,id\n,1\n", "list.csv:2: the path is blank"),
        ("path,id,id\na.png,1,2\n", "the column id twice"),
        ("path\na.png,b,c\n", "3 cells"),
        ("path\n\xff\n", "UTF-8"),
        ('path\n"a.png\n', "not a table"),
    ],
)
def test_a_table_that_is_wrong_is_told(tree: Path, text: str, said: str) -> None:
    (tree / "list.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInputError, match=said):
        ImageSources(["list.csv"]).count()


def test_sources_that_are_not_there(tree: Path) -> None:
    (tree / "empty").mkdir()
    for source, said in (
        ("z.png", "no such"),
        ("*.tif", "no image matches"),
        ("empty", "no image matches"),
        ("", "no "),
    ):
        with pytest.raises(BadInputError, match=said):
            ImageSources([source]).count()


def test_a_large_folder_comes_in_the_order_of_the_disk(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorting would need all its names at once."""
    monkeypatch.setattr(image_sources, "SORTED_UP_TO", 2)
    with os.scandir(tree) as entries:
        order = [e.name for e in entries if e.name.lower().endswith(".png") and not e.name.startswith(".")]
    assert [path for path in found(".") if "/" not in path] == order
    assert sorted(found(".")) == ["a.png", "b.PNG", "sub/c.jpg", "sub/deep/d.dcm", "sub2/e.png"]


def test_nothing_is_listed_before_it_is_asked_for(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first image of the first folder comes before the second folder is opened."""
    opened: list[str] = []
    scan: Callable[[str], object] = os.scandir

    def watched(folder: str) -> object:
        opened.append(folder)
        return scan(folder)

    monkeypatch.setattr("ttl_deploy.prediction.sources.os.scandir", watched)
    stream = iter(ImageSources(["sub", "sub2"]))
    assert next(stream).path == "sub/c.jpg"
    assert opened == ["sub"]


def test_random_trees_agree_with_a_plain_walk(tmp_path: Path) -> None:
    generator = random.Random(0)
    for _ in range(60):
        parts = [generator.choice("abc") for _ in range(generator.randrange(3))]
        path = tmp_path.joinpath(*parts, generator.choice("xyz") + generator.choice([".png", ".txt", ".jpg"]))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    wanted = sorted(p for p in tmp_path.rglob("*") if p.suffix in (".png", ".jpg"))
    assert found(tmp_path) == [str(p) for p in wanted]
    assert sorted(found(tmp_path / "a", tmp_path / "**" / "*.png", tmp_path)) == sorted(map(str, wanted))


def mixed_folder(folder: Path) -> set[str]:
    """A folder as archives and media hold them; returns its images."""
    picture = io.BytesIO()
    Image.new("L", (4, 4)).save(picture, "PNG")
    jpeg = io.BytesIO()
    Image.new("L", (4, 4)).save(jpeg, "JPEG")
    part10 = bytes(128) + b"DICM" + b"\x02\0\0\0UL\x04\0" + bytes(4) + b"\x02\0\x02\0UI\x1a\0"
    images = {
        "IM0001": part10 + b"1.2.840.10008.5.1.4.1.1.2\0",
        "1.2.840.99.0": part10 + b"1.2.840.10008.5.1.4.1.1.2\0",
        "bare": b"\x08\0\x05\0CS\n\0ISO_IR 100",
        "SCAN.IMA": part10,
        "upper.DCM": b"x",
        "picture": picture.getvalue(),
        "photo.of.a.scan": jpeg.getvalue(),
        "named.png": b"x",
    }
    others = {
        "DICOMDIR": part10 + b"1.2.840.10008.1.3.10\0",
        "Thumbs.db": picture.getvalue(),
        ".DS_Store": b"x",
        ".hidden": picture.getvalue(),
        "README": b"BMI and other facts of the patients, one a line\n",
        "notes.txt": picture.getvalue(),
        "LOCKFILE": b"",
    }
    for name, content in (images | others).items():
        (folder / name).write_bytes(content)
    return set(images)


def test_images_without_an_ending_are_found_by_their_content(tmp_path: Path) -> None:
    images = mixed_folder(tmp_path)
    sources = ImageSources([str(tmp_path)])
    assert {Path(image.path).name for image in sources} == images
    assert sources.passed_over == {"without an ending": 3, ".db": 1, ".txt": 1}
    assert len(found(tmp_path, tmp_path / "IM0001", tmp_path / "*")) == len(images) + 5


def test_a_pipe_without_an_ending_is_no_image_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert not is_image(tmp_path / "pipe")


def test_a_table_of_training_images_finds_the_same(tmp_path: Path) -> None:
    from ttl_deploy.data.read_folder import read_folder

    for name in "ab":
        (tmp_path / name).mkdir()
        images = mixed_folder(tmp_path / name)
    assert {entry.id for entry in read_folder(tmp_path).entries} == {f"{c}/{name}" for c in "ab" for name in images}
    with pytest.raises(BadInputError, match=f"{len(images)} images but no class folders"):
        read_folder(tmp_path / "a")


def test_predict_tells_what_it_passes_over(tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "scan", "PNG")
    (tmp_path / "notes.txt").write_text("x")
    assert main.run(["predict", str(trained / "onnx-fp32"), str(tmp_path), "--format", "csv"]) == 0
    said = capsys.readouterr()
    assert [line.split(",")[0] for line in said.out.splitlines()[1:]] == [str(tmp_path / "scan")]
    assert "passed over, as no images: 1 .txt" in said.err


def test_linked_folders_are_followed_and_circles_end(tmp_path: Path) -> None:
    store, root = tmp_path / "store", tmp_path / "set"
    for path in (store / "p0" / "0.png", root / "1.png", root / "@eaDir" / "2.png", root / "__MACOSX" / "3.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (root / "p0").symlink_to(store / "p0")
    (root / "up").symlink_to(tmp_path)
    (root / "self").symlink_to(root)
    assert found(root) == [str(root / "1.png"), str(root / "p0" / "0.png")]


def test_a_tables_paths_without_an_ending_are_the_one_image_of_that_name(tmp_path: Path) -> None:
    for name in ("0.png", "1.png", "1.jpg"):
        (tmp_path / name).write_bytes(b"x")
    table = tmp_path / "list.csv"
    table.write_text("sep=;\npath;note\n0;a\ngone;b\n")
    assert found(table) == [str(tmp_path / "0.png"), str(tmp_path / "gone")]
    table.write_text("path\n1\n")
    with pytest.raises(BadInputError, match=r"list.csv:2: 1 may be 1.jpg or 1.png; write the ending"):
        found(table)
