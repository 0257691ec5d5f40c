"""A column of the run's table divides its test side: every image in its group, its metrics those of the group alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from written_run import two_classes, write_run

from ttl_deploy.cli.main import run
from ttl_deploy.data.divided import UNSAID
from ttl_deploy.errors import BadInputError
from ttl_deploy.pages.subgroups import parts, subgroups
from ttl_deploy.pages.subject import Evidence, Subject, subject_of_run
from ttl_deploy.progress import SILENT

Say = Callable[[int], str]
Write = Callable[..., Subject]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A run of 80 images from a table whose column `sex` or other is what a function says of the number of a row."""

    def made(
        column: str, cell: Callable[[int], str], path: Callable[[int], str] = "images/{:03}.png".format
    ) -> Subject:
        rows = [f"{path(k)},{cell(k)}" for k in range(80)]
        table = tmp_path / "labels.csv"
        table.write_text("\n".join([f"path,{column}", *rows]) + "\n")
        place = write_run(tmp_path / "run", ("healthy", "ill"), *two_classes(), data=str(table))
        return subject_of_run(place, SILENT)

    return made


def evidence_of(subject: Subject) -> Evidence:
    assert subject.evidence is not None
    return subject.evidence


def test_the_metrics_of_a_group_are_those_of_its_images(write: Write) -> None:
    subject = write("sex", lambda k: ("f", "m", "")[k // 2 % 3])
    test = evidence_of(subject).test
    found = parts(evidence_of(subject), "sex")
    assert [part.name for part in found] == ["f", "m", UNSAID]
    assert sorted(np.concatenate([part.places for part in found])) == list(range(40))
    (section,) = subgroups(subject, ["sex"], None, "m1", 2)
    for part, row in zip(found, section.tables[0].rows, strict=True):
        own = np.array([int(image[7:10]) for image in np.array(test.ids)[part.places]])
        assert {("f", "m", UNSAID)[k // 2 % 3] for k in own} == {part.name}
        scores = subject.task.probabilities(test.logits[part.places])[:, 1]
        assert row[3].startswith(f"{roc_auc_score(test.labels[part.places], scores):.3f} (")
        assert row[1] == str(len(own))
    assert section.figures[0].data.splitlines()[0] == "group,AUROC,low,high"
    assert len(section.figures[0].data.splitlines()) == 4


def test_numbers_of_many_values_are_put_together_in_quarters(write: Write) -> None:
    found = parts(evidence_of(write("age", lambda k: str(20 + k) if k > 8 else "")), "age")
    assert [part.name for part in found] == ["29 to 45", "47 to 63", "65 to 81", "83 to 99", UNSAID]
    assert [len(part.places) for part in found] == [9, 9, 9, 9, 4]


def test_a_path_may_leave_the_ending_out(write: Write) -> None:
    found = parts(evidence_of(write("sex", lambda k: "fm"[k // 2 % 2], "images/{:03}".format)), "sex")
    assert [(part.name, len(part.places)) for part in found] == [("f", 20), ("m", 20)]


def test_a_group_of_one_class_or_few_patients_says_so(write: Write) -> None:
    subject = write("hospital", lambda k: "small" if k == 1 else "large")
    (section,) = subgroups(subject, ["hospital"], None, "m1", 2)
    large, small = section.tables[0].rows
    assert small[:4] == ("small", "1", "1", "-")
    assert large[3] != "-"
    assert "too few to rely on: small." in section.paragraphs[0]


def test_what_divides_nothing_is_refused(write: Write, tmp_path: Path) -> None:
    evidence = evidence_of(write("name", "name {}".format))
    with pytest.raises(BadInputError, match="40 different values on the test side; name one of at most 12"):
        parts(evidence, "name")
    with pytest.raises(BadInputError, match=r"has no column 'nam'; valid: path, name"):
        parts(evidence, "nam")
    with pytest.raises(BadInputError, match=r"is no table, so it has no columns; say with --data"):
        parts(evidence, "name", tmp_path / "images")


def test_a_column_that_is_blank_for_the_whole_test_side_is_no_group(write: Write) -> None:
    with pytest.raises(BadInputError, match="column sex says nothing of any image of the test side"):
        parts(evidence_of(write("sex", lambda k: "" if k % 2 else "f")), "sex")


def test_the_command_says_groups_and_refuses_in_one_line(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("sex", lambda k: "fm"[k // 2 % 2])
    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / "labels.csv").rename(moved / "labels.csv")
    command = ["report", str(tmp_path / "run"), "--out", str(tmp_path / "r.html")]
    assert run([*command, "--subgroup", "sex"]) == 2
    assert run([*command, "--data", str(moved)]) == 2
    assert capsys.readouterr().err.count("\n") == 2
    assert not (tmp_path / "r.html").exists()
    assert run([*command, "--subgroup", "sex", "--data", str(moved)]) == 0
    assert "AUROC by sex" in (tmp_path / "r.html").read_text()
