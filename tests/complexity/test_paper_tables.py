"""The tables as data: what is in them, what is refused, and the ratios worked out by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

from ttl_deploy.complexity import PaperTable, load_tables, run_time_ratios
from ttl_deploy.errors import IntegrityError

TABLES = {table.name: table for table in load_tables()}

ROW = """
[[rows]]
name = "FTL"
printed = { parameters_m = 11.2 }
construction = { backbone = "resnet18", method = "ftl", head = "gap", outputs = 2, input = [3, 64, 64] }
"""
HEAD = 'schema_version = 1\nname = "t"\ntitle = "t"\nsource = "s"\n'


def test_every_row_of_the_papers_is_there() -> None:
    """Counted in the papers: Tables 1, 2 (three parts) and 3, and Transfusion's Table 1."""
    assert {name: len(table.rows) for name, table in TABLES.items()} == {
        "1": 7,
        "2-mitotic": 7,
        "2-PE": 8,
        "2-seg": 4,
        "3": 6,
        "Transfusion 1": 6,
    }


def test_every_row_of_the_first_paper_has_its_macs_and_run_times() -> None:
    for name, table in TABLES.items():
        for row in table.rows:
            transfusion = name == "Transfusion 1"
            assert (row.printed.macs_g is None) == transfusion
            assert set(row.printed.run_ms) == ({"cpu", "gpu"} if name == "3" else set() if transfusion else {"gpu"})


def ratio(table: str, row: str, device: str) -> float:
    return next(r.ratio for r in run_time_ratios(TABLES[table]) if r.row.title == row and r.device == device)


@pytest.mark.parametrize(
    ("table", "row", "device", "expected"),
    [
        ("1", "TTL-2", "gpu", 2.97 / 3.59),
        ("2-PE", "TTL-1", "gpu", 1.68e-2 / 1.96e-2),
        ("2-seg", "TTL-B2", "gpu", 8.50 / 11.8),
        ("3", "DN121 TTL", "cpu", 46.2 / 107),
        ("3", "ENb0 TTL", "gpu", 6.46 / 8.33),
        ("3", "ENb0 FTL", "gpu", 1.0),
    ],
)
def test_run_times_are_relative_to_the_whole_network_of_the_same_group(
    table: str, row: str, device: str, expected: float
) -> None:
    assert ratio(table, row, device) == pytest.approx(expected)


def test_what_the_text_of_the_paper_says_follows_from_the_data() -> None:
    """Peng 2023, section 4: TTL-B2 "reduces the model size by 12% and inference time by 28%"."""
    row = next(r for r in run_time_ratios(TABLES["2-seg"]) if r.row.title == "TTL-B2")
    assert round(100 * (1 - row.parameters)) == 12
    assert round(100 * (1 - row.ratio)) == 28


def test_segmentation_is_of_grey_images_and_its_macs_are_no_slip() -> None:
    for row in TABLES["2-seg"].rows:
        assert row.construction.input == (1, 224, 224)
        assert row.inconsistent == ()
    slips = {(name, row.title, row.inconsistent) for name, table in TABLES.items() for row in table.rows}
    assert {found for found in slips if found[2]} == {
        ("2-PE", "TTL-1", ("macs",)),
        ("2-PE", "TTL-2", ("macs",)),
        ("3", "DN121 FTL", ("macs",)),
        ("Transfusion 1", "Resnet-50", ("parameters",)),
        ("Transfusion 1", "Inception-v3", ("parameters",)),
    }


def test_the_inconsistent_rows_say_why() -> None:
    noted = {(name, row.title) for name, table in TABLES.items() for row in table.rows if row.note}
    assert {("3", "DN121 FTL"), ("2-PE", "TTL-1"), ("2-seg", "TTL-B1"), ("2-seg", "TTL-B3")} <= noted
    assert "milliseconds" in (TABLES["3"].run_time_note or "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rows = [", "not valid TOML"),
        (HEAD, "rows"),
        (HEAD + "colour = 1\n" + ROW, "colour"),
        (HEAD + ROW + "machine = 1\n", "machine"),
        (HEAD + ROW.replace("parameters_m", "parameter_m"), "parameter"),
        (HEAD + ROW.replace("head =", "hed ="), "hed"),
        (HEAD + ROW + 'inconsistent = ["parameters"]\n', "without a note"),
        (HEAD + ROW + 'inconsistent = ["macs"]\nnote = "n"\n', "prints no MACs"),
        (HEAD + ROW + 'inconsistent = ["speed"]\nnote = "n"\n', "speed"),
        (HEAD + ROW + ROW, "twice"),
        (HEAD + ROW.replace("11.2", "11.2, run_ms = { gpu = 1.0 }"), "does not name"),
        (HEAD + 'devices = { gpu = "x" }\n' + ROW.replace("11.2", "11.2, run_ms = { gpu = 1.0 }"), "no row None"),
        (HEAD.replace("= 1", "= 2") + ROW, "newer"),
    ],
)
def test_a_wrong_table_is_told_with_its_file(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "table.toml").write_text(text)
    with pytest.raises(IntegrityError, match=said) as caught:
        load_tables(tmp_path)
    assert "table.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_tables_is_told(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="no tables"):
        load_tables(tmp_path)


def test_a_construction_outside_the_zoos_classifiers_has_no_spec() -> None:
    table: PaperTable = TABLES["2-seg"]
    other = table.rows[0].construction.model_copy(update={"options": {"attention": True}})
    with pytest.raises(IntegrityError, match="not a classifier of the zoo"):
        other.model_spec()


def test_a_row_of_one_output_on_volumes_is_a_classifier_of_one_class() -> None:
    spec = TABLES["2-PE"].rows[0].construction.model_spec()
    assert (spec.task.kind, len(spec.classes)) == ("multilabel", 1)
    assert (spec.input.kind, spec.input_shape) == ("volume", (3, 32, 208, 208))


def test_the_tables_are_read_without_torch() -> None:
    code = "import sys; from ttl_deploy.complexity import load_tables; load_tables(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
