"""One command at work in a run directory: its inputs checked, its lock held, its failures told in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from sdpipe.disk import files, lock
from sdpipe.errors import DamageError
from sdpipe.pipeline import needs, ownership, stages
from sdpipe.pipeline.state import State
from sdpipe.show.console import log
from sdpipe.workers import pools


@contextmanager
def opened(state: State, names: list[str], take_over: bool) -> Iterator[stages.Command]:
    """Check every input of stages ``names`` before anything is written, then be the one driver of the run directory.

    Raises UserError where an input cannot be used or another driver is at work; RunError, which says what is safe,
    where the run directory cannot be written or is lost. A file found damaged on reading is set aside, so that the next
    run makes anew what it belongs to.
    """
    check(state, names)
    config, layout = state.config, state.layout
    with ExitStack() as stack:
        watch = None
        try:
            watch = stack.enter_context(lock.held(layout.driver, layout.root, take_over, log.info)).check
            layout.sweep()
            if edited := ownership.claim(layout, config):
                log.info(f"{layout.config} was edited: {'; '.join(edited)}")
        except OSError as error:  # a finished run on a file system that cannot be written is still to be looked at
            if not ownership.owns(layout, config) or any(stages.to_do(state, name) for name in names):
                raise lock.failure(layout.root, error) from error
        try:
            with pools.Workers(config.cluster, layout.logs, layout.certificates, log.info, watch) as workers:
                yield stages.Command(state, workers)
            if watch:
                watch()
                layout.sweep()  # what workers were writing that died meanwhile
        except DamageError as error:
            files.set_aside(error.file)
            raise
        except Exception as error:
            if not layout.root.exists():
                raise lock.deleted(layout.root) from error
            if isinstance(error, OSError):
                raise lock.failure(layout.root, error) from error
            raise


def perform(state: State, names: list[str], take_over: bool = False) -> list[str]:
    """Do what is left of the stages ``names``; return those that had anything to do. Raises as :func:`opened` does."""
    with opened(state, names, take_over) as run:
        worked = [name for name in names if stages.perform(name, run)]
    for name in names:
        if name not in worked:
            log.debug(f"{name}: nothing to do")
    if not worked:
        log.info(f"{state.layout.root}: everything is done; nothing to do")
    return worked


def check(state: State, names: list[str]) -> list[str]:
    """Check all that stages ``names`` need, and return the job scripts that Slurm accepted.

    Raises UserError where something in the run directory is a link, an input cannot be used, there is no GPU to train
    on or solver for bounds, an earlier stage is not done, a stage does not fit into memory, or Slurm refuses a script.
    """
    state.layout.refuse_links()
    ownership.check_owner(state.layout, state.config)
    todo = [name for name in names if stages.to_do(state, name)]
    if todo:  # data files that nothing is left to be made of are not looked into
        state.inputs.check(targets=not {"generate", "train"} >= set(names))
    needs.check_equipment(state.config, todo)
    stages.require(state, names[0])
    for name in todo:
        needs.check_memory(state.config, name, stages.STAGES[name].pool, state.layout.logs)
    kinds = dict.fromkeys(kind for name in names if (kind := stages.STAGES[name].pool))
    return pools.check_pools(state.config, list(kinds), state.layout.logs)
