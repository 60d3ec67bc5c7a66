"""Noise drawn anew: covariances of many lattices, so that networks learn to live with any of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sdpipe.physics import rng, samples
from sdpipe.physics.kernels import Observables
from sdpipe.physics.noise import Noise, synthetic
from sdpipe.physics.prior import Mixture, log_uniform
from sdpipe.physics.spectra import ChebyshevPrior

SHARED = 64
"""Samples that follow each other and have one covariance."""

SHAPES = {"smooth": 1.0, "levels": 1.0, "states": 1.0}
"""Shares of the components whose correlators C_latt are drawn from: positive ones."""

UNCORRELATED = 0.25
"""Share of covariances that are diagonal."""

ESTIMATED = 0.4
"""Share of covariances that look as if they were estimated from few configurations."""


@dataclass(frozen=True)
class Covariances:
    """Random covariances: number i is a function of (seed, i) alone.

        Cov(t, t') = r(t) r(t') |C_latt(t) C_latt(t')| R(t, t'),    r(t) = r_0 exp[delta (t - 1)]

    with the correlator C_latt of a random positive density, r_0 ~ LU ``relative``, delta ~ U ``growth`` and
    R = exp(-|t - t'| / tau), tau ~ LU ``tau``, or R = 1 for a quarter of them. 40 % are replaced by a Wishart matrix,
    the covariance that n configurations would give, n ~ LU[2 n_t, 64 n_t].

    Parameters
    ----------
    relative, growth, tau
        Ranges of r_0, delta and tau; t and tau in time slices.
    prior
        Its thresholds are those of the random densities.
    observables
        Kernel and times.
    floor
        Relative error of C(t) beside that noise, see :class:`~sdpipe.physics.noise.Noise`.

    >>> from sdpipe.physics.kernels import Kernel
    >>> grid = Observables(Kernel("vector", 32), tuple(range(1, 17)), (0.44,), (1.0,))
    >>> drawn = Covariances((1e-3, 1e-3), (0.0, 0.0), (4.0, 4.0), ChebyshevPrior(16), grid).draw(1, 0, 2)
    >>> [noise.covariance.shape for noise in drawn], bool(drawn[0].mean[0] == drawn[1].mean[0])
    ([(16, 16), (16, 16)], False)
    """

    relative: tuple[float, float]
    growth: tuple[float, float]
    tau: tuple[float, float]
    prior: ChebyshevPrior
    observables: Observables
    floor: float = 0.0

    def draw(self, seed: int, start: int, stop: int) -> list[Noise]:
        """Return covariances start..stop-1, each with its C_latt."""
        times = self.observables.times
        shapes = samples.generate(Mixture(SHAPES, self.prior), self.observables, seed, start, stop, "covariances")
        noises = []
        for number, mean in zip(range(start, stop), shapes.correlator, strict=True):
            g = rng.generator(seed, "covariances", number)
            r, delta, tau = log_uniform(g, *self.relative, 1)[0], g.uniform(*self.growth), log_uniform(g, *self.tau, 1)
            correlated, estimated = g.random() >= UNCORRELATED, g.random() < ESTIMATED
            noise = synthetic(times, mean, r, delta, tau[0] if correlated else 1e-6)
            covariance = noise.covariance
            if estimated:
                n = int(log_uniform(g, 2, 64, 1)[0] * len(times))
                rows = g.standard_normal((n, len(times))) @ noise.cholesky.T
                covariance = rows.T @ rows / n
            noises.append(Noise(times, mean, covariance, f"covariance {number}", floor=self.floor))
        return noises

    def of_samples(
        self, seed: int, copy: int, copies: int, start: int, stop: int
    ) -> Iterator[tuple[slice, int, Noise]]:
        """Yield rows of samples start..stop-1 that share a covariance in this one of their copies, its number, and it.

        ``start`` must be a multiple of SHARED; sample i has in copy k the covariance (i // SHARED) copies + k.
        """
        first, last = start // SHARED, -(-stop // SHARED)
        for group in range(first, last):
            number = group * copies + copy
            (noise,) = self.draw(seed, number, number + 1)
            yield slice(group * SHARED - start, min((group + 1) * SHARED, stop) - start), number, noise
