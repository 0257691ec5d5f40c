"""The paper's run times beside ours, with a small table in the paper's place."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ttl_deploy.cli.main import run
from ttl_deploy.complexity.paper_tables import PaperTable
from ttl_deploy.hardware import Gpu, describe
from ttl_deploy.latency.duel import Ratio
from ttl_deploy.latency.measure import Measurement
from ttl_deploy.latency.persistent import Block
from ttl_deploy.verbs import paper_times as workflow
from ttl_deploy.verbs.paper_times import PaperTime, PaperTimes, is_hardware, paper_times


def row(name: str, gpu_ms: float, **construction: Any) -> dict[str, Any]:
    small = {"backbone": "resnet18", "head": "gap", "outputs": 2, "input": [3, 32, 32], **construction}
    return {"name": name, "printed": {"parameters_m": 1.0, "run_ms": {"gpu": gpu_ms}}, "construction": small}


TABLE = PaperTable.model_validate(
    {
        "name": "T",
        "title": "a table",
        "source": "nowhere",
        "baseline": "FTL",
        "devices": {"gpu": "Quadro RTX 6000"},
        "rows": [
            row("FTL", 4.0, method="ftl"),
            row("LWFT", 4.0, method="lwft", trained_layers=1),
            row("TTL", 3.0, method="ttl", cut="block:1"),
            {
                **row("FTL", 9.0, method="ttl", backbone="r3d_18", cut="block:1", input=[3, 8, 32, 32], outputs=1),
                "group": "PE",
            },
            {**row("TTL", 7.0, method="ttl", backbone="r3d_18", cut="stem", input=[3, 8, 32, 32]), "group": "PE"},
            row("lungs", 9.0, method="ftl", backbone="unet", outputs=1),
        ],
    }
)


def medians(measured: Measurement) -> NDArray[np.float64]:
    """Of each block."""
    blocks = np.split(np.array(measured.samples_ms), np.cumsum(measured.rounds)[:-1])
    return np.array([np.median(block) for block in blocks])


@pytest.mark.usefixtures("measured_here")
def test_ratios_stand_beside_the_papers() -> None:
    block = Block(min_samples=5, min_seconds=0.05, max_seconds=5)
    found = paper_times(threads=1, blocks=6, block=block, tables=[TABLE])
    lwft, ttl, volumes = found.rows
    assert (lwft.row, lwft.baseline, lwft.paper_ratio, lwft.paper_ms) == ("LWFT", "FTL", 1.0, 4.0)
    assert (ttl.row, ttl.machine, ttl.paper_ratio) == ("TTL", "Quadro RTX 6000", 0.75)
    by_label = {m.label: m for m in found.measurements}
    whole, cut = by_label["resnet18 FTL pytorch"], by_label["resnet18 TTL layer1.1 pytorch"]
    assert ttl.measured_ms == cut.typical_ms
    assert ttl.measured.high < 1, "a quarter of the network is faster than the whole"
    # Of six blocks the interval is the whole range of their ratios.
    ratios = medians(cut) / medians(whole)
    assert (ttl.measured.low, ttl.measured.high) == pytest.approx((ratios.min(), ratios.max()))
    assert (ttl.same_hardware, lwft.measured.blocks) == (False, 6)
    assert (volumes.row, volumes.baseline, volumes.paper_ratio) == ("PE TTL", "FTL", 7 / 9)
    assert volumes.measured.high < 1, "a stem is faster than with the first block"
    assert found.missing == ("table T, lungs: unet is no classifier here",)
    assert found.as_dict()["rows"][1]["measured"]["b"] == "resnet18 FTL pytorch"


def test_the_command_says_what_it_found_and_whether_it_is_sure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ratio = Ratio(a="a", b="b", ratio=0.8, low=0.7, high=0.9, blocks=6, verdict="a is faster", reason=None)
    row = PaperTime("T", "TTL", "FTL", "Quadro RTX 6000", 0.75, 3.0, ratio, 2.0, False)
    asked = []

    def found(ratio: Ratio, **options: Any) -> PaperTimes:
        asked.append(options)
        return PaperTimes("cpu", (replace(row, measured=ratio),), (), ())

    unsure = ratio.model_copy(update={"ratio": None, "reason": "restless"})
    for measured, codes in ((ratio, (0, 0)), (unsure, (1, 0))):
        monkeypatch.setattr(workflow, "paper_times", partial(found, measured))
        words = ["paper", "--times", "--device", "processor", "--rounds", "7"]
        assert (run(words), run([*words, "--allow-inconclusive"])) == codes
        assert "0.750" in capsys.readouterr().out
    assert all((o["device"], o["blocks"], o["threads"], o["out"]) == ("cpu", 7, None, None) for o in asked)


def test_too_few_blocks_are_refused_before_anything_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["paper", "--times", "--rounds", "4"]) == 2
    assert "4 blocks give no interval of 95 %; pass --rounds 6 or more" in capsys.readouterr().err


def test_milliseconds_compare_on_the_named_hardware_only() -> None:
    papers = replace(describe(), cpu="Intel(R) Core(TM) i9-9920X CPU @ 3.50GHz", gpus=(Gpu("Quadro RTX 6000", 1, ""),))
    other = replace(papers, cpu="AMD EPYC", gpus=(Gpu("Quadro RTX 8000", 1, ""),))
    for name in ("Intel Core i9-9920X", "Quadro RTX 6000"):
        assert is_hardware(name, papers)
        assert not is_hardware(name, other)


def test_every_2d_row_of_the_papers_tables_can_be_measured() -> None:
    from ttl_deploy.complexity import load_tables

    specs, missing = workflow._specs(load_tables())
    assert {spec.backbone for spec in specs} >= {"resnet50", "densenet201", "efficientnet_b0"}
    resnets = {(spec.method, spec.cut) for spec in specs if spec.backbone == "resnet50"}
    # TF cuts where TTL-1 does; LWFT is the whole network at inference, and is measured as such.
    assert resnets == {
        ("ftl", None),
        ("lwft", None),
        ("tf", "layer3.5"),
        ("ttl", "layer3.5"),
        ("ttl", "layer3.3"),
    }
    assert not [words for words in missing if "resnet50" in words or "densenet" in words or "efficientnet" in words]
