"""YAML and JSON of users: what is plain comes back, everything else is one error that names the file and is fast."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from ttl_deploy.documents import Limits, read_json, read_json_lines, read_toml, read_yaml, unfinished
from ttl_deploy.errors import BadInputError, DamagedError, IntegrityError

PLAIN = {
    "a": 1,
    "b": [1.5, "x", None, True, []],
    "c": {"d": 1e-7, "é": "2020-01-01", "raw": "\udcff", "big": 2**64 - 1},
}

BOMB = "\n".join(["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]" for i in range(1, 30))])

WRONG_YAML = {
    "an alias": BOMB,
    "an anchor": "a: &x 1",
    "a tag": "a: !!python/object:os.system 1",
    "a key twice": "a: 1\na: 2",
    "a merge": "<<: {a: 1}",
    "a key that is no text": "1: 2",
    "a date": "a: 2020-01-01",
    "a huge number": "a: " + "9" * 5000,
    "more than 64 bits": f"a: {2**64}",
    "no number": "a: .nan",
    "infinity": "a: -.inf",
    "two documents": "--- 1\n--- 2",
    "deep": "[" * 100_000,
    "deep in lines": "- " * 3000,
    "a zero byte": "a: \0",
    "half a character": 'a: "\\ud800"',
    "cut short": "a: 'x",
}

WRONG_JSON = {
    "nothing": "",
    "a key twice": '{"a": 1, "a": 2}',
    "no number": "[NaN]",
    "infinity": "[-Infinity]",
    "too large for a float": "[1e999]",
    "a huge number": "[" + "9" * 100_000 + "]",
    "more than 64 bits": f"[{-(2**65)}]",
    "deep": "[" * 100_000,
    "rather deep": "[" * 70 + "]" * 70,
    "half a character": '["\\ud800"]',
    "two documents": "{}{}",
    "cut short": '{"a": ',
}


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path


def test_plain_content_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert read_json(written(tmp_path / "a.json", json.dumps(PLAIN))) == PLAIN
    assert read_yaml(written(tmp_path / "a.yaml", yaml.safe_dump(PLAIN))) == PLAIN
    assert read_json(written(tmp_path / "a.json", b"\xef\xbb\xbf[1]")) == [1]
    assert read_toml(written(tmp_path / "a.toml", "a = 1")) == {"a": 1}


def test_yaml_is_read_as_the_safe_loader_reads_it(tmp_path: Path) -> None:
    text = "a: 0x1f\nb: 1_000\nc: yes\nd: ~\ne: 1e3\nf: |\n  two\n  lines\ng: [1, {h: '1'}]\ni: 1:30\n"
    assert read_yaml(written(tmp_path / "a.yaml", text)) == yaml.safe_load(text)


@pytest.mark.parametrize("wrong", WRONG_YAML)
def test_yaml_that_is_refused(wrong: str, tmp_path: Path) -> None:
    refused(lambda: read_yaml(written(tmp_path / "file.yaml", WRONG_YAML[wrong]), fix="do this"), "file.yaml")


@pytest.mark.parametrize("wrong", WRONG_JSON)
def test_json_that_is_refused(wrong: str, tmp_path: Path) -> None:
    refused(lambda: read_json(written(tmp_path / "file.json", WRONG_JSON[wrong]), fix="do this"), "file.json")


def test_documents_that_are_too_large_are_not_parsed(tmp_path: Path) -> None:
    small = Limits(bytes=100, values=10)
    refused(lambda: read_json(written(tmp_path / "a.json", "[" + " " * 200 + "]"), small, fix="do this"), "a.json")
    refused(lambda: read_json(written(tmp_path / "a.json", json.dumps([1] * 20)), small, fix="do this"), "a.json")
    refused(lambda: read_yaml(written(tmp_path / "a.yaml", "- 1\n" * 20), small, fix="do this"), "a.yaml")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "loop", "pipe"):
        refused(lambda name=name: read_json(tmp_path / name, fix="do this"), name)  # type: ignore[misc]
    refused(lambda: read_json(Path("/dev/zero"), fix="do this"), "zero")
    refused(lambda: read_json(tmp_path / ("x" * 5000), fix="do this"), "xxx")
    with pytest.raises(BadInputError, match=r"none\.json: no such file; make it"):
        read_json(tmp_path / "none.json", missing="make it", fix="do this")


def test_a_line_that_a_crash_cut_short_is_left_out_and_no_other(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"a": 1}\n{"a": 2}\n{"a"')
    assert list(read_json_lines(path)) == [(1, {"a": 1}), (2, {"a": 2})]
    assert unfinished(path.read_bytes()) == 4
    assert list(read_json_lines(written(path, '{"a": 1}\n{"a": 2}'))) == [(1, {"a": 1}), (2, {"a": 2})]
    assert list(read_json_lines(written(path, ""))) == []
    for text in ('{"a": 1}\n{"a"\n', '{"a": 1}\n\n{"a": 2}\n', '{"a": 1}\n{"a"\n{"a": 3}\n'):
        refused(lambda text=text: list(read_json_lines(written(path, text), fix="do this")), "a.jsonl:2")  # type: ignore[misc]


def refused(read: Any, name: str) -> None:
    begun = time.process_time()
    with pytest.raises(DamagedError) as error:
        read()
    assert isinstance(error.value, BadInputError | IntegrityError)
    assert name in str(error.value)
    assert "do this" in str(error.value)
    assert "\n" not in str(error.value)
    assert time.process_time() - begun < 5
