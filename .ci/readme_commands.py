"""Prints the README's commands, so that CI runs what the README says and the README stays true.

`quickstart` and `tests` are the blocks behind `<!-- ci: quickstart -->` and `<!-- ci: tests -->`; `examples` are all
other bash blocks, in order, to be run in one shell in an empty folder. A block that CI cannot run says so in
`<!-- ci: skip, REASON -->`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

BLOCK = re.compile(r"(?:<!-- ci: (?P<mark>[^>]*?) -->\n)?```bash\n(?P<code>.*?)```", re.DOTALL)


def main() -> int:
    """Prints the blocks named by the argument."""
    wanted = sys.argv[1]
    readme = Path(__file__).parents[1] / "README.md"
    found = [
        match["code"].strip()
        for match in BLOCK.finditer(readme.read_text())
        if (match["mark"] or "examples").split(",")[0] == wanted
    ]
    if not found:
        sys.stderr.write(f"the README has no block marked {wanted!r}\n")
        return 1
    sys.stdout.write("\n".join(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
