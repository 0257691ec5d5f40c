"""No class or file steers the terminal on which its name is shown."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ttl_deploy.artifact import Artifact
from ttl_deploy.cli import console
from ttl_deploy.cli.main import run
from ttl_deploy.errors import TtlDeployError, printable
from ttl_deploy.spec import ModelSpec

EVIL = "\x1b[2Jgood\x07\x9b31m\u202e"
SHOWN = r"\x1b[2Jgood\x07\x9b31m\u202e"


def test_control_characters_are_spelled_out_and_nothing_else_is() -> None:
    assert printable(EVIL) == SHOWN
    assert printable("Größe \udcff 肺\n") == "Größe \udcff 肺\\n"
    assert printable("a\n\tb\r", "\n\t") == "a\n\tb\\r"


@pytest.mark.parametrize(
    "show",
    [
        console.line,
        console.error,
        lambda text: console.table(text, ["class"], [[text]]),
        lambda text: console.ConsoleReporter().info(text),
        lambda text: console.ConsoleReporter().warn(text),
        lambda text: console.error(str(TtlDeployError(text, where=text, fix=text))),
    ],
)
def test_nothing_that_is_shown_to_people_holds_any(
    show: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    show(EVIL)
    shown = capsys.readouterr()
    assert SHOWN in shown.out + shown.err
    assert not set(EVIL) & set("\x1b\x07\x9b\u202e") & set(shown.out + shown.err)


@pytest.mark.parametrize("format", ["table", "csv", "jsonl", "json"])
def test_predictions_of_a_class_called_so(
    make_artifact: Callable[..., Artifact],
    synthetic: Path,
    capsys: pytest.CaptureFixture[str],
    format: str,
    tmp_path: Path,
) -> None:
    spec = ModelSpec(backbone="tiny", classes=(EVIL, "=ill", "unclear"), image_size=8)
    artifact = make_artifact(model=spec)
    image = str(next(synthetic.glob("*/*.png")))
    assert run(["predict", str(artifact.folder), image, "--format", format]) == 0
    shown = capsys.readouterr().out
    assert not set("\x1b\x07\x9b\u202e") & set(shown)
    if format == "csv":
        assert shown.splitlines()[0] == f"image,label,{SHOWN},'=ill,unclear"
        out = tmp_path / "out.csv"
        for _ in range(2):
            assert run(["predict", str(artifact.folder), image, "--out", str(out)]) == 0
        assert out.read_text() == shown
