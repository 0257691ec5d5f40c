"""What cells mean: words for nothing, and writings of one value."""

from collections import Counter

import pytest

from ttl_deploy.data.values import is_missing, one_writing, patient_of


@pytest.mark.parametrize(
    "text", ["", "  ", "nan", "NaN", "NAN", "None", "NULL", "NA", "n/a", "N/A", "<NA>", "unknown", "?"]
)
def test_a_word_for_nothing_is_no_patient(text: str) -> None:
    assert patient_of(text) is None


@pytest.mark.parametrize("text", ["0", "7", "Nancy", "NA12878", "null-1"])
def test_a_patient_whose_name_begins_like_one_is_a_patient(text: str) -> None:
    assert patient_of(text) == text


def test_a_class_may_be_called_unknown_but_not_nan() -> None:
    assert is_missing("NaN")
    assert not is_missing("unknown")


def test_whole_numbers_with_and_without_zeros_behind_the_point_are_one() -> None:
    found = one_writing(Counter(["7", "7.0", "7.00", "7,0", "70", "8.5"]))
    assert {found[text] for text in ("7", "7.0", "7.00", "7,0")} == {"7"}
    assert found["70"] == "70"
    assert found["8.5"] == "8.5"


def test_leading_zeros_count_only_where_not_every_value_is_a_number() -> None:
    assert one_writing(Counter(["007", "7.0"])) == {"007": "007", "7.0": "007"}
    mixed = one_writing(Counter(["007", "7", "A7"]))
    assert mixed == {"007": "007", "7": "7", "A7": "A7"}


def test_zero_padded_numbers_keep_their_writing() -> None:
    assert one_writing(Counter(["0001", "0002", "0010"])) == {n: n for n in ("0001", "0002", "0010")}


def test_upper_and_lower_case_are_one_and_the_frequent_writing_stays() -> None:
    assert one_writing(Counter(["Normal"] * 3 + ["normal", "NORMAL"])) == dict.fromkeys(
        ("Normal", "normal", "NORMAL"), "Normal"
    )
