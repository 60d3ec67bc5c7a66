"""One command at work in a run directory: its inputs checked, its lock held, its failures told in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sdpipe.config import problem
from sdpipe.config.schema import Config
from sdpipe.disk import lock
from sdpipe.disk.layout import Layout
from sdpipe.errors import DamageError
from sdpipe.pipeline import pending, stages, verify
from sdpipe.show.console import Console
from sdpipe.workers import choice


@contextmanager
def opened(config: Config, root: Path, console: Console, names: list[str], take_over: bool) -> Iterator[stages.Context]:
    """Check every input of stages ``names`` before anything is written, then be the one driver of the run directory.

    Raises UserError where an input cannot be used or another driver is at work; RunError, which says what is safe,
    where the run directory cannot be written or is lost. What a stage finds damaged is made anew by the next run.
    """
    layout = Layout(root)
    check(config, layout, names)
    with ExitStack() as stack:
        try:
            stack.enter_context(lock.held(layout.drivers, root, take_over, console.say))
            layout.sweep()
            layout.claim(config)
        except OSError as error:  # a finished run on a file system that cannot be written is still to be looked at
            if not layout.owns(config) or pending.anything(config, layout, names):
                raise lock.failure(root, error) from error
        try:
            with choice.Workers(config, layout, console.say) as pools:
                yield stages.Context(config, layout, console, pools)
        except DamageError as error:
            verify.forget(config, layout, error.file)
            raise
        except Exception as error:
            if not root.exists():
                raise lock.deleted(root) from error
            if isinstance(error, OSError):
                raise lock.failure(root, error) from error
            raise


def check(config: Config, layout: Layout, names: list[str]) -> list[str]:
    """Check all that stages ``names`` need, and return the job scripts that Slurm accepted.

    Raises UserError where an input cannot be used, an earlier stage is not done, there is no GPU to train on, or Slurm
    refuses a script.
    """
    check_inputs(config, layout, names)
    if "train" in names and pending.missing_networks(config, layout):
        choice.check_device(config)
    if names[0] in stages.NEEDS:
        stages.NEEDS[names[0]](config, layout)
    return choice.check_pools(config, layout, names)


def check_inputs(config: Config, layout: Layout, names: list[str]) -> None:
    """Raise UserError when the run directory is another config's or a data file cannot be used."""
    layout.check_owner(config)
    problem.lattice_noise(config)
    if names != ["generate"] and names != ["train"]:
        problem.check_targets(config)
