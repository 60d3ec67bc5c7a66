"""The faults of a config file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sdpipe.config.load import load_config
from sdpipe.errors import UserError


def faults_of(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    assert all("\n" not in fault for fault in caught.value.faults)
    return list(caught.value.faults)


def line_of(path: Path, piece: str) -> int:
    """Return the number of the one line that holds ``piece``."""
    (line,) = [i for i, text in enumerate(path.read_text().splitlines(), 1) if piece in text]
    return line


def check_fault(write_config: Callable[..., Path], old: str, new: str, key: str, words: str) -> None:
    """Replace a piece of the tiny config: the one fault names file, line, key and what is allowed."""
    path = write_config((old, new))
    (fault,) = faults_of(path)
    assert fault.startswith(f"{path}:{line_of(path, new.splitlines()[-1])}: {key}: ")
    assert words in fault
