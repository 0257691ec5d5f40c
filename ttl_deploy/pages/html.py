"""HTML pages from templates: one file each, pictures inside, readable offline, in print and without script."""

from __future__ import annotations

import base64
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape


def render(template: str, **facts: Any) -> str:
    """Fills a template of `ttl_deploy/pages/templates`.

    Args:
        template: File name.
        facts: What the template names; a missing one is an error, not a blank.
    """
    environment = Environment(
        loader=PackageLoader("ttl_deploy.pages", "templates"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"png": _embedded, "csv": _table, "kept": _kept}
    return environment.get_template(template).render(**facts)


def _embedded(png: bytes) -> Markup:
    return Markup("data:image/png;base64," + base64.b64encode(png).decode("ascii"))


def _kept(text: str) -> Markup:
    """A cell whose interval in parentheses stays on one line."""
    return Markup(re.sub(r"\([-+.\d]+ to [-+.\d]+\)", r'<span class="kept">\g<0></span>', str(escape(text))))


def _table(csv: str) -> Markup:
    # Names of classes need not be Unicode.
    content = base64.b64encode(csv.encode("utf-8", "replace")).decode("ascii")
    return Markup("data:text/csv;charset=utf-8;base64," + content)
