"""Recipes against what the papers say, who wins over whom, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from small import but

from ttl_deploy.errors import BadInputError, DamagedError
from ttl_deploy.papers.accuracy import load_accuracies
from ttl_deploy.papers.recipes import read_recipe, recipe_names, said_of, with_recipe
from ttl_deploy.spec import Data, Model, Network, Protocol
from ttl_deploy.spec.protocol import OptimSpec
from ttl_deploy.spec.search import SearchProtocol
from ttl_deploy.spec.training import AugmentSpec

DATA = Data(path=Path("scans"))

RADIMAGENET = {
    "data.split": (0.80, 0.05, 0.15),
    "data.crop": "none",
    "model.backbone": "resnet50",
    "model.method": "ftl",
    "protocol.optim.name": "adam",
    "protocol.learning_rate": 1e-5,
    "protocol.schedule.name": "constant",
    "protocol.schedule.monitor": "loss",
    "protocol.schedule.stop_patience": 30,
    "protocol.head_training.dropout": 0.5,
    "protocol.augment.words": ("rotation=10", "shift=0.1", "shear=0.1", "zoom=0.1", "hflip=0.5"),
    "protocol.augment.border": "edge",
    "series.folds": 5,
    "series.fold_holds": "val+test",
    "series.repeats": None,
}

FACTS: dict[str, dict[str, Any]] = {
    "ttl": {
        "data.split": (0.64, 0.16, 0.20),
        "data.crop": "center",
        "model.backbone": "resnet50",
        "model.image_size": 224,
        "protocol.optim.name": "adam",
        "protocol.learning_rate": 1e-4,
        "protocol.batch_size": 64,
        "protocol.epochs": None,
        "protocol.schedule.name": "plateau",
        "protocol.schedule.monitor": "auprc",
        "protocol.factor": 0.5,
        "protocol.min_learning_rate": 1e-7,
        "protocol.augment.words": ("rotation=10.0", "crop=0.8"),
        "series.repeats": 3,
    },
    "pe-ct": {
        "data.task": "multilabel",
        "data.slice_stride": 32,
        "model.backbone": "resnext3d101",
        "model.image_size": (32, 208, 208),
        "protocol.optim.name": "sgd",
        "protocol.optim.momentum": 0.9,
        "protocol.optim.rate_new": 0.01,
        "protocol.learning_rate": 0.1,
        "protocol.schedule.name": "cosine",
        "protocol.schedule.monitor": "auroc",
        "protocol.epochs": 100,
        "protocol.batch_size": 8,
        "series.repeats": 3,
    },
    "lung-seg": {
        "data.task": "segmentation",
        "data.split": (0.64, 0.16, 0.20),
        "model.backbone": "resnet34",
        "model.head": "unet",
        "model.image_size": 224,
        "model.channels": 1,
        "protocol.optim.name": "adam",
        "protocol.learning_rate": 1e-4,
        "protocol.batch_size": 64,
        "protocol.schedule.name": "plateau",
        "protocol.factor": 0.5,
        "series.repeats": None,
    },
    "transfusion": {
        "data.task": "ordinal",
        "model.method": "ftl",
        "model.image_size": 587,
        "series.repeats": 3,
    },
    "feature-reuse": {
        "data.split": (0.80, 0.10, 0.10),
        "model.method": "ftl",
        "model.image_size": 224,
        "protocol.optim.name": "adam",
        "protocol.learning_rate": 1e-4,
        "protocol.batch_size": 64,
        "protocol.schedule.name": "plateau",
        "protocol.schedule.warmup_steps": 1000,
        "protocol.factor": 0.1,
        "protocol.min_learning_rate": 1e-6,
        "protocol.augment.words": ("jitter=0.2:0.2:0.1:0.1:0.2", "hflip=0.5", "vflip=0.5", "crop=0.8"),
        "series.repeats": 5,
    },
    "radimagenet": {**RADIMAGENET, "protocol.epochs": 200, "protocol.head_training.freeze_first": 0},
    "radimagenet-freeze": {
        **RADIMAGENET,
        # 200 of the whole network, as without freezing.
        "protocol.epochs": 220,
        "protocol.head_training.freeze_first": 20,
    },
}
"""By hand from the papers: Peng 2023, 4, A.1 and A.2; Raghu 2019, 2 and 3; Matsoukas 2022, 2; Juodelyte 2023, 4."""


def asked(recipe: str, model: Model | None = None, protocol: Protocol | None = None) -> dict[str, Any]:
    protocol = but(protocol or Protocol(), recipe=recipe)
    data, network, training = with_recipe(DATA, model or Model(), protocol)
    return {"data": data, "model": network, "protocol": training, "series": read_recipe(recipe).series}


def value(found: dict[str, Any], place: str) -> Any:
    section, *steps = place.split(".")
    value = found[section]
    for step in steps:
        value = getattr(value, step)
    return value


def test_every_recipe_has_its_facts() -> None:
    assert set(recipe_names()) == FACTS.keys()


@pytest.mark.parametrize(("recipe", "place"), [(name, place) for name, facts in FACTS.items() for place in facts])
def test_a_recipe_says_what_its_paper_does(recipe: str, place: str) -> None:
    assert value(asked(recipe), place) == FACTS[recipe][place]


@pytest.mark.parametrize("name", FACTS)
def test_a_recipe_says_what_its_paper_leaves_open_and_names_printed_tables(name: str) -> None:
    recipe, tables = read_recipe(name), {table.name for table in load_accuracies()}
    assert recipe.open
    assert {part.table for part in recipe.beside} <= tables
    assert recipe.beside


def test_every_printed_table_but_mei_s_belongs_to_a_recipe() -> None:
    named = {part.table for name in recipe_names() for part in read_recipe(name).beside}
    assert {table.name for table in load_accuracies()} - named == {"RadImageNet 3"}


@pytest.mark.parametrize(
    ("model", "rate"),
    [
        (Model(), 1e-4),
        (Model(weights="random"), 3e-4),
        (Model(init="random"), 3e-4),
        (Model(init="stats"), 1e-4),
    ],
)
def test_feature_reuse_has_another_rate_from_random_weights(model: Model, rate: float) -> None:
    """Matsoukas 2022, section 2: 1e-4, except RI, which used 3e-4."""
    assert asked("feature-reuse", model)["protocol"].learning_rate == rate


@pytest.mark.parametrize(
    ("backbone", "optimizer"),
    [("resnet50", "adam"), ("inception_v3", "adam"), ("deit_small", "adamw"), ("timm:swin_tiny", "adamw")],
)
def test_feature_reuse_has_another_optimizer_for_transformers(backbone: str, optimizer: str) -> None:
    """Matsoukas 2022, section 2: CNN and ViT models with Adam and AdamW."""
    said = said_of(read_recipe("feature-reuse"), {"backbone": backbone})
    assert said["protocol"]["optim"] == {"name": optimizer}


def test_without_a_recipe_nothing_changes() -> None:
    model, protocol = Model(), Protocol(epochs=3)
    assert with_recipe(DATA, model, protocol) == (DATA, model, protocol)
    assert "recipe" not in protocol.model_dump()


def test_the_user_wins_over_a_recipe_and_a_recipe_over_the_defaults() -> None:
    protocol = Protocol(learning_rate=3e-3, optim=OptimSpec(weight_decay=1e-5))
    found = asked("feature-reuse", Model(image_size=64, method="ttl", cut="layer1"), protocol)
    training = found["protocol"]
    assert (training.learning_rate, training.factor, training.seed) == (3e-3, 0.1, 0)
    assert (training.optim.name, training.optim.weight_decay) == ("adam", 1e-5)
    assert (found["model"].image_size, found["model"].method) == (64, "ttl")
    assert found["data"].split == (0.8, 0.1, 0.1)


def test_a_user_wins_with_what_would_be_the_default_too() -> None:
    """A recipe of sgd, and `--optimizer adam`."""
    found = asked("pe-ct", protocol=Protocol(optim=OptimSpec(name="adam", momentum=0)))["protocol"]
    assert (found.optim.name, found.optim.momentum, found.optim.rate_new) == ("adam", 0, 0.01)


def test_a_recipe_said_twice_is_said_once() -> None:
    once = with_recipe(DATA, Model(weights="random"), Protocol(recipe="feature-reuse"))
    assert with_recipe(*once) == once


def test_a_search_takes_what_is_not_the_cut() -> None:
    _data, network, protocol = with_recipe(DATA, Network(), SearchProtocol(recipe="radimagenet"))
    assert (type(network), network.method) == (Network, "ftl")
    assert (type(protocol), protocol.epochs, protocol.schedule.stop_patience) == (SearchProtocol, 200, 30)


@pytest.mark.parametrize(
    ("recipe", "model", "protocol", "said"),
    [
        ("tttl", {}, {}, "unknown recipe 'tttl'; nearest: ttl"),
        ("pe-ct", {"backbone": "resnet50"}, {}, "recipe pe-ct: is of volumes, and backbone resnet50 reads images"),
        ("ttl", {"backbone": "r3d_18"}, {}, "recipe ttl: is of images, and backbone r3d_18 reads volumes"),
        ("gone.toml", {}, {}, r"gone\.toml: no such file; pass a recipe's name or file"),
        (
            "radimagenet",
            {},
            {"augment": AugmentSpec(rotation=5)},
            "recipe radimagenet: augment: steps stand in place of rotation",
        ),
    ],
)
def test_what_cannot_be_is_one_line(recipe: str, model: dict[str, Any], protocol: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInputError, match=said) as caught:
        asked(recipe, Model(**model), Protocol(**protocol))
    assert "\n" not in str(caught.value)


def test_a_size_of_ones_own_makes_a_recipe_fit_another_network() -> None:
    assert asked("pe-ct", Model(backbone="resnet50", image_size=64))["model"].image_size == 64


OWN = 'title = "ours"\nsource = "our clinic"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title = ", "not valid TOML"),
        ('title = "t"\n', "source"),
        (OWN + "colour = 1\n", "colour: Extra inputs"),
        (OWN + "[protocol]\nepoch = 3\n", r"protocol\.epoch: Extra inputs"),
        (OWN + '[protocol.optim]\nnmae = "sgd"\n', r"protocol\.optim\.nmae: Extra inputs"),
        (OWN + "[protocol]\nlearning_rate = -1\n", r"protocol\.learning_rate: "),
        (OWN + '[data]\nsplit = "50/20"\n', r"data\.split: "),
        (OWN + '[data]\npath = "elsewhere"\n', r"data\.path says which images"),
        (OWN + '[protocol]\nrecipe = "ttl"\n', r"protocol\.recipe names another recipe"),
        (OWN + "[series]\nrepeat = 3\n", r"series\.repeat: Extra inputs"),
        (OWN + '[[when]]\nmodel_is = { bakcbone = "*" }\n', "model_is names 'bakcbone'"),
        (OWN + '[[beside]]\ntable = "TTL 9"\n', "unknown table 'TTL 9'; nearest: TTL "),
        (OWN + '[[beside]]\ntable = "RadImageNet 2"\ngroups = ["Frozen"]\n', "no group 'Frozen'; valid: Freeze, No"),
        ("schema_version = 2\n" + OWN, "newer"),
    ],
)
def test_a_recipe_of_ones_own_is_read_strictly(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "ours.toml"
    file.write_text(text)
    with pytest.raises(DamagedError, match=said) as caught:
        read_recipe(str(file))
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_a_recipe_of_ones_own_is_recorded_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ours.toml").write_text(OWN + "[protocol]\nepochs = 7\n")
    monkeypatch.chdir(tmp_path)
    protocol = with_recipe(DATA, Model(), Protocol(recipe="ours.toml"))[2]
    assert (protocol.epochs, protocol.recipe) == (7, str((tmp_path / "ours.toml").resolve()))


def test_what_holds_of_some_models_is_matched_by_patterns(tmp_path: Path) -> None:
    file = tmp_path / "ours.toml"
    file.write_text(
        OWN
        + "[protocol]\nepochs = 7\nseed = 1\n"
        + '[[when]]\nmodel_is = { backbone = "densenet*" }\nprotocol = { epochs = 9 }\n'
        + '[[when]]\nmodel_is = { backbone = "densenet*", method = "ttl" }\nprotocol = { epochs = 11 }\n'
    )
    said = {
        backbone: asked(str(file), Model(backbone=backbone, method=method))["protocol"].epochs
        for backbone, method in (("resnet18", "ttl"), ("densenet121", "ftl"), ("densenet201", "ttl"))
    }
    assert said == {"resnet18": 7, "densenet121": 9, "densenet201": 11}
