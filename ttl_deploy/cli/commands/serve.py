"""`ttl-deploy serve`: an artifact behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttl_deploy.cli import console
from ttl_deploy.cli.options import device_word

NAME = "serve"
ORDER = 8
NEEDS_ARGUMENTS = True


def run(
    artifact: Annotated[Path, typer.Argument(help="Folder of the artifact.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all addresses.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port; 0: any that is free.", min=0, max=65535)] = 8000,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model.", show_default="the name of its run")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="onnxruntime or openvino.", show_default="the first that can")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.", callback=device_word)] = "cpu",
    sessions: Annotated[int, typer.Option(help="Batches that run at the same time.", min=1, max=64)] = 1,
    threads: Annotated[
        int | None, typer.Option(help="Threads for one batch.", show_default="the cores, divided", min=1)
    ] = None,
    max_batch: Annotated[int, typer.Option(help="Most images of one request; more: 400.", min=1)] = 64,
    max_body_mib: Annotated[float, typer.Option(help="Largest body, MiB; larger: 413.", min=0.001)] = 32.0,
    timeout: Annotated[
        float, typer.Option(help="Seconds for one request; a slow body: 408, a slow answer: 504.", min=0.01)
    ] = 30.0,
    max_concurrency: Annotated[
        int, typer.Option(help="Requests under way or waiting; more: 503 with Retry-After.", min=1)
    ] = 16,
    grace: Annotated[float, typer.Option(help="Seconds for requests under way when the server stops.", min=1)] = 10.0,
) -> None:
    """Serve an artifact: KServe v2 (as Triton's clients speak it), POST /predict with an image, GET /metrics.

    Stops on SIGTERM or Ctrl-C after answering what is under way. There is no encryption and no password: put a
    reverse proxy in front before listening on more than this machine.
    """
    from ttl_deploy.serve.gate import Limits
    from ttl_deploy.serve.model import ServedModel
    from ttl_deploy.serve.server import Server, refuse_without_packages

    refuse_without_packages()
    limits = Limits(round(max_body_mib * 2**20), timeout, max_concurrency)
    with (
        ServedModel(
            artifact,
            name=name,
            runtime=runtime,
            device=device,
            sessions=sessions,
            threads=threads,
            max_batch=max_batch,
        ) as model,
        Server(model, host=host, port=port, limits=limits, grace=grace) as server,
    ):
        console.line(f"serving {model.name} ({model.runtime}) at {server.url}; stop with Ctrl-C")
        console.flush()
        server.wait()
