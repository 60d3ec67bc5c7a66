"""What is said of a run directory whose files cannot be used."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from sdpipe.disk.lock import failure


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/x"), "a/x: No space left on device"),
        (OSError(errno.EACCES, "Permission denied"), "runs/a: Permission denied"),
        (TimeoutError(), "runs/a: TimeoutError"),
    ],
)
def test_a_failure_names_file_and_reason(error: OSError, said: str) -> None:
    assert str(failure(Path("runs/a"), error)).startswith(f"{said}; what is finished in runs/a is safe")
