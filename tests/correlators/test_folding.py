"""Which data hold which time slices, what is folded, and with which sign."""

from __future__ import annotations

import numpy as np
import pytest

from sdpipe.correlators.folding import asymmetry, select
from sdpipe.errors import UserError
from sdpipe.physics.kernels import Kernel

T = 8
WHOLE = tuple(range(T))


def test_a_whole_period_is_folded() -> None:
    C = np.random.default_rng(0).standard_normal((30, T))
    times = (0, 1, 3, 4)
    folded = C @ select(WHOLE, T, times, "x").T
    for column, t in zip(folded.T, times, strict=True):
        assert column == pytest.approx((C[:, t] + C[:, -t % T]) / 2, rel=1e-14)


def test_folding_leaves_a_symmetric_correlator_as_it_is() -> None:
    C = Kernel("periodic", T)(np.arange(T), 0.7)
    assert pytest.approx(C[1:5], rel=1e-14) == C @ select(WHOLE, T, (1, 2, 3, 4), "x").T


def test_half_a_period_is_taken_as_folded_already() -> None:
    C = np.arange(10.0, 15)
    assert np.array_equal(C @ select((0, 1, 2, 3, 4), T, (1, 4), "x").T, [11, 14])


def test_times_beyond_half_the_period_and_open_boundaries_are_not_folded() -> None:
    C = np.arange(10.0, 10 + T)
    assert np.array_equal(C @ select(WHOLE, T, (1, 4, 7), "x").T, [11, 14, 17])
    assert np.array_equal(C @ select(WHOLE, None, (1, 3), "x").T, [11, 13])


def test_a_file_that_names_its_slices_needs_those_in_use_only() -> None:
    """t = 0 may be missing where nothing needs it; without names, T - 1 values could be any."""
    C = np.arange(11.0, 10 + T)
    assert np.array_equal(C @ select(WHOLE[1:], T, (1, 4), "x", named=True).T, [(11 + 17) / 2, 14])
    assert np.array_equal(C[:3] @ select((1, 2, 3), T, (1, 3), "x", named=True).T, [11, 13])
    with pytest.raises(UserError, match=r"7 time slices, 0\.\.6"):
        select(WHOLE[:-1], T, (1, 4), "x")
    with pytest.raises(UserError, match=r"t = 0 is missing; those there: 1\.\.7; needed: 0\.\.4"):
        select(WHOLE[1:], T, (0, 1, 2, 3, 4), "x", named=True)
    with pytest.raises(UserError, match=r"t = 3 is missing; those there: 0, 1, 2, 4, 5, 6, 7"):
        select((0, 1, 2, 4, 5, 6, 7), T, (1, 2, 3), "x", named=True)


@pytest.mark.parametrize(
    ("length", "period", "times", "words"),
    [
        (6, T, (1, 4), r"6 time slices, 0\.\.5, but lattice.period 8 .* 8 \(a period\), or 5 \(folded\)"),
        (T + 1, T, (1, 4), r"9 time slices, .* 8 \(a period\)"),
        (5, T, (1, 6), r"t = 6 is missing; those there: 0\.\.4"),
        (T + 4, T, (1, 6), r"12 time slices, 0\.\.11, but lattice.period 8 and times up to 6 need 8"),
        (3, None, (1, 3), r"t = 3 is missing; those there: 0\.\.2"),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_data_of_the_wrong_length_are_refused(
    length: int, period: int | None, times: tuple[int, ...], words: str, named: bool
) -> None:
    with pytest.raises(UserError, match=f"file: eta: {words}"):
        select(tuple(range(length)), period, times, "file: eta", named=named)


def data(sign: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Return C(t) with C(T - t) = sign C(t), and its covariance."""
    t = np.arange(T)
    C = np.exp(-0.5 * t) + sign * np.exp(-0.5 * (T - t))
    error = noise * np.abs(np.where(C == 0, 1, C))
    rng = np.random.default_rng(3)
    return C + error * rng.standard_normal(T), np.diag(error**2)


def test_a_symmetric_correlator_is_folded_without_a_word() -> None:
    matrix = select(WHOLE, T, (1, 2, 3, 4), "x")
    for noise in (1e-6, 1e-2, 0.5):
        assert asymmetry(*data(1, noise), matrix, (1, 2, 3, 4), "x") == []


def test_the_wrong_sign_is_refused() -> None:
    matrix = select(WHOLE, T, (1, 2, 3, 4), "x")
    with pytest.raises(UserError, match=r"C\(T - t\) = -C\(t\)"):
        asymmetry(*data(-1, 1e-2), matrix, (1, 2, 3, 4), "x")


def test_data_that_differ_at_t_and_T_minus_t_are_flagged() -> None:
    """A baryon's partner of other parity runs backwards with another mass."""
    matrix = select(WHOLE, T, (1, 2, 3, 4), "x")
    C, covariance = data(1, 1e-2)
    C[5] *= 1.2
    (flag,) = asymmetry(C, covariance, matrix, (1, 2, 3, 4), "x")
    assert "C(t) and C(T - t) differ by" in flag
    assert "at t = 3" in flag


def test_data_made_symmetric_have_nothing_to_differ() -> None:
    """Their covariance is singular between t and T - t, which must not divide by zero."""
    C, covariance = data(1, 1e-2)
    mirror = np.zeros((T, T))
    mirror[np.arange(T), -np.arange(T) % T] = 1
    half = (np.eye(T) + mirror) / 2
    assert asymmetry(half @ C, half @ covariance @ half, select(WHOLE, T, (1, 2), "x"), (1, 2), "x") == []
