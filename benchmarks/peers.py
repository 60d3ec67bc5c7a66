"""Other packages for the same problem, each in a virtual environment of its own, made here and never sdpipe's."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

SCRIPT = Path(__file__).with_name("peer_methods.py")

NUMBERS = ("numpy==2.2.6", "scipy==1.15.3")

INSTALL = {
    "lsdensities": ((*NUMBERS, "matplotlib==3.10.3", "mpmath==1.3.0", "gmpy2==2.2.1", "lsdensities==0.0.3"),),
    "fredipy": ((*NUMBERS, "fredipy==0.2.1"),),
    "ana-cont": (
        (*NUMBERS, "Cython==3.1.2", "setuptools==80.9.0", "wheel==0.45.1"),
        ("--no-deps", "--no-build-isolation", "ana-cont==1.1.2"),
    ),
}
"""What pip is called with, one call after the other. gmpy2 makes the arithmetic of lsdensities several times as fast;
ana-cont is a source package that needs Cython to be built, and without its graphical interface no Qt."""


METHODS = {"lsdensities": ("plateau", "likelihood"), "fredipy": ("",), "ana-cont": ("",)}
"""The methods of each peer, see ``peer_methods.py``; an only one has no name."""


class Absent(Exception):
    """A peer that cannot be had, or that cannot answer: why, in one line."""


def _run(*arguments: str | Path, timeout: float) -> None:
    """Run a command; raise :class:`Absent` with the last line that it said where it fails."""
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    try:
        subprocess.run(
            [str(a) for a in arguments], check=True, capture_output=True, text=True, timeout=timeout,
            env=os.environ | threads,
        )  # fmt: skip
    except (subprocess.SubprocessError, OSError) as error:
        said = [line.strip() for line in (getattr(error, "stderr", None) or "").splitlines()]
        said = [line for line in said if line.startswith("ERROR:")] or [line for line in said if line]
        raise Absent(said[-1] if said else str(error)) from error


def environment(peer: str, directory: Path, install: tuple[tuple[str, ...], ...] | None = None) -> Path:
    """Return the Python of the environment of ``peer`` below ``directory``, made where it is not yet complete."""
    install = INSTALL[peer] if install is None else install
    home = directory.resolve() / "peers" / peer
    python, done = home / ("Scripts" if os.name == "nt" else "bin") / "python", home / "installed"
    wanted = "\n".join(" ".join(call) for call in install)
    if not (done.exists() and done.read_text() == wanted):
        _run(sys.executable, "-m", "venv", "--clear", home, timeout=600)
        for call in install:
            _run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *call, timeout=1800)
        done.write_text(wanted)
    return python


def ask(peer: str, question: dict[str, Any], directory: Path, timeout: float = 6 * 3600) -> dict[str, np.ndarray]:
    """Return what ``peer`` answers, see ``peer_methods.py``; an answer that is there is not asked for again.

    Raises :class:`Absent` where there is none.
    """
    place = directory.resolve() / "peers"
    digest = hashlib.sha256(repr((peer, INSTALL[peer])).encode() + SCRIPT.read_bytes())
    for key, value in sorted(question.items()):
        digest.update(key.encode() + np.ascontiguousarray(value).tobytes())
    source, target = (place / f"{peer}-{digest.hexdigest()[:16]}-{what}.npz" for what in ("question", "answer"))
    if not target.exists():
        python = environment(peer, directory)
        np.savez(source, **question)
        _run(python, SCRIPT, peer, source, target, timeout=timeout)
        source.unlink()
    with np.load(target) as content:
        return dict(content)
