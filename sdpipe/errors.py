"""The two kinds of failure that the command line reports in one line each."""

from __future__ import annotations


class UserError(Exception):
    """Faults that the user can mend: one line each, exit status 2, nothing written."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class RunError(Exception):
    """Work that failed for a reason outside the input, and says what is safe: exit status 1."""
