"""`ttl-deploy cuts`: where a backbone can be cut, and what is kept there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ttl_deploy.cli import console

if TYPE_CHECKING:
    from ttl_deploy.complexity import CutCost
    from ttl_deploy.spec import InputSpec

NAME = "cuts"
ORDER = 24
NEEDS_ARGUMENTS = True


def run(
    backbone: Annotated[str, typer.Argument(help="Name in the zoo, for example resnet50, or timm:NAME.")],
    image_size: Annotated[
        str | None,
        typer.Option(
            help="Input size in pixels, for feature sizes and MACs: 224, height x width, or depth x height x width.",
            show_default="the backbone's, 224",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the cut points of a backbone with what is kept at each: parameters and MACs without the head.

    Name a cut by its name, its index, or block:N for the end of a block.
    """
    from ttl_deploy.complexity import known_cuts

    given, costs = known_cuts(backbone, image_size) or _counted(backbone, image_size)
    if as_json:
        console.print_json(
            [
                {
                    "index": cost.point.index,
                    "name": cost.point.name,
                    "block": cost.point.block,
                    "ends_block": cost.point.ends_block,
                    "channels": cost.shape[0],
                    "feature_size": list(cost.shape[1:]),
                    "stride": cost.point.stride,
                    "parameters": cost.parameters,
                    "macs": cost.macs,
                }
                for cost in costs
            ]
        )
        return
    whole = costs[-1]
    size = image_size or "x".join(map(str, given.size))
    console.table(
        f"{backbone}: {len(costs)} cut points at {size} pixels (■ ends a block)",
        ("cut", "index", "block", "channels", "features", "params (M)", "kept", "MACs (G)", "kept"),
        [
            (
                cost.point.name,
                cost.point.index,
                f"{cost.point.block} ■" if cost.point.ends_block else f"{cost.point.block}  ",
                cost.shape[0],
                "x".join(map(str, cost.shape[1:])),
                f"{cost.parameters / 1e6:.3f}",
                f"{cost.parameters / whole.parameters:.0%}",
                f"{cost.macs / 1e9:.3f}",
                f"{cost.macs / whole.macs:.0%}",
            )
            for cost in costs
        ],
    )


def _counted(backbone: str, size: str | None) -> tuple[InputSpec, list[CutCost]]:
    from ttl_deploy.complexity import cut_costs
    from ttl_deploy.zoo import BACKBONES

    network = BACKBONES.get(backbone)
    given = network.input_spec(size)
    return given, cut_costs(network, given)
