"""HLT against its normal equations solved with 600 bits, its limits, its choices of lambda, and its faults."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from flint import arb, arb_mat, ctx

from sdpipe.errors import UserError
from sdpipe.estimators.hlt import Choice
from sdpipe.estimators.hlt_lambda import ALPHAS, BALANCE, PLATEAU, best_mu
from sdpipe.estimators.hlt_solution import HLT, joint_covariance
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import Noise, synthetic
from sdpipe.physics.smearing import Cauchy, Function, Sigmoid, Sinh, Tail, Tau
from sdpipe.physics.spectra import Spectrum, delta_tanh, o3, peaks

ENERGIES = tuple(np.linspace(0.10566, 2.53584, 47))


def times_of(kernel: str, period: int) -> tuple[int, ...]:
    """Return times up to T/2, where an odd correlator is 0."""
    return tuple(range(1, period // 2 + (kernel != "periodic-odd")))


def grid_of(kernel: str = "vector", period: int = 32, sigma=(0.44,), energies=(0.5, 1.2, 2.0), **more) -> Observables:
    return Observables(Kernel(kernel, period), times_of(kernel, period), sigma, energies, **more)


def data(grid: Observables, r1: float = 1e-3, delta: float = 0.0):
    """Return noise, a noisy correlator of the O(3) model, and its rho_sigma(E)."""
    C, rho = grid.split(o3(1.0).integrals(grid))
    noise = synthetic(grid.times, C, r1, delta, 4.0)
    return noise, noise.draw(C, 1, np.random.default_rng(1))[0], rho


def terms(grid: Observables, t: int) -> list:
    """Return signs n and exponents c of b_T(t, omega) = omega^p N sum_c n exp(-c omega), a = 1."""
    parity = grid.kernel.parity
    return [(1, arb(t))] + ([(parity, arb(grid.kernel.period - t))] if parity else [])


def power_integral(c: arb, n: int, E0: float) -> arb:
    """Return int_E0^inf omega^n exp(-c omega)."""
    total, factor = arb(0), arb(1)
    for j in range(n + 1):
        total += factor * arb(E0) ** (n - j) / c ** (j + 1)
        factor *= n - j
    return total * (-c * E0).exp()


def gauss_integral(c: arb, n: int, E0: float, E: float, sigma: float) -> arb:
    """Return int_E0^inf omega^n exp(-c omega) G_sigma(E - omega), n = 0 or 2, by moments of a truncated Gaussian."""
    s, m = arb(sigma), arb(E) - c * arb(sigma) ** 2
    u = (arb(E0) - m) / (arb(2).sqrt() * s)
    scale = (-c * E + (c * s) ** 2 / 2).exp()
    whole, edge = scale * u.erfc() / 2, scale * (-(u**2)).exp() / (s * (2 * arb.pi()).sqrt())
    return whole if n == 0 else (m**2 + s**2) * whole + s**2 * (E0 + m) * edge


def exact(hlt: HLT, C: np.ndarray, mu: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rho, |L^T g| and A[g] from (A + mu Cov) g = f with 600 bits, at the first sigma."""
    grid, E0, alpha = hlt.observables, hlt.E0, hlt.alpha
    p, norm = (2, 1 / (12 * arb.pi() ** 2)) if grid.kernel.name == "vector" else (0, arb(1))
    c, sigma = [terms(grid, t) for t in grid.times], grid.sigma[0]
    al, n = arb(alpha), len(grid.times)
    table: dict[float, arb] = {}

    def moment(e: arb) -> arb:
        key = float(e)
        if key not in table:
            table[key] = power_integral(e - al, 2 * p, E0) * norm**2
        return table[key]

    A = arb_mat(n, n, [sum((m * k * moment(x + y) for m, x in ci for k, y in cj), arb(0)) for ci in c for cj in c])
    cov = arb_mat(n, n, [arb(float(x)) for x in hlt.noise.covariance.ravel()])
    data = arb_mat(n, 1, [arb(float(x)) for x in C])
    out = []
    for E, one in zip(grid.energies, mu, strict=True):
        f = arb_mat(
            n, 1, [sum((m * gauss_integral(x - al, p, E0, E, sigma) * norm for m, x in ci), arb(0)) for ci in c]
        )
        g = (A + cov * arb(float(one))).solve(f)
        gT = g.transpose()
        square = gauss_integral(-al, 0, E0, E, sigma / 2**0.5) / (2 * arb(sigma) * arb.pi().sqrt())
        misfit = (gT * A * g)[0, 0] - 2 * (gT * f)[0, 0] + square
        out.append((float((gT * data)[0, 0]), float((gT * cov * g)[0, 0].sqrt()), float(misfit)))
    return tuple(np.array(out).T)


@pytest.fixture(autouse=True)
def _600_bits():
    before, ctx.prec = ctx.prec, 600
    yield
    ctx.prec = before


@pytest.mark.parametrize(
    ("kernel", "period", "r1", "alpha", "E0"),
    [
        ("vector", 32, 1e-3, 0.0, 0.0),
        ("vector", 32, 1e-6, 1.99, 0.1),
        ("exponential", 64, 1e-2, 0.0, 0.2),
        ("periodic", 64, 1e-4, 1.0, 0.0),
        ("vector", 64, 1e-6, 0.0, 0.0),
        ("periodic-odd", 32, 1e-3, 0.0, 0.2),
        ("periodic-odd", 64, 1e-5, 1.0, 0.0),
        ("vector", 128, 1e-4, 0.0, 0.3),
        ("exponential", 128, 1e-5, 1.99, 0.3),
    ],
)
def test_it_is_the_solution_with_600_bits(kernel, period, r1, alpha, E0) -> None:
    grid = grid_of(kernel, period, energies=(0.5, 1.6))
    noise, C, _ = data(grid, r1)
    hlt = HLT.for_noise(grid, noise, E0, alpha)
    for mu in (hlt(C).mu, 1e-3 * hlt(C).mu, hlt.unit * 1e-2):
        rho, error, misfit = exact(hlt, C, mu[0])
        assert np.abs(hlt.samples(C, mu)[0] - rho).max() < 1e-3 * error.min()
        assert np.linalg.norm(hlt.filters(mu)[0], axis=-1) == pytest.approx(error, rel=1e-3)
        assert hlt.misfit(mu)[0] == pytest.approx(misfit, rel=1e-6, abs=1e-12 * hlt.norm.max())
        assert np.abs(hlt.coefficients(mu) @ C - rho).max() < 1e-3 * error.min()


def test_bootstrap_samples_are_the_same_combination_of_each() -> None:
    grid = grid_of(sigma=(0.44, 0.63))
    noise, C, _ = data(grid)
    hlt, boots = HLT.for_noise(grid, noise), noise.draw(C, 400, np.random.default_rng(2))
    r = hlt.bootstrap(boots)
    assert r.samples.shape == (400, 2, 3)
    assert r.samples.mean(axis=0) == pytest.approx(r.mean, rel=1e-9)
    assert r.statistical == pytest.approx(hlt(boots.mean(axis=0)).statistical, rel=0.15)
    assert r.covariance.shape == (2, 3, 2, 3)
    assert np.einsum("sese->se", r.covariance) == pytest.approx(r.statistical**2)
    both = np.concatenate([r.samples, -r.samples], axis=1)
    assert joint_covariance(r.samples, both)[:, :, 2:] == pytest.approx(-r.covariance)
    assert hlt.samples(C, r.mu) == pytest.approx(hlt.coefficients(r.mu) @ C)


def test_samples_around_each_of_several_centres_have_its_lambda() -> None:
    grid = grid_of(sigma=(0.44, 0.63))
    noise, C, _ = data(grid)
    hlt, centres = (
        HLT.for_noise(grid, noise),
        noise.draw(C, 3, np.random.default_rng(5)) * np.array([1, -2, 30])[:, None],
    )
    boots = noise.draw(centres, 20, np.random.default_rng(6))
    r = hlt.around(centres, boots)
    assert r.samples.shape == (3, 20, 2, 3)
    assert r.error == pytest.approx(hlt(centres).error)
    for i in range(3):
        assert r.samples[i] == pytest.approx(hlt.samples(boots[i], hlt(centres[i]).mu), rel=1e-9)
        assert hlt.around(centres[i], boots[i]).samples == pytest.approx(r.samples[i], rel=1e-9)


def test_a_floor_of_the_noise_enters_as_in_the_covariance_of_one_correlator() -> None:
    grid = grid_of()
    noise, C, _ = data(grid)
    light = grid.split(peaks((0.8, 0.5), (0.4, 0.9)).integrals(grid))[0]  # far above C_latt at late times
    floored = replace(noise, floor=1e-5)
    for one in (C, -2 * light):
        expected, found = (
            HLT.for_noise(grid, floored.at_scale(one), 0.2),
            HLT.for_noise(grid, floored, 0.2).floored(one),
        )
        assert found.singular == pytest.approx(expected.singular, rel=1e-9)
        assert found(one).mean == pytest.approx(expected(one).mean, rel=1e-9, abs=1e-9)
        assert found(one).error == pytest.approx(expected(one).error, rel=1e-7)
        assert found.covariance(one) == pytest.approx(expected.covariance(one), rel=1e-6, abs=1e-12)
    assert found.singular[-1] < 0.2 * HLT.for_noise(grid, noise, 0.2).singular[-1]


def test_a_floor_far_above_the_noise_is_no_fault() -> None:
    grid = grid_of()
    heavy, light = (grid.split(peaks((1.0,), (E,)).integrals(grid))[0] for E in (4.0, 0.5))
    noise = replace(synthetic(grid.times, heavy, 1e-4, 0.0, 0.01), floor=1e-6)
    expected, found = (
        HLT.for_noise(grid, noise.at_scale(light), 0.2)(light),
        HLT.for_noise(grid, noise, 0.2).floored(light)(light),
    )
    assert found.mean == pytest.approx(expected.mean, rel=1e-6)
    assert found.error == pytest.approx(expected.error, rel=1e-6)


def test_evidence_covers_and_is_as_accurate_as_it_says() -> None:
    grid = grid_of(energies=ENERGIES)
    noise, _, _ = data(grid)
    generator = np.random.default_rng(3)
    spectra = [delta_tanh(mass=m) for m in generator.uniform(0.4, 0.9, 12)] + [o3(x) for x in (0.6, 1.0, 1.3)]
    spectra += [peaks(tuple(generator.uniform(0.1, 0.6, 5)), tuple(generator.uniform(0.4, 2.4, 5))) for _ in range(12)]
    C, rho = grid.split(np.stack([s.integrals(grid) for s in spectra]))
    r = HLT.for_noise(grid, noise)(noise.draw(C, 1, generator)[:, 0])
    assert r.mean.shape == rho.shape
    assert np.mean(np.abs(r.mean - rho) < r.error) > 0.68
    assert np.abs(r.mean - rho).mean() < 0.03
    assert r.found.all()


def test_evidence_is_at_its_maximum_and_scales_with_the_correlator() -> None:
    grid = grid_of()
    noise, C, _ = data(grid)
    hlt = HLT.for_noise(grid, noise)
    z, mu = C @ hlt.rotation, hlt(C).mu[0, 0]

    def loss(m: float) -> float:
        v = 1 + hlt.singular**2 / m
        return float(np.sum(z**2 / v / noise.scale(C) ** 2 + np.log(v)))

    assert best_mu(z[None] / noise.scale(C), hlt.singular)[0] == pytest.approx(mu)
    assert all(loss(mu * f) >= loss(mu) - 1e-3 for f in (0.5, 0.9, 1.1, 2.0))
    one, other = hlt(C), hlt(8 * C)
    assert np.array_equal(8 * one.mean, other.mean)
    assert np.array_equal(8 * one.error, other.error)


def test_evidence_has_a_covariance_between_energies_and_widths() -> None:
    grid = grid_of(sigma=(0.44, 0.63))
    noise, C, _ = data(grid)
    hlt = HLT.for_noise(grid, noise, 0.2)
    both = np.stack([C, noise.draw(C, 1, np.random.default_rng(4))[0]])
    covariance, r = hlt.covariance(both), hlt(both)
    assert covariance.shape == (2, 2, 3, 2, 3)
    assert np.einsum("nsese->nse", covariance) == pytest.approx(r.error**2)
    assert hlt.covariance(C) == pytest.approx(covariance[0])
    assert np.linalg.eigvalsh(covariance[0].reshape(6, 6)).min() > -1e-12 * covariance[0].max()


@pytest.mark.parametrize("rule", ["plateau", "balance"])
def test_by_the_rules_of_the_literature_the_covariance_is_that_of_both_errors(rule) -> None:
    grid = grid_of(sigma=(0.44, 0.63))
    noise, C, _ = data(grid)
    hlt = Choice(rule).build(grid, noise, 0.2)
    both = noise.draw(C, 2, np.random.default_rng(4))
    covariance, r = hlt.covariance(both), hlt(both)
    assert np.einsum("nsese->nse", covariance) == pytest.approx(r.error**2)
    assert hlt.covariance(both[1]) == pytest.approx(covariance[1])
    s = float(np.abs(noise.scale(both[0])))
    spread = joint_covariance(*2 * [hlt.samples(noise.draw(C, 20000, np.random.default_rng(5)), r.mu[0])])
    systematic = np.einsum("se,uf->seuf", r.systematic[0], r.systematic[0])
    assert covariance[0] - systematic == pytest.approx(s**2 * spread, rel=0.05, abs=0.02 * spread.max())


def test_what_is_chosen_is_the_result_with_these_choices() -> None:
    grid = grid_of()
    noise, C, _ = data(grid)
    for choice, expected in (
        (Choice(), HLT.for_noise(grid, noise, 0.2)),
        (Choice("balance", 1.0, 0.4), HLT.for_noise(grid, noise, 0.4, 1.0).by("balance")),
        (
            Choice("plateau"),
            HLT.for_noise(grid, noise, 0.2).by("plateau", [HLT.for_noise(grid, noise, 0.2, a) for a in ALPHAS[1:]]),
        ),
    ):
        found, wanted = choice.build(grid, noise, 0.2)(C), expected(C)
        assert found.mean == pytest.approx(wanted.mean)
        assert found.error == pytest.approx(wanted.error)
    wide = Choice("plateau").each(grid_of(smearing=Cauchy("im")), noise, 0.2)
    assert [one.alpha for one in wide] == [0.0]


def steep() -> tuple[Observables, Noise, np.ndarray, np.ndarray]:
    """Return C (n, t) that fall by e^-2.15 and by e^-0.4 a time, the noise of the first, and the true rho of both."""
    grid = Observables(Kernel("exponential", 48), tuple(range(1, 25)), (0.2,), (1.45, 1.93, 2.15, 2.41))
    clean, truth = grid.split(
        np.stack(
            [
                peaks(w, m).integrals(grid)
                for w, m in (((235.0, 180.0, 90.0), (2.15, 2.6, 3.3)), ((1.0, 2.0), (0.4, 0.9)))
            ]
        )
    )
    noise = synthetic(grid.times, clean[0], 8e-4, 0.09, 3.0)
    return grid, noise, noise.draw(clean, 1, np.random.default_rng(1))[:, 0], truth


def test_an_estimate_that_does_not_reproduce_the_data_is_not_found_and_E0_by_evidence_does() -> None:
    grid, noise, C, truth = steep()
    assert not Choice(E0=0.2).build(grid, noise, 0.2)(C[0]).found.any()
    hlt = Choice(E0="evidence").build(grid, noise, 0.2)
    r = hlt.floored(C[0])(C[0])
    assert r.found.all()
    assert 1.5 < hlt.choice(C[0]).E0 < 2.15
    assert (np.abs(r.mean - truth[0]) < 4 * r.error).all()
    assert (r.error[0, 1:3] < 0.05 * truth[0, 0, 1:3]).all()
    assert hlt.choice(C[1]).E0 < 0.5
    around = hlt.around(C, C[:, None])
    assert np.array_equal(around.mean[0], r.mean)
    assert around.samples.shape == (2, 1, 1, 4)
    assert len(hlt.built) == 2


@pytest.mark.parametrize("c", [0.05, 20.0])
def test_E0_by_evidence_does_not_depend_on_the_unit_of_energy(c: float) -> None:
    grid, noise, C, _ = steep()
    sigma, energies = (tuple(x / c for x in values) for values in (grid.sigma, grid.energies))
    other = Observables(Kernel("exponential", 48, c), grid.times, sigma, energies)
    scaled = Noise(grid.times, noise.mean / c, noise.covariance / c**2, "scaled")
    one = Choice(E0="evidence").build(grid, noise, 0.2).around(C[:1], C[:1, None])
    two = Choice(E0="evidence").build(other, scaled, 0.2 / c).around(C[:1] / c, C[:1, None] / c)
    np.testing.assert_allclose(two.mean, one.mean, rtol=1e-9)
    np.testing.assert_allclose(two.error, one.error, rtol=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.99])
def test_a_stability_plot_goes_from_prior_to_noise(alpha) -> None:
    grid = grid_of()
    noise, C, rho = data(grid)
    at = HLT.for_noise(grid, noise, 0.2, alpha).scan(C)
    assert at.mean.shape == at.error.shape == at.misfit.shape == at.noise.shape == at.mu.shape
    assert (np.diff(at.misfit) <= 1e-12).all()
    assert (np.diff(at.error) >= 0).all()
    near = np.abs(at.mean - rho[..., None]).min(axis=-1)
    assert (near < 0.02).all()


def test_a_plateau_is_the_first_of_six_in_a_row_and_agrees_between_alphas() -> None:
    grid = grid_of()
    noise, C, rho = data(grid)
    hlts = [HLT.for_noise(grid, noise, 0.2, alpha) for alpha in (0.0, 1.0, 1.99)]
    r = hlts[0].by("plateau", hlts[1:])(C)
    at = hlts[0].scan(C)
    assert r.found.all()
    for e in range(3):
        i = int(np.flatnonzero(at.mu[0, e] == r.mu[0, e])[0])
        rows = slice(i - 1, i + PLATEAU)
        low, high = (at.mean[0, e, rows] + k * at.error[0, e, rows] for k in (-1, 1))
        assert (np.maximum(low[1:], low[:-1]) <= np.minimum(high[1:], high[:-1])).all()
    assert (np.abs(r.mean - rho) < 4 * r.error + 0.02).all()


def test_balance_is_where_the_misfit_is_ten_times_the_noise() -> None:
    grid = grid_of()
    noise, C, _ = data(grid)
    hlt = HLT.for_noise(grid, noise, 0.2).by("balance")
    r = hlt(C)
    assert r.found.all()
    B = np.linalg.norm(hlt.filters(r.mu), axis=-1) ** 2 * hlt.unit / hlt.norm
    assert hlt.misfit(r.mu) / hlt.norm / B == pytest.approx(np.full(r.mu.shape, BALANCE[0]), rel=0.01)
    assert (r.systematic <= np.abs(r.mean) + 1).all()


def test_any_smearing_is_one_of_its_functions() -> None:
    own = Function(lambda E, omega, sigma: np.exp(-omega / sigma) * np.cos(E), Tail(2.0))
    for smearing in (Cauchy("re"), Cauchy("im"), Sigmoid(1), Tau("T"), own):
        grid = grid_of(sigma=(0.5,), energies=(1.2, 1.8), smearing=smearing)
        spectrum = peaks((0.8, 0.5), (0.7, 1.5))
        C, rho = grid.split(spectrum.integrals(grid))
        noise = synthetic(grid.times, C, 1e-4, 0.0, 4.0)
        r = HLT.for_noise(grid, noise, 0.3)(C)
        assert (np.abs(r.mean - rho) < 3 * r.error).all(), smearing


def test_spacing_and_energies_enter_as_their_product() -> None:
    grid = grid_of()
    noise, C, _ = data(grid)
    fine = Observables(Kernel("periodic", 32, 0.5), grid.times, (0.88,), tuple(2 * E for E in grid.energies))
    coarse = Observables(Kernel("periodic", 32), grid.times, grid.sigma, grid.energies)
    one, other = HLT.for_noise(coarse, noise, 0.2, 0.5)(C), HLT.for_noise(fine, noise, 0.4, 0.5)(C)
    assert other.mean == pytest.approx(one.mean / 2, rel=1e-7)
    assert other.error == pytest.approx(one.error / 2, rel=1e-7)


def test_the_thermal_kernel_reaches_down_to_zero() -> None:
    grid = Observables(Kernel("thermal", 24), tuple(range(1, 13)), (0.5,), (0.0, 0.6), Sinh())
    spectrum = Spectrum(continuum=lambda w: 1 / (1 + w**2), threshold=0.0)
    C, rho = grid.split(spectrum.integrals(grid))
    noise = synthetic(grid.times, C, 1e-4, 0.0, 4.0)
    r = HLT.for_noise(grid, noise)(noise.draw(C, 1, np.random.default_rng(1))[0])
    assert (np.abs(r.mean - rho) < 2 * r.error).all()
    assert (r.error < 0.3 * rho).all()


def test_faults_are_named() -> None:
    grid = grid_of()
    noise, C, _ = data(grid)
    for wrong in (2.0, 3.0):
        with pytest.raises(UserError, match="must be below 2"):
            HLT.for_noise(grid, noise, 0.0, wrong)
    with pytest.raises(UserError, match=r"E0 is -0\.1;"):
        HLT.for_noise(grid, noise, -0.1)
    with pytest.raises(UserError, match="falls too slowly"):
        HLT.for_noise(grid_of(smearing=Cauchy("im")), noise, 0.0, 1.0)
    with pytest.raises(UserError, match="falls too slowly"):
        HLT.for_noise(grid_of(sigma=(1.2,), smearing=Sigmoid()), noise, 0.0, 1.99)
    with pytest.raises(UserError, match="diverges at omega = 0"):
        HLT.for_noise(grid_of(smearing=Tau()), noise, 0.0)
    with pytest.raises(UserError, match="gives nan at omega"):
        HLT.for_noise(grid_of(smearing=Function(lambda _E, omega, _s: 0 * omega + np.nan, Tail(1.0))), noise)
    with pytest.raises(UserError, match="times"):
        HLT.for_noise(grid_of(period=16), noise)
    hlt = HLT.for_noise(grid, noise)
    with pytest.raises(UserError, match="takes"):
        hlt(C[:3])
    with pytest.raises(UserError, match="not finite"):
        hlt(np.nan * C)
    with pytest.raises(UserError, match="allowed: evidence"):
        hlt.by("best")
    with pytest.raises(UserError, match="bootstrap samples"):
        _ = hlt(C).covariance
