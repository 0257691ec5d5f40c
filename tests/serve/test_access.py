"""A token and TLS: who has none gets nothing but health, and files that cannot be used are told before the model."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ttl_deploy.cli.main import run
from ttl_deploy.errors import BadInputError
from ttl_deploy.serve.access import read_token, tls_context
from ttl_deploy.serve.model import ServedModel
from ttl_deploy.serve.server import Server
from ttl_deploy.spec import RequestLimits

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{SECRET}\n")
    return path


class TestToken:
    @pytest.fixture
    def guarded(self, tiny: ServedModel, token_file: Path) -> Iterator[httpx.Client]:
        with (
            Server(tiny, port=0, token=read_token(token_file)) as running,
            httpx.Client(base_url=running.url, timeout=120, trust_env=False) as client,
        ):
            yield client

    def test_health_is_open_and_nothing_else(self, guarded: httpx.Client, png: bytes) -> None:
        assert guarded.get("/v2/health/live").status_code == guarded.get("/v2/health/ready").status_code == 200
        refused = [guarded.get(path) for path in ("/metrics", "/v2", "/v2/models/tiny", "/openapi.json", "/nowhere")]
        refused += [guarded.post("/predict", content=png), guarded.get("/v2/health/live/../../models/tiny")]
        for answer in refused:
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert "Authorization: Bearer" in answer.json()["error"]

    def test_the_token_opens_everything(self, guarded: httpx.Client, png: bytes) -> None:
        for scheme in ("Bearer", "bearer"):
            headers = {"Authorization": f"{scheme} {SECRET}"}
            assert guarded.post("/predict", content=png, headers=headers).status_code == 200
            assert guarded.get("/metrics", headers=headers).status_code == 200

    @pytest.mark.parametrize(
        "given",
        [
            "",
            "Bearer",
            f"Bearer {SECRET}x",
            f"Bearer {SECRET[:-1]}",
            f"Basic {SECRET}",
            SECRET,
            f"Bearer {SECRET},{SECRET}",
        ],
    )
    def test_another_token_opens_nothing(self, guarded: httpx.Client, given: str) -> None:
        assert guarded.get("/v2", headers={"Authorization": given}).status_code == 401

    def test_two_tokens_open_nothing(self, guarded: httpx.Client) -> None:
        twice = [("Authorization", f"Bearer {SECRET}")] * 2
        assert guarded.get("/v2", headers=twice).status_code == 401

    @pytest.mark.parametrize(
        "content", [b"", b"\n", b"short", b"a" * 5000, b"two words " * 4, b"\xff" * 40, b"a\0" * 20]
    )
    def test_a_file_without_a_usable_token_is_told(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "token"
        path.write_bytes(content)
        with pytest.raises(BadInputError, match=r"no usable token.*openssl rand"):
            read_token(path)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key."""
    return certificate(tmp_path_factory.mktemp("tls"))


def certificate(folder: Path) -> tuple[Path, Path]:
    found = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    files = ["-out", str(found[0]), "-keyout", str(found[1])]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return found


class TestTls:
    def test_answers_are_encrypted_with_the_certificate(
        self, tiny: ServedModel, pair: tuple[Path, Path], png: bytes
    ) -> None:
        trust = ssl.create_default_context(cafile=str(pair[0]))
        with Server(tiny, port=0, tls=tls_context(*pair)) as running:
            assert running.url.startswith("https://127.0.0.1:")
            answer = httpx.post(f"{running.url}/predict", content=png, verify=trust, timeout=120, trust_env=False)
            assert answer.status_code == 200
            with pytest.raises(httpx.TransportError):
                httpx.get(running.url.replace("https", "http"), timeout=120, trust_env=False)

    def test_a_client_that_never_shakes_hands_is_dropped(self, tiny: ServedModel, pair: tuple[Path, Path]) -> None:
        limits = RequestLimits(header_timeout=0.3)
        with Server(tiny, port=0, tls=tls_context(*pair), limits=limits) as running:
            host, port = running.url.removeprefix("https://").split(":")
            with socket.create_connection((host, int(port)), timeout=120) as silent:
                assert silent.recv(100) == b""

    def test_the_key_may_be_in_the_certificates_file(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        both = tmp_path / "both.pem"
        both.write_text(pair[0].read_text() + pair[1].read_text())
        assert isinstance(tls_context(both, None), ssl.SSLContext)

    def test_files_that_cannot_be_used_are_told(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        other, junk, locked = certificate(tmp_path)[1], tmp_path / "junk.pem", tmp_path / "locked.pem"
        junk.write_text("junk")
        command = ["openssl", "pkcs8", "-topk8", "-in", str(pair[1]), "-out", str(locked), "-passout", "pass:secret"]
        subprocess.run(command, check=True, capture_output=True)
        for given, said in (
            ((tmp_path / "no.pem", pair[1]), "no such file"),
            ((pair[0], tmp_path / "no.pem"), "no such file"),
            ((tmp_path, pair[1]), "is a directory"),
            ((junk, pair[1]), "no certificate"),
            ((pair[0], junk), "no certificate"),
            ((pair[0], other), "the key is not the certificate's"),
            ((pair[0], locked), "encrypted"),
            ((pair[0], None), "no certificate and private key"),
            ((None, pair[1]), "a key without a certificate"),
        ):
            with pytest.raises(BadInputError, match=said):
                tls_context(*given)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--token-file", "no.txt"], "no.txt: cannot be read: no such file"),
        (["--certfile", "no.pem"], "no.pem: cannot be read: no such file"),
        (["--keyfile", "no.pem"], "no.pem: a key without a certificate"),
    ],
)
def test_the_command_tells_bad_files_before_it_opens_the_artifact(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["serve", str(tmp_path / "no artifact"), *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
