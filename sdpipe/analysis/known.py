"""A known state taken off the data before rho is reconstructed, and put back sample by sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from sdpipe.errors import UserError
from sdpipe.physics.kernels import Kernel, Observables

Array = NDArray[np.float64]

STEPS = 30
"""Of Gauss and Newton, at most."""


def states_of(given: Sequence[tuple[ArrayLike, ArrayLike]], boot: int, seed: int) -> tuple[Array, Array]:
    """Return amplitudes A and masses M, each (boot, state), of pairs (A, M).

    Each is a number, a pair (value, error), from which samples are drawn, a gvar, or one value for each bootstrap
    sample of the run, which brings its correlation with the data. Raises UserError for anything else.
    """
    generator = np.random.default_rng([seed, len(given)])

    def samples(value: ArrayLike) -> Array:
        if hasattr(value, "mean") and hasattr(value, "sdev"):
            value = (value.mean, value.sdev)
        x = np.asarray(value, float)
        if not np.isfinite(x).all() or x.shape not in ((), (2,), (boot,)):
            words = f"allowed: a number, (value, error), a gvar, or {boot} samples"
            raise UserError(f"subtract: shape {x.shape} is not allowed; {words}")
        return x[0] + x[1] * generator.standard_normal(boot) if x.shape == (2,) else np.broadcast_to(x, (boot,))

    if not len(given):
        raise UserError("subtract: no state is given; needed: pairs (amplitude, mass)")
    A, M = (np.stack([samples(pair[i]) for pair in given], axis=1) for i in (0, 1))
    return A, M


def check_states(C: Array, A: Array, M: Array, grid: Observables) -> None:
    """Raise UserError for a mass that is not positive, heavier than the cutoff, or not seen in the data.

    A state that is more than the whole of C(t), beyond its error, at the latest time is not in these data.
    """
    mass, cutoff = M.mean(axis=0), np.pi / grid.kernel.spacing
    for m in mass:
        if not 0 < m <= cutoff:
            raise UserError(
                f"subtract: a mass of {m:.4g} {grid.kernel.unit}; allowed: above 0, up to pi/a = {cutoff:.4g}"
            )
    off = C - state(A, M, grid.kernel, grid.times)
    if (off.mean(axis=0) < -5 * off.std(axis=0))[C.mean(axis=0) > 0].any():
        t = grid.times[int(np.argmin(off.mean(axis=0) / off.std(axis=0)))]
        raise UserError(f"subtract: these states are more than the data: C({t}) less them is negative by 5 errors")


def state(A: Array, M: Array, kernel: Kernel, times: Sequence[int]) -> Array:
    """Return sum_k A_k b_T(t, M_k), (boot, t), of A and M (boot, state)."""
    b = kernel(np.asarray(times), M[:, :, None])
    return np.einsum("bk,bkt->bt", A, b)


def put_back(budget: xr.Dataset, samples: Array, A: Array, M: Array, grid: Observables) -> xr.Dataset:
    """Return the budget of what is left with the states put back, sample by sample.

        C'(t) = C(t) - sum_k A_k b_T(t, M_k),    rho_sigma(E) = rho'_sigma(E) + sum_k A_k f_sigma(M_k, E)

    (as in arXiv:2604.26381). ``samples`` (boot, sigma, E) are those of rho', with the same bootstrap as A and M (boot,
    state). The noise, and with it every error, is that of the sum: the errors of A and M and their correlation with the
    data are in it. Returns ``central``, ``total``, ``calibrated (sigma, E)``, ``error (source, sigma, E)``,
    ``covariance (sigma, E, E2)`` and ``samples (boot, sigma, E)``, with the attributes of the budget.
    """
    E, sigma = np.array(grid.energies), np.array(grid.sigma)
    f = grid.smearing(E, M[:, :, None, None], sigma[:, None])
    back = np.einsum("bk,bkse->bse", A, f)
    wider = _second(samples + back) - _second(samples)
    result = (
        budget[[n for n in ("central", "error", "total", "calibrated", "covariance") if n in budget]]
        .load()
        .copy(deep=True)
    )
    result["central"] = result.central + back.mean(axis=0)
    own = np.diagonal(wider, axis1=1, axis2=2)
    for name in ("total", "calibrated"):
        if name in result:
            result[name] = np.sqrt(np.maximum(result[name] ** 2 + own, 0)).assign_attrs(budget[name].attrs)
    result["covariance"] = result.covariance + wider
    result.error.loc[{"source": "latt"}] = (samples + back).std(axis=0)
    result["samples"] = (("boot", "sigma", "E"), samples + back)
    return result.assign_attrs(budget.attrs)


def _second(samples: Array) -> Array:
    """Return the covariance (sigma, E, E) of samples (boot, sigma, E)."""
    off = samples - samples.mean(axis=0)
    return np.einsum("bse,bsf->sef", off, off) / len(off)


def ground_state(C: Array, times: Sequence[int], kernel: Kernel, between: tuple[int, int]) -> tuple[Array, Array]:
    """Return A and M, each (boot,), of the one state that fits each sample of C (boot, t) best at times ``between``.

        C(t) = A b_T(t, M),    weighted with the errors of C(t), by Gauss and Newton

    Start: M from C(t)/C(t + 1) at the middle of the range. Raises UserError for times that the data do not have, and
    where the fit does not converge.

    >>> kernel, t = Kernel("exponential", 64), np.arange(1, 21)
    >>> A, M = ground_state(2 * kernel(t, np.array([[0.5], [0.51]])), t, kernel, (8, 20))
    >>> A.round(6).tolist(), M.round(6).tolist()
    ([2.0, 2.0], [0.5, 0.51])
    """
    rows = [i for i, t in enumerate(times) if between[0] <= t <= between[1]]
    if len(rows) < 3 or between[0] < times[0] or between[1] > times[-1]:
        raise UserError(f"times {between[0]}..{between[1]}; allowed: 3 or more within {times[0]}..{times[-1]}")
    t, y = np.asarray(times)[rows], C[:, rows]
    error, middle = np.maximum(y.std(axis=0), 1e-300), len(rows) // 2
    ratio = np.abs(y[:, middle] / y[:, middle + 1])
    M = np.maximum(np.log(np.maximum(ratio, 1 + 1e-3)) / kernel.spacing, 1e-6)
    A = y[:, middle] / kernel(t[middle], M)
    weight = 1 / error if (y.std(axis=0) > 0).all() else 1 / np.abs(y.mean(axis=0))
    for _ in range(STEPS):
        h = 1e-6 * M
        b, up, down = (kernel(t, m[:, None]) for m in (M, M + h, M - h))
        J = np.stack([b, A[:, None] * (up - down) / (2 * h[:, None])], axis=-1) * weight[:, None]
        step = np.linalg.solve(
            np.swapaxes(J, 1, 2) @ J, np.swapaxes(J, 1, 2) @ ((y - A[:, None] * b) * weight)[..., None]
        )[..., 0]
        step[:, 1] = np.clip(step[:, 1], -0.3 * M, 0.3 * M)
        A, M = A + step[:, 0], M + step[:, 1]
        if (np.abs(step[:, 1]) < 1e-9 * M).all():
            return A, M
    raise UserError(f"one state does not fit every sample at times {between[0]}..{between[1]}; try later times")
