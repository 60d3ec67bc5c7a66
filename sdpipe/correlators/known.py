"""Known states of a correlator, and the correlator without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from sdpipe.arrays import Array
from sdpipe.correlators import correlator, statistics
from sdpipe.correlators.correlator import Correlator, Source
from sdpipe.correlators.record import Snapshot
from sdpipe.correlators.states import Known
from sdpipe.errors import UserError
from sdpipe.physics.kernels import Kernel
from sdpipe.physics.noise import treat

FIT_STEPS = 30
"""Of Gauss and Newton, at most."""

FURTHER, FEWEST = 1.5, 6
"""Of what known states leave, times up to so many times the last that is seen are looked at, and so many at least."""


def load(
    source: Source,
    kernel: Kernel,
    times: tuple[int, ...] | None,
    snapshot: Snapshot,
    first: int | None = None,
    draws: tuple[int, int, str] = (800, 1, "target"),
) -> Correlator:
    """Read a correlator as :func:`sdpipe.correlators.correlator.load` does, and take its known states off.

        C'(t) = C(t) - sum_k A_k b_T(t, M_k),    sample by sample

    ``draws`` are how many bootstrap samples to draw where the file holds none, the seed and the stream. Samples of
    numbers with errors are independent of the data; those of a state ``between`` two times are fitted to the same
    samples of what earlier states leave, see :func:`ground_state`, which brings their correlation. The covariance is
    that of the samples, treated as the source says. ``states`` of the result are A and M (boot, state).

    Raises UserError as that does, as :func:`check_states` and :func:`ground_state` do, and where ``times`` hold all of
    the times of a fit: what is left there is without noise along A and M.
    """
    fitted = [t for known in source.subtract for t in known.between or ()]
    for between in (known.between for known in source.subtract if known.between and times):
        if times[0] <= between[0] and between[1] <= times[-1]:
            words = f"subtract: between: {list(between)} is within lattice.times, {times[0]}..{times[-1]}"
            what = "its fit leaves nothing there along amplitude and mass"
            raise UserError(f"{source.path}: {words}, where {what}; allowed: earlier lattice.times", key="subtract")
    wide = tuple(range(min(*times, *fitted), max(*times, *fitted) + 1)) if times and fitted else times
    whole = correlator.load(source, kernel.period, wide, snapshot, parity=kernel.parity, first=first)
    if not source.subtract:
        return whole
    try:
        return _without(whole, times or whole.times, source.subtract, kernel, whole.bootstrap(*draws))
    except UserError as error:
        raise UserError(*(f"{whole.where}: {fault}" for fault in error.faults), key=error.key or "subtract") from None


def last_time(seen: int, times: Sequence[int], states: Sequence[Known] = ()) -> int:
    """Return the last of ``times`` to look at where known states leave something that is ``seen`` up to a time.

    It is FURTHER times as late, since that little is left there says that there is no further state below, but before
    the times of a fit.

    >>> last_time(6, range(1, 25)), last_time(20, range(1, 25)), last_time(20, range(1, 25), [Known(between=(18, 24))])
    (9, 24, 17)
    """
    fitted = [known.between[0] - 1 for known in states if known.between]
    return min(max(min(int(FURTHER * seen), *fitted, times[-1]), times[0] + FEWEST - 1), times[-1])


def _without(
    whole: Correlator, times: tuple[int, ...], states: Sequence[Known], kernel: Kernel, C: Array
) -> Correlator:
    """Return bootstrap samples C (boot, t) of a correlator less its states, at ``times``."""
    A, M = np.empty((2, len(C), 0))
    for k, known in enumerate(states):
        if known.between is None:
            one = states_of([(known.amplitude, known.mass)], len(C), k)
        else:
            rest = C - state(A, M, kernel, whole.times)
            one = tuple(x[:, None] for x in ground_state(rest, whole.times, kernel, known.between))
        A, M = (np.concatenate(pair, axis=1) for pair in zip((A, M), one, strict=True))
    rows = [whole.times.index(t) for t in times]
    check_states(C[:, rows], A, M, kernel, times)
    rest = C[:, rows] - state(A, M, kernel, times)
    bins, count = None, whole.facts.get("configurations")
    if whole.dim == "cfg":
        bins, count = statistics.binned(whole.samples[:, rows], whole.facts["correlation_bin"]), None
    covariance = treat(statistics.covariance_of_bootstrap(rest), whole.facts["covariance"], whole.where, bins, count)
    facts = whole.facts | {"subtract": [one.keys() for one in states]}
    given = {"times": times, "mean": rest.mean(axis=0), "covariance": covariance, "samples": rest, "dim": "boot"}
    return replace(whole, **given, facts=facts, states=(A, M))


def states_of(given: Sequence[tuple[ArrayLike, ArrayLike]], boot: int, seed: int) -> tuple[Array, Array]:
    """Return amplitudes A and masses M, each (boot, state), of pairs (A, M).

    Each is a number, a pair (value, error), from which samples are drawn, a gvar, or one value for each bootstrap
    sample of the run, which brings its correlation with the data. Raises UserError for anything else.
    """
    generator = np.random.default_rng([seed, len(given)])

    def samples(value: ArrayLike) -> Array:
        if hasattr(value, "mean") and hasattr(value, "sdev"):
            value = (value.mean, value.sdev)
        words = f"allowed: a number, (value, error), a gvar, or {boot} samples"
        try:
            x = np.asarray(value, float)
        except (TypeError, ValueError):
            raise UserError(f"subtract: {value!r} is not allowed; {words}") from None
        if not np.isfinite(x).all() or x.shape not in ((), (2,), (boot,)):
            raise UserError(f"subtract: shape {x.shape} is not allowed; {words}")
        return x[0] + x[1] * generator.standard_normal(boot) if x.shape == (2,) else np.broadcast_to(x, (boot,))

    if not len(given) or any(len(pair) != 2 for pair in given):
        what = "a state is no pair" if len(given) else "no state is given"
        raise UserError(f"subtract: {what}; needed: pairs (amplitude, mass)")
    A, M = (np.stack([samples(pair[i]) for pair in given], axis=1) for i in (0, 1))
    return A, M


def check_states(C: Array, A: Array, M: Array, kernel: Kernel, times: Sequence[int]) -> None:
    """Raise UserError for a mass that is not positive, heavier than the cutoff, or not seen in the data.

    A state that changes C(t) by less than one error at all times is not seen. One that is more than the whole of C(t),
    beyond its error, is not in these data.
    """
    mass, cutoff = M.mean(axis=0), np.pi / kernel.spacing
    for m in mass:
        if not 0 < m <= cutoff:
            raise UserError(f"subtract: a mass of {m:.4g} {kernel.unit}; allowed: above 0, up to pi/a = {cutoff:.4g}")
    error = np.maximum(C.std(axis=0), 1e-300)
    for k, m in enumerate(mass):
        seen = np.abs(state(A[:, [k]], M[:, [k]], kernel, times).mean(axis=0)) / error
        if seen.max() < 1:
            words = f"changes C(t) by at most {seen.max():.2g} errors, at t = {times[int(np.argmax(seen))]}"
            raise UserError(f"subtract: a mass of {m:.4g} {kernel.unit} {words}; allowed: states that the data see")
    off = C - state(A, M, kernel, times)
    if (off.mean(axis=0) < -5 * off.std(axis=0))[C.mean(axis=0) > 0].any():
        t = times[int(np.argmin(off.mean(axis=0) / off.std(axis=0)))]
        raise UserError(f"subtract: these states are more than the data: C({t}) less them is negative by 5 errors")


def state(A: Array, M: Array, kernel: Kernel, times: Sequence[int]) -> Array:
    """Return sum_k A_k b_T(t, M_k), (boot, t), of A and M (boot, state)."""
    b = kernel(np.asarray(times), M[:, :, None])
    return np.einsum("bk,bkt->bt", A, b)


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
    if len(between) != 2:
        raise UserError(f"times {between}; allowed: (first, last) within {times[0]}..{times[-1]}")
    rows = [i for i, t in enumerate(times) if between[0] <= t <= between[1]]
    if len(rows) < 3 or between[0] < times[0] or between[1] > times[-1]:
        raise UserError(f"times {between[0]}..{between[1]}; allowed: 3 or more within {times[0]}..{times[-1]}")
    t, y = np.asarray(times)[rows], C[:, rows]
    error, middle = np.maximum(y.std(axis=0), 1e-300), len(rows) // 2
    ratio = np.abs(y[:, middle] / y[:, middle + 1])
    M = np.maximum(np.log(np.maximum(ratio, 1 + 1e-3)) / kernel.spacing, 1e-6)
    A = y[:, middle] / kernel(t[middle], M)
    weight = 1 / error if (y.std(axis=0) > 0).all() else 1 / np.abs(y.mean(axis=0))
    for _ in range(FIT_STEPS):
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
