"""Another package adds one of each through entry points, and the command line uses them; nothing here is edited for it.

The package is a folder on the path with its metadata, as pip would leave it. CONTRIBUTING.md names what it holds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

ENTRY_POINTS = """
[ttl_deploy.backbones]
pocket = pocket.backbone

[ttl_deploy.methods]
pinned = pocket.method

[ttl_deploy.methods.options]
pinned = pocket.options:PinnedOptions

[ttl_deploy.inits]
flat = pocket.init

[ttl_deploy.exporters]
rounded = pocket.format

[ttl_deploy.exporters.options]
rounded = pocket.options:RoundedOptions

[ttl_deploy.runtimes]
pocket-torch = pocket.runtime

[ttl_deploy.tasks]
cautious = pocket.task

[ttl_deploy.losses]
cautious = pocket.loss

[ttl_deploy.analyses]
norms = pocket.analysis

[ttl_deploy.loggers]
diary = pocket.diary

[ttl_deploy.strategies]
lowest = pocket.strategy

[ttl_deploy.strategies.options]
lowest = pocket.options:LowestOptions
"""

FILES = {
    "__init__.py": "",
    "options.py": """
from typing import Annotated

from pydantic import Field

from ttl_deploy.spec.options import Options


class PinnedOptions(Options):
    pinned_units: Annotated[int, Field(ge=0, description="Units at the bottom that stay as they are.")] = 1


class RoundedOptions(Options):
    digits: Annotated[int, Field(ge=1, description="Decimal digits of a weight.")] = 7


class LowestOptions(Options):
    lowest: Annotated[int, Field(ge=1, description="Candidates to train, the lowest first.")] = 1
""",
    "backbone.py": """
from torch import nn

from ttl_deploy.errors import WeightsError
from ttl_deploy.zoo import BACKBONES, Backbone, Unit
from ttl_deploy.zoo.backbone import mark_block_ends


class Pocket(Backbone):
    name = "pocket"
    first_weight = "stem.0.weight"
    input_size = 32
    units = mark_block_ends([Unit("stem", 0, "stem."), Unit("one", 1, "one."), Unit("two", 2, "two.")])

    def build(self, channels=3):
        widths = {"stem": (channels, 4), "one": (4, 8), "two": (8, 8)}
        return {name: layer(*pair) for name, pair in widths.items()}

    def slim(self, unit, original, channels, factor):
        out = original[0].out_channels // factor
        return layer(channels, out), out

    def pretrained(self):
        raise WeightsError("pocket has no weights")


def layer(before, after):
    return nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU())


BACKBONES.register("pocket", Pocket())
""",
    "method.py": """
from pocket.options import PinnedOptions

from ttl_deploy.transfer import METHODS, Plan
from ttl_deploy.transfer.model import require_cut, split_at


@METHODS.add("pinned", PinnedOptions)
def plan(backbone, spec):
    options = PinnedOptions(**spec.method_options)
    kept, _dropped = split_at(backbone, require_cut(spec))
    return Plan(reused=kept, frozen=kept[: options.pinned_units])
""",
    "analysis.py": """
from ttl_deploy.analysis.analyses import ANALYSES, of_a_run
from ttl_deploy.analysis.finding import Finding, Lines, Series, Table


def look(subject):
    state = subject.trained.network_state()
    norms = {name: float(tensor.float().norm()) for name, tensor in state.items()}
    figure = Lines(tuple(norms), (Series.of("norm", norms.values()),), "L2 norm")
    return Finding("norms of the weights.", {"": Table.of(("tensor", "norm"), norms.items())}, {"": figure})


ANALYSES.register("norms", of_a_run(look))
""",
    "init.py": """
import torch

from ttl_deploy.transfer.inits import INITS, Filled, Init


def fill(part):
    with torch.no_grad():
        for tensor in part.tensors().values():
            tensor.fill_(0.5)
    return Filled(drawn=tuple(part.tensors()))


INITS.register("flat", Init(fill))
""",
    "format.py": """
from pocket.options import RoundedOptions
from safetensors.torch import save_file

from ttl_deploy.formats.exporter import EXPORTERS, Exporter, Written


class Rounded(Exporter):
    name = "rounded"
    precisions = ("fp32",)
    options = RoundedOptions

    def write(self, job, folder):
        state = {name: tensor.clone() for name, tensor in job.model.network_state().items()}
        rounded = {name: tensor.round(decimals=job.options.digits) for name, tensor in state.items()}
        save_file(rounded, folder / "model.safetensors")
        return Written("model.safetensors", {"digits": job.options.digits})


EXPORTERS.register("rounded", Rounded())
""",
    "runtime.py": """
from ttl_deploy.runtime.base import RUNTIMES, Runtime, Session, of_manifest


class PocketSession(Session):
    def __init__(self, artifact, *, threads, device):
        from safetensors.torch import load_file

        from ttl_deploy.transfer import build

        super().__init__(runtime="pocket-torch", device=device, threads=threads, **of_manifest(artifact.manifest))
        self._model = build(artifact.manifest.model).eval()
        self._model.load_network_state(load_file(artifact.model_path))

    def _run(self, batch):
        import torch

        with torch.inference_mode():
            return self._model(torch.from_numpy(batch)).numpy()


RUNTIMES.register("pocket-torch", Runtime("pocket-torch", ("rounded",), ("cpu",), lambda: None, PocketSession))
""",
    "task.py": """
import numpy as np

from ttl_deploy.tasks import TASKS, Multiclass


@TASKS.add("cautious")
class Cautious(Multiclass):
    KIND = "cautious"

    def decide(self, probabilities):
        return np.asarray(probabilities[:, 1] >= 0.02, dtype=np.int64)

    def decide_by_logits(self, logits):
        return self.decide(self.probabilities(logits))
""",
    "loss.py": """
from torch import nn

from ttl_deploy.training.losses import LOSSES, Loss

LOSSES.register("cautious", Loss(lambda task, labels: nn.MultiMarginLoss()))
""",
    "diary.py": """
from ttl_deploy.training.loggers import LOGGERS, Log, Logger


class Diary(Log):
    def __init__(self, entry):
        self._path = entry.folder / "diary.txt"

    def update(self, rows):
        self._path.write_text("".join(f"{row['epoch']}: {row['train_loss']}\\n" for row in rows))


LOGGERS.register("diary", Logger(Diary))
""",
    "strategy.py": """
from pocket.options import LowestOptions

from ttl_deploy.cut_search.strategies import STRATEGIES


@STRATEGIES.add("lowest", LowestOptions)
def lowest(state):
    options = LowestOptions(**state.options.strategy_options)
    return state.evaluate(state.allowed[: options.lowest], state.full)
""",
}

TRAIN = ("--backbone", "pocket", "--weights", "random", "--image-size", "32", "--batch-size", "16", "--epochs", "1")


PROGRAM = """
import contextlib, importlib, io, json, os, sys

for name in sys.argv[1:]:
    importlib.import_module(name)
for line in sys.stdin:
    if os.fork() == 0:
        from ttl_deploy.cli.main import run
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(json.loads(line))
        print(json.dumps([code, out.getvalue() + err.getvalue()]), flush=True)
        os._exit(0)
    os.wait()
"""

HEAVY = ("torch", "torchvision", "lightning_fabric", "ptflops")
"""What a command waits for; nothing of ours, so that each looks for the package itself."""


class Outside:
    """The program in processes of their own, which find the package; each is forked from one that has imported `heavy`.

    To import PyTorch for each takes longer than all that the commands do.
    """

    def __init__(self, site: Path, cache: Path, heavy: tuple[str, ...] = ()) -> None:
        self.site = site
        self._cache = ("--cache", str(cache))
        path = os.pathsep.join([str(site), *filter(None, sys.path)])
        environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", PROGRAM, *heavy]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_reason: object) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()

    def run(self, *arguments: str, code: int = 0) -> str:
        """Runs a command; what it printed, on both streams."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        ended, said = json.loads(self._process.stdout.readline())
        assert ended == code, said
        return str(said)

    def made(self, *arguments: str, **how: int) -> str:
        """Runs a command that reads images."""
        return self.run(*arguments, *self._cache, **how)


def install(site: Path, files: dict[str, str], entry_points: str) -> None:
    for name, text in files.items():
        (site / "pocket").mkdir(parents=True, exist_ok=True)
        (site / "pocket" / name).write_text(text)
    metadata = site / "pocket-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: pocket\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entry_points)


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory, pixel_cache: Path) -> Iterator[Outside]:
    site = tmp_path_factory.mktemp("site")
    install(site, FILES, ENTRY_POINTS)
    with Outside(site, pixel_cache, HEAVY) as program:
        yield program


@pytest.fixture(scope="module")
def trained_outside(outside: Outside, synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("outside") / "run"
    how = ("--method", "pinned", "--pinned-units", "2", "--cut", "two", "--out", str(run), "--json", "--log", "diary")
    outside.made("train", str(synthetic), *TRAIN, *how)
    return run


def test_a_training_is_told_as_another_package_does_it(trained_outside: Path) -> None:
    (row,) = map(json.loads, (trained_outside / "history.jsonl").read_text().splitlines())
    assert (trained_outside / "diary.txt").read_text() == f"1: {row['train_loss']}\n"


@pytest.mark.parametrize(
    ("command", "panel", "option"),
    [
        ("train", "Method pinned", "--pinned-units"),
        ("search", "Method pinned", "--pinned-units"),
        ("search", "Strategy lowest", "--lowest"),
        ("export", "Format rounded", "--digits"),
    ],
)
def test_help_shows_the_options_of_another_package(command: str, panel: str, option: str, outside: Outside) -> None:
    shown = outside.run(command, "--help")
    assert option in shown.partition(f"─ {panel} ─")[2].partition("╰")[0]


def test_help_imports_the_records_of_another_package_and_no_torch(outside: Outside) -> None:
    code = (
        "import sys\nfrom ttl_deploy.cli.main import run\n"
        "for command in ('train', 'search', 'export'): assert run([command, '--help']) == 0\n"
        "print({'torch', 'numpy', 'onnx', 'pocket.method', 'pocket.format'} & set(sys.modules), file=sys.stderr)\n"
    )
    path = os.pathsep.join([str(outside.site), *filter(None, sys.path)])
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stderr.strip() == "set()"


def test_doctor_asks_the_format_and_the_runtime_of_another_package(outside: Outside) -> None:
    found = json.loads(outside.run("doctor", "--json"))
    assert "rounded" in {format["name"] for format in found["formats"]}
    assert "pocket-torch" in {runtime["name"] for runtime in found["runtimes"]}


def test_a_run_an_artifact_and_predictions_come_of_what_another_package_adds(
    outside: Outside, trained_outside: Path, synthetic: Path, tmp_path: Path
) -> None:
    config = (trained_outside / "config.yaml").read_text()
    assert "method_options:\n    pinned_units: 2\n" in config
    artifact = tmp_path / "artifact"
    outside.made("export", str(trained_outside), "--format", "rounded", "--digits", "6", "--out", str(artifact))
    manifest = json.loads((artifact / "manifest.json").read_text())
    assert (manifest["format"], manifest["details"]["digits"]) == ("rounded", 6)
    assert manifest["model"]["method_options"] == {"pinned_units": 2}
    assert manifest["parity"]["verdict"] in ("pass", "inconclusive")
    with_it = (str(artifact), "--runtime", "pocket-torch", "--trust")
    outside.made("verify", *with_it, "--against", str(trained_outside), "--allow-inconclusive")
    outside.run("predict", *with_it, str(synthetic), "--out", str(tmp_path / "rows.csv"))
    assert len((tmp_path / "rows.csv").read_text().splitlines()) > 60


def test_a_run_of_another_packages_method_is_repeated_by_its_configuration(
    outside: Outside, trained_outside: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    outside.made("train", "--config", str(trained_outside / "config.yaml"), "--out", str(again), "--json")
    assert (again / "config.yaml").read_text() == (trained_outside / "config.yaml").read_text()


def test_a_run_starts_as_another_package_says(outside: Outside, synthetic: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    how = ("--method", "ttl", "--cut", "one", "--init", "flat:stem+random", "--out", str(run), "--json")
    outside.made("train", str(synthetic), *TRAIN, *how)
    assert "init: flat:stem+random\n" in (run / "config.yaml").read_text()
    assert json.loads((run / "metrics.json").read_text())["weights"].endswith("flat:stem+random: 2 tensors drawn")


def test_a_run_is_looked_at_as_another_package_says(outside: Outside, trained_outside: Path, tmp_path: Path) -> None:
    outside.run("analyze", str(trained_outside), "--what", "norms,drift", "--out", str(tmp_path / "a"))
    assert {path.name for path in (tmp_path / "a").glob("*.png")} == {"norms.png", "drift.png"}
    assert "norms of the weights." in (tmp_path / "a" / "analysis.md").read_text()


def test_a_search_follows_the_strategy_of_another_package(outside: Outside, synthetic: Path, tmp_path: Path) -> None:
    how = ("--strategy", "lowest", "--lowest", "2", "--method", "pinned", "--pinned-units", "1", "--no-latency")
    outside.made("search", str(synthetic), *TRAIN, *how, "--divisions", "1", "--out", str(tmp_path / "s"), "--json")
    plan = json.loads((tmp_path / "s" / "search.json").read_text())
    assert plan["options"]["strategy_options"] == {"lowest": 2}
    assert {path.name for path in (tmp_path / "s" / "trials").iterdir()} == {"stem", "one"}
    assert "method_options:\n    pinned_units: 1\n" in (tmp_path / "s" / "winner" / "config.yaml").read_text()


def test_a_task_of_another_package_decides_from_training_to_prediction(
    outside: Outside, synthetic: Path, tmp_path: Path
) -> None:
    """With its own loss, whose value for logits that say nothing is 0.5 and not log 2."""
    run, rows = tmp_path / "run", tmp_path / "rows.csv"
    how = ("--method", "ttl", "--cut", "one", "--task", "cautious", "--out", str(run), "--json")
    outside.made("train", str(synthetic), *TRAIN, *how)
    assert "task:\n    kind: cautious\n" in (run / "config.yaml").read_text()
    assert json.loads((run / "history.jsonl").read_text())["train_loss"] == pytest.approx(0.5, abs=0.1)
    outside.made("export", str(run))
    outside.run("predict", str(run / "onnx-fp32"), str(synthetic), "--out", str(rows))
    assert {line.split(",")[1] for line in rows.read_text().splitlines()[1:]} == {"lesion"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("train", "--method", "ttl", "--pinned-units", "2"),
            "--pinned-units is pinned's, not ttl's; leave it out, or",
        ),
        (("train", "--method", "pinned", "--slim", "2"), "--slim is TransFusion's, not pinned's"),
        (
            ("train", "--method", "pinned", "--pinned-units", "-1"),
            "method pinned: pinned_units: Input should be greater",
        ),
        (("search", "--lowest", "2"), "--lowest is lowest's, not auto's"),
        (("search", "--strategy", "lowest", "--eta", "3"), "--eta is halving's, not lowest's"),
        (("search", "--strategy", "lowest", "--lowest", "0"), "strategy lowest: lowest: Input should be greater"),
    ],
)
def test_an_option_of_another_owner_and_a_value_out_of_range_are_one_line(
    arguments: tuple[str, ...], said: str, outside: Outside, synthetic: Path, tmp_path: Path
) -> None:
    command, *options = arguments
    cut = ("--cut", "two") if command == "train" else ()
    out = tmp_path / "out"
    shown = outside.run(command, str(synthetic), *TRAIN, *cut, *options, "--out", str(out), code=2)
    assert said in shown.splitlines()[-1]
    assert not out.exists()


def test_a_package_that_registers_no_record_of_its_own_is_imported_for_its_options(tmp_path: Path) -> None:
    lines = ENTRY_POINTS.replace("[ttl_deploy.methods.options]\npinned = pocket.options:PinnedOptions\n", "")
    install(tmp_path, FILES, lines)
    with Outside(tmp_path, tmp_path) as outside:
        assert "--pinned-units" in outside.run("train", "--help")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("options.py", "import nowhere\n", "an entry point of ttl_deploy.methods.options, cannot be imported"),
        ("options.py", "PinnedOptions = 7\n", "entry point 'pinned' of ttl_deploy.methods.options: 7 is no record"),
    ],
)
def test_a_package_that_is_broken_is_named_in_one_line(name: str, text: str, said: str, tmp_path: Path) -> None:
    install(tmp_path, {**FILES, name: text}, ENTRY_POINTS)
    with Outside(tmp_path, tmp_path) as outside:
        shown = outside.run("train", "--help", code=2)
    assert said in shown
    assert shown.count("\n") == 1


def test_a_record_that_only_its_entry_point_names_is_known_in_python_too(tmp_path: Path) -> None:
    method = FILES["method.py"].replace('@METHODS.add("pinned", PinnedOptions)', '@METHODS.add("pinned")')
    install(tmp_path, {**FILES, "method.py": method}, ENTRY_POINTS)
    code = (
        "from ttl_deploy.spec import ModelSpec\nfrom ttl_deploy.transfer import build\n"
        "spec = ModelSpec(backbone='pocket', method='pinned', cut='two', classes=('a', 'b'), image_size=32)\n"
        "print(build(spec).spec.method_options, [unit.name for unit in build(spec).plan.frozen])\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "{'pinned_units': 1} ['stem']"
