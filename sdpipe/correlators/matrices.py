"""Matrices of correlators C_ij(t): one element of them, or the correlator of one state of their GEVP."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sdpipe.arrays import Array
from sdpipe.correlators import statistics
from sdpipe.correlators.record import Record

HERMITIAN = 5.0
"""Errors by which C_ij and C_ji may differ."""

ALLOWED = "component: [i, j], or gevp: {t0: 2, td: 5, state: 0}"


@dataclass(frozen=True)
class Gevp:
    """Which state of C(td) v = lambda C(t0) v; 0 is that of the largest eigenvalue, the lowest energy."""

    t0: int
    td: int
    state: int = 0


def projected(
    record: Record, component: tuple[int, int] | None, gevp: Gevp | None, kind: str, first: int = 0
) -> tuple[Record, dict[str, Any]]:
    """Return one correlator of a matrix, samples (n, t, i, j) or mean and covariance (t, i, j), and facts on it.

        component    [C_ij(t) + C_ji(t)] / 2
        gevp         u^T C(t) u,    C(td) u = lambda C(t0) u,    u^T C(t0) u = 1

    sample by sample; u, at t0 and td of the matrix without folding, is that of the mean over all samples (B. Blossier
    et al., arXiv:0902.1265). Both are linear in C(t), W_ij C_ij(t), so that a mean is taken as a sample is, and a
    covariance to W_ij Cov(C_ij(t), C_kl(t')) W_kl. ``kind`` is what samples are, ``first`` the time of the first slice
    where the record does not say it. Facts: ``component``, or ``gevp``, t0, td and state, ``vector``, u, and
    ``operators``, how many there are. A record that is no matrix is returned as it is.

    Raises UserError where neither or both are asked for, for a matrix that is not hermitian within HERMITIAN errors,
    and for an element, times or a state that are not there; where t0 is not below td; and where C(t0) is not positive
    definite.
    """
    C = record.samples if record.mean is None else record.mean[None]
    if C.ndim != 4:
        for key, value in (("component", component), ("gevp", gevp)):
            if value is not None:
                raise record.fault(f"{key} is for a matrix of correlators, and this is one correlator", key)
        return record, {}
    n = C.shape[2]
    if (component is None) == (gevp is None):
        what = "both component and gevp are given" if gevp else f"a {n} x {n} matrix of correlators"
        raise record.fault(f"{what}: say {ALLOWED}", "component")
    _check_hermitian(record, C, kind, first)
    facts = {"operators": n}
    if component is not None:
        i, j = component
        if not (0 <= i < n and 0 <= j < n):
            raise record.fault(f"component: [{i}, {j}] is not there; allowed: 0 to {n - 1}", "component")
        facts["component"] = [i, j]
        W = _symmetric(np.outer(np.eye(n)[i], np.eye(n)[j]))
    else:
        u = vectors(record, C.mean(axis=0), gevp, first)[:, gevp.state]
        facts |= {"gevp": [gevp.t0, gevp.td, gevp.state], "vector": u.tolist()}
        W = np.outer(u, u)
    chosen = np.tensordot(C, W, 2)
    if record.mean is None:
        return replace(record, samples=chosen), facts
    covariance = np.tensordot(np.tensordot(record.covariance, W, 2), W, ((1, 2), (0, 1)))
    return replace(record, mean=chosen[0], covariance=(covariance + covariance.T) / 2), facts


def vectors(record: Record, C: Array, gevp: Gevp, first: int = 0) -> Array:
    """Return u (i, state) of the mean C (t, i, j) of the matrix of a record, states from the largest eigenvalue down.

    The largest component of each is positive.
    """
    from scipy.linalg import eigh

    times, n = slices(record, first), C.shape[1]
    for key, t in (("t0", gevp.t0), ("td", gevp.td)):
        if t not in times:
            raise record.fault(f"gevp: {key}: {t} is not among its times, {times[0]}..{times[-1]}", "gevp")
    if gevp.t0 >= gevp.td:
        raise record.fault(f"gevp: t0: {gevp.t0} is not below td ({gevp.td}); needed: an earlier time", "gevp")
    if not 0 <= gevp.state < n:
        raise record.fault(f"gevp: state: {gevp.state} is not there; allowed: 0 to {n - 1}", "gevp")
    at0, atd = (_symmetric(C[times.index(t)]) for t in (gevp.t0, gevp.td))
    size = np.sqrt(np.abs(np.diag(at0)))
    if not size.all() or (lowest := np.linalg.eigvalsh(at0 / np.outer(size, size))[0]) <= n * np.finfo(float).eps:
        words = f"lowest eigenvalue {lowest:.2g} where its diagonal is 1" if size.all() else "a zero on its diagonal"
        remedy = "allowed remedies: another t0, or fewer operators"
        raise record.fault(f"gevp: C(t0 = {gevp.t0}) is not positive definite ({words}); {remedy}", "gevp")
    u = eigh(atd, at0)[1][:, ::-1]
    return u * np.sign(u[np.abs(u).argmax(axis=0), np.arange(n)])


def slices(record: Record, first: int) -> list[int]:
    """Return the times of a matrix, from ``first`` on where the record names none."""
    if record.times is not None:
        return [int(t) for t in record.times]
    length = record.samples.shape[1] if record.mean is None else record.mean.shape[0]
    return list(range(first, first + length))


def _symmetric(C: Array) -> Array:
    return (C + C.T) / 2


def _check_hermitian(record: Record, C: Array, kind: str, first: int) -> None:
    """Raise UserError where C_ij and C_ji of C (n, t, i, j) differ by more than HERMITIAN errors.

    Those are from the covariance of a mean, else from the samples, by the Gamma method where they are a chain.
    """
    i, j = np.triu_indices(C.shape[2], 1)
    off, size = C[:, :, i, j] - C[:, :, j, i], np.abs(C[:, :, i, j]).mean(axis=0)
    if not off.any() or (len(C) < 2 and record.mean is None):
        return
    error = _error_of_difference(record, off, kind, i, j)
    pull = np.abs(off.mean(axis=0)) / np.maximum(error, 1e-12 * size + np.finfo(float).tiny)
    t, k = np.unravel_index(int(np.argmax(pull)), pull.shape)
    if pull.max() > HERMITIAN:
        a, b, time = i[k], j[k], slices(record, first)[t]
        words = f"C_{a}{b} and C_{b}{a} differ by {pull.max():.3g} errors at t = {time}"
        raise record.fault(f"not hermitian: {words}; allowed: {HERMITIAN:g}", "component")


def _error_of_difference(record: Record, off: Array, kind: str, i: Array, j: Array) -> Array:
    """Return the errors (t, pair) of the mean of C_ij - C_ji, ``off`` (n, t, pair)."""
    if record.mean is not None:
        t, V = np.arange(off.shape[1])[:, None], record.covariance
        return np.sqrt(np.maximum(V[t, i, j, t, i, j] + V[t, j, i, t, j, i] - 2 * V[t, i, j, t, j, i], 0))
    shape, off = off.shape[1:], off.reshape(len(off), -1)
    if kind == "bootstrap":
        return off.std(axis=0, ddof=1).reshape(shape)
    off = statistics.from_jackknife(off) if kind == "jackknife" else off
    tau = statistics.autocorrelation_time(off)[0]
    return (off.std(axis=0, ddof=1) * np.sqrt(2 * tau / len(off))).reshape(shape)
