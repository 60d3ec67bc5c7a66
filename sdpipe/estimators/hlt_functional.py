"""The functional of HLT at quadrature nodes: where its integrals end, what it weighs, and its singular values."""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack

from sdpipe.arrays import Array
from sdpipe.errors import UserError
from sdpipe.physics import twofold
from sdpipe.physics.kernels import Observables
from sdpipe.physics.quadrature import refine
from sdpipe.physics.smearing import UNDERFLOW, Tail


def decomposed(o: Observables, L: Array, omega: Array, root: Array, alpha: float) -> tuple[Array, Array, Array]:
    """Return U (node, k), S descending and V (t, k) of K = U S V^T; ``root`` are the roots of the weights.

    b_T(t, omega) is a function of omega that all times share, to which double precision is enough, times
    x^(t - d) + x^(T - t - d), or their difference, x = exp(-a omega), with d the slowest decay.
    """
    slowest = round(o.kernel.slowest_decay(o.times))
    powers = [np.array(o.times) - slowest]
    if o.kernel.parity:
        powers.append(o.kernel.period - slowest - np.array(o.times))
    near = omega < UNDERFLOW / o.kernel.spacing
    exp = twofold.exponential(-o.kernel.spacing * np.where(near, omega, UNDERFLOW / o.kernel.spacing))
    x = (np.where(near, exp[0], 0), np.where(near, exp[1], 0))
    ladder = [(np.ones_like(omega), np.zeros_like(omega))]
    for _ in range(max(int(p.max()) for p in powers)):
        ladder.append(twofold.multiply(ladder[-1], x))
    reference = o.kernel(slowest, omega, shift=alpha / 2) * root
    parity = o.kernel.parity
    shared = reference / (1 + (parity * ladder[o.kernel.period - 2 * slowest][0] if parity else 0))
    columns: list[twofold.Pair] = []
    for i in range(len(o.times)):
        b = ladder[powers[0][i]]
        for p in powers[1:]:
            high, low = ladder[p[i]]
            b = twofold.add(b, (parity * high, parity * low))
        for k in range(i):
            b = twofold.add(b, twofold.multiply(columns[k], (np.full_like(omega, -L[i, k]), np.zeros_like(omega))))
        columns.append(twofold.divide(b, (np.full_like(omega, L[i, i]), np.zeros_like(omega))))
    high, low = (np.stack([c[k] for c in columns], axis=1) for k in (0, 1))
    zero = np.zeros((len(omega), 1))
    Q, R = twofold.orthogonalise(twofold.multiply((high, low), (shared[:, None], zero)))
    S, V, W = graded(R.T)
    return Q @ W, S, V


def graded(A: Array) -> tuple[Array, Array, Array]:
    """Return S, U and V of A = U S V^T to high relative accuracy, where columns of A have very different sizes."""
    S, U, V, work, _, info = lapack.dgejsv(np.asfortranarray(A), joba=0, jobu=0, jobv=0)
    if info:
        raise RuntimeError(f"dgejsv: info = {info}")
    return S * (work[0] / work[1]), U, V


def weighted(o: Observables, omega: Array, alpha: float) -> Array:
    """Return e^(alpha a omega / 2) f(omega), shape (omega, column), sigma by sigma."""
    E, sigma = np.array(o.energies), np.array(o.sigma)[:, None]
    grown = o.smearing.grown(E, omega[:, None, None], sigma, alpha * o.kernel.spacing / 2)
    return grown.reshape(omega.size, -1)


def panels(o: Observables, E0: float, alpha: float) -> Array:
    """Return panels for A[g]: they grow from the fastest decay, are as fine as f needs, and end where all is small.

    Raises UserError where A[g] diverges.
    """
    a, growth = o.kernel.spacing, alpha * o.kernel.spacing
    slowest = o.kernel.slowest_decay(o.times)
    if alpha >= 2 * slowest:
        raise UserError(
            f"alpha is {alpha:g}: with C({slowest:g}) the integral diverges; it must be below {2 * slowest:g}",
            key="alpha",
        )
    lengths = o.norm_ends(alpha)
    if lengths is None:
        raise UserError(
            f"alpha is {alpha:g}: smearing {o.smearing.name} falls too slowly, its norm diverges; "
            "a smaller alpha is allowed, 0 where it falls as a power faster than omega^-1/2",
            key="alpha",
        )
    decay = Tail(a * (2 * slowest - alpha), 2.0 * max(o.kernel.power - 1, 1))
    top = max(o.energies) + max(max(n, 9 * s) + growth * s**2 for n, s in zip(lengths, o.sigma, strict=True))
    end = max(top, E0 + decay.length(1.0))
    widest = min(3 * min(o.sigma), 2 / a)
    known = max(o.energies) + 9 * max(o.sigma) + growth * max(o.sigma) ** 2
    edges, width = [E0], min(0.5 / (a * max(o.times)), widest)
    while edges[-1] < end:
        edges.append(edges[-1] + width)
        width = width * 1.5 if edges[-1] > known else min(1.5 * width, widest)
    edges[-1] = max(end, edges[-2] + 1e-9)
    return refine(lambda omega: weighted(o, omega, alpha), np.array(edges), tolerance=1e-11, floor=1e-13)
