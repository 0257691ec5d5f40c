"""Lung masks: the paper's four U-Nets, trained, exported and measured here; makes `reports/segmentation.md`.

    python benchmarks/segmentation.py PAIRS.csv --work FOLDER [--epochs 40] [--out reports/segmentation.md]

All start from random weights, at 224 pixels and one channel, on one division by patient with one seed. A run that is in
FOLDER is not trained again. Latencies are medians of one image at a time in OpenVINO, each in a process of its own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import Any

from ttl_deploy import files, hardware
from ttl_deploy.artifact import Artifact, open_artifact
from ttl_deploy.complexity.verdicts import unused_above
from ttl_deploy.formats.export_run import export_run
from ttl_deploy.latency import Job, run_isolated
from ttl_deploy.runtime.base import default_threads
from ttl_deploy.spec import Bounds, Data, Model, Placement, Protocol
from ttl_deploy.training.run import Run, finished_run
from ttl_deploy.training.train import train

CUTS = {"FTL": None, "TTL-B3": "block:3", "TTL-B2": "block:2", "TTL-B1": "block:1"}
EXPORTS = (("onnx", "fp32"), ("openvino", "fp32"), ("onnx", "int8"), ("openvino", "int8"))
PRINTED = {
    "FTL": ("0.968 ± .029", ".940 ± .051"),
    "TTL-B3": (".968", ".939"),
    "TTL-B2": (".972", ".946"),
    "TTL-B1": (".970", ".941"),
}
"""Dice and Jaccard in the paper's Table 2, on the Montgomery and Shenzhen sets, from ImageNet's weights."""


def trained(name: str, pairs: Path, work: Path, epochs: int) -> Run:
    """A run of one of the networks."""
    folder, cut = work / name, CUTS[name]
    if (folder / "metrics.json").exists():
        return finished_run(folder)
    data = Data(path=pairs, task="segmentation", classes=("lung",))
    model = Model(
        backbone="resnet34", method="ttl" if cut else "ftl", cut=cut, weights="random", image_size=224, channels=1
    )
    protocol = Protocol(epochs=epochs, learning_rate=1e-3, batch_size=8, device="cpu")
    return train(data, model, protocol, folder)


def exported(run: Run, format: str, precision: str) -> Artifact:
    """An artifact of a run; what parity says of it is in its manifest."""
    folder = run.folder / f"{format}-{precision}"
    if folder.exists():
        return open_artifact(folder)
    return export_run(run.folder, format=format, precision=precision, out=folder, bounds=Bounds())


def milliseconds(artifact: Artifact, seconds: float) -> float:
    """Median of one image, in OpenVINO."""
    job = Job(
        label=artifact.folder.name,
        artifact=str(artifact.folder.resolve()),
        placement=Placement(runtime="openvino", threads=default_threads()),
        min_samples=20,
        min_seconds=seconds,
        max_seconds=10 * seconds,
    )
    return median(run_isolated(job).samples_ms)


def row(name: str, run: Run, seconds: float) -> dict[str, Any]:
    """All that the report says of a network."""
    metrics, artifacts = run.metrics(), {pair: exported(run, *pair) for pair in EXPORTS}
    return {
        "name": name,
        "test": metrics["test"],
        "parameters": metrics["parameters"],
        "papers": metrics["parameters"] + unused_above(run.config.model),
        "macs": metrics["macs"],
        "epochs": metrics["epochs"],
        "minutes": metrics["seconds"] / 60,
        "megabytes": artifacts["onnx", "fp32"].model_path.stat().st_size / 1e6,
        "artifacts": artifacts,
        "ms": {precision: milliseconds(artifacts["openvino", precision], seconds) for precision in ("fp32", "int8")},
    }


def report(rows: list[dict[str, Any]], epochs: int) -> str:
    """The text."""
    test = rows[0]["test"]
    machine, versions = hardware.describe(), hardware.library_versions()
    lines = [
        "<!-- made by `python benchmarks/segmentation.py PAIRS.csv --work FOLDER` -->",
        "# Lung masks: the whole U-Net and three truncated ones",
        "",
        f"80 chest x-rays with lung masks (General Blockchain, CC BY 4.0), {test['images']} of them, of",
        f"{test['patients']} patients, for the test; 224 pixels, one channel, random weights, {epochs} epochs of Adam",
        "at 1e-3, one seed. Means and standard deviations are over images, brackets are 95 % intervals of means over",
        "patients. The paper's numbers are of other images, more of them, and start from ImageNet: they stand beside",
        "ours for the shape only.",
        "",
        "| | Dice | Jaccard | paper's Dice, Jaccard | parameters held | as the paper counts | MACs | training |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        test, (dice, jaccard) = one["test"], PRINTED[one["name"]]
        cells = [_mean(test, metric) for metric in ("dice", "jaccard")]
        lines.append(
            f"| {one['name']} | {cells[0]} | {cells[1]} | {dice}, {jaccard} | {one['parameters'] / 1e6:.3f} M | "
            f"{one['papers'] / 1e6:.2f} M | {one['macs'] / 1e9:.3f} G | {one['minutes']:.1f} min |"
        )
    lines += [
        "",
        "Artifacts: what parity says of the masks on the test images (Dice of its masks with PyTorch's, mean",
        f"and worst image), and the median latency of one image in OpenVINO with {default_threads()} threads.",
        "",
        "| | ONNX file | onnx fp32 | openvino fp32 | onnx int8 | openvino int8 | fp32 | int8 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        cells = [_parity(one["artifacts"][pair]) for pair in EXPORTS]
        lines.append(
            f"| {one['name']} | {one['megabytes']:.1f} MB | {' | '.join(cells)} | {one['ms']['fp32']:.1f} ms | "
            f"{one['ms']['int8']:.1f} ms |"
        )
    whole = {one["name"]: one["megabytes"] for one in rows}
    lines += [
        "",
        f"TTL-B2's file is {whole['FTL'] / whole['TTL-B2']:.1f} times smaller than FTL's.",
        "",
        f"{machine.name}; " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
    ]
    return "\n".join(lines) + "\n"


def _mean(test: dict[str, Any], metric: str) -> str:
    low, high = test[f"{metric}_interval"]
    return f"{test[metric]:.3f} ± {test[f'{metric}_std']:.3f} [{low:.3f}, {high:.3f}]"


def _parity(artifact: Artifact) -> str:
    parity = artifact.manifest.parity
    if parity is None or parity.mask_overlap is None:
        return "not judged"
    mean, least = parity.mask_overlap
    return f"{parity.verdict}: {mean:.4f}, {least:.4f}"


def main() -> int:
    """Trains what is missing and writes the report; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path, help="table of images and masks")
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=3.0, help="of every latency")
    parser.add_argument("--out", type=Path, default=Path("reports/segmentation.md"))
    given = parser.parse_args()
    runs = {name: trained(name, given.pairs, given.work, given.epochs) for name in CUTS}
    rows = [row(name, run, given.seconds) for name, run in runs.items()]
    files.write_text(given.out, report(rows, given.epochs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
