"""Print what sdpipe needs for pip, at the lowest versions that pyproject.toml allows or without versions.

    python packaging/versions.py lowest
    python packaging/versions.py newest

PyTorch is left out: constraints.txt pins it, and it is larger than all others together.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def needed(which: str) -> list[str]:
    """Return one requirement a line, ``which`` is ``lowest`` or ``newest``."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [dependency for dependency in project["dependencies"] if not dependency.startswith("torch")]
    return [re.sub(r">=", "==", name) if which == "lowest" else name for name in names]


if __name__ == "__main__":
    sys.stdout.write("\n".join(needed(sys.argv[1])) + "\n")
