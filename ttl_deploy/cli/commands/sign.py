"""`ttl-deploy sign`: a signature over everything in an artifact, and the keys for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttl_deploy.cli import console

NAME = "sign"
ORDER = 26
NEEDS_ARGUMENTS = True


def run(
    artifact: Annotated[
        Path | None, typer.Argument(help="Folder of the artifact.", metavar="ARTIFACT", show_default=False)
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="Private elliptic-curve key (PEM) to sign with, such as k.pem.", show_default=False),
    ] = None,
    new_key: Annotated[
        Path | None,
        typer.Option(
            help="Make a pair of keys instead: the private one in this file, for you alone, and the public one beside "
            "it (k.pem: k.pub.pem) for whoever verifies.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the artifact's signature.")] = False,
) -> None:
    """Sign an artifact for verify, predict, serve, bench and compare with --key. Needs the extra signing.

    The signature is model.sig in the artifact's folder, in the format of OpenSSF's model-signing; no network is needed.
    It covers every file, the manifest too, so sign last: an artifact that is exported again is signed again.
    """
    from ttl_deploy import signing
    from ttl_deploy.artifact import sign
    from ttl_deploy.errors import BadInputError

    if new_key is not None and artifact is None and key is None:
        public = signing.new_key(new_key)
        console.line(f"private key: {new_key} (keep it secret)")
        console.line(f"public key: {public} (give it to whoever verifies)")
        return
    if new_key is not None:
        raise BadInputError("makes keys and signs nothing", where="--new-key", fix="run the two one after the other")
    if artifact is None or key is None:
        raise BadInputError("nothing to sign", fix="pass ARTIFACT --key k.pem, or --new-key k.pem to make keys")
    console.line(f"signed: {sign(artifact, key=key, overwrite=overwrite)}")
