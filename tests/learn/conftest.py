import pytest

from sdpipe.physics.samples import generate
from sdpipe.physics.spectra import ChebyshevPrior
from tests.learn.test_moments import GRID


@pytest.fixture(scope="session")
def clean():
    """Correlators (sample, t) and targets (sample, E)."""
    made = generate(ChebyshevPrior(8), GRID, 1, 0, 600)
    return made.correlator, made.smeared[:, 0]
