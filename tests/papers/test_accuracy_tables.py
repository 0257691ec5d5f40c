"""The papers' accuracies as data: how many, what some say as counted and read in the papers, and what is refused."""

import re
from pathlib import Path

import pytest

from ttl_deploy.errors import IntegrityError
from ttl_deploy.papers.accuracy import load_accuracies

TABLES = {table.name: table for table in load_accuracies()}
PAPERS = Path(__file__).parents[2].parent / "shared" / "papers"
TEXTS = {
    "TTL": "truncated-tl.md",
    "Transfusion": "transfusion.md",
    "Feature reuse": "feature-reuse.md",
    "RadImageNet": "revisiting-representations.md",
}

HEAD = (
    'schema_version = 1\nname = "t"\ntitle = "t"\nsource = "s"\nunit = "fraction"\ndata = "d"\nweights = "w"\n'
    'spread = "of 3 runs"\n'
)
ROW = '\n[[rows]]\nname = "FTL"\nbackbones = ["resnet18"]\nvalues = { auroc = "0.925 ± 0.003" }\n'


def test_every_row_of_the_papers_is_there() -> None:
    """Counted in the papers: four networks, three starts and five sets; seven sets and five starts; and so on."""
    assert {name: len(table.rows) for name, table in TABLES.items()} == {
        "TTL 1": 7,
        "TTL 2-mitotic": 7,
        "TTL 2-PE": 8,
        "TTL 2-seg": 4,
        "TTL 3": 6,
        "Transfusion 1": 6 * 2,
        "Transfusion 2": 10,
        "Transfusion 3": 3 * 2,
        "Feature reuse 1": 4 * 3 * 5,
        "RadImageNet 2": 7 * 5,
        "RadImageNet 3": 2 * 4 + 2,
    }


def test_every_row_has_the_metrics_of_its_table() -> None:
    metrics = {
        "TTL": {"auroc", "auprc"},
        "TTL 2-seg": {"dice", "jaccard"},
        "Transfusion 1": {"auroc"},
        "Transfusion 3": {"auroc"},
    }
    for name, table in TABLES.items():
        wanted = metrics.get(name) or (metrics["TTL"] if name.startswith("TTL") else None)
        assert wanted is None or all(row.values.keys() == wanted for row in table.rows), name
    assert all(len(row.values) == 5 for row in TABLES["Transfusion 2"].rows)


@pytest.mark.parametrize(
    ("table", "row", "metric", "printed", "value", "spread"),
    [
        ("TTL 1", "FTL", "auroc", "84.9 ± 0.1", 0.849, 0.001),
        ("TTL 1", "TF-1", "auprc", "0.863 ± 1.2", 0.863, 0.012),
        ("TTL 1", "LWFT-1", "auroc", "848 ± 0.002", 0.848, 0.002),
        ("TTL 1", "TTL-2", "auprc", "0.871 ± 0.008", 0.871, 0.008),
        ("TTL 2-mitotic", "LWFT-1", "auprc", "0.913 ± 0.005", 0.913, 0.005),
        ("TTL 2-PE", "PENet", "auroc", "0.822 ± 0.010", 0.822, 0.01),
        ("TTL 2-seg", "TTL-B2", "jaccard", "0.946 ± 0.047", 0.946, 0.047),
        ("TTL 3", "ENb0 TTL", "auroc", "0.842 ± 0.001", 0.842, 0.001),
        ("Transfusion 1", "Inception-v3 Random Init", "auroc", "96.6% ± 0.13", 0.966, 0.0013),
        ("Transfusion 2", "row 3", "auroc:Consolidation", "88.12 ± 0.25", 0.8812, 0.0025),
        ("Transfusion 3", "Resnet50 Pretrained", "auroc", "94.6%", 0.946, None),
        ("Feature reuse 1", "ResNet50 WT (ISIC2019)", "balanced_accuracy", "0.795 ± 0.011", 0.795, 0.011),
        ("Feature reuse 1", "DeiT-S RI (APTOS2019)", "quadratic_kappa", "0.684 ± 0.017", 0.684, 0.017),
        ("RadImageNet 2", "Freeze RadImageNet (Mammograms)", "auroc", "70.4 ± 5.0", 0.704, 0.05),
        ("RadImageNet 3", "ResNet50 (Our parameters) ImageNet (Thyroid subset)", "auroc", "87.6 ± 4.1", 0.876, 0.041),
    ],
)
def test_cells_are_as_printed(
    table: str, row: str, metric: str, printed: str, value: float, spread: float | None
) -> None:
    (found,) = [r for r in TABLES[table].rows if r.title == row]
    cell = found.values[metric]
    assert (cell.printed, cell.value, cell.spread) == (printed, value, spread)


def test_the_slips_are_told() -> None:
    slips = {(name, row.title) for name, table in TABLES.items() for row in table.rows if row.slip}
    assert slips == {
        *(("TTL 1", row) for row in ("FTL", "TF-1", "LWFT-1")),
        *(("TTL 2-PE", row) for row in ("TTL-1", "TTL-2")),
        *(("TTL 3", row) for row in ("DN121 FTL", "DN121 TTL", "ENb0 FTL")),
    }


def test_rows_whose_network_is_lost_are_nobodys() -> None:
    assert TABLES["Transfusion 2"].lost
    assert all(row.backbones == () for row in TABLES["Transfusion 2"].rows)


@pytest.mark.skipif(not PAPERS.is_dir(), reason="the papers' texts are not here")
@pytest.mark.parametrize("name", TABLES)
def test_every_printed_number_is_in_the_papers_text(name: str) -> None:
    text = (PAPERS / TEXTS[" ".join(word for word in name.split() if not word[0].isdigit())]).read_text()
    plain = re.sub(r"<math>|</math>|</?u>|[\s$\\%]", "", text.replace(r"\pm", "±"))
    for row in TABLES[name].rows:
        for cell in row.values.values():
            assert re.sub(r"[\s%]", "", cell.printed) in plain, (row.title, cell.printed)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rows = [", "not valid TOML"),
        (HEAD, "rows"),
        (HEAD + "colour = 1\n" + ROW, "colour"),
        (HEAD + ROW + "machine = 1\n", "machine"),
        (HEAD + ROW + ROW, "twice"),
        (HEAD + ROW.replace("0.925 ±", "0.925 of"), "not a number"),
        (HEAD + ROW.replace("0.925", "92.5"), "less than or equal to 1"),
        (HEAD + ROW.replace('"0.925 ± 0.003"', '{ printed = "0.952", value = 0.925 }'), "without a slip"),
        (HEAD.replace('spread = "of 3 runs"', "") + ROW, "does not say of what"),
        (HEAD.replace('data = "d"', "") + ROW, "not at all"),
        (HEAD.replace("fraction", "percent") + ROW, "unit"),
        (HEAD.replace("= 1", "= 2") + ROW, "newer"),
    ],
)
def test_a_wrong_table_is_told_with_its_file(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "table.toml").write_text(text)
    with pytest.raises(IntegrityError, match=said) as caught:
        load_accuracies(tmp_path)
    assert "table.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_tables_is_told(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="no tables"):
        load_accuracies(tmp_path)
