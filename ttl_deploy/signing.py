"""Signatures of folders in OpenSSF's model-signing format, with keys of one's own and without a network.

`model-signing` was taken and not Ed25519 of `cryptography`, because it needs no network where it is given a key:
signing and verifying were tried without one. Anybody can check the result with its own program. It brings Sigstore's
client (24 packages, 32 MB) and takes 0.8 s to import, so it is the extra `signing`, imported where a key is given. The
extra names pyOpenSSL too, which model-signing 1.1 imports and does not ask for.

Keys are elliptic-curve keys (P-256, P-384 or P-521) as PEM. A signature lists every file of the folder with its
SHA-256, but for itself. What is in it is believed only once the key has signed those very bytes.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ttl_deploy import files
from ttl_deploy.errors import BadInputError, IntegrityError, needing, one_line

SIGNATURE = "model.sig"
"""The name that model-signing's own program takes by default."""

_LARGEST = 16 * 2**20
"""Bytes of a signature: it has about 200 for each file."""

_NEW_KEY = "make a pair with `ttl-deploy sign --new-key k.pem`"
_AGAIN = "fetch the artifact again from who signed it, or see what changed and sign it again"


def new_key(path: Path) -> Path:
    """Makes a pair of keys (P-256): the private one, for its owner alone (mode 0600), and the public one beside it.

    Args:
        path: The private key's file, such as `k.pem`; the public key is then `k.pub.pem`.

    Returns:
        The public key's file.

    Raises:
        BadInputError: One of the files exists; a key is never replaced.
        MissingDependencyError: The extra `signing` is not installed.
        StorageError: The disk is full, read-only or failing; neither file is left.
    """
    public = path.with_suffix(f".pub{path.suffix}")
    for file in (path, public):
        if file.exists():
            raise BadInputError("exists already, and a key is never replaced", where=file, fix="choose another name")
    with needing("model-signing", "signatures need", "signing"):
        from cryptography.hazmat.primitives import serialization as forms
        from cryptography.hazmat.primitives.asymmetric import ec
    key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    shown = key.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
    files.write_bytes(public, shown)
    try:
        _write_secret(path, secret)
    except BaseException:
        public.unlink(missing_ok=True)
        raise
    return public


def _write_secret(path: Path, content: bytes) -> None:
    with files.disk_errors(path):
        # Created with the mode: a file that is narrowed afterwards can be opened by others before.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def sign(folder: Path, key: Path) -> Path:
    """Signs every file of a folder; a signature that is there is replaced.

    Args:
        folder: What to sign.
        key: Private key, PEM, not encrypted.

    Returns:
        The signature's file, in the folder.

    Raises:
        BadInputError: The key cannot be used, or the folder holds a link or something that is no file.
        MissingDependencyError: The extra `signing` is not installed.
        StorageError: The disk is full, read-only or failing; the folder is as it was.
    """
    with needing("model-signing", "signatures need", "signing"):
        from model_signing import signing
    signer = signing.Config()  # type: ignore[no-untyped-call]
    with _reading_key(key, "private"):
        signer.use_elliptic_key_signer(private_key=key)
    signer.set_hashing_config(_all_files())
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / SIGNATURE
        try:
            signer.sign(folder.resolve(), made)
        except (ValueError, OSError) as error:
            raise BadInputError(f"cannot be signed: {one_line(error)}", where=folder) from error
        files.write_bytes(folder / SIGNATURE, made.read_bytes())
    return folder / SIGNATURE


def signed_files(folder: Path, key: Path) -> dict[str, str]:
    """Refuses a folder that is not, file by file, what a key has signed; nothing in it but the signature is parsed.

    Args:
        folder: What was signed.
        key: Public key, PEM.

    Returns:
        SHA-256 of every file but the signature, as signed, by its path in the folder.

    Raises:
        BadInputError: The key cannot be used, or a file cannot be read.
        IntegrityError: There is no signature, it is not by this key, or a file was changed, added or taken away.
        MissingDependencyError: The extra `signing` is not installed.
    """
    with needing("model-signing", "signatures need", "signing"):
        from model_signing import verifying
    verifier = verifying.Config()  # type: ignore[no-untyped-call]
    with _reading_key(key, "public"):
        verifier.use_elliptic_key_verifier(public_key=key)
    verifier.set_hashing_config(_all_files())
    content = _signature(folder)
    with tempfile.TemporaryDirectory() as place:
        # A copy, so that what is parsed below is what was verified.
        copy = Path(place) / SIGNATURE
        copy.write_bytes(content)
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints advice
                verifier.verify(folder.resolve(), copy)
            listed = _listed(content)
        except OSError as error:
            raise BadInputError(f"cannot be read: {error.strerror}", where=error.filename or folder) from error
        except Exception as error:  # a forged signature makes its readers raise anything
            raise IntegrityError(_why(error, key), where=folder, fix=_AGAIN) from error
    return listed


def _signature(folder: Path) -> bytes:
    path = folder / SIGNATURE
    try:
        if path.is_symlink() or not path.is_file():
            raise IntegrityError(
                f"is not signed (no {SIGNATURE})", where=folder, fix="`ttl-deploy sign ARTIFACT --key k.pem` signs it"
            )
        with path.open("rb") as handle:
            content = handle.read(_LARGEST + 1)
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror}", where=path) from error
    if len(content) > _LARGEST:
        raise IntegrityError(f"is no signature (more than {_LARGEST // 2**20} MiB)", where=path, fix=_AGAIN)
    return content


def _listed(content: bytes) -> dict[str, str]:
    """The files in a verified signature."""
    coded = json.loads(content)["dsseEnvelope"]["payload"]
    payload = base64.b64decode(coded, validate=True)
    if base64.b64encode(payload).decode() != coded:
        raise ValueError("its text can be decoded in two ways")
    rows = json.loads(payload)["predicate"]["resources"]
    return {row["name"]: row["digest"] for row in rows}


def _all_files() -> Any:
    """SHA-256 of every file but the signature; links are refused, and what is of Git is covered like the rest."""
    hashing = importlib.import_module("model_signing.hashing")
    return hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)


def _why(error: Exception, key: Path) -> str:
    said = one_line(error)
    if "Signature mismatch" in said:
        return f"is not what was signed: {said.partition(': ')[2].strip('[]')}"
    if "Key mismatch" in said or type(error).__name__ == "InvalidSignature":
        return f"is not signed by {key}"
    return f"cannot be checked against its {SIGNATURE} ({said})"


@contextlib.contextmanager
def _reading_key(path: Path, kind: str) -> Iterator[None]:
    """Turns what a key's readers raise into one line; `kind` is what it must be."""
    other = {"private": "public", "public": "private"}[kind]
    try:
        yield
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror}", where=path, fix=_NEW_KEY) from error
    except TypeError as error:
        raise BadInputError(
            "is encrypted", where=path, fix=f"decrypt it: openssl pkey -in {path.name} -out k.pem"
        ) from error
    except Exception as error:  # keys of other kinds lack what the reader asks of them
        raise BadInputError(
            f"is no {kind} elliptic-curve key (P-256, P-384 or P-521) as PEM, perhaps the {other} one",
            where=path,
            fix=_NEW_KEY,
        ) from error
