"""Runs every command block of the README, so that the README stays true.

A block is fenced as bash; one that CI cannot run (it makes an environment of its own, needs a GPU, or is the test
command that CI runs last) is preceded by an HTML comment `<!-- ci: skip, REASON -->`. All blocks run in one shell,
in order, in a scratch folder that holds a link to nothing: what a block needs, an earlier one must have made.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"(?:<!-- ci: skip, (?P<reason>[^>]*?) -->\n)?```bash\n(?P<code>.*?)```", re.DOTALL)


def main() -> int:
    """Runs the blocks in the scratch folder given as the argument."""
    scratch = Path(sys.argv[1])
    scratch.mkdir(parents=True)
    readme = Path(__file__).parents[1] / "README.md"
    code = ["set -euo pipefail"]
    for match in BLOCK.finditer(readme.read_text()):
        first = match["code"].strip().splitlines()[0]
        if match["reason"]:
            sys.stdout.write(f"skipped ({match['reason']}): {first}\n")
            continue
        code += ["set -x", match["code"].strip(), "{ set +x; } 2>/dev/null"]
    sys.stdout.flush()
    return subprocess.run(["bash", "-c", "\n".join(code)], cwd=scratch, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
