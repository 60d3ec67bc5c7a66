"""The mixture: exact integrals, samples that regenerate bit for bit, shares that hold, densities as described."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdpipe.errors import UserError
from sdpipe.physics import rng
from sdpipe.physics.families import (
    FewStatesFamily,
    FiniteVolumeFamily,
    O3Family,
    PeaksFamily,
    ResonanceFamily,
    SignChangingFamily,
)
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.prior import BATCH, COMPONENTS, Comb, Densities, Levels, Mixture, Smooth, States
from sdpipe.physics.samples import assign, generate, is_validation
from sdpipe.physics.spectra import ChebyshevPrior

mp = mpmath.mp.clone()
mp.dps = 30

PRIOR = ChebyshevPrior(16)
SHARES = {"chebyshev": 60, "smooth": 15, "levels": 24, "states": 24}
GRID = Observables(Kernel("vector", 32), (1, 6, 16), (0.44, 0.63), (0.3, 0.95, 2.5))
COMBS = {"smooth": Smooth, "levels": Levels, "states": States}
GAUSS = [(mp.mpf(x), mp.mpf(w)) for x, w in zip(*np.polynomial.legendre.leggauss(24), strict=True)]
N = 700


def exact_columns(grid: Observables, omega: np.ndarray) -> list[list]:
    """Return the columns of ``grid`` at each energy in mpf."""
    k, columns = grid.kernel, []
    for w in map(mp.mpf, omega.tolist()):
        row = []
        for t in grid.times:
            b = mp.exp(-k.spacing * w * t)
            if k.name != "exponential":
                b += mp.exp(-k.spacing * w * (k.period - t))
            row.append(b * w**2 / (12 * mp.pi**2) if k.name == "vector" else b)
        for s in map(mp.mpf, grid.sigma):
            norm = mp.sqrt(2 * mp.pi) * s
            row += [mp.exp(-((mp.mpf(E) - w) ** 2) / (2 * s * s)) / norm for E in grid.energies]
        columns.append(row)
    return columns


@pytest.mark.parametrize("kernel", [Kernel("vector", 32), Kernel("periodic", 40, 0.5), Kernel("exponential", 24)])
def test_sums_of_delta_functions_agree_with_mpmath(kernel: Kernel) -> None:
    grid = Observables(kernel, (1, 12, 20), (0.44,), (0.1, 2.5))
    columns = exact_columns(grid, Smooth(PRIOR).masses)
    for name, kind in COMBS.items():
        component = kind(PRIOR)
        made, _ = component.integrals(grid, 1, "test", 0, 3)
        weights = component.draw(rng.generator(1, "test", name, 0), 64)[:3]
        for i in range(3):
            there = np.flatnonzero(weights[i])
            w = [mp.mpf(v) for v in weights[i, there].tolist()]
            exact = [mp.fdot(w, [columns[k][j] for k in there]) for j in range(grid.count)]
            C, rho = made[i, : len(grid.times)], made[i, len(grid.times) :]
            for t, value in enumerate(C):
                assert abs(value - exact[t]) <= 1e-12 * exact[t], f"{name} {i}, t = {grid.times[t]}"
            for value, expected in zip(rho, exact[len(grid.times) :], strict=True):
                assert abs(value - expected) <= 1e-9


def test_the_comb_of_a_continuum_is_its_continuum() -> None:
    """Within what :class:`Comb` says, for one density of each threshold shape."""
    component = Smooth(PRIOR)
    generator = rng.generator(3, "continuum")
    densities = Densities.draw(generator, component.edge(generator.uniform(0.3, 1.0, 40)))
    # A jump is the hardest for the midpoint rule; powers below one are singular at threshold.
    chosen = [int(np.flatnonzero((densities.stretched == kind) & (densities.jump > 0.2))[0]) for kind in (0, 1)]
    grid = Observables(Kernel("vector", 32), (1, 16), (0.44,), (0.95,))
    made = component.continuum(densities) @ grid.columns(component.masses)
    for i in chosen:
        d = densities.take(slice(i, i + 1))
        E0, p, width, jump = (mp.mpf(float(a[0])) for a in (d.E0, d.power, d.width, d.jump))
        a, bumps = [mp.mpf(float(v)) for v in d.series[0]], d.bumps[0].T.tolist()

        def rho(w, a=a, bumps=bumps, E0=E0, p=p, width=width, jump=jump, second=bool(d.stretched[0])):
            angle = mp.acos(1 - 2 * mp.exp(-w))
            S = 1 - mp.exp(-(((w - E0) / width) ** p)) if second else (1 - (E0 / w) ** 2) ** p
            value = mp.exp(mp.fsum(c * mp.cos(n * angle) for n, c in enumerate(a))) * (jump + (1 - jump) * S)
            return value + mp.fsum(h * mp.exp(-((mp.log(w) - m) ** 2) / (2 * s * s)) for m, s, h in bumps if h)

        edges = [E0, *(E0 * f for f in (1.01, 1.1, 1.5, 2, 3, 5, 8)), 25]
        edges += [e for m, s, h in bumps if h for e in (mp.exp(m - 4 * s), mp.exp(m), mp.exp(m + 4 * s)) if E0 < e < 25]
        columns = [0] * grid.count
        for low, high in pairwise(sorted(edges)):
            half, middle = (high - low) / 2, (high + low) / 2
            for x, weight in GAUSS:
                w = middle + half * x
                f = half * weight * rho(w)
                columns = [
                    c + f * k for c, k in zip(columns, exact_columns(grid, np.array([float(w)]))[0], strict=True)
                ]
        midpoint_rule = [float(component.spacing * E0 * t) ** 2 / 12 for t in (1, 16)] + [0.0]
        for j, allowed in enumerate(midpoint_rule):  # single precision adds 2e-6
            assert abs(made[i, j] - columns[j]) <= (allowed + 2e-6) * columns[j], f"density {i}, column {j}"


def test_the_chebyshev_component_alone_is_the_published_prior() -> None:
    """Number by number and bit for bit: the rule of the prior, applied to its draws a batch at a time."""
    made = generate(Mixture({"chebyshev": 1}, PRIOR), GRID, 1, 0, N)
    c, E0 = PRIOR.draw(1, "generate", 0, BATCH)
    C, smeared = GRID.split(PRIOR.quadrature(GRID)(c, E0))
    assert np.array_equal(made.correlator, C[:N])
    assert np.array_equal(made.smeared, smeared[:N])
    assert np.array_equal(made.threshold, E0[:N])
    assert not made.component.any()


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    return Mixture(SHARES, PRIOR)


@pytest.fixture(scope="module")
def whole(mixture: Mixture):
    return generate(mixture, GRID, 1, 0, N)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(cuts=st.lists(st.integers(1, N - 1), min_size=1, max_size=3, unique=True), data=st.data())
def test_any_range_regenerates_bit_for_bit(mixture, whole, cuts, data):
    ranges = list(pairwise([0, *sorted(cuts), N]))
    made = {r: generate(mixture, GRID, 1, *r) for r in data.draw(st.permutations(ranges))}
    for name in ("correlator", "smeared", "threshold", "component"):
        assert np.array_equal(np.concatenate([getattr(made[r], name) for r in ranges]), getattr(whole, name)), name


def test_other_seeds_and_streams_give_other_samples(mixture, whole):
    for other in (generate(mixture, GRID, 2, 0, 50), generate(mixture, GRID, 1, 0, 50, "validation")):
        assert not np.isin(other.correlator, whole.correlator).any()


def test_each_sample_is_one_of_its_own_component(mixture, whole):
    which, number = assign(mixture, 0, N)
    assert np.array_equal(which, whole.component)
    for k, name in enumerate(SHARES):
        rows = np.flatnonzero(which == k)
        assert np.array_equal(number[rows], np.arange(rows.size)), "every sample of a component once, in order"
        alone = generate(Mixture({name: 1}, PRIOR), GRID, 1, 0, rows.size)
        assert np.array_equal(alone.smeared, whole.smeared[rows])


def test_samples_of_combs_do_not_depend_on_the_basis_size(whole):
    other = generate(Mixture(SHARES, ChebyshevPrior(32)), GRID, 1, 0, N)
    same = (other.correlator == whole.correlator).all(axis=1)
    assert np.array_equal(same, whole.component > 0)


positive = st.floats(1e-3, 1e3)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(shares=st.tuples(positive, positive, positive, positive | st.just(0.0)), start=st.integers(0, 3000))
def test_training_and_validation_samples_have_the_shares(shares, start):
    mixture = Mixture(dict(zip(SHARES, shares, strict=True)), PRIOR)
    which, number = assign(mixture, 0, 4000)
    again = assign(mixture, start, start + 100)
    assert np.array_equal(again[0], which[start : start + 100])
    assert np.array_equal(again[1], number[start : start + 100])
    validation = is_validation(np.arange(4000))
    for part in (which[validation], which[~validation]):
        seen = np.cumsum(part[:, None] == np.arange(4), axis=0)
        expected = np.arange(1, len(part) + 1)[:, None] * np.array(shares) / sum(shares)
        assert np.abs(seen - expected).max() < 1.5


def test_default_shares_hold_to_within_one_sample_in_either_part():
    which, _ = assign(Mixture(SHARES, PRIOR), 0, 50_000)
    validation = is_validation(np.arange(50_000))
    shares = np.array(list(SHARES.values())) / sum(SHARES.values())
    for part in (which[validation], which[~validation]):
        seen = np.cumsum(part[:, None] == np.arange(4), axis=0)
        assert np.abs(seen - np.arange(1, len(part) + 1)[:, None] * shares).max() < 1


def test_the_order_of_the_shares_and_their_sum_do_not_matter():
    one = generate(Mixture({"chebyshev": 3, "states": 1}, PRIOR), GRID, 1, 0, 40)
    two = generate(Mixture({"states": 0.25, "chebyshev": 0.75}, PRIOR), GRID, 1, 0, 40)
    assert np.array_equal(one.correlator, two.correlator)
    assert np.array_equal(one.component, 1 - two.component)


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ({}, "no component has a positive share; allowed: chebyshev, smooth, levels, states"),
        ({"smooth": 0, "levels": 0.0}, "no component has a positive share"),
        ({"smooth": 1, "stats": 1}, "unknown component 'stats'; allowed: chebyshev, smooth, levels, states"),
        ({"smooth": 2, "levels": -1}, "share -1 of levels; it must be zero or positive"),
        ({"smooth": float("nan")}, "share nan of smooth"),
        ({"smooth": float("inf")}, "share inf of smooth"),
    ],
)
def test_shares_that_make_no_mixture_are_refused(shares, words):
    with pytest.raises(UserError, match=words) as caught:
        Mixture(shares, PRIOR)
    assert caught.value.key.startswith("mixture")


@pytest.fixture
def ramp() -> Iterator[str]:
    class Ramp(Comb):
        """rho = omega up to a mass M ~ U[1, 2] GeV."""

        name = "ramp"

        def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
            return self.masses**2 * self.spacing * (self.masses < generator.uniform(1, 2, (count, 1)))

    COMPONENTS["ramp"] = Ramp
    yield "ramp"
    del COMPONENTS["ramp"]


def test_a_component_of_ones_own_takes_its_share(ramp):
    mixture = Mixture({"chebyshev": 1, ramp: 1}, PRIOR)
    made, again = generate(mixture, GRID, 1, 0, 400), generate(mixture, GRID, 1, 200, 210)
    assert np.array_equal(made.component == 1, made.threshold == Smooth(PRIOR).masses[0])
    assert np.array_equal(made.smeared[200:210], again.smeared)
    middle = made.smeared[made.component == 1, 0, 1] / 0.95  # smeared over less than [0.12, 2] GeV
    assert (middle > 0.35).all()
    assert (middle < 1.02).all()


@pytest.mark.parametrize("name", COMBS)
def test_densities_of_combs_are_never_negative(name):
    weights = COMBS[name](PRIOR).draw(rng.generator(1, "positive"), 2000)
    assert weights.min() >= 0
    assert np.isfinite(weights).all()
    assert (weights.sum(axis=1) > 0).all()


@pytest.mark.parametrize("name", COMBS)
def test_nothing_lies_above_omega_max_and_no_density_is_empty(name):
    prior = ChebyshevPrior(16, E0=(0.2, 1.3), omega_max=1.4)
    component = COMBS[name](prior)
    assert component.masses[-1] == pytest.approx(1.4, rel=1e-12)
    assert (component.draw(rng.generator(1, "cut"), 2000).sum(axis=1) > 0).all()


def test_masses_follow_the_thresholds():
    assert Smooth(PRIOR).masses[[0, -1]] == pytest.approx([0.12, 25], rel=1e-12)
    assert Smooth(ChebyshevPrior(16, E0=(0.05, 0.4))).masses[0] == pytest.approx(0.03, rel=1e-12)
    heavy = Smooth(ChebyshevPrior(16, E0=(9.0, 30.0)))
    assert heavy.masses[-1] > 10 * 29.9
    assert (heavy.draw(rng.generator(1, "heavy"), 500).sum(axis=1) > 0).all()


def test_thresholds_have_the_ranges_of_the_components():
    low, high = PRIOR.E0
    within = 1.003  # of a cell
    _, smooth = Smooth(PRIOR).integrals(GRID, 1, "test", 0, 4000)
    assert low <= smooth.min() < 1.02 * low
    assert 1.13 * high < smooth.max() <= 1.15 * high * within
    assert np.mean(smooth) == pytest.approx((low + 1.15 * high) / 2, abs=5 * high / np.sqrt(12 * 4000))
    _, levels = Levels(PRIOR).integrals(GRID, 1, "test", 0, 4000)
    assert low / within <= levels.min() < 1.1 * low
    assert 1.15 * high < levels.max()
    assert np.median(levels) < np.median(smooth)
    _, states = States(PRIOR).integrals(GRID, 1, "test", 0, 4000)
    assert low / within <= states.min() < 1.01 * low
    assert states.max() <= 1.7 * high * within


def test_components_have_densities_of_order_one():
    """Densities of order one, with tails of a factor of five and more to both sides."""
    grid = Observables(Kernel("vector", 32), (1,), (0.44,), (1.5,))
    for kind in COMBS.values():
        integrals, _ = kind(PRIOR).integrals(grid, 1, "test", 0, 4000)
        assert 0.5 < np.median(integrals[:, 1]) < 1.2
        assert np.quantile(integrals[:, 1], 0.01) < 0.1
        assert 3 < np.quantile(integrals[:, 1], 0.99) < 10


def test_levels_are_discrete_and_average_to_their_density():
    """Over many levels the weights are rho times the gaps: the scatter of single ones averages out."""
    generator = rng.generator(2, "levels")
    densities = Densities.draw(generator, np.full(4000, 0.3))
    omega, weight = densities.levels(generator, 25.0)
    assert (np.diff(omega, axis=1) >= 0).all()
    assert (omega >= 0.3).all()
    assert ((weight > 0) & (omega > 25)).sum(axis=1).max() == 0
    uncut = np.max(omega * (weight > 0), axis=1) > 4
    assert 0.3 < uncut.mean() < 0.7
    window = (omega > 1) & (omega < 3)
    grid = np.linspace(1, 3, 401)[None]
    expected = densities(grid)[uncut].mean(axis=1) * 2
    ratio = (weight * window).sum(axis=1)[uncut].mean() / expected.mean()
    assert ratio == pytest.approx(1, abs=0.1)
    many = np.sum((weight > 0) & (omega < 4), axis=1)
    assert np.quantile(many, 0.02) <= 4
    assert np.quantile(many, 0.98) >= 50


def test_states_lie_below_their_continuum_or_alone():
    component = States(PRIOR)
    weights = component.draw(rng.generator(4, "states"), 4000)
    lines = np.sum(weights > 0, axis=1)
    assert 0.04 < np.mean(lines <= 3) < 0.15, "alone, or with a level or two"
    smooth = lines > 500
    assert smooth.mean() == pytest.approx(0.57, abs=0.04)
    first = np.argmax(weights > 0, axis=1)
    gap = weights[np.arange(4000), first + 1] == 0
    assert gap[smooth].mean() > 0.6, "a bound state below threshold"


def test_a_positive_mixture_is_positive_and_its_chebyshev_component_alone_changes(whole):
    mixture = Mixture(SHARES, ChebyshevPrior(16, positive=True))
    made = generate(mixture, GRID, 1, 0, N)
    assert (made.smeared > 0).all()
    assert (made.correlator > 0).all()
    assert (whole.smeared[whole.component == 0] < 0).any()
    same = (made.correlator == whole.correlator).all(axis=1)
    assert np.array_equal(same, whole.component > 0)
    assert np.array_equal(made.threshold, whole.threshold)


def equal_spacing(E: np.ndarray) -> float:
    """Return the smallest relative scatter of the gaps of E^a for a in [1, 2], which ``levels`` space equally."""
    gaps = [np.diff(E**a) for a in np.linspace(1, 2, 101)]
    return min(g.std() / g.mean() for g in gaps)


def test_held_out_families_are_none_of_the_components():
    """Each differs in its form, not only in its ranges.

    ``finite_volume`` has E_n^2 quadratic in n: ``levels`` have E^a linear in n with a in [1, 2], but for their
    scatter. ``sign_changing`` is a difference of two peaks with poles, where ``chebyshev`` is a polynomial in
    exp(-omega) and ``signed`` the difference of densities that have none. ``few_states`` can have four states, and
    its continuum opens like (omega - E_c)^(1/2) to a constant, times no function of exp(-omega) as that of ``states``
    is.
    """
    generator = np.random.default_rng(5)
    for _ in range(50):
        s = FiniteVolumeFamily((0.2, 1.3)).draw(generator)
        E = np.array([M for _, M in s.peaks])
        assert np.abs(np.diff(E**2, n=3)).max() < 1e-9 * E[-1] ** 2
        assert equal_spacing(E[:6]) > 0.01
    densities = Densities.draw(rng.generator(1, "levels"), np.full(500, 0.3))
    omega, _ = densities.levels(rng.generator(2, "levels"), 25.0)
    assert min(equal_spacing(E[:40]) for E in omega[:, :40]) > 0.05

    sign, omega = SignChangingFamily((0.5, 1.4), (0.1, 0.3), (0.2, 1.3)), np.linspace(0.2, 6, 500)
    for _ in range(50):
        s = sign.draw(generator)
        above = omega[omega > s.threshold]
        rho = s.continuum(above)
        assert rho.min() < 0 < rho.max()
        x = 1 - 2 * np.exp(-above)
        fit = np.polynomial.chebyshev.Chebyshev.fit(x, rho, 15)
        assert np.abs(fit(x) - rho).max() > 1e-3 * np.abs(rho).max()

    few = [FewStatesFamily((0.4, 1.4)).draw(generator) for _ in range(60)]
    assert {len(s.peaks) for s in few} == {2, 3, 4}
    for s in few:
        assert s.threshold >= 1.2 * max(M for _, M in s.peaks)
        near, far = s.threshold * (1 + np.array([1e-6, 4e-6])), s.threshold * np.array([50, 100])
        assert s.continuum(near)[1] / s.continuum(near)[0] == pytest.approx(2, rel=1e-4)
        assert s.continuum(far)[1] / s.continuum(far)[0] == pytest.approx(1, rel=1e-6)


def test_families_of_old_are_none_of_the_components():
    """Nor are these in their form.

    ``o3`` falls like 1/log(omega)^2, where continua of the components tend to constants. ``resonance`` is the phase
    space times a Breit-Wigner peak, whose logarithm is no polynomial in exp(-omega). The step of ``delta_tanh`` is a
    tanh, which no stretched exponential is. ``peaks`` have weights that know nothing of the gaps, where the weight of
    each of ``levels`` is the integral of a density over its gap; and there may be more of them than of ``states``.
    """
    generator, far = np.random.default_rng(6), np.array([1e4, 1e8])
    drawn = Densities.draw(rng.generator(1, "tails"), np.full(200, 0.3))(far[None])
    assert np.abs(drawn[:, 1] / drawn[:, 0] - 1).max() < 1e-3
    tail = O3Family((0.2, 1.3)).draw(generator).continuum(far)
    assert tail[1] / tail[0] < 0.5

    for _ in range(20):
        s = ResonanceFamily((0.5, 1.4), (0.1, 0.3), (0.2, 1.3)).draw(generator)
        omega = np.linspace(1.02 * s.threshold, 6, 800)
        smooth = np.log(s.continuum(omega) / (1 - (s.threshold / omega) ** 2) ** 1.5)
        x = 1 - 2 * np.exp(-omega)
        fit = np.polynomial.chebyshev.Chebyshev.fit(x, smooth, 12)
        assert np.abs(fit(x) - smooth).max() > 1e-2

    u = np.linspace(0, 4, 200)
    stretched = [1 - np.exp(-((u / w) ** q)) for w in np.linspace(0.5, 1.5, 41) for q in np.linspace(0.5, 2, 61)]
    assert min(np.abs(step - np.tanh(u)).max() for step in stretched) > 5e-3

    many, few = (
        PeaksFamily((200, 200), (0.3, 2.5)).draw(generator).peaks,
        Densities.draw(rng.generator(3, "x"), np.full(40, 0.3)),
    )
    weights, masses = np.array(many).T
    assert abs(np.corrcoef(weights[1:-1], np.gradient(masses)[1:-1])[0, 1]) < 0.25
    omega, weight = few.levels(rng.generator(4, "x"), 25.0)
    related = [
        np.corrcoef(w[1:30], np.gradient(E)[1:30])[0, 1]
        for E, w in zip(omega, weight, strict=True)
        if (w[:31] > 0).all()
    ]
    assert np.mean(related) > 0.3


def test_signed_densities_are_of_either_sign_and_differences_of_positive_ones() -> None:
    component = COMPONENTS["signed"](ChebyshevPrior(16))
    weights = component.draw(np.random.default_rng(1), 256)
    assert np.mean((weights < 0).any(axis=1) & (weights > 0).any(axis=1)) > 0.9
    total = weights.sum(axis=1)
    assert 0.2 < np.mean(total < 0) < 0.6, "the second is up to as large as the first"
    with pytest.raises(UserError, match="signed densities are not positive"):
        Mixture({"signed": 1}, ChebyshevPrior(16, positive=True))
