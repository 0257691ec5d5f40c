"""A signature covers an artifact file by file, is checked before anything is parsed, and needs no network."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from ttl_deploy import signing
from ttl_deploy.artifact import MANIFEST, Artifact, open_artifact, sign, update_manifest
from ttl_deploy.errors import BadInputError, IntegrityError, MissingDependencyError, TtlDeployError
from ttl_deploy.runtime import load
from ttl_deploy.spec import Trust

PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8
PLAIN = serialization.NoEncryption()


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private key; `public(key)` is the other one."""
    path = tmp_path_factory.mktemp("keys") / "k.pem"
    assert signing.new_key(path) == public(path)
    return path


def public(key: Path) -> Path:
    return key.with_name("k.pub.pem")


@pytest.fixture
def signed(artifact: Artifact, key: Path) -> Artifact:
    sign(artifact.folder, key=key)
    return artifact


def test_a_new_key_is_for_its_owner_alone_and_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "k.pem"
    shown = signing.new_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(BadInputError, match="a key is never replaced"):
        signing.new_key(path)
    path.unlink()
    with pytest.raises(BadInputError, match=r"k\.pub\.pem: exists already"):
        signing.new_key(path)
    assert b"PUBLIC KEY" in shown.read_bytes()
    assert not path.exists()


def test_a_key_that_cannot_be_written_leaves_no_half_of_the_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr(signing.os, "open", full)
    with pytest.raises(TtlDeployError):
        signing._write_secret(tmp_path / "k.pem", b"secret")
    assert not list(tmp_path.iterdir())


def test_what_is_signed_opens_with_the_key_and_without(signed: Artifact, key: Path) -> None:
    opened = open_artifact(signed.folder, trust=Trust(key=public(key)))
    assert (opened, opened.trusted) == (signed, True)
    plain = open_artifact(signed.folder)
    assert (plain, plain.trusted) == (signed, False)
    with load(opened) as session:
        assert session.classes == signed.manifest.model.classes


def _edit_manifest(artifact: Artifact) -> None:
    update_manifest(artifact, macs=artifact.manifest.macs + 1)


def _garble_manifest(artifact: Artifact) -> None:
    (artifact.folder / MANIFEST).write_text("[" * 10_000)


def _change_model(artifact: Artifact) -> None:
    content = bytearray(artifact.model_path.read_bytes())
    content[-1] ^= 1
    artifact.model_path.write_bytes(content)


def _change_model_and_manifest(artifact: Artifact) -> None:
    from ttl_deploy.artifact import record_of

    _change_model(artifact)
    update_manifest(artifact, files={"model.onnx": record_of(artifact.model_path)})


def _link_model(artifact: Artifact) -> None:
    moved = artifact.folder.parent / "elsewhere"
    artifact.model_path.rename(moved)
    artifact.model_path.symlink_to(moved)


def _add(name: str) -> Callable[[Artifact], None]:
    def add(artifact: Artifact) -> None:
        path = artifact.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")

    return add


ALTERED: dict[str, Callable[[Artifact], None]] = {
    "the manifest says something else": _edit_manifest,
    "the manifest is garbled": _garble_manifest,
    "a byte of the model": _change_model,
    "model and manifest agree": _change_model_and_manifest,
    "the model is a link": _link_model,
    "the model is gone": lambda artifact: artifact.model_path.unlink(),
    "another file": _add("weights.bin"),
    "a file in a folder": _add("__pycache__/verify_engine.cpython-311.pyc"),
    "a file of Git": _add(".gitattributes"),
    "a file of a file manager": _add(".DS_Store"),
}


@pytest.mark.parametrize("change", ALTERED.values(), ids=ALTERED)
def test_whatever_is_altered_is_refused_for_its_signature(
    signed: Artifact, key: Path, change: Callable[[Artifact], None]
) -> None:
    """The garbled manifest shows that nothing is parsed first: it would be told as bad JSON."""
    change(signed)
    for verify in (True, False):
        with pytest.raises(IntegrityError, match=r"is not what was signed|cannot be checked .*link") as error:
            open_artifact(signed.folder, verify=verify, trust=Trust(key=public(key)))
        assert "\n" not in str(error.value)


def test_an_unsigned_artifact_is_refused(artifact: Artifact, key: Path) -> None:
    with pytest.raises(IntegrityError, match=r"is not signed \(no model\.sig\)"):
        open_artifact(artifact.folder, trust=Trust(key=public(key)))


def test_the_signature_of_another_key_is_refused(signed: Artifact, tmp_path: Path) -> None:
    other = signing.new_key(tmp_path / "other.pem")
    with pytest.raises(IntegrityError, match=r"is not signed by .*other\.pub\.pem"):
        open_artifact(signed.folder, trust=Trust(key=other))


def test_a_forger_who_names_the_right_key_is_refused(signed: Artifact, key: Path, tmp_path: Path) -> None:
    """Signed by another key, with the fingerprint of the right one."""
    signing.new_key(tmp_path / "other.pem")
    right = json.loads((signed.folder / signing.SIGNATURE).read_text())
    sign(signed.folder, key=tmp_path / "other.pem", overwrite=True)
    forged = json.loads((signed.folder / signing.SIGNATURE).read_text())
    forged["verificationMaterial"] = right["verificationMaterial"]
    (signed.folder / signing.SIGNATURE).write_text(json.dumps(forged))
    with pytest.raises(IntegrityError, match="is not signed by"):
        open_artifact(signed.folder, trust=Trust(key=public(key)))


def test_the_signature_of_another_artifact_is_refused(
    signed: Artifact, make_artifact: Callable[..., Artifact], key: Path
) -> None:
    other = make_artifact("other", macs=10)
    shutil.copy(signed.folder / signing.SIGNATURE, other.folder)
    with pytest.raises(IntegrityError, match="is not what was signed"):
        open_artifact(other.folder, trust=Trust(key=public(key)))


@pytest.mark.parametrize(
    "text", ["", "{}", "null", "[" * 100_000, "\x00", '{"verificationMaterial": {"publicKey": 1}}']
)
def test_a_damaged_signature_is_one_line(signed: Artifact, key: Path, text: str) -> None:
    (signed.folder / signing.SIGNATURE).write_text(text)
    with pytest.raises(IntegrityError) as error:
        open_artifact(signed.folder, trust=Trust(key=public(key)))
    assert "\n" not in str(error.value)


def test_a_list_that_could_be_read_in_two_ways_is_refused() -> None:
    """Base64 decoders differ in what they pass over; the list must be the one whose signature was checked."""
    statement = json.dumps({"predicate": {"resources": [{"name": "model.onnx", "digest": "00"}]}})
    coded = base64.b64encode(statement.ljust(100).encode()).decode()
    assert coded.endswith("A==")

    def listed(payload: str) -> dict[str, str]:
        return signing._listed(json.dumps({"dsseEnvelope": {"payload": payload}}).encode())

    assert listed(coded) == {"model.onnx": "00"}
    for payload in (f"{coded[:-3]}B==", f"{coded[:4]}\n{coded[4:]}", f"{coded[:4]}-{coded[4:]}"):
        with pytest.raises(ValueError, match=r"two ways|base64"):
            listed(payload)


def test_an_endless_signature_is_not_read(signed: Artifact, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "_LARGEST", 10)
    with pytest.raises(IntegrityError, match="is no signature"):
        open_artifact(signed.folder, trust=Trust(key=public(key)))


def test_a_manifest_exchanged_after_the_check_is_refused(
    signed: Artifact, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = signing.signed_files

    def then_exchange(folder: Path, key: Path) -> dict[str, str]:
        listed = real(folder, key)
        _edit_manifest(signed)
        return listed

    monkeypatch.setattr(signing, "signed_files", then_exchange)
    with pytest.raises(IntegrityError, match="is not the one that was signed"):
        open_artifact(signed.folder, trust=Trust(key=public(key)))


def test_a_model_exchanged_before_the_engine_opened_it_is_refused(signed: Artifact, key: Path) -> None:
    """Even by the same bytes: what was opened is then not known to be what was hashed."""
    opened = open_artifact(signed.folder, trust=Trust(key=public(key)))
    content = signed.model_path.read_bytes()
    signed.model_path.unlink()
    signed.model_path.write_bytes(content)
    with pytest.raises(IntegrityError, match="was changed while it was being opened"):
        load(opened)
    load(open_artifact(signed.folder, trust=Trust(key=public(key)))).close()


def test_signing_again_needs_overwrite(signed: Artifact, key: Path) -> None:
    with pytest.raises(BadInputError, match="is signed already; pass --overwrite"):
        sign(signed.folder, key=key)
    changed = update_manifest(signed, macs=10)
    sign(signed.folder, key=key, overwrite=True)
    assert open_artifact(signed.folder, trust=Trust(key=public(key))) == changed


def test_a_damaged_artifact_is_not_signed(artifact: Artifact, key: Path) -> None:
    _change_model(artifact)
    with pytest.raises(IntegrityError, match="has changed"):
        sign(artifact.folder, key=key)
    assert not (artifact.folder / signing.SIGNATURE).exists()


def test_a_file_that_belongs_to_no_artifact_is_not_signed(artifact: Artifact, key: Path) -> None:
    _add(".DS_Store")(artifact)
    open_artifact(artifact.folder)
    with pytest.raises(IntegrityError, match=r"holds \.DS_Store.*move it out"):
        sign(artifact.folder, key=key)


def _keys(folder: Path) -> dict[str, bytes]:
    curve, bits = ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)
    edwards = ed25519.Ed25519PrivateKey.generate()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return {
        "nothing": b"",
        "rsa": bits.private_bytes(PEM, PKCS8, PLAIN),
        "rsa.pub": bits.public_key().public_bytes(PEM, form),
        "ed25519": edwards.private_bytes(PEM, PKCS8, PLAIN),
        "ed25519.pub": edwards.public_key().public_bytes(PEM, form),
        "encrypted": curve.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"secret")),
        "bitcoin": ec.generate_private_key(ec.SECP256K1()).private_bytes(PEM, PKCS8, PLAIN),
    }


def test_a_key_that_cannot_be_used_is_one_line_that_names_it(signed: Artifact, key: Path, tmp_path: Path) -> None:
    for name, content in _keys(tmp_path).items():
        (tmp_path / name).write_bytes(content)
    unusable = [tmp_path / name for name in (*_keys(tmp_path), "missing", ".")]
    before = (signed.folder / signing.SIGNATURE).read_bytes()
    for path in (*unusable, public(key)):
        with pytest.raises(BadInputError) as error:
            sign(signed.folder, key=path, overwrite=True)
        assert path.name in str(error.value)
        assert "\n" not in str(error.value)
    for path in (*unusable, key):
        with pytest.raises(BadInputError) as error:
            open_artifact(signed.folder, trust=Trust(key=path))
        assert path.name in str(error.value)
    assert (signed.folder / signing.SIGNATURE).read_bytes() == before


def test_an_encrypted_key_is_told_as_such(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "k.pem").write_bytes(_keys(tmp_path)["encrypted"])
    with pytest.raises(BadInputError, match=r"is encrypted; decrypt it: openssl pkey -in k\.pem"):
        sign(artifact.folder, key=tmp_path / "k.pem")


def test_without_the_extra_the_error_names_it(
    signed: Artifact, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in ("model_signing", "cryptography")]:
        monkeypatch.delitem(sys.modules, name)
    for package in ("model_signing", "cryptography"):
        monkeypatch.setitem(sys.modules, package, None)
    for use in (
        lambda: sign(signed.folder, key=key, overwrite=True),
        lambda: open_artifact(signed.folder, trust=Trust(key=public(key))),
        lambda: signing.new_key(tmp_path / "n.pem"),
    ):
        with pytest.raises(MissingDependencyError, match=r"pip install 'ttl-deploy\[signing\]'"):
            use()
    assert open_artifact(signed.folder) == signed


def test_no_network_is_asked_for(artifact: Artifact, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("asked for the network")

    for name in ("connect", "connect_ex", "bind", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    sign(artifact.folder, key=key)
    assert open_artifact(artifact.folder, trust=Trust(key=public(key))) == artifact


def test_model_signings_own_program_says_the_same(signed: Artifact, key: Path) -> None:
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(signed.folder)]
    command += ["--signature", str(signed.folder / signing.SIGNATURE), "--public_key", str(public(key))]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    _edit_manifest(signed)
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
