"""Work divided over forked processes: its order, its failures, and that none of them outlives the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import psutil
import pytest

from sdpipe.errors import RunError, UserError
from sdpipe.workers.forks import forked
from tests.fixtures import HANGING


@pytest.mark.parametrize("processes", [1, 2, 3, 16])
def test_results_are_in_order_and_the_same_whatever_the_number_of_processes(processes: int) -> None:
    matrix = np.random.default_rng(1).normal(size=(40, 40))
    found = forked(lambda n: (n, matrix[:n] @ matrix), range(7), processes)
    assert [n for n, _ in found] == list(range(7))
    assert all(np.array_equal(product, matrix[:n] @ matrix) for n, product in found)


def test_processes_are_others_and_gone_afterwards() -> None:
    pids = forked(lambda _: os.getpid(), range(4), 2)
    assert len(set(pids)) == 2
    assert os.getpid() not in pids
    assert not any(map(psutil.pid_exists, pids))


def test_nothing_is_started_for_one_thing_or_none() -> None:
    assert forked(lambda _: os.getpid(), [0], 8) == [os.getpid()]
    assert forked(len, [], 8) == []


def test_a_process_of_another_divides_itself_no_further() -> None:
    inner = forked(lambda _: (os.getpid(), forked(lambda _: os.getpid(), range(3), 3)), range(2), 2)
    assert all(pids == [pid] * 3 for pid, pids in inner)


def _fail(x: int) -> int:
    if x == 3:
        raise UserError("a fault that the user can mend", key="noise")
    return x


def test_an_exception_is_raised_as_it_was_and_says_where_it_was() -> None:
    with pytest.raises(UserError, match=r"^a fault that the user can mend\n  File") as caught:
        forked(_fail, range(6), 2)
    assert caught.value.key == "noise"
    (where,) = caught.value.__notes__
    assert where.endswith('raise UserError("a fault that the user can mend", key="noise")')


def test_a_process_that_is_killed_is_told_in_one_line() -> None:
    def end(x: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL) if x else None

    with pytest.raises(RunError, match=r"^a process of this command was killed, .* goes on from there$"):
        forked(end, range(2), 2)


WAITING = """
import os, signal, sys
from sdpipe.workers.forks import forked

def wait(line):
    os.write(1, b"%d\\n" % os.getpid())  # in one piece: print may write the end of a line apart, and both write here
    signal.pause()

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, interrupt)
try:
    forked(wait, range(2), 2)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("whole_group", [False, True])
def test_no_process_outlives_the_one_that_forked_it(number: signal.Signals, whole_group: bool) -> None:
    command = [sys.executable, "-c", WAITING]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, process_group=0) as driver:
        try:
            children = [psutil.Process(int(driver.stdout.readline())) for _ in range(2)]
            partial(os.killpg if whole_group else os.kill, driver.pid, number)()
            # The children have the pipe, too, so that all of them have ended when it has.
            said, complained = driver.communicate(timeout=HANGING)
        finally:
            driver.kill()
    assert (said, complained) == ("" if number == signal.SIGKILL else "interrupted\n", "")
    _, alive = psutil.wait_procs(children, timeout=HANGING)
    assert not alive
