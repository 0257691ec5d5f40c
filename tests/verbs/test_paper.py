"""The papers' tables against the independent rebuild, the committed report, and the command."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ttl_deploy.cli.main import run
from ttl_deploy.complexity import RowResult, load_tables, reproduce
from ttl_deploy.verbs import paper as workflow
from ttl_deploy.verbs.paper import check_paper

REPORTS = Path(__file__).parents[2] / "reports"

REBUILT = {
    ("1", "FTL"): (23.51, 4.120),
    ("1", "TF-1"): (12.95, 3.563),
    ("1", "LWFT-1"): (23.51, 4.120),
    ("1", "TTL-1"): (8.545, 3.309),
    ("1", "TF-2"): (12.95, 3.563),
    ("1", "LWFT-2"): (23.51, 4.120),
    ("1", "TTL-2"): (6.311, 2.870),
    ("2-mitotic", "FTL"): (23.51, 4.120),
    ("2-mitotic", "TF-1"): (12.95, 3.563),
    ("2-mitotic", "LWFT-1"): (23.51, 4.120),
    ("2-mitotic", "TTL-1"): (8.545, 3.309),
    ("2-mitotic", "TF-2"): (12.95, 3.563),
    ("2-mitotic", "LWFT-2"): (23.51, 4.120),
    ("2-mitotic", "TTL-2"): (8.545, 3.309),
    ("2-PE", "PENet"): (28.399, 51.714),
    ("2-PE", "FTL"): (47.523, 66.325),
    ("2-PE", "TF-1"): (36.080, 64.899),
    ("2-PE", "LWFT-1"): (47.523, 66.325),
    ("2-PE", "TTL-1"): (26.112, 60.668),
    ("2-PE", "TF-2"): (36.080, 64.899),
    ("2-PE", "LWFT-2"): (47.523, 66.325),
    ("2-PE", "TTL-2"): (26.112, 60.668),
    ("2-seg", "FTL"): (24.43, 5.925),
    ("2-seg", "TTL-B1"): (21.33, 1.679),
    ("2-seg", "TTL-B2"): (21.48, 3.019),
    ("2-seg", "TTL-B3"): (22.07, 4.820),
    ("3", "RN50 FTL"): (23.51, 4.120),
    ("3", "RN50 TTL"): (8.545, 3.309),
    ("3", "DN121 FTL"): (18.28, 4.365),
    ("3", "DN121 TTL"): (1.530, 2.112),
    ("3", "ENb0 FTL"): (3.627, 0.3779),
    ("3", "ENb0 TTL"): (0.896, 0.2555),
}
"""Parameters (M) and MACs (G) of an independent rebuild of every row, its layers counted with
ptflops 0.7.5, as the papers counted."""


@pytest.fixture(scope="module")
def results() -> list[RowResult]:
    return reproduce(load_tables())


@pytest.fixture
def counted(results: list[RowResult], monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts once for all tests of this file."""
    monkeypatch.setattr(workflow, "reproduce", lambda _tables, **_more: results)


def last_digit(number: float) -> float:
    return float(10 ** -len(f"{number}".partition(".")[2]))


def test_the_rows_equal_the_independent_rebuild(results: list[RowResult]) -> None:
    found = {(r.table.name, r.row.title): r for r in results if r.cost and "macs" in r.cells}
    assert found.keys() == REBUILT.keys()
    for key, (parameters, macs) in REBUILT.items():
        cells = found[key].cells
        assert cells["parameters"].ours / 1e6 == pytest.approx(parameters, abs=last_digit(parameters)), key
        assert cells["macs"].ours / 1e9 == pytest.approx(macs, abs=0.0005), key
        printed = found[key].row.printed.macs_g
        assert printed is not None
        if found[key].verdict == "reproduced":
            digits = len(f"{printed}".partition(".")[2])
            assert round(cells["macs"].ours / 1e9, digits) == printed, f"{key}: not the last printed digit"


def test_every_row_is_reproduced_or_explained(results: list[RowResult]) -> None:
    verdicts = {(r.table.name, r.row.title): r.verdict for r in results}
    family = {("Transfusion 1", name) for name in ("CBR-LargeT", "CBR-LargeW", "CBR-Small", "CBR-Tiny")}
    assert verdicts.keys() == {*REBUILT, *family, ("Transfusion 1", "Resnet-50"), ("Transfusion 1", "Inception-v3")}
    assert {key for key, verdict in verdicts.items() if verdict == "explained"} == {
        ("2-PE", "TTL-1"),
        ("2-PE", "TTL-2"),
        ("3", "DN121 FTL"),
        ("Transfusion 1", "Resnet-50"),
        ("Transfusion 1", "Inception-v3"),
    }
    assert set(verdicts.values()) == {"reproduced", "explained"}


def test_the_family_of_small_networks_has_the_printed_parameters_to_the_last(results: list[RowResult]) -> None:
    """By hand of Raghu 2019's Table 1: kernels of one channel at first, and a shift for each channel."""
    found = {r.row.title: r.cells["parameters"].ours for r in results if r.row.title.startswith("CBR")}
    channels = {"CBR-LargeT": (32, 64, 128, 256, 512), "CBR-LargeW": (64, 128, 256, 512)}
    sides = {"CBR-LargeT": (7,) * 5, "CBR-LargeW": (5, 7, 7, 7), "CBR-Small": (5, 7, 7, 7), "CBR-Tiny": (5,) * 4}
    for name, kernels in sides.items():
        wide = channels.get(name, (32, 64, 128, 256))
        layers = zip(kernels, (1, *wide), wide, strict=False)
        assert found[name] == sum(side**2 * inner * outer + outer for side, inner, outer in layers), name


def test_the_row_called_dn121_is_told_from_densenet121(results: list[RowResult]) -> None:
    """DenseNet-121 itself: 6.96 M, and 2.90 G with functions, 2.88 without."""
    row = next(r for r in results if r.row.title == "DN121 FTL")
    assert row.as_labelled is not None
    assert row.as_labelled.total.parameters / 1e6 == pytest.approx(6.96, abs=0.01)
    assert row.as_labelled.total.macs / 1e9 == pytest.approx(2.90, abs=0.01)
    assert row.as_labelled.total.layer_macs / 1e9 == pytest.approx(2.88, abs=0.01)


def without_version(text: str) -> str:
    return re.sub(r"ptflops \d[\w.+]*", "ptflops X", text)


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("name", ["complexity.md", "complexity.html"])
def test_the_committed_report_is_what_the_command_writes(name: str, tmp_path: Path) -> None:
    """Fails when a row moves; `ttl-deploy paper` writes the files anew."""
    check_paper(out=tmp_path)
    assert without_version((tmp_path / name).read_text()) == without_version((REPORTS / name).read_text())


@pytest.mark.usefixtures("counted")
def test_the_report_names_its_command_and_needs_nothing_else(tmp_path: Path) -> None:
    report = check_paper(out=tmp_path)
    markdown, page = (path.read_text() for path in report.files)
    assert "`ttl-deploy paper`" in markdown.splitlines()[0]
    assert not re.search(r"https?://|<script|<link", page)
    assert "38 printed rows: 33 reproduced, 5 explained, 0 deviating, 0 not yet in the zoo." in page


@pytest.mark.usefixtures("counted")
def test_the_command_prints_every_row_and_its_explanation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["paper", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert len(re.findall(r"reproduced|explained \[|not yet in the zoo", shown.partition("38 printed")[0])) == 38
    assert "not DenseNet-121: DenseNet-201 with a flatten head" in shown
    assert re.search(r"CBR-LargeT +8\.53248 +8\.53248 ", shown), "as many digits as are printed"
    assert "0 not yet in the zoo" in shown
    assert {path.name for path in tmp_path.iterdir()} == {"complexity.md", "complexity.html"}


@pytest.mark.usefixtures("counted")
def test_json_holds_the_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["paper", "--json", "--out", str(tmp_path)]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["passed"]
    rows = {(row["table"], row["row"]): row for row in content["rows"]}
    cost = rows["1", "TTL-2"]["cost"]
    assert cost["parameters"] == 6_310_978
    assert sum(unit["macs"] for unit in cost["units"]) == cost["macs"]
    assert rows["2-seg", "TTL-B1"]["cost"]["parameters"] == 278_545
    assert rows["2-PE", "PENet"]["cost"]["layer_macs"] < rows["2-PE", "PENet"]["cost"]["macs"]


@pytest.fixture
def moved(results: list[RowResult], monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Changes what the first row prints."""

    def move(parameters_m: float) -> None:
        table = results[0].table
        printed = table.rows[0].printed.model_copy(update={"parameters_m": parameters_m})
        changed = table.model_copy(update={"rows": (table.rows[0].model_copy(update={"printed": printed}),)})
        monkeypatch.setattr(workflow, "load_tables", lambda: (changed,))

    return move


@pytest.mark.parametrize(("printed", "code"), [(23.51, 0), (23.6, 1)])
def test_a_row_that_deviates_fails_the_command(
    printed: float, code: int, moved: Callable[[float], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved(printed)
    assert run(["paper", "--out", str(tmp_path)]) == code
    assert f"{code} deviating" in capsys.readouterr().out


@pytest.mark.parametrize(
    "option", [("--threads", "1"), ("--device", "cpu"), ("--rounds", "6"), ("--allow-inconclusive",)]
)
def test_it_measures_nothing_and_refuses_the_options_of_what_does(
    option: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(workflow, "reproduce")
    assert run(["paper", *option]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{option[0]}: counts are not measured; leave it out, or add --times" in line


def test_bench_alone_still_wants_something_to_measure(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--json"]) == 2
    assert "nothing to measure" in capsys.readouterr().err
