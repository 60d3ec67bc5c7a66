"""Twice the digits: against exact fractions, and an orthogonalisation that double precision cannot do."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numpy as np
import pytest

from sdpipe.physics import twofold


def exact(pair, at=()) -> Fraction:
    return Fraction(float(pair[0][at])) + Fraction(float(pair[1][at]))


@pytest.fixture
def numbers() -> tuple[twofold.Pair, twofold.Pair]:
    g = np.random.default_rng(1)
    high = g.standard_normal((2, 50)) * 10 ** g.uniform(-5, 5, (2, 50))
    return tuple((h, 1e-17 * h * g.uniform(-1, 1, 50)) for h in high)


@pytest.mark.parametrize("name", ["add", "multiply", "divide"])
def test_operations_have_32_digits(numbers, name) -> None:
    a, b = numbers
    result = getattr(twofold, name)(a, b)
    for i in range(50):
        x, y = exact(a, i), exact(b, i)
        expected, scale = {
            "add": (x + y, abs(x) + abs(y)),
            "multiply": (x * y, abs(x * y)),
            "divide": (x / y, abs(x / y)),
        }[name]
        assert abs(exact(result, i) - expected) < Fraction(1, 10**30) * scale


def test_sum_and_exponential(numbers) -> None:
    a, _ = numbers
    expected = sum(exact(a, i) for i in range(50))
    assert abs(exact(twofold.total(a)) - expected) < Fraction(1, 10**29) * sum(abs(exact(a, i)) for i in range(50))
    x = np.array([-30.3, -0.1, 0.0, 2.5])
    high, low = twofold.exponential(x)
    with mpmath.workdps(40):
        for h, lo, v in zip(high, low, x, strict=True):
            assert abs(mpmath.mpf(float(h)) + mpmath.mpf(float(lo)) - mpmath.exp(mpmath.mpf(float(v)))) < 1e-30 * h


def test_powers_of_a_variable_are_orthogonalised() -> None:
    x = np.linspace(0, 1, 200)
    powers = [(np.ones(200), np.zeros(200))]
    for _ in range(15):
        powers.append(twofold.multiply(powers[-1], (x, np.zeros(200))))
    columns = tuple(np.stack([p[k] for p in powers], axis=1) for k in (0, 1))
    Q, R = twofold.orthogonalise(columns)
    assert pytest.approx(np.eye(16), abs=1e-14) == Q.T @ Q
    assert pytest.approx(columns[0], abs=1e-14) == Q @ R
    with mpmath.workdps(60):
        V = mpmath.matrix([[mpmath.mpf(float(v)) ** k for k in range(16)] for v in x])
        exact_R = mpmath.cholesky(V.T * V)
        product = float(mpmath.fprod(exact_R[k, k] for k in range(16)))
    diagonal = [row[row != 0][np.argmax(np.abs(row[row != 0]))] for row in R]
    assert np.prod(diagonal) == pytest.approx(product, rel=1e-12)
