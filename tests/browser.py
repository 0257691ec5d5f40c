"""A page in a headless Chromium, where there is one: how wide it is, what complains, what is asked of the network.

Where `TTL_DEPLOY_NEEDS_BROWSER` is 1, as in CI, a browser that is missing fails the tests instead of skipping them.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

in_browser = pytest.mark.skipif(
    BROWSER is None and os.environ.get("TTL_DEPLOY_NEEDS_BROWSER") != "1",
    reason="needs Chromium or Chrome on the path",
)
"""Stands above what calls `seen`."""

_SECONDS = 180

_WATCH = """
<script>
window.told = [];
for (const kind of ["error", "warn"]) console[kind] = (...words) => told.push(kind + ": " + words.join(" "));
addEventListener("error", event => told.push("error: " + event.message), true);
addEventListener("securitypolicyviolation", event => told.push("refused: " + event.blockedURI));
addEventListener("load", () => {
  const root = document.documentElement, edge = root.clientWidth + 1, outside = [];
  for (const part of document.querySelectorAll("h1,h2,h3,p,li,caption,th,td,figcaption,svg,.card *")) {
    const box = part.getBoundingClientRect(), scrolls = part.closest(".scroll");
    const inside = scrolls && scrolls.scrollWidth > scrolls.clientWidth;
    if (box.width && !part.closest(".skip") && (box.right > edge || box.left < -1) && !inside && !part.closest("thead"))
      outside.push(part.tagName + " " + part.textContent.trim().slice(0, 40));
  }
  const texts = [...document.querySelectorAll("svg")].flatMap(svg => {
    const frame = svg.getBoundingClientRect();
    return [...svg.querySelectorAll("text")].filter(text => {
      const box = text.getBoundingClientRect();
      return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
    }).map(text => text.textContent);
  });
  const head = document.querySelector("table.sortable th button");
  let sorted = null;
  if (head) {
    const cells = () => [...head.closest("table").tBodies[0].rows].map(row => row.cells[column].textContent);
    const column = 2 < head.closest("tr").cells.length ? 2 : 0;
    head.closest("tr").cells[column].querySelector("button").click();
    sorted = cells();
  }
  const found = {
    width: innerWidth, scrolled: root.scrollWidth, told: window.told, outside, cut: texts, sorted,
    hidden: [...document.querySelectorAll(".scroll")].filter(part => part.scrollWidth > part.clientWidth)
      .map(part => part.getAttribute("aria-label")),
    asked: performance.getEntriesByType("resource").map(entry => entry.name),
    ground: getComputedStyle(document.body).backgroundColor,
  };
  const place = document.createElement("script");
  place.type = "application/json";
  place.id = "found";
  place.textContent = JSON.stringify(found);
  document.body.append(place);
});
</script>
"""


def seen(page: Path, width: int, *, dark: bool = False) -> dict[str, Any]:
    """What a browser of a width makes of a page; the watching script stands before all others of it.

    Chromium's window is no narrower than 500 pixels, so the page is shown in a frame of that width.
    """
    text = page.read_text()
    watched = page.with_name(f"watched-{width}.html")
    watched.write_text(text.replace("<head>", "<head>" + _WATCH, 1))
    frame = page.with_name(f"frame-{width}.html")
    frame.write_text(
        f'<iframe id="f" src="{watched.name}" width="{width}" height="2000" style="border: 0"></iframe>'
        '<script>addEventListener("load", () => { const found = document.getElementById("f").contentDocument'
        '.getElementById("found"); document.body.append(found ? found.textContent : "nothing"); });</script>'
    )
    assert BROWSER is not None, "TTL_DEPLOY_NEEDS_BROWSER is 1, and neither Chromium nor Chrome is on the path"
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--window-size={width + 200},2200", f"--user-data-dir={page.parent / 'profile'}"]
    command += ["--blink-settings=preferredColorScheme=0"] if dark else []
    command += ["--virtual-time-budget=10000", "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    (found,) = re.findall(r"(\{\"width\".*?\})</body>", done.stdout, re.DOTALL)
    return dict(json.loads(html.unescape(found)))
