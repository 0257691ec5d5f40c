"""An image whose decoder is not installed is one that cannot be read: passed over where that was asked, and told."""

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from undecoded import hide_decoders

from ttl_deploy.artifact import Artifact
from ttl_deploy.cli.main import run
from ttl_deploy.data.cache import PixelCache
from ttl_deploy.data.items import FileSource, Item
from ttl_deploy.errors import MissingDependencyError, UndecodedImageError, UnreadableImageError
from ttl_deploy.spec import PreprocessSpec

SPEC = PreprocessSpec(image_size=8)


@pytest.fixture
def mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pictures around two files of each of two compressions that nothing decodes."""
    hide_decoders(monkeypatch)
    archive, folder = Path(str(pydicom.__file__)).parent / "data" / "test_files", tmp_path / "mixed"
    folder.mkdir()
    for number, name in enumerate(("JPEG-lossy", "JPEG-lossy", "MR_small_jpeg_ls_lossless")):
        (folder / f"b{number}.dcm").write_bytes((archive / f"{name}.dcm").read_bytes())
    for name in "ac":
        Image.fromarray(np.full((8, 8), ord(name), np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.mark.parametrize("out", [False, True])
def test_they_are_passed_over_counted_and_the_packages_told_at_the_end(
    artifact: Artifact, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], out: bool
) -> None:
    arguments = ["predict", str(artifact.folder), str(mixed), "--skip-unreadable"]
    assert run([*arguments, *(("--out", str(tmp_path / "out.csv")) if out else ("--format", "csv"))]) == 0
    shown = capsys.readouterr()
    rows = (tmp_path / "out.csv").read_text() if out else shown.out
    assert [Path(row.split(",")[0]).name for row in rows.splitlines()[1:]] == ["a.png", "c.png"]
    told = "warning: 3 of 3 unreadable images lack only a decoder: pip install pyjpegls pylibjpeg pylibjpeg-libjpeg"
    said = shown.err.splitlines()
    assert told in said[-2:]
    assert sum("which nothing here decodes" in line for line in said) == 3
    if out:
        assert said[-1].endswith("2 written, 0 were there, 3 unreadable")


def test_without_the_option_the_first_ends_the_command_with_its_way_out(
    artifact: Artifact, mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["predict", str(artifact.folder), str(mixed)]) == 2
    assert "pip install pylibjpeg pylibjpeg-libjpeg, or decompress the file" in capsys.readouterr().err


def test_the_cache_of_training_passes_them_over_too(mixed: Path, tmp_path: Path) -> None:
    items = [Item(path.name, 0, None, None, FileSource(path)) for path in sorted(mixed.iterdir())]
    cache = PixelCache(tmp_path / "cache", SPEC)
    found = cache.ensure(items, skip_unreadable=True)
    assert [items[i].id for i in found.kept] == ["a.png", "c.png"]
    assert found.unreadable[0].endswith("which nothing here decodes (pip install pylibjpeg pylibjpeg-libjpeg)")
    with pytest.raises(UnreadableImageError, match=r"3 of 5 images cannot be read: .*pip install pyjpegls"):
        cache.ensure(items, skip_unreadable=False)


def test_it_is_both_kinds_of_error_and_crosses_processes() -> None:
    error = UndecodedImageError("is odd", where="a.dcm", packages="x y")
    again: UndecodedImageError = pickle.loads(pickle.dumps(error))
    assert issubclass(UndecodedImageError, UnreadableImageError)
    assert issubclass(UndecodedImageError, MissingDependencyError)
    assert str(again) == str(error) == "a.dcm: is odd; pip install x y, or decompress the file"
    assert again.packages == "x y"


def damaged_tiff() -> bytes:
    """One of which libtiff complains on stderr as it decodes."""
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "TIFF", compression="tiff_lzw")
    content = bytearray(stream.getvalue())
    content[200:1200] = b"\xff" * 1000
    return bytes(content)


def test_lines_of_libtiff_do_not_reach_stderr(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(damaged_tiff())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    plain = "import sys; from PIL import Image; Image.open(sys.argv[1]).load()"
    ours = (
        "import sys; from pathlib import Path; from ttl_deploy.inputs.image import load_pixels\n"
        "from ttl_deploy.spec import PreprocessSpec; from ttl_deploy.errors import UnreadableImageError\n"
        "try: load_pixels(Path(sys.argv[1]), PreprocessSpec(image_size=8))\n"
        "except UnreadableImageError: print('told')"
    )
    before, after = (
        subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, env=environment, check=False
        )
        for code in (plain, ours)
    )
    assert not before.stderr.startswith("Traceback"), "libtiff must complain for this test to say something"
    assert (after.stdout, after.stderr) == ("told\n", "")
