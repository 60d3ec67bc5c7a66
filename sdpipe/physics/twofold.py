"""Arrays with twice the digits of double precision: pairs (high, low) whose unevaluated sum is the number.

T. J. Dekker, Numer. Math. 18 (1971) 224. Sums are exact to about 1e-32 of the largest of their terms.
"""

from __future__ import annotations

from decimal import Context, Decimal

import numpy as np

from sdpipe.arrays import Array

Pair = tuple[Array, Array]

_SPLIT = 134217729.0  # 2^27 + 1


def _normal(high: Array, low: Array) -> Pair:
    s = high + low
    return s, low - (s - high)


def _product(a: Array, b: Array) -> Pair:
    """Return a b exactly."""
    p, x, y = a * b, _SPLIT * a, _SPLIT * b
    ah, bh = x - (x - a), y - (y - b)
    al, bl = a - ah, b - bh
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def add(a: Pair, b: Pair) -> Pair:
    """Return a + b; arrays broadcast."""
    s = a[0] + b[0]
    t = s - a[0]
    return _normal(s, (a[0] - (s - t)) + (b[0] - t) + a[1] + b[1])


def negative(a: Pair) -> Pair:
    """Return -a."""
    return -a[0], -a[1]


def multiply(a: Pair, b: Pair) -> Pair:
    """Return a b; arrays broadcast."""
    p, e = _product(a[0], b[0])
    return _normal(p, e + (a[0] * b[1] + a[1] * b[0]))


def divide(a: Pair, b: Pair) -> Pair:
    """Return a / b; arrays broadcast."""
    q = a[0] / b[0]
    left = add(a, negative(multiply((q, np.zeros_like(q)), b)))
    return _normal(q, left[0] / b[0])


def total(a: Pair) -> Pair:
    """Return the sum over the first axis, by halves."""
    while len(a[0]) > 1:
        half = (len(a[0]) + 1) // 2
        upper = tuple(np.concatenate([x[half:], np.zeros((2 * half - len(x), *x.shape[1:]))]) for x in a)
        a = add((a[0][:half], a[1][:half]), upper)  # type: ignore[arg-type]
    return a[0][0], a[1][0]


def exponential(x: Array) -> Pair:
    """Return exp(x) of x (n,) in doubles."""
    context = Context(prec=40)
    values = [context.exp(Decimal(float(v))) for v in x]
    high = np.array([float(v) for v in values])
    return high, np.array([float(context.subtract(v, Decimal(h))) for v, h in zip(values, high.tolist(), strict=True)])


def orthogonalise(columns: Pair) -> tuple[Array, Array]:
    """Return Q with orthonormal columns and R of a QR decomposition, each in doubles, R's columns in the order given.

    ``columns`` (row, column) are taken largest first, so that R = D X with a diagonal D and a well-conditioned X: its
    singular values, even those 1e25 times smaller than others, are known relative to each (J. Demmel et al., Linear
    Algebra Appl. 299 (1999) 21). Gram-Schmidt twice.
    """
    a, n = (columns[0].copy(), columns[1].copy()), columns[0].shape[1]
    Q, R, left, done = np.empty_like(a[0]), np.zeros((n, n)), list(range(n)), (np.empty_like(a[0]), np.empty_like(a[0]))
    squares = (np.empty(n), np.empty(n))
    for k in range(n):
        pivot = left[int(np.argmax(np.linalg.norm(a[0][:, left], axis=0)))]
        left.remove(pivot)
        v = (a[0][:, pivot : pivot + 1], a[1][:, pivot : pivot + 1])
        if k:
            before = (done[0][:, :k], done[1][:, :k])
            again = divide(total(multiply(before, v)), (squares[0][:k], squares[1][:k]))
            back = total(tuple(x.T for x in multiply(before, again)))  # type: ignore[arg-type]
            v = add(v, negative((back[0][:, None], back[1][:, None])))
            R[:k, pivot] += again[0] * np.sqrt(squares[0][:k])
        square = total(multiply(v, v))
        size = float(np.sqrt(square[0][0]))
        done[0][:, k : k + 1], done[1][:, k : k + 1] = v
        squares[0][k], squares[1][k] = square[0][0], square[1][0]
        Q[:, k], R[k, pivot] = v[0][:, 0] / size, size
        if left:
            rest = (a[0][:, left], a[1][:, left])
            share = divide(total(multiply(v, rest)), square)
            a[0][:, left], a[1][:, left] = add(rest, negative(multiply(v, share)))
            R[k, left] = share[0] * size
    return Q, R
