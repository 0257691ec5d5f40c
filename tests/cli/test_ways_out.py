"""A way out works: no error names an option that its command does not have, a command or an extra that is not there."""

import ast
import importlib
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

import ttl_deploy
from ttl_deploy.cli.main import program
from ttl_deploy.data.columns import NAMES
from ttl_deploy.tasks import Multiclass

ROOT = Path(ttl_deploy.__file__).parent
COMMANDS: dict[str, Any] = typer.main.get_command(program()).commands  # type: ignore[attr-defined]
OPTIONS = {
    name: {o for p in c.params for o in (*p.opts, *p.secondary_opts)} | {"--help"} for name, c in COMMANDS.items()
}

RUNNING = {"export", "verify", "bench", "compare", "predict", "serve"}
CALLED_BY = {
    "ttl_deploy.artifact": {"export"},
    "ttl_deploy.cli.forms": {"train", "search"},
    "ttl_deploy.latency.worker": {"bench"},
    "ttl_deploy.data.divided": {"report", "verify", "dossier"},
    "ttl_deploy.data.image_paths": {"train", "search", "verify", "predict"},
    "ttl_deploy.data.manifest": {"train", "search"},
    "ttl_deploy.data.own_sides": {"train", "search"},
    "ttl_deploy.data.prepared": {"train", "search"},
    "ttl_deploy.formats.export_run": {"export"},
    "ttl_deploy.formats.onnx_graph": {"export"},
    "ttl_deploy.formats.quantise_auto": {"export"},
    "ttl_deploy.formats.pt2": {"export"},
    "ttl_deploy.formats.rtx_cards": {"export"},
    "ttl_deploy.formats.trt_engine": {"export"},
    "ttl_deploy.formats.trt_rtx": {"export"},
    "ttl_deploy.formats.torch_trt": {"export"},
    "ttl_deploy.files": {"train", "export", "search"},
    "ttl_deploy.papers.recipes": {"train", "search"},
    "ttl_deploy.parity.evidence": {"verify"},
    "ttl_deploy.prediction.masks": {"predict"},
    "ttl_deploy.parity.verify": {"verify"},
    "ttl_deploy.runtime.native": RUNNING - {"export"},
    "ttl_deploy.runtime.ort": RUNNING,
    "ttl_deploy.runtime.ort_trt": RUNNING,
    "ttl_deploy.runtime.torch_file": RUNNING,
    "ttl_deploy.runtime.trt_rtx": RUNNING - {"export"},
    "ttl_deploy.runtime.torch_variants": {"bench", "compare", "paper"},
    "ttl_deploy.serve.triton": {"export"},
    "ttl_deploy.spec.request": {"train", "search"},
    "ttl_deploy.spec.scenario": {"bench"},
    "ttl_deploy.spec.stream": {"predict"},
    "ttl_deploy.training.cached": {"train", "search"},
    "ttl_deploy.training.checkpoint": {"train"},
    "ttl_deploy.training.engine": {"train", "search"},
    "ttl_deploy.training.monitor": {"train", "search"},
    "ttl_deploy.training.optimizers": {"train", "search"},
    "ttl_deploy.training.plans": {"train", "search"},
    "ttl_deploy.training.run": {"train", "export", "verify"},
    "ttl_deploy.training.schedules": {"train", "search"},
    "ttl_deploy.training.series": {"train"},
    "ttl_deploy.training.train": {"train"},
    "ttl_deploy.transfer.lwft": {"train"},
    "ttl_deploy.transfer.model": {"train"},
    "ttl_deploy.transfer.tf": {"train"},
    "ttl_deploy.verbs.bench": {"bench"},
    "ttl_deploy.prediction.file": {"predict"},
    "ttl_deploy.prediction.predict": {"predict"},
    "ttl_deploy.cut_search.ray_driver": {"search", "predict"},
    "ttl_deploy.verbs.compare": {"compare"},
    "ttl_deploy.verbs.paper_times": {"paper"},
    "ttl_deploy.verbs.quickstart": {"quickstart"},
    "ttl_deploy.zoo.cbr": {"train", "search"},
    "ttl_deploy.zoo.fetch": {"train", "search"},
    "ttl_deploy.zoo.backbone": {"cuts", "train", "search"},
    "ttl_deploy.data.columns": {"train", "search"},
    "ttl_deploy.cut_search.search": {"search"},
}
"""Commands in which the errors of a module that name an option arise. A module that is not here and names one must be
reached from commands with that option alone; what imports it counts."""


@cache
def sources() -> dict[str, ast.Module]:
    found = {}
    for module in pkgutil.walk_packages([str(ROOT)], "ttl_deploy."):
        place = Path(str(module.module_finder.find_spec(module.name).origin))  # type: ignore[union-attr,call-arg]
        found[module.name] = ast.parse(place.read_text())
    return found


def imported(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & sources().keys()


@cache
def reached(module: str) -> frozenset[str]:
    seen: set[str] = set()
    left = [module]
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left += imported(sources()[name])
    return frozenset(seen)


def words_of(module: str, node: ast.expr) -> str:
    """All text in an expression, that of the module's constants too."""
    parts = []
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            parts.append(inner.value)
        elif isinstance(inner, ast.Name) and re.fullmatch(r"_?[A-Z][A-Z_]+", inner.id):
            parts.append(str(getattr(importlib.import_module(module), inner.id, "")))
    return " ".join(parts)


def ways_out() -> Iterator[tuple[str, int, str]]:
    for module, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                for keyword in node.keywords:
                    if keyword.arg == "fix":
                        yield module, node.lineno, words_of(module, keyword.value)


def test_there_are_ways_out_to_check() -> None:
    assert len(list(ways_out())) > 150
    assert len(sources()) > 150


def test_every_command_in_a_way_out_exists_and_has_the_options_beside_it() -> None:
    wrong = []
    for module, line, text in ways_out():
        for command, rest in re.findall(r"ttl-deploy (?!again)([a-z]+)([^`;]*)", text):
            options = re.findall(r"--[a-z][a-z0-9-]*", rest)
            if command not in OPTIONS or not set(options) <= OPTIONS[command]:
                wrong.append(f"{module}:{line}: ttl-deploy {command}{rest}")
    assert wrong == [], "\n".join(wrong)


def test_every_option_in_a_way_out_is_one_of_the_command_in_which_the_error_arises() -> None:
    wrong = []
    for module, line, text in ways_out():
        own = re.sub(r"`[^`]*`", "", re.sub(r"see `?ttl-deploy [a-z]+ --help`?|see ttl-deploy [a-z]+ --help", "", text))
        for option in re.findall(r"--[a-z][a-z0-9-]*[a-z0-9]", own):
            users = CALLED_BY.get(module) or {
                name for name in OPTIONS if module in reached(f"ttl_deploy.cli.commands.{name}")
            }
            lacking = sorted(name for name in users if option not in OPTIONS[name])
            if lacking or not users:
                wrong.append(f"{module}:{line}: {option} is no option of {', '.join(lacking) or 'any command'}: {text}")
    assert wrong == [], "\n".join(wrong)


def test_every_column_has_its_option() -> None:
    for command in ("train", "search"):
        assert {f"--{role}-column" for role in NAMES} <= OPTIONS[command]


def test_every_extra_that_is_named_can_be_installed() -> None:
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    named = {
        extra
        for tree in sources().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for extra in re.findall(r"ttl-deploy\[([a-z]+)\]", node.value)
    }
    assert named
    assert named <= project["optional-dependencies"].keys()


def test_what_makes_a_command_smaller_or_goes_on_with_it_exists() -> None:
    from ttl_deploy.cli import main

    for words in (main._ON_MEMORY, main._ON_INTERRUPT):
        for command, text in words.items():
            plain = re.sub(r"`ttl-deploy ([a-z]+) (--[a-z]+) RUN`", "", text)
            assert set(re.findall(r"--[a-z-]+", plain)) <= OPTIONS[command]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train", "lower --batch-size or --image-size"),
        ("export", "end other programs"),
        ("predict", "lower --batch-size"),
    ],
)
def test_a_lack_of_memory_names_only_what_the_command_has(command: str, words: str) -> None:
    from ttl_deploy.cli import main

    assert words in main._unforeseen(MemoryError(), [command, "x"])


def test_a_folder_that_is_taken_names_only_options_that_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ttl_deploy.cli.main import run
    from ttl_deploy.errors import BadInputError
    from ttl_deploy.verbs import quickstart

    (tmp_path / "something").write_text("x")
    assert run(["synthetic", str(tmp_path)]) == 2
    assert "--" not in capsys.readouterr().err
    with pytest.raises(BadInputError, match="choose another folder for --keep"), quickstart._workplace(tmp_path):
        pass


def test_images_that_cannot_be_read_name_the_option_only_where_it_is(tmp_path: Path) -> None:
    from ttl_deploy.data.manifest import read_dataset
    from ttl_deploy.data.prepared import prepare
    from ttl_deploy.errors import BadInputError
    from ttl_deploy.parity.images import prepare_items, read_items
    from ttl_deploy.spec import PreprocessSpec, SplitSpec

    for name in "ab":
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "0.png").write_bytes(b"no picture")
    spec = PreprocessSpec(image_size=16)
    with pytest.raises(BadInputError, match="--skip-unreadable"):
        prepare(read_dataset(tmp_path / "set"), spec, SplitSpec(), cache_folder=tmp_path / "cache")
    with pytest.raises(BadInputError) as told:
        data = read_items(tmp_path / "set", Multiclass(("a", "b")))
        prepare_items(data.items, data.task, spec, cache=tmp_path / "cache")
    assert "cannot be read" in str(told.value)
    assert "--" not in str(told.value)


@pytest.mark.parametrize("text", ["0,a\n1,other\n", "0,a\n1,nan\n", "0,a\n1,\n"])
def test_images_for_verify_are_refused_without_the_options_of_train(tmp_path: Path, text: str) -> None:
    from ttl_deploy.errors import BadInputError
    from ttl_deploy.parity.images import read_items

    for name in "01":
        (tmp_path / f"{name}.png").write_bytes(b"x")
    (tmp_path / "labels.csv").write_text("path,label\n" + text)
    with pytest.raises(BadInputError) as told:
        read_items(tmp_path / "labels.csv", Multiclass(("a", "b")))
    assert "labels.csv:3" in str(told.value)
    assert "--" not in str(told.value)
