"""`ttl-deploy serve`: an artifact behind HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ttl_deploy.cli import console
from ttl_deploy.cli.forms import form
from ttl_deploy.spec import Placement, RequestLimits, Trust
from ttl_deploy.spec.said import Without

NAME = "serve"
ORDER = 9
NEEDS_ARGUMENTS = True

_OF_COMMAND = Without("header_timeout", "body_patience", "body_rate", "refusal_delay")


@form
def run(
    artifact: Annotated[Path, typer.Argument(help="Folder of the artifact.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all addresses.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port; 0: any that is free.", min=0, max=65535)] = 8000,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model.", show_default="the name of its run")
    ] = None,
    *,
    placement: Placement,
    sessions: Annotated[
        int,
        typer.Option(help="Batches that run at the same time; they divide the cores among them.", min=1, max=64),
    ] = 1,
    max_batch: Annotated[int, typer.Option(help="Most images of one request; more: 400.", min=1)] = 64,
    limits: Annotated[RequestLimits, _OF_COMMAND],
    grace: Annotated[
        float,
        typer.Option(help="Seconds for requests under way when the server stops; later: 503.", min=0.1, max=86400),
    ] = 10.0,
    token_file: Annotated[
        Path | None, typer.Option(help="File with a secret; requests need `Authorization: Bearer SECRET`.")
    ] = None,
    certfile: Annotated[Path | None, typer.Option(help="PEM certificate (chain): serve over TLS.")] = None,
    keyfile: Annotated[
        Path | None, typer.Option(help="PEM private key.", show_default="in the certificate's file")
    ] = None,
    trust: Trust,
) -> None:
    """Serve an artifact: KServe v2 (as Triton's clients speak it), POST /predict with an image, GET /metrics.

    Stops on SIGTERM or Ctrl-C after answering what is under way. Without --token-file anybody who reaches the port may
    ask; with it all but /v2/health/live and /v2/health/ready need the token, /metrics too. Pass --certfile with it, or
    the token travels in the clear.
    """
    from ttl_deploy.serve.access import read_token, tls_context
    from ttl_deploy.serve.model import ServedModel
    from ttl_deploy.serve.server import Server, allow_open_files, refuse_without_packages

    refuse_without_packages()
    token = read_token(token_file) if token_file is not None else None
    tls = tls_context(certfile, keyfile)
    allow_open_files()
    with (
        ServedModel(
            artifact,
            name=name,
            placement=placement,
            sessions=sessions,
            max_batch=max_batch,
            decode_seconds=limits.timeout,
            trust=trust,
        ) as model,
        Server(model, host=host, port=port, limits=limits, grace=grace, token=token, tls=tls) as server,
    ):
        console.line(f"serving {model.name} ({model.runtime}) at {server.url}; stop with Ctrl-C")
        console.flush()
        server.wait()
    if server.has_abandoned:
        # A thread inside an engine cannot be stopped, and Python would wait for it.
        os._exit(0)
