"""How many threads a library of linear algebra takes may move last bits of a covariance, and nothing that is quoted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.fixtures import Outcome

LAST_BITS = 1e-15
"""Largest difference between one and two threads, relative to the largest element, as docs/security.md says it."""

COMPUTE = """
import sys
import numpy as np
from sdpipe.estimators.posterior import Posterior, PriorMoments
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import synthetic
from sdpipe.physics.spectra import ChebyshevPrior, o3

grid = Observables(Kernel("periodic", 32), tuple(range(1, 17)), (0.2, 0.3), tuple(np.linspace(0.1, 2.5, 100)))
C = grid.split(o3(1.0).integrals(grid))[0]
posterior = Posterior.for_noise(PriorMoments.from_prior(ChebyshevPrior(64), grid), synthetic(grid.times, C, 1e-3, 0, 4))
estimate = posterior(C)
np.savez(sys.argv[1], mean=estimate.mean, sd=estimate.sd, covariance=posterior.covariance(C))
"""


def test_the_number_of_threads_moves_last_bits_alone(
    shell: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for threads in ("1", "2"):
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            monkeypatch.setenv(name, threads)
        outcome = shell("-c", COMPUTE, tmp_path / f"{threads}.npz", cwd=tmp_path)
        assert outcome.status == 0, outcome.err
        with np.load(tmp_path / f"{threads}.npz") as file:
            made.append({name: file[name] for name in file.files})
    for name, one in made[0].items():
        assert np.abs(made[1][name] - one).max() <= LAST_BITS * np.abs(one).max(), name
