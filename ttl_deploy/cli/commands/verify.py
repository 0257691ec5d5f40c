"""`ttl-deploy verify`: is the artifact the model that was validated?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttl_deploy.cli import console
from ttl_deploy.cli.options import bounds_of

NAME = "verify"
ORDER = 5
NEEDS_ARGUMENTS = True


def run(
    artifact: Annotated[Path, typer.Argument(help="Folder of the artifact.")],
    against: Annotated[
        Path | None, typer.Option(help="Run it was exported from.", show_default="the folder around the artifact")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="onnxruntime or openvino.", show_default="the first that can")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(help="Threads for one batch.", show_default="one per core", min=1)
    ] = None,
    max_auroc_drop: Annotated[
        float | None, typer.Option(help="Most AUROC the artifact may lose.", show_default="0.005")
    ] = None,
    max_auprc_drop: Annotated[
        float | None, typer.Option(help="Most AUPRC the artifact may lose.", show_default="0.005")
    ] = None,
    min_label_agreement: Annotated[
        float | None, typer.Option(help="Least fraction of images with the same predicted class.", show_default="0.99")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of the pixel cache.", show_default="the user's cache folder")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> int:
    """Compare an artifact with PyTorch on the run's own test split: exit code 0 pass, 1 fail or inconclusive.

    Hashes are checked first. The reference is what PyTorch said, in fp32, when the run was evaluated.
    """
    from ttl_deploy.artifact import open_artifact
    from ttl_deploy.parity.verify import verify

    precision = open_artifact(artifact, verify=False).manifest.precision
    result = verify(
        artifact,
        against=against,
        runtime=runtime,
        device=device,
        threads=threads,
        bounds=bounds_of(precision, max_auroc_drop, max_auprc_drop, min_label_agreement),
        cache=cache,
        reporter=console.ConsoleReporter(quiet=as_json),
    )
    comparison, judged = result.comparison, result.verdict
    if as_json:
        console.print_json(
            {
                "artifact": str(artifact),
                "runtime": result.runtime,
                "verdict": judged.model_dump(mode="json"),
                "comparison": comparison.model_dump(mode="json"),
                "worst": result.worst,
            }
        )
        return 0 if judged.result == "pass" else 1
    rows = [
        ("AUROC", _number(comparison.auroc[0]), _number(comparison.auroc[1])),
        ("AUPRC", _number(comparison.auprc[0]), _number(comparison.auprc[1])),
        ("same label", "", f"{comparison.label_agreement:.2%}"),
        ("logit difference, mean", "", _tiny(comparison.mean_difference)),
        ("logit difference, 99th percentile", "", _tiny(comparison.p99_difference)),
        ("logit difference, largest", "", _tiny(comparison.max_difference)),
    ]
    title = f"{artifact} in {result.runtime}: {comparison.images} test images"
    console.table(title, ("", "PyTorch fp32", "artifact"), rows)
    console.line(f"{judged.result.upper()}: {judged.reason}")
    return 0 if judged.result == "pass" else 1


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.5f}"


def _tiny(value: float | None) -> str | None:
    return None if value is None else f"{value:.2e}"
