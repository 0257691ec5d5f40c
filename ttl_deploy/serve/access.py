"""Who may ask, and over what: a bearer token and TLS, both from files that are read before anything slow begins."""

from __future__ import annotations

import hashlib
import hmac
import ssl
from pathlib import Path

from ttl_deploy.errors import BadInputError

OPEN_PATHS = ("/v2/health/live", "/v2/health/ready")
"""What needs no token: a load balancer has none. Metrics need it; Prometheus sends one (`authorization`)."""

_LEAST_TOKEN = 16
_MOST_TOKEN = 4096


class Token:
    """A secret that a request must carry as `Authorization: Bearer SECRET`.

    Args:
        secret: The secret, printable ASCII without spaces.
    """

    def __init__(self, secret: str) -> None:
        self._digest = _digest(secret.encode())

    def opens(self, authorizations: list[bytes]) -> bool:
        """Whether a request may pass; how long the answer takes tells nothing of the secret.

        Args:
            authorizations: Values of all its headers `Authorization`.
        """
        scheme, _, secret = (authorizations[0] if len(authorizations) == 1 else b"").partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(_digest(secret.strip()), self._digest)


def read_token(path: Path) -> Token:
    """The token in a file; white space around it is no part of it.

    Raises:
        BadInputError: The file cannot be read, or does not hold one token of 16 to 4,096 printable characters.
    """
    fix = "write one secret of 16 printable ASCII characters or more into it, as `openssl rand -hex 32` makes"
    content = _read(path, fix).strip()
    good = _LEAST_TOKEN <= len(content) <= _MOST_TOKEN and all(33 <= byte <= 126 for byte in content)
    if not good:
        raise BadInputError("holds no usable token", where=path, fix=fix)
    return Token(content.decode())


def tls_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """What encrypts the connections; None without a certificate.

    Args:
        certificate: PEM file of the certificate and those that lead to a known authority.
        key: PEM file of its private key; None: it is in the certificate's file.

    Raises:
        BadInputError: A file cannot be read or used, or the two do not belong together.
    """
    if certificate is None:
        if key is not None:
            raise BadInputError("a key without a certificate", where=key, fix="pass --certfile too")
        return None
    fix = "pass a PEM certificate with --certfile and its unencrypted private key with --keyfile"
    for path in filter(None, (certificate, key)):
        _read(path, fix)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    where = certificate if key is None else f"{certificate}, {key}"
    try:
        # Without a password given, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate, key, password=_no_password)
    except _EncryptedKeyError as error:
        raise BadInputError("the private key is encrypted", where=key or certificate, fix=fix) from error
    except (ssl.SSLError, OSError) as error:
        mismatch = getattr(error, "reason", None) == "KEY_VALUES_MISMATCH"
        what = "the key is not the certificate's" if mismatch else "is no certificate and private key in PEM"
        raise BadInputError(what, where=where, fix=fix) from error
    return context


class _EncryptedKeyError(Exception):
    """A private key needs a password."""


def _no_password() -> str:
    raise _EncryptedKeyError


def _read(path: Path, fix: str) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(2**20)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "is no path"
        raise BadInputError(f"cannot be read: {reason.lower()}", where=path, fix=fix) from error


def _digest(secret: bytes) -> bytes:
    """Of one length for every secret, so that comparing takes the same time for all."""
    return hashlib.sha256(secret).digest()
