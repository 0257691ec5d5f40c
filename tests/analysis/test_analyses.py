"""Each analysis of tiny runs against another way to the same number."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import average_precision_score
from small import MODEL, PROTOCOL, but
from torch import Tensor
from written_run import write_run

from ttl_deploy import files
from ttl_deploy.analysis.analyses import ANALYSES, agreement, cca, convergence, drift, filters, knn
from ttl_deploy.analysis.analyses.reinit import put_back
from ttl_deploy.analysis.features import Pass, sampled_features, shapes_at
from ttl_deploy.analysis.finding import Curves, Finding, Grids, Lines, Maps
from ttl_deploy.analysis.knn import vote
from ttl_deploy.analysis.networks import unrelated
from ttl_deploy.analysis.probe import probe
from ttl_deploy.analysis.subject import Asked, Subject
from ttl_deploy.analysis.svcca import svcca
from ttl_deploy.data.torch_data import ImageBatches
from ttl_deploy.errors import IntegrityError, WeightsError
from ttl_deploy.inputs.image import normalise
from ttl_deploy.spec import Data, ModelSpec
from ttl_deploy.training.run import finished_run
from ttl_deploy.training.train import load_model, train
from ttl_deploy.transfer import build

UNITS = ("stem", "layer1.0", "layer1.1")
FIRST = "conv1.weight"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Starting weights in a file, which the tests read themselves."""
    torch.manual_seed(7)
    model = build(ModelSpec(backbone="resnet18", method="ftl", classes=("a", "b"), image_size=32))
    state = {name: tensor for name, tensor in model.network_state().items() if not name.startswith("head.")}
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def run(start: Path, synthetic: Path, pixel_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("analysed") / "run"
    data = Data(path=synthetic / "labels.csv", cache=pixel_cache)
    return train(data, but(MODEL, cut="layer1.1", weights=str(start)), PROTOCOL, folder).folder


@pytest.fixture(scope="module")
def subject(run: Path, pixel_cache: Path) -> Subject:
    return Subject(finished_run(run), Asked(cache=pixel_cache))


def found(name: str, *subjects: Subject) -> Finding:
    return ANALYSES.get(name).look(subjects)


def columns(finding: Finding, table: str = "") -> dict[str, list[Any]]:
    rows = finding.tables[table].as_dicts()
    return {name: [row[name] for row in rows] for name in finding.tables[table].columns}


def batch_of(subject: Subject, rows: Any) -> Tensor:
    return torch.from_numpy(normalise(subject.prepared.pixels(rows), subject.config.preprocess))


def features(model: Any, images: Tensor, cut: str) -> Tensor:
    """Through the units by hand."""
    with torch.inference_mode():
        for unit in model.chain:
            images = model.unit(unit)(images)
            if unit.name == cut:
                return images
    raise AssertionError(cut)


def test_the_network_before_training_has_the_files_weights(subject: Subject, start: Path) -> None:
    given, own = load_file(start), subject.start.network_state()
    assert subject.cuts == UNITS
    assert all(torch.equal(given[name], own[name]) for name in own if not name.startswith("head."))


def test_starting_weights_that_are_gone_or_others_are_told(
    subject: Subject, synthetic: Path, pixel_cache: Path, tmp_path: Path, start: Path
) -> None:
    """By the recorded hash; in runs that have none, by the layers that were not trained."""
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(start.read_bytes())
    model = but(MODEL, method="lwft", cut=None, trained_layers=2, weights=str(weights))
    data = Data(path=synthetic / "labels.csv", cache=pixel_cache)
    folder = train(data, model, but(PROTOCOL, epochs=1), tmp_path / "lwft").folder
    assert Subject(finished_run(folder)).start is not None
    save_file({name: tensor + 1 for name, tensor in load_file(start).items()}, weights)
    with pytest.raises(IntegrityError, match=r"weights\.safetensors: are not the weights that lwft began with"):
        _ = Subject(finished_run(folder)).start
    record = json.loads((folder / "metrics.json").read_text())
    assert record.pop("start_sha256") == files.sha256(start)
    (folder / "metrics.json").write_text(json.dumps(record))
    with pytest.raises(IntegrityError, match="was not trained and has other weights"):
        _ = Subject(finished_run(folder)).start
    weights.unlink()
    with pytest.raises(WeightsError, match="no such file"):
        _ = Subject(finished_run(folder)).start


def test_another_file_of_the_same_name_is_told_where_every_layer_was_trained(
    synthetic: Path, pixel_cache: Path, tmp_path: Path, start: Path
) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(start.read_bytes())
    data = Data(path=synthetic / "labels.csv", cache=pixel_cache)
    folder = train(data, but(MODEL, weights=str(weights)), but(PROTOCOL, epochs=1), tmp_path / "ttl").folder
    assert Subject(finished_run(folder)).start is not None
    save_file({name: tensor + 1 for name, tensor in load_file(start).items()}, weights)
    with pytest.raises(IntegrityError, match=f"recorded is {files.sha256(start)}"):
        _ = Subject(finished_run(folder)).start


def test_no_two_cuts_features_lie_in_memory_together(subject: Subject) -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def reduce(_cut: str, given: Tensor) -> int:
        nonlocal most
        most = max(most, sum(ref() is not None for ref in alive))
        alive.append(weakref.ref(given))
        return len(given)

    images = ImageBatches(subject.prepared, subject.prepared.shown(subject.seen), subject.config.preprocess)
    sizes = [sum(kept[cut] for cut in UNITS) for kept in Pass(subject.trained, UNITS, images, subject.config, reduce)]
    assert most == 0
    assert sum(sizes) == 3 * len(subject.seen)


def test_a_large_batch_goes_through_a_unit_in_parts_and_comes_out_the_same(subject: Subject) -> None:
    rows = subject.seen
    images = ImageBatches(subject.prepared, subject.prepared.shown(rows), subject.config.preprocess)
    assert len(rows) > subject.config.batch_size
    (kept,) = Pass(subject.trained, UNITS, images, subject.config, lambda _cut, given: given, len(rows))
    assert torch.allclose(kept["layer1.0"], features(subject.trained, batch_of(subject, rows), "layer1.0"), atol=1e-5)


def test_svcca_is_that_of_one_place_of_each_image(subject: Subject) -> None:
    """And the random networks are those of the search."""
    told = columns(found("svcca", subject))
    assert told["cut"] == list(UNITS)
    assert set(told["images"]) == {int((subject.prepared.sides != "test").sum())}
    models = [subject.start, subject.trained, *unrelated(subject.run)]
    kept = sampled_features(models, ["layer1.0"], subject.prepared, subject.seen, subject.config)["layer1.0"]
    whole = features(subject.trained, batch_of(subject, subject.seen), "layer1.0").flatten(2)
    assert all((np.abs(whole[i].T.numpy() - kept[1][i]).max(axis=1) < 1e-4).any() for i in range(len(whole)))
    every = sampled_features(models, UNITS, subject.prepared, subject.seen, subject.config)
    for number, cut in enumerate(UNITS):
        before, after, one, another = every[cut]
        assert told["mean"][number] == pytest.approx(svcca(before, after).mean())
        assert told["unrelated_mean"][number] == pytest.approx(svcca(one, another).mean())


def test_too_few_images_to_tell_is_an_answer(run: Path, pixel_cache: Path) -> None:
    few = Subject(finished_run(run), Asked(images=12, cache=pixel_cache))
    finding = found("svcca", few)
    assert "too few images to tell where reuse ends: 12" in finding.sentence
    assert finding.facts["reuse_ends_after"] is None
    figure = finding.figures[""]
    assert isinstance(figure, Lines)
    assert figure.mark is None


def test_cca_takes_as_many_images_as_have_so_many_positions_and_the_same_channels_of_both(subject: Subject) -> None:
    shapes = {"a": (256, 56, 56), "b": (512, 7, 7), "c": (16, 200, 200)}
    taken = cca.samples(shapes, 1000, seed=0)
    assert {cut: {len(s.images) for s in own} for cut, own in taken.items()} == {"a": {6}, "b": {408}, "c": {1}}
    assert {cut: {len(s.channels) for s in own} for cut, own in taken.items()} == {"a": {64}, "b": {64}, "c": {16}}
    assert len({tuple(s.channels.tolist()) for s in taken["b"]}) == cca.DRAWS
    own = cca.samples(shapes_at(subject.trained, ["layer1.0"]), len(subject.seen), seed=0)
    for model in (subject.start, subject.trained):
        kept = cca.gathered(subject, model, own)["layer1.0"]
        for sample, rows in zip(own["layer1.0"], kept, strict=True):
            whole = features(model, batch_of(subject, subject.seen[sample.images]), "layer1.0")
            flat = whole[:, sample.channels].permute(0, 2, 3, 1).reshape(-1, len(sample.channels))
            assert np.allclose(rows, flat.numpy(), atol=1e-4)


def test_mean_cca_sees_no_invertible_map_and_tells_where_rows_are_too_few() -> None:
    generator = np.random.default_rng(0)
    x, mixing = generator.normal(size=(500, 8)), generator.normal(size=(8, 8))
    assert cca.mean_cca(x, x @ mixing + 3) == pytest.approx(1)
    assert cca.mean_cca(x, generator.normal(size=(500, 8))) < 0.2
    assert np.isnan(cca.mean_cca(x[:20], x[:20]))


def test_cka_of_a_cut_with_itself_is_one_and_of_all_pairs_is_there(subject: Subject) -> None:
    finding = found("cka", subject)
    within = columns(finding, "before-before")
    same = [value for first, second, value in zip(*list(within.values())[:3], strict=True) if first == second]
    assert same == pytest.approx([1, 1, 1])
    across = columns(finding, "before-after")
    assert len(across["cka"]) == 9
    diagonal = [v for first, second, v in zip(*list(across.values())[:3], strict=True) if first == second]
    assert columns(finding)["cka"] == pytest.approx(diagonal)
    assert isinstance(finding.figures["pairs"], Maps)
    assert max(diagonal) < 1


def test_neighbours_are_of_mean_features_and_scored_by_the_tasks_metric(subject: Subject) -> None:
    told = columns(found("knn", subject))
    train_side, test_side = subject.side("train"), subject.side("test")
    task, labels = subject.run.task, subject.prepared.labels
    for number, cut in enumerate(UNITS):
        bank, asked = (
            features(subject.trained, batch_of(subject, rows), cut).mean((2, 3)).numpy()
            for rows in (train_side, test_side)
        )
        scores = vote(bank, labels[train_side], asked, task)[:, 1]
        expected = average_precision_score(labels[test_side], scores)
        assert told["auprc"][number] == pytest.approx(expected, abs=1e-6)


def test_tokens_are_pooled_with_and_without_the_class_token() -> None:
    tokens = torch.arange(24.0).reshape(1, 4, 6)
    pooled = knn.poolings(tokens, prefix=2)
    assert pooled["cls"].tolist() == [[0, 6, 12, 18]]
    assert pooled["spatial"].tolist() == [[3.5, 9.5, 15.5, 21.5]]
    assert pooled["both"].tolist() == [[2.5, 8.5, 14.5, 20.5]]
    assert list(knn.poolings(tokens.reshape(1, 4, 2, 3), prefix=0)) == ["mean"]


def test_a_probe_at_a_cut_is_the_probe(subject: Subject) -> None:
    told = columns(found("probe", subject))
    rows, judged = subject.side("train"), subject.side("test")
    known, asked = (
        features(subject.trained, batch_of(subject, side), "layer1.1").mean((2, 3)).numpy() for side in (rows, judged)
    )
    groups = [subject.prepared.patients[i] or "" for i in rows]
    labels = subject.prepared.labels
    said = probe(known, labels[rows], groups, asked, subject.run.task)
    expected = average_precision_score(labels[judged], said[:, 1])
    assert told["auprc"][-1] == pytest.approx(expected, abs=1e-3)


def test_drift_is_the_distance_of_the_two_files_without_norms(subject: Subject, start: Path) -> None:
    told = columns(found("drift", subject))
    assert told["layer"] == [*UNITS, "head"]
    old, new = load_file(start), load_file(subject.run.folder / "best.safetensors")
    names = ("layer1.0.conv1.weight", "layer1.0.conv2.weight")
    each = [float((new[name] - old[name]).norm()) / old[name].numel() for name in names]
    assert told["drift"][1] == pytest.approx(np.mean(each), rel=1e-5)
    assert told["tensors"][1] == 2


def test_norms_and_what_did_not_move_have_no_drift() -> None:
    torch.manual_seed(0)
    block = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3), torch.nn.GroupNorm(1, 3))
    assert list(drift.weights(block)) == ["0.weight", "0.bias"]
    assert drift.distance(block, block) == (0.0, 2)
    assert np.isnan(drift.distance(torch.nn.LayerNorm(3), torch.nn.LayerNorm(3))[0])


def test_a_unit_put_back_is_the_network_with_the_files_tensors_in_it(subject: Subject, start: Path) -> None:
    finding = found("reinit", subject)
    told = columns(finding)
    rows = subject.side("test")
    mixed, given = load_model(subject.run), load_file(start)
    state = mixed.network_state()
    mixed.load_network_state(state | {name: given[name] for name in state if name.startswith("layer1.0.")})
    with torch.inference_mode():
        scores = mixed(batch_of(subject, rows)).softmax(1)[:, 1].numpy()
    expected = average_precision_score(subject.prepared.labels[rows], scores)
    assert told["layer"] == list(UNITS)
    assert told["auprc"][1] == pytest.approx(expected, abs=1e-6)
    trained = subject.run.metrics()["test"]["auprc"]
    assert finding.facts["auprc"] == pytest.approx(trained, abs=1e-6)
    assert told["auprc_change"][1] == pytest.approx(expected - trained, abs=1e-6)


def test_a_network_is_as_it_was_after_a_unit_was_put_back(subject: Subject) -> None:
    model = load_model(subject.run)
    before = {name: tensor.clone() for name, tensor in model.network_state().items()}
    with pytest.raises(KeyError), put_back(model, subject.start, model.chain[1]):
        assert not torch.equal(model.network_state()["layer1.0.conv1.weight"], before["layer1.0.conv1.weight"])
        raise KeyError
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.network_state().items())


def test_filters_are_shown_from_their_least_to_their_largest_value(subject: Subject, start: Path) -> None:
    finding = found("filters", subject)
    figure = finding.figures[""]
    assert isinstance(figure, Grids)
    (_before, shown), (_after, _later) = figure.grids
    first = load_file(start)[FIRST][5].permute(1, 2, 0).double().numpy()
    assert shown.shape == (36, 7, 7, 3)
    assert shown[5] == pytest.approx((first - first.min()) / (first.max() - first.min()), abs=1e-9)
    told = columns(finding)
    assert len(told["filter"]) == 64
    old, new = load_file(start)[FIRST][3], load_file(subject.run.folder / "best.safetensors")[FIRST][3]
    assert told["moved"][3] == pytest.approx(float((new - old).norm() / old.norm()), rel=1e-4)


def test_filters_of_volumes_show_their_middle_slice_and_flat_ones_are_black() -> None:
    cube = np.zeros((2, 1, 3, 2, 2))
    cube[0, 0, 1] = [[1, 2], [3, 5]]
    shown = filters.pictures(cube)
    assert shown[0, ..., 0].tolist() == [[0, 0.25], [0.5, 1]]
    assert not shown[1].any()
    assert filters.pictures(np.ones((1, 5, 4, 4))).shape == (1, 4, 4, 1)


def logits(answers: list[int]) -> Any:
    return np.array([[0.0, 2.0 * answer - 1] for answer in answers], dtype=np.float32)


def written(folder: Path, answers: list[int], **more: Any) -> Subject:
    labels = np.array([0, 0, 1, 1] * 6)
    return Subject(finished_run(write_run(folder, ("healthy", "ill"), labels, logits(answers * 6), **more)))


def test_runs_agree_as_counted_by_hand(tmp_path: Path) -> None:
    """The test side is the second and fourth of every four: labels 0 and 1."""
    right = written(tmp_path / "right", [0, 0, 1, 1])
    half = written(tmp_path / "half", [0, 1, 1, 1])
    wrong = written(tmp_path / "wrong", [0, 1, 1, 0])
    finding = found("agreement", right, half, wrong)
    told = columns(finding)
    pairs = list(zip(told["first"], told["second"], strict=True))
    assert pairs == [("right", "half"), ("right", "wrong"), ("half", "wrong")]
    assert told["agreement"] == [0.5, 0.0, 0.5]
    assert told["independent"] == [0.5, 0.0, 0.5]
    assert told["accuracy_second"] == [0.5, 0.0, 0.0]


def test_two_independent_runs_agree_where_both_are_right_or_both_wrong() -> None:
    assert agreement.independent(0.9, 0.8) == pytest.approx(0.74)
    generator = np.random.default_rng(0)
    first, second = generator.random(200_000) < 0.9, generator.random(200_000) < 0.8
    assert agreement.independent(0.9, 0.8) == pytest.approx((first == second).mean(), abs=0.005)


def test_epochs_and_steps_to_a_threshold_are_counted_from_the_history(tmp_path: Path) -> None:
    histories = {"slow": [0.5, 0.8, 0.89, 0.92], "fast": [0.80, 0.91, 0.85, 0.95], "never": [0.5, 0.6, 0.4, 0.3]}
    subjects = []
    for name, values in histories.items():
        images = {"images": {"train": 65, "val": 12, "test": 12}}
        subjects.append(written(tmp_path / name, [0, 0, 1, 1], **images))
        rows = [
            {"epoch": e, "learning_rate": 0.1, "train_loss": 1.0, "val_loss": 0.5, "val_auroc": v, "best": True}
            | {"val_auprc": v}
            for e, v in enumerate(values, 1)
        ]
        files.write_text(tmp_path / name / "history.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    told = found("convergence", *subjects)
    rows = told.tables[""].as_dicts()
    enough = {row["run"]: row for row in rows if row["threshold"] == "91% AUROC"}
    assert {name: row["epochs"] for name, row in enough.items()} == {"slow": 4, "fast": 2, "never": None}
    assert {name: row["speed_up"] for name, row in enough.items()} == {"slow": 1, "fast": 2, "never": None}
    batch = subjects[0].run.config.batch_size
    assert convergence.steps_of(subjects[0]) == -(-65 // batch) - (65 % batch == 1)
    assert enough["fast"]["steps"] == 2 * (convergence.steps_of(subjects[0]) or 0)
    best = {row["run"]: row["epochs"] for row in rows if row["threshold"] == "95% of its best"}
    assert best == {"slow": 3, "fast": 2, "never": 2}
    assert isinstance(told.figures[""], Curves)
    assert told.sentence.startswith(
        "How soon: slow took 4 epochs to 91% AUROC; fast took 2 epochs to 91% AUROC; never "
    )
    assert "not constant" not in told.sentence


def test_every_analysis_of_a_run_finds_numbers_for_every_figure(subject: Subject) -> None:
    for name in ANALYSES.names():
        if not ANALYSES.get(name).together:
            finding = found(name, subject)
            assert finding.tables[""].rows, name
            assert finding.figures[""], name
            assert finding.sentence.endswith("."), name
            assert not finding.sentence[0].islower(), name
