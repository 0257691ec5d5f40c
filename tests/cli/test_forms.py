"""Options are the fields of records: what a file says before them, and what is refused before images are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
import yaml
from safetensors.torch import load_file

from ttl_deploy.cli.main import program, run
from ttl_deploy.errors import BadInputError
from ttl_deploy.papers.recipes import with_recipe
from ttl_deploy.spec import Bounds, Data, Model, Network, Placement, Protocol, Record, Trust
from ttl_deploy.spec.request import read_request
from ttl_deploy.spec.said import said_of
from ttl_deploy.spec.search import SearchProtocol
from ttl_deploy.training.run import Run, open_run

COMMANDS = typer.main.get_command(program()).commands  # type: ignore[attr-defined]
TINY = ("--backbone", "resnet18", "--weights", "random", "--image-size", "32")


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the images were read")

    monkeypatch.setattr("ttl_deploy.data.manifest.read_dataset", fail)


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


REFUSED = [
    (("--method", "ttl", "--cut", "layer1.0", "--layers", "2"), "--layers"),
    (("--method", "ttl", "--cut", "layer1.0", "--slim", "7"), "--slim"),
    (("--method", "ttl", "--cut", "layer1.0", "--slim", "2"), "--slim is TransFusion's, not ttl's"),
    (("--method", "ttl", "--cut", "layer1.0", "--layers", "2", "--slim", "7"), "--slim is TransFusion's, not ttl's"),
    (("--method", "lwft", "--cut", "layer1.0", "--slim", "2"), "--slim is TransFusion's, not lwft's"),
    (("--cut", "layer1.0", "--crop", "centre"), "--crop"),
    (("--cut", "layer1.0", "--high-bit-depth", "foo"), "--high-bit-depth"),
    (("--cut", "layer1.0", "--channels", "20"), "--channels"),
    (("--cut", "layer1.0", "--class-weights", "balancd"), "--class-weights"),
    (("--cut", "layer1.0", "--lr", "-1"), "--learning-rate"),
    (("--cut", "layer1.0", "--split", "50/20"), "--split"),
    (("--cut", "layer1.0", "--split", "50/20/20"), "add up to"),
    (("--cut", "layer1.0", "--device", "tpu"), "unknown device 'tpu'"),
    (("--method", "tttl", "--cut", "layer1.0"), "tttl"),
]


@pytest.mark.parametrize(("options", "named"), REFUSED)
def test_a_wrong_option_is_one_line_before_images_are_read(
    options: tuple[str, ...],
    named: str,
    unread: None,
    synthetic: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["train", str(synthetic), "--out", str(tmp_path / "out"), *TINY, *options]
    assert run(arguments) == 2
    assert named in last_line(capsys)
    assert not (tmp_path / "out").exists()


def test_a_runs_config_repeats_it(
    trained: Path, pixel_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--config", str(trained / "config.yaml"), "--cache", str(pixel_cache), "--json"]
    assert run([*arguments, "--out", str(tmp_path / "again")]) == 0, capsys.readouterr().err
    first, again = open_run(trained), Run(tmp_path / "again", open_run(tmp_path / "again").config)
    assert again.config.model_dump() == first.config.model_dump()
    assert again.history() == first.history()
    ours, theirs = load_file(again.weights), load_file(first.weights)
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_a_run_of_an_earlier_version_says_its_classes_and_a_search_takes_what_is_not_the_cut(
    trained: Path, tmp_path: Path
) -> None:
    content = yaml.safe_load((trained / "config.yaml").read_text())
    del content["reading"]
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(content))
    said = read_request(file, {"data": Data, "network": Network, "protocol": SearchProtocol})
    data, network = Data(**said["data"]), Network(**said["network"])
    assert (data.classes, data.split) == (("healthy", "lesion"), (0.64, 0.16, 0.2))
    assert (network.backbone, network.weights, network.image_size) == ("resnet18", "random", 32)
    assert (SearchProtocol(**said["protocol"]).epochs, said["protocol"]["device"]) == (2, "cpu")


@pytest.mark.parametrize("task", ["ordinal", "multilabel", "segmentation"])
def test_a_run_says_its_task(trained: Path, tmp_path: Path, task: str) -> None:
    content = yaml.safe_load((trained / "config.yaml").read_text())
    content["model"]["task"] = {"kind": task} | ({"positive_from": "lesion"} if task == "ordinal" else {})
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(content))
    data = Data(**read_request(file, {"data": Data})["data"])
    assert (data.task, data.positive_from) == (task, "lesion" if task == "ordinal" else None)


def test_a_run_says_what_it_left_out_too_so_that_its_recipe_does_not(trained: Path, tmp_path: Path) -> None:
    """A recipe of SGD, and a run with Adam, which a file does not write as it is the program's default."""
    content = yaml.safe_load((trained / "config.yaml").read_text())
    assert "optim" not in content
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({**content, "recipe": "pe-ct"}))
    said = read_request(file, {"data": Data, "model": Model, "protocol": Protocol})
    data, model, protocol = with_recipe(Data(**said["data"]), Model(**said["model"]), Protocol(**said["protocol"]))
    assert (protocol.recipe, protocol.optim.name, protocol.schedule.name) == ("pe-ct", "adam", "plateau")
    assert (data.task, model.backbone, model.init) == ("multiclass", "resnet18", "weights")


def test_a_run_of_one_fold_is_no_request(trained: Path, tmp_path: Path) -> None:
    content = yaml.safe_load((trained / "config.yaml").read_text())
    content["split"] |= {"folds": 3, "fold": 1}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(BadInputError, match=r"config\.yaml: is of one fold of 3"):
        read_request(file, {"data": Data})


def test_options_win_over_a_file_and_a_file_over_defaults(
    synthetic: Path, pixel_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {
        "data": {"path": str(synthetic / "labels.csv"), "cache": str(pixel_cache), "split": "50/25/25"},
        "model": {"backbone": "resnet18", "cut": "stem", "weights": "random", "image_size": 32},
        "protocol": {"epochs": 1, "batch_size": 32, "augment": {"rotation": 0}, "precision": "fp32", "device": "cpu"},
    }
    file = tmp_path / "request.yaml"
    file.write_text(yaml.safe_dump(content))
    out = tmp_path / "run"
    assert run(["train", "--config", str(file), "--batch-size", "16", "--out", str(out), "--json"]) == 0
    config = open_run(out).config
    assert (config.batch_size, config.epochs, config.model.cut) == (16, 1, "stem")
    assert (config.augment.rotation, config.augment.crop_scale) == (0, 0.8)
    assert (config.split.train, config.split.test) == (0.5, 0.25)
    assert capsys.readouterr().err.count("error") == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("protocol: {learning_rate: -1}\n", "request.yaml: protocol.learning_rate: "),
        ("protocol: {augment: {rotation: 999}}\n", "request.yaml: protocol.augment.rotation: "),
        ("modle: {cut: stem}\n", "request.yaml: has a section 'modle'; valid: data, model, protocol"),
        ("protocol: {augment: 5}\n", "request.yaml: protocol.augment"),
        ("model: stem\n", "request.yaml: its section model is 'stem'"),
        ("model: {cutt: stem}\n", "request.yaml: model.cutt: "),
        ("[1]\n", "request.yaml: has no sections"),
        ("a: b: c\n", "request.yaml: is not valid YAML"),
    ],
)
def test_a_file_that_says_something_else_is_named_with_the_field(
    content: str, said: str, unread: None, synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "request.yaml"
    file.write_text(content)
    arguments = ["train", str(synthetic), "--config", str(file), "--out", str(tmp_path / "out")]
    assert run([*arguments, "--rotation", "5"]) == 2 if "augment: 5" in content else run(arguments) == 2
    assert said in last_line(capsys)


def test_what_a_record_needs_and_nobody_said_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--out", str(tmp_path / "out"), *TINY]) == 2
    assert "DATA and --out are needed" in last_line(capsys)
    assert run(["search", "--out", str(tmp_path / "out"), *TINY]) == 2
    assert "DATA is missing" in last_line(capsys)


def test_the_same_words_stand_for_train_and_search(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for command in ("train", "search"):
        assert run([command, "--help"]) == 0
        texts.append(capsys.readouterr().out)
    for option in ("--split", "--crop", "--patient-column", "--device", "--class-weights", "--config"):
        assert all(option in text for text in texts), option


SHARED = {
    "placement": ("predict", "serve", "verify"),
    "trust": ("predict", "serve", "verify", "bench", "compare"),
}
"""Which commands take a record."""


@pytest.mark.parametrize("command", SHARED["placement"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--threads", "0"), "--threads: Input should be greater than or equal to 1 (got 0)"),
        (("--device", "tpu"), "unknown device 'tpu'; valid: cpu, cuda"),
        (("--device", "cuda:1"), "CUDA_VISIBLE_DEVICES=1"),
    ],
)
def test_a_placement_that_cannot_be_is_refused_before_the_artifact_is_looked_for(
    command: str, options: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [str(tmp_path / "gone.png")] if command == "predict" else []
    assert run([command, str(tmp_path / "gone"), *images, *options]) == 2
    assert said in last_line(capsys)


@pytest.mark.parametrize(
    ("command", "option", "said"),
    [
        ("predict", "--workers", "(1 to 256)"),
        ("predict", "--threads", "(1 or more)"),
        ("train", "--factor", "(above 0, below 1)"),
        ("train", "--channels", "(1 to 16)"),
        ("verify", "--max-auroc-drop", "(0 to 1)"),
        ("train", "--learning-rate", "(above 0)"),
    ],
)
def test_help_tells_the_range_of_a_number(command: str, option: str, said: str) -> None:
    (found,) = [o for o in COMMANDS[command].params if option in o.opts]
    assert found.help.endswith(said)


@pytest.mark.parametrize(("record", "kind"), [("placement", Placement), ("trust", Trust)])
def test_a_record_is_the_same_options_wherever_it_is_taken(record: str, kind: type[Record]) -> None:
    shown = []
    for name in SHARED[record]:
        options = {max(o.opts, key=len): (o.help, o.show_default) for o in COMMANDS[name].params}
        fields = {said_of(f).names[0] if said_of(f).names else f"--{n}": f for n, f in kind.model_fields.items()}
        assert all(options[word][0].startswith(f.description) for word, f in fields.items())
        shown.append([options[word] for word in fields])
    assert all(one == shown[0] for one in shown)


@pytest.mark.parametrize("command", ["predict", "serve", "verify", "bench", "compare", "export"])
def test_only_a_training_or_search_is_said_by_a_file(command: str) -> None:
    assert "--config" not in {word for option in COMMANDS[command].params for word in option.opts}


def test_a_command_leaves_out_the_fields_that_it_has_no_use_for() -> None:
    def words(command: str) -> set[str]:
        return {word for option in COMMANDS[command].params for word in option.opts}

    bounds = {f"--{name.replace('_', '-')}" for name in Bounds.model_fields}
    assert bounds - words("verify") == {"--min-metric-ratio"}
    assert bounds - words("export") == {
        "--min-metric-ratio", "--preset", "--max-logit-difference", "--max-typical-difference"
    }  # fmt: skip
    assert "--body-rate" not in words("serve")
