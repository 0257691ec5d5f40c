"""The locks, the licences and the bill of materials, as CI checks them; none of it asks a network."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from email.message import Message
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
HASH = "a" * 64


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A module of `.ci`."""
    monkeypatch.syspath_prepend(ROOT / ".ci")
    for name in ("lock", "licences", "sbom"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return import_module


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what the locks are held against."""
    for name in ("pyproject.toml", "constraints.txt", "requirements.lock", "export/docker"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    return tmp_path


def change(path: Path, pattern: str, new: str) -> None:
    text, count = re.subn(pattern, new, path.read_text(), count=1, flags=re.MULTILINE)
    assert count == 1, pattern
    path.write_text(text)


def test_the_locks_agree_with_the_constraints_and_the_project(part: Callable[[str], Any]) -> None:
    assert part("lock").disagreements() == []


@pytest.mark.parametrize(
    ("name", "pattern", "new", "said"),
    [
        ("constraints.txt", r"^numpy==.*$", "numpy==2.0.0", "numpy: requirements.lock has"),
        ("constraints.txt", r"^scipy==.*\n", "", "constraints.txt has nothing"),
        ("constraints.txt", r"^fastapi==", "fastapi==9", "fastapi: export/docker/requirements.lock has"),
        ("pyproject.toml", r'"safetensors>=.*"', '"safetensors>=99"', "safetensors>=99: requirements.lock has"),
        ("pyproject.toml", r'"typer>=', '"nowhere>=1", "typer>=', "nowhere: needed and not in requirements.lock"),
        ("pyproject.toml", r'"hatchling>=.*"', '"flit"', "flit: needed and not in export/docker/build.lock"),
        ("export/docker/requirements.in", r"^uvicorn$", "gunicorn", "gunicorn: needed and not in export/docker"),
    ],
)
def test_a_disagreement_is_named(
    part: Callable[[str], Any], project: Path, name: str, pattern: str, new: str, said: str
) -> None:
    change(project / name, pattern, new)
    assert any(said in sentence for sentence in part("lock").disagreements(project))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("numpy==2.0\n", "no hash of numpy"),
        (f"numpy>=2.0 \\\n  --hash=sha256:{HASH}\n", "name==version"),
        ("--index-url somewhere\n", "name==version"),
        (f"numpy @ file:///numpy.whl \\\n --hash=sha256:{HASH}\n", "name==version"),
        (f"--hash=sha256:{HASH}\n", "before any package"),
        (f"numpy==2.0 \\\n  --hash=md5:{HASH}\n", "name==version"),
    ],
)
def test_a_line_that_pins_nothing_is_refused(part: Callable[[str], Any], text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        part("lock").read_lock(text)


def report(name: str, version: str, sha256: str) -> dict[str, Any]:
    """As `pip install --report` writes it; PyPA's specification of installation reports."""
    download = {"archive_info": {"hashes": {"sha256": sha256}}}
    return {"install": [{"metadata": {"name": name, "version": version}, "download_info": download}]}


def test_what_pip_installed_beside_the_lock_is_named(part: Callable[[str], Any]) -> None:
    lock = part("lock")
    locked = lock.read_lock(f"an-example==1.0 \\\n    --hash=sha256:{HASH}\n")
    assert lock.not_as_locked([report("An_Example", "1.0", HASH)], locked) == []
    (other_file,) = lock.not_as_locked([report("an.example", "1.0", "b" * 64)], locked)
    assert f"SHA-256 {'b' * 64}" in other_file
    (other_version,) = lock.not_as_locked([report("an-example", "1.1", HASH)], locked)
    assert other_version == "an-example 1.1 was installed, requirements.lock has 1.0"
    (unknown,) = lock.not_as_locked([report("stowaway", "1.0", HASH)], locked)
    assert "stowaway 1.0 was installed and is not in requirements.lock" in unknown
    here = {"install": [{"metadata": {"name": "ttl-deploy", "version": "0"}, "download_info": {"dir_info": {}}}]}
    assert lock.not_as_locked([here], locked) == []


def test_every_licence_is_allowed_or_judged() -> None:
    done = subprocess.run([sys.executable, ".ci/licences.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^numpy +\S+ +BSD-3-Clause", done.stdout, re.MULTILINE)


def test_a_licence_that_nobody_judged_is_refused(part: Callable[[str], Any]) -> None:
    licences = part("licences")
    policy = licences.Policy.read()
    assert policy.passes("Apache-2.0 WITH LLVM-exception AND (GPL-3.0-only OR MIT)")
    for licence in ("GPL-3.0-or-later", "MIT AND AGPL-3.0-only", "LicenseRef-NVIDIA-Proprietary", "unknown", "a b"):
        assert not policy.passes(licence)
    assert policy.judgement("certifi", "MPL-2.0").reason
    assert policy.judgement("certifi", "GPL-3.0-only") is None
    assert policy.judgement("another", "MPL-2.0") is None
    assert licences.stale(policy, {}) == sorted({name for entry in policy.judged for name in entry.packages})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([("License-Expression", "MIT"), ("License", "something else")], "MIT"),
        ([("License", "Apache License, Version 2.0")], "Apache-2.0"),
        ([("License", "Copyright (c) 2012 Somebody\nAll rights reserved.")], "Copyright (c) 2012 Somebody"),
        ([("License", "A text."), ("Classifier", "License :: OSI Approved :: BSD License")], "LicenseRef-BSD"),
        ([("Classifier", "License :: OSI Approved :: GNU General Public License v3 (GPLv3)")], "unknown"),
        ([], "unknown"),
    ],
)
def test_a_package_s_licence_is_what_it_declares(
    part: Callable[[str], Any], fields: list[tuple[str, str]], expected: str
) -> None:
    licences = part("licences")
    metadata = Message()
    for name, value in fields:
        metadata[name] = value
    declared = {name.lower().replace("-", "_"): value for name, value in fields if name != "Classifier"}
    metadata.json = declared  # type: ignore[attr-defined]
    assert licences.Policy.read().licence_of(metadata).startswith(expected)


def test_the_bill_of_materials_is_valid_complete_and_the_same_again(
    part: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1760000000")
    sbom, lock, out = part("sbom"), part("lock"), tmp_path / "sbom.cdx.json"
    needs = sbom.closure(sbom.PROJECT, sbom.EXTRAS)
    text = sbom.text_of(
        sbom.bill(needs, lock.read_lock((ROOT / lock.LOCK).read_text()), part("licences").Policy.read())
    )
    command = [sys.executable, str(ROOT / ".ci" / "sbom.py"), "--out", str(out)]
    subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "1"}, check=True)
    assert out.read_text() == text
    bill = json.loads(text)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["timestamp"].startswith("2025-10-09")
    found = {component["name"]: component for component in bill["components"]}
    # Of the base, an extra, an extra of a dependency, and what only these need; nothing of the tests' own.
    assert {"torch", "pydicom", "nncf", "ray", "aiohttp", "numpy", "cyclonedx-python-lib"} <= set(found)
    assert not {"pytest", "mypy", "hypothesis", "atheris"} & set(found)
    locked = lock.read_constraints()
    assert {name: component["version"] for name, component in found.items()} == {name: locked[name] for name in found}
    assert found["numpy"]["licenses"] != []
    asked = {row["ref"].partition("@")[0]: row.get("dependsOn", []) for row in bill["dependencies"]}
    assert f"numpy@{locked['numpy']}" in asked["scipy"]
    assert f"torch@{locked['torch']}" in asked["ttl-deploy"]


def test_an_environment_that_is_not_the_locked_one_has_no_bill(part: Callable[[str], Any]) -> None:
    with pytest.raises(ValueError, match=r"not as in requirements.lock: numpy 1.0"):
        part("sbom").refuse_unlocked({"numpy": "1.0"}, part("lock").read_lock(f"numpy==2.0 \\\n --hash=sha256:{HASH}"))


def test_actions_are_pinned_by_commit_and_the_image_by_digest() -> None:
    workflows = [path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml")]
    used = re.findall(r"uses: (\S+)", "\n".join(workflows))
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)] == []
    docker = (ROOT / "export" / "docker" / "Dockerfile").read_text()
    assert set(re.findall(r"^FROM (\S+)", docker, re.MULTILINE)) == {"${PYTHON_IMAGE}"}
    assert re.search(r"^ARG PYTHON_IMAGE=\S+@sha256:[0-9a-f]{64}$", docker, re.MULTILINE)
    assert [
        line
        for line in docker.splitlines()
        if "pip install" in line and not re.search("--(require-hashes|no-index)", line)
    ] == []
