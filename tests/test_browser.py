"""What needs a browser is skipped with its reason where none is, and fails where one is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = """
from browser import in_browser, seen

@in_browser
def test_a_page(tmp_path):
    (tmp_path / "page.html").write_text("<head></head>")
    seen(tmp_path / "page.html", 390)
"""


@pytest.mark.parametrize(
    ("needed", "code", "words"),
    [
        ("", 0, "1 skipped"),
        ("0", 0, "needs Chromium or Chrome on the path"),
        ("1", 1, "TTL_DEPLOY_NEEDS_BROWSER is 1, and neither Chromium nor Chrome is on the path"),
    ],
)
def test_a_missing_browser_is_skipped_only_where_none_is_needed(
    tmp_path: Path, needed: str, code: int, words: str
) -> None:
    (tmp_path / "test_page.py").write_text(PAGE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    environment = {
        **os.environ,
        "PATH": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parent),
        "TTL_DEPLOY_NEEDS_BROWSER": needed,
    }
    call = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "b"), "."]
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stdout
