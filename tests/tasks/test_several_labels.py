"""Labels that an image has or has not: what they mean, how good they are, and what is unknown counts nowhere."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from ttl_deploy.data.class_names import task_of_names
from ttl_deploy.errors import BadInputError
from ttl_deploy.parity import Bounds, compare, verdict
from ttl_deploy.spec import OperatingPoint, Protocol, TaskSpec
from ttl_deploy.tasks import UNKNOWN, Multilabel
from ttl_deploy.training.losses import LOSSES, distillation, plain_loss, refuse_weighing, training_loss
from ttl_deploy.training.metrics import auprc, auroc, evaluate

CHEST = Multilabel(("Atelectasis", "Edema", "No Finding"))
Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def sample(images: int = 200, seed: int = 0) -> tuple[Labels, Floats]:
    """Labels of which a fifth is unknown, and logits that tell something of them."""
    generator = np.random.default_rng(seed)
    truth = (generator.random((images, 3)) < (0.4, 0.2, 0.6)).astype(np.int64)
    logits = 1.5 * (2 * truth - 1) + 2 * generator.normal(size=truth.shape)
    hidden = generator.random(truth.shape) < 0.2
    hidden[:, 0] &= ~hidden[:, 1:].all(axis=1)
    return np.where(hidden, UNKNOWN, truth), logits


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ((1, 0, 1), "Atelectasis|No Finding"),
        ((0, UNKNOWN, 0), "?Edema"),
        ((0, 0, 0), ""),
        ((1, UNKNOWN, 0), "Atelectasis|?Edema"),
    ],
)
def test_a_label_and_its_text_are_one_to_one(label: tuple[int, ...], text: str) -> None:
    assert CHEST.text(label) == text
    assert CHEST.label(text) == label


def test_what_is_said_is_every_label_that_is_more_probable_than_not() -> None:
    assert CHEST.said(np.array([[0.9, 0.1, 0.5], [0.2, 0.3, 0.4]])) == ("Atelectasis|No Finding", "")


def test_one_label_is_said_from_its_operating_point_on() -> None:
    lesion = Multilabel(("lesion",), point=OperatingPoint(rule="0.3", threshold=0.3))
    assert lesion.said(np.array([[0.31], [0.29]])) == ("lesion", "")
    with pytest.raises(ValueError, match="one label, not of 3"):
        Multilabel(CHEST.classes, point=lesion.point)


@pytest.mark.parametrize("name", ["a|b", "?a"])
def test_a_name_that_could_not_be_read_back_is_refused(name: str) -> None:
    with pytest.raises(BadInputError, match="--classes"):
        task_of_names(TaskSpec(kind="multilabel"), (name, "c"))


def test_metrics_are_scikit_learns_on_the_images_whose_label_is_known() -> None:
    labels, logits = sample()
    probabilities = CHEST.probabilities(logits)
    known = [labels[:, k] != UNKNOWN for k in range(3)]
    areas = [roc_auc_score(labels[row, k], logits[row, k]) for k, row in enumerate(known)]
    precisions = [average_precision_score(labels[row, k], logits[row, k]) for k, row in enumerate(known)]
    found = evaluate(labels, probabilities, CHEST, bootstrap=50)
    assert [single.auroc for single in found.per_class] == pytest.approx(areas)
    assert found.auroc == pytest.approx(np.mean(areas)) == pytest.approx(auroc(labels, probabilities, CHEST))
    assert found.auprc == pytest.approx(np.mean(precisions)) == pytest.approx(auprc(labels, probabilities, CHEST))
    assert found.auroc_interval is not None
    assert found.auroc_interval[0] < found.auroc < found.auroc_interval[1]
    everything = np.concatenate([(probabilities[row, k] >= 0.5) == labels[row, k] for k, row in enumerate(known)])
    assert found.accuracy == pytest.approx(everything.mean())
    whole = labels[(labels != UNKNOWN).all(axis=1)]
    of_whole = probabilities[(labels != UNKNOWN).all(axis=1)]
    expected = np.mean([brier_score_loss(whole[:, k], of_whole[:, k]) for k in range(3)])
    assert evaluate(whole, of_whole, CHEST, bootstrap=0).brier == pytest.approx(expected)


def test_a_guess_of_an_unknown_label_changes_no_metric() -> None:
    labels, logits = sample()
    other = np.where(labels == UNKNOWN, -logits, logits)
    one, two = (evaluate(labels, CHEST.probabilities(side), CHEST, bootstrap=20) for side in (logits, other))
    assert one == two


def test_a_label_that_no_image_has_is_in_no_headline() -> None:
    labels, logits = sample()
    labels[:, 1] = np.where(labels[:, 1] == 1, 0, labels[:, 1])
    found = evaluate(labels, CHEST.probabilities(logits), CHEST, bootstrap=0)
    assert found.per_class[1].auroc is None
    assert found.auroc == pytest.approx(np.mean([found.per_class[k].auroc for k in (0, 2)]))


def test_the_loss_is_pytorchs_over_the_known_labels() -> None:
    labels, logits = sample(40)
    known = labels != UNKNOWN
    given = torch.from_numpy(logits).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        given[torch.from_numpy(known)], torch.from_numpy(labels[known]).float()
    )
    assert plain_loss(CHEST)(given, torch.from_numpy(labels)) == pytest.approx(float(expected), rel=1e-6)
    assert float(plain_loss(CHEST)(given, torch.full((40, 3), UNKNOWN))) == 0


def test_an_unknown_label_moves_no_weight() -> None:
    labels, logits = sample(40)
    given = torch.from_numpy(logits).float().requires_grad_()
    plain_loss(CHEST)(given, torch.from_numpy(labels)).backward()  # type: ignore[no-untyped-call]
    assert given.grad is not None
    assert not given.grad.numpy()[labels == UNKNOWN].any()


def test_balanced_a_yes_weighs_as_much_as_the_noes_of_its_label() -> None:
    labels = np.array([[1, 0, 1], [0, 0, 1], [0, 1, UNKNOWN], [0, 1, 0]])
    loss = training_loss(CHEST, Protocol(pos_weight="balanced"), labels)
    assert loss.weight is not None
    assert loss.weight.tolist() == [3, 1, 0.5]  # type: ignore[union-attr,operator]


@pytest.mark.parametrize(("kind", "option"), [("multilabel", "class_weights"), ("multiclass", "pos_weight")])
def test_a_weighing_of_another_loss_is_refused_with_the_right_one(kind: str, option: str) -> None:
    with pytest.raises(BadInputError, match=r"--(pos|class)-weights? balanced"):
        refuse_weighing(kind, Protocol(**{option: "balanced"}))
    assert LOSSES.get(kind).weighing != option


def test_a_student_like_its_teacher_diverges_by_nothing() -> None:
    logits = torch.from_numpy(sample(20)[1]).float()
    assert float(distillation(logits, logits, CHEST)) == pytest.approx(0, abs=1e-6)
    assert float(distillation(logits + 1, logits, CHEST)) > 0.1


def test_an_image_differs_where_any_of_its_labels_is_decided_otherwise() -> None:
    labels, logits = sample(100)
    changed = logits.copy()
    changed[3, 1] *= -1
    changed[7, 0] *= -1
    changed[7, 2] *= -1
    found = compare(labels, logits, changed, CHEST, bootstrap=0)
    assert found.disagreements == 2


def test_parity_is_judged_by_the_mean_over_the_labels() -> None:
    labels, logits = sample(400)
    same = compare(labels, logits, logits + 1e-6, CHEST, bootstrap=100)
    assert same.changes.auroc.reference == pytest.approx(auroc(labels, CHEST.probabilities(logits), CHEST))
    assert verdict(same, Bounds.for_precision("fp32")).result == "pass"
    swapped = compare(labels, logits, logits[:, ::-1], CHEST, bootstrap=100)
    assert verdict(swapped, Bounds.for_precision("int8")).result == "fail"
