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
    """Return one correlator (n, t) of a matrix with samples (n, t, i, j), and facts on it.

        component    [C_ij(t) + C_ji(t)] / 2
        gevp         u^T C(t) u,    C(td) u = lambda C(t0) u,    u^T C(t0) u = 1

    sample by sample; u, at t0 and td of the matrix without folding, is that of the mean over all samples (B. Blossier
    et al., arXiv:0902.1265). ``kind`` is what samples are, ``first`` the time of the first slice where the record does
    not say it. Facts: ``component``, or ``gevp``, t0, td and state, ``vector``, u, and ``operators``, how many there
    are. A record that is no matrix is returned as it is.

    Raises UserError where neither or both are asked for, for a matrix that is not hermitian within HERMITIAN errors,
    and for an element, times or a state that are not there; where t0 is not below td; and where C(t0) is not positive
    definite.
    """
    C = record.samples
    if C is None or C.ndim != 4:
        for key, value in (("component", component), ("gevp", gevp)):
            if value is not None:
                raise record.fault(f"{key} is for a matrix of correlators, and this is one correlator", key)
        return record, {}
    n = C.shape[2]
    if (component is None) == (gevp is None):
        what = "both component and gevp are given" if gevp else f"a {n} x {n} matrix of correlators"
        raise record.fault(f"{what}: say {ALLOWED}", "component")
    _check_hermitian(record, kind, first)
    facts = {"operators": n}
    if component is not None:
        i, j = component
        if not (0 <= i < n and 0 <= j < n):
            raise record.fault(f"component: [{i}, {j}] is not there; allowed: 0 to {n - 1}", "component")
        chosen = (C[:, :, i, j] + C[:, :, j, i]) / 2
        facts["component"] = [i, j]
    else:
        u = vectors(record, gevp, first)[:, gevp.state]
        chosen = np.einsum("i,ntij,j->nt", u, C, u, optimize=True)
        facts |= {"gevp": [gevp.t0, gevp.td, gevp.state], "vector": u.tolist()}
    return replace(record, samples=chosen), facts


def vectors(record: Record, gevp: Gevp, first: int = 0) -> Array:
    """Return u (i, state) of the mean over all samples of a matrix, states from the largest eigenvalue down.

    The largest component of each is positive.
    """
    from scipy.linalg import eigh

    C, times = record.samples, slices(record, first)
    n = C.shape[2]
    for key, t in (("t0", gevp.t0), ("td", gevp.td)):
        if t not in times:
            raise record.fault(f"gevp: {key}: {t} is not among its times, {times[0]}..{times[-1]}", "gevp")
    if gevp.t0 >= gevp.td:
        raise record.fault(f"gevp: t0: {gevp.t0} is not below td ({gevp.td}); needed: an earlier time", "gevp")
    if not 0 <= gevp.state < n:
        raise record.fault(f"gevp: state: {gevp.state} is not there; allowed: 0 to {n - 1}", "gevp")
    at0, atd = (_symmetric(C[:, times.index(t)].mean(axis=0)) for t in (gevp.t0, gevp.td))
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
    return list(range(first, first + record.samples.shape[1]))


def _symmetric(C: Array) -> Array:
    return (C + C.T) / 2


def _check_hermitian(record: Record, kind: str, first: int) -> None:
    """Raise UserError where C_ij and C_ji differ by more than HERMITIAN errors, with those of the Gamma method."""
    i, j = np.triu_indices(record.samples.shape[2], 1)
    off = record.samples[:, :, i, j] - record.samples[:, :, j, i]
    shape, off = off.shape[1:], off.reshape(len(off), -1)
    if not off.any() or len(off) < 2:
        return
    if kind == "bootstrap":
        error = off.std(axis=0, ddof=1)
    else:
        off = statistics.from_jackknife(off) if kind == "jackknife" else off
        error = off.std(axis=0, ddof=1) * np.sqrt(2 * statistics.autocorrelation_time(off)[0] / len(off))
    size = np.abs(record.samples[:, :, i, j]).mean(axis=0).ravel()
    pull = np.abs(off.mean(axis=0)) / np.maximum(error, 1e-12 * size + np.finfo(float).tiny)
    t, k = np.unravel_index(int(np.argmax(pull)), shape)
    if pull.max() > HERMITIAN:
        a, b, at = i[k], j[k], slices(record, first)[t]
        words = f"C_{a}{b} and C_{b}{a} differ by {pull.max():.3g} errors at t = {at}"
        raise record.fault(f"not hermitian: {words}; allowed: {HERMITIAN:g}", "component")
