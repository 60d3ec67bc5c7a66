"""A signal that comes while Python drops exceptions still ends the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.fixtures import Outcome

MINE = """
import os, signal, time, weakref
from sdpipe.__main__ import main
from sdpipe.disk import files
from sdpipe.pipeline.pieces import Piece, finish
from sdpipe.pipeline.stages import STAGES, Stage

class Held:
    pass

class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

references = []

def callback():
    held = Held()
    references.append(weakref.ref(held, lambda _: os.kill(os.getpid(), signal.SIGTERM)))
    return held

def wait(run, left):
    thing = MAKE()
    del thing
    end = time.monotonic() + 30
    while time.monotonic() < end:
        pass
    place = run.layout.root / "waited.txt"
    files.write_text(place, "")
    finish(run.layout, left[0].piece, [place])

pieces = lambda made: [Piece("wait", "wait", made.audience)]
STAGES["wait"] = Stage("wait", "wait", "", pieces, "waits", lambda at: [], wait)
raise SystemExit(main())
"""


@pytest.mark.parametrize("make", ["Finalised", "callback"])
def test_sigterm_in_code_whose_exceptions_are_dropped_ends_the_command(
    shell: Callable[..., Outcome], finished_copy: Path, make: str
) -> None:
    (finished_copy.parent / "mine.py").write_text(MINE.replace("MAKE", make))
    outcome = shell("mine.py", "wait", finished_copy, cwd=finished_copy.parent)
    assert outcome.status == 130, outcome.err
    assert outcome.err.splitlines()[-1].startswith("interrupted: what is finished is safe")
    assert "ignored" not in outcome.err
    assert not (finished_copy / "waited.txt").exists()
