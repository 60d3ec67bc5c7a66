"""``python -m sdpipe``: runs one command and turns how it ended into an exit status."""

from __future__ import annotations

import gc
import os
import signal
import sys

from sdpipe.errors import RunError, UserError, printable

# The driver's matrices are small: several threads cost four times the time where they have to share a machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Python looks for garbage after each 700 new objects: a seventh of the time of all imports, a fifth of that of figures.
gc.set_threshold(10_000)

SOON = 0.01
"""Seconds after which a dropped interruption comes again."""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 2 the user can mend it, 1 anything else, 130 interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
    hook, sys.unraisablehook = sys.unraisablehook, _dropped
    try:
        return _run(argv)
    finally:
        sys.unraisablehook = hook


def _run(argv: list[str] | None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    try:
        from sdpipe.cli import execute  # an interruption while this is imported ends in one line, too

        execute(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read stdout has read enough, as in: sdpipe status RUN | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except UserError as error:
        return _fail(2, *error.faults)
    except KeyboardInterrupt:
        print("interrupted: what is finished is safe; the same command goes on from there", file=sys.stderr)
        return 130
    except RunError as error:
        return _fail(1, str(error))
    except Exception as error:
        if {"-v", "--verbose"} & set(argv):
            raise
        reason = str(error).splitlines()[0] if str(error) else ""
        return _fail(1, f"{type(error).__name__}: {reason} (-v shows where)")
    return 0


def _fail(status: int, *faults: str) -> int:
    for fault in faults:
        print(f"error: {printable(fault, sys.stderr.encoding or 'utf-8')}", file=sys.stderr)
    return status


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _dropped(what: sys.UnraisableHookArgs) -> None:
    """Interrupt once more: in a finaliser, or the callback of a weak reference, Python drops every exception."""
    if issubclass(what.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, SOON)
    else:
        sys.__unraisablehook__(what)


if __name__ == "__main__":
    sys.exit(main())
