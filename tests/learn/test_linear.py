"""Standardisation, whitening and the linear estimator, against noise whose moments are exact.

The noise copies of each sample are s L z with z = +-sqrt(t) e_k: their mean is zero and their covariance
s^2 Cov_latt to rounding, so that what holds for infinitely many random copies holds here exactly.
"""

import numpy as np
import pytest

from sdpipe.disk import store
from sdpipe.learn import dataset, linear
from sdpipe.learn.linear import InputTransform, LinearEstimator, Moments
from sdpipe.learn.training import PROTOCOLS
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import synthetic
from sdpipe.physics.samples import generate, is_validation
from sdpipe.physics.spectra import ChebyshevPrior

GRID = Observables(Kernel("vector", 12), (1, 2, 3, 4, 5, 6), (0.5,), (0.3, 0.8, 1.3, 1.8))
NOISE = synthetic(GRID.times, 0.3 * np.exp(-0.7 * np.arange(6)), r1=2e-3, delta=0.1, tau=3.0)


@pytest.fixture(scope="module")
def clean():
    """Correlators (sample, t) and targets (sample, E)."""
    made = generate(ChebyshevPrior(8), GRID, 1, 0, 600)
    return made.correlator, made.smeared[:, 0]


def every_noise(C):
    """Return noisy copies (sample, copy, t) with exact first and second moments."""
    t = C.shape[1]
    z = np.sqrt(t) * np.concatenate([np.eye(t), -np.eye(t)])
    return C[:, None] + NOISE.scale(C)[:, None, None] * (z @ NOISE.cholesky.T)


def test_moments_are_those_of_the_samples(clean):
    C, y = clean
    m = Moments.of(C, y, NOISE)
    joint = np.cov(np.hstack([C, y]).T, ddof=0)
    assert m.mean == pytest.approx(C.mean(axis=0), rel=1e-12, abs=1e-15)
    assert m.target_mean == pytest.approx(y.mean(axis=0), rel=1e-12, abs=1e-15)
    assert m.covariance == pytest.approx(joint[:6, :6], rel=1e-10)
    assert m.cross == pytest.approx(joint[:6, 6:], rel=1e-9, abs=1e-14)
    assert m.target_covariance == pytest.approx(joint[6:, 6:], rel=1e-9, abs=1e-14)
    scatter = every_noise(C) - C[:, None]
    assert m.noise == pytest.approx(np.einsum("skt,sku->tu", scatter, scatter) / (600 * 12), rel=1e-10)


def test_moments_do_not_depend_on_how_they_are_summed(clean, monkeypatch):
    at_once = Moments.of(*clean, NOISE)
    monkeypatch.setattr(linear, "ROWS", 7)
    for name in ("mean", "covariance", "noise", "target_mean", "cross", "target_covariance"):
        assert getattr(Moments.of(*clean, NOISE), name) == pytest.approx(getattr(at_once, name), rel=1e-10, abs=1e-16)


def test_moments_of_single_precision_are_summed_in_double(clean):
    C, y = (np.tile(a.astype(np.float32) + np.float32(100), (20, 1)) for a in clean)
    m = Moments.of(C, y, NOISE)
    assert m.mean == pytest.approx(C.astype(float).mean(axis=0), rel=1e-12)
    rounding = np.diag(linear.ROUNDING**2 * np.mean(C.astype(float) ** 2, axis=0))
    assert m.covariance == pytest.approx(np.cov(C.T.astype(float), ddof=0) + rounding, rel=1e-9)


def test_later_times_never_harm_the_linear_estimator_even_with_noise_below_single_precision():
    """A heavy state: at t = 32 the noise is 1e-14 of the spread of C(t) over the prior."""
    losses = []
    for last in (16, 32):
        grid = Observables(Kernel("periodic", 64), tuple(range(1, last + 1)), (0.3,), (0.3, 0.8, 1.3, 1.8))
        made = generate(ChebyshevPrior(16), grid, 1, 0, 6000)
        noise = synthetic(grid.times, np.exp(-1.2 * np.arange(1, last + 1)), r1=1e-4, delta=0.0, tau=4.0)
        C, y = made.correlator.astype(np.float32), made.smeared[:, 0]
        moments = Moments.of(C[:5000], y[:5000], noise)
        transform = InputTransform.fit(moments, "whiten")
        linear = LinearEstimator.fit(moments, transform)
        x = transform(noise.draw(C[5000:].astype(float), 1, np.random.default_rng(1))[:, 0])
        losses.append(np.abs(linear(x) - y[5000:]).mean())
        assert (np.diag(linear.unresolved) > 0).all()
    assert losses[1] < 1.05 * losses[0]


def test_standardised_clean_inputs_have_zero_mean_and_unit_deviation(clean):
    C, y = clean
    transform = InputTransform.fit(Moments.of(C, y, NOISE), "standardise")
    x = transform(C)
    assert x.mean(axis=0) == pytest.approx(np.zeros(6), abs=1e-12)
    assert x.std(axis=0) == pytest.approx(np.ones(6), rel=1e-12)
    assert x[:, 2] == pytest.approx((C[:, 2] - C[:, 2].mean()) / C[:, 2].std(), abs=1e-12)


def test_whitened_noisy_inputs_have_unit_covariance(clean):
    C, y = clean
    transform = InputTransform.fit(Moments.of(C, y, NOISE), "whiten")
    x = transform(every_noise(C)).reshape(-1, 6)
    assert x.mean(axis=0) == pytest.approx(np.zeros(6), abs=1e-9)
    assert np.cov(x.T, ddof=0) == pytest.approx(np.eye(6), abs=1e-8)


def test_whitening_and_standardising_lose_nothing(clean):
    C, y = clean
    for inputs in ("whiten", "standardise"):
        transform = InputTransform.fit(Moments.of(C, y, NOISE), inputs)
        assert transform(C) @ np.linalg.inv(transform.matrix) + transform.mean == pytest.approx(C, rel=1e-8)
        assert transform(C[3]) == pytest.approx(transform(C)[3], abs=1e-12)


@pytest.mark.parametrize("inputs", ["whiten", "standardise"])
def test_linear_estimator_is_the_least_squares_fit_to_noisy_samples(clean, inputs):
    C, y = clean
    moments = Moments.of(C, y, NOISE)
    transform = InputTransform.fit(moments, inputs)
    estimator = LinearEstimator.fit(moments, transform)
    x = transform(every_noise(C)).reshape(-1, 6)
    design = np.hstack([x, np.ones((len(x), 1))])
    fit = np.linalg.lstsq(design, np.repeat(y, 12, axis=0))[0]
    estimate, expected = estimator(x), design @ fit
    assert estimate == pytest.approx(expected, abs=1e-8)
    assert estimator.residual == pytest.approx((np.repeat(y, 12, axis=0) - expected).std(axis=0), rel=1e-7)
    assert estimator.offset == pytest.approx(y.mean(axis=0), rel=1e-12)


def test_linear_estimator_has_the_least_error_on_random_noise(clean):
    """No nearby linear estimator does better on many noisy draws."""
    C, y = clean
    moments = Moments.of(C, y, NOISE)
    transform = InputTransform.fit(moments, "whiten")
    best = LinearEstimator.fit(moments, transform)
    rng = np.random.default_rng(0)
    x = transform(NOISE.draw(C, 200, rng))

    def error(weight, offset):
        return np.mean((x @ weight + offset - y[:, None]) ** 2, axis=(0, 1))

    least = error(best.weight, best.offset)
    assert least == pytest.approx(best.residual**2, rel=0.02)
    for _ in range(10):
        step = 0.1 * best.residual * rng.standard_normal(best.weight.shape)
        assert np.all(error(best.weight + step, best.offset) > least)
    assert np.all(error(best.weight, best.offset + 0.1 * best.residual) > least)


def test_noise_makes_the_linear_estimator_more_careful(clean):
    C, y = clean
    residuals = []
    for r1 in (1e-5, 1e-3, 1e-1):
        moments = Moments.of(C, y, synthetic(GRID.times, NOISE.mean, r1, 0.0, 3.0))
        residuals.append(LinearEstimator.fit(moments, InputTransform.fit(moments, "whiten")).residual)
    assert np.all(np.diff(residuals, axis=0) > 0)
    assert np.all(residuals[-1] <= y.std(axis=0) * (1 + 1e-12))


@pytest.fixture
def training_store(tmp_path):
    """Write arrays {name: (dims, values)} of one Nb as a training store."""

    def write(name, chunk=100, **arrays):
        path = tmp_path / name
        coords = {"Nb": [8], "sample": np.arange(100), "t": list(GRID.times), "sigma": [0.5], "E": list(GRID.energies)}
        sizes = {"Nb": 1, "sample": 100, "t": 6, "sigma": 1, "E": 4, "copy": 3}
        if "noisy" in arrays:
            coords["copy"] = np.arange(3)
        variables = {
            k: store.Variable(dims, tuple(min(sizes[d], chunk) for d in dims), "float32", "1", k)
            for k, (dims, _) in arrays.items()
        }
        store.create(path, coords, variables, store.attributes("hash", 1))
        for k, (dims, values) in arrays.items():
            store.write_block(path, k, tuple(slice(0, sizes[d]) for d in dims), values)
        return path

    return write


def load(path, protocol="default", **options):
    arguments = {
        "Nb": 8,
        "Nrho": 100,
        "sigma_index": 0,
        "noise": NOISE,
        "inputs": "whiten",
        "protocol": PROTOCOLS[protocol],
        "seed": 1,
        "ensemble": "Nmax",
    }
    return dataset.load(path, **(arguments | options))


CORRELATOR, SMEARED = ("Nb", "sample", "t"), ("Nb", "sample", "sigma", "E")


def test_what_is_fitted_sees_training_samples_only(clean, training_store):
    C, y = (a[:100].copy() for a in clean)
    first = load(training_store("a", correlator=(CORRELATOR, C[None]), smeared=(SMEARED, y[None, :, None])))
    validation = is_validation(np.arange(100))
    C[validation], y[validation] = 2 * C[validation] + 1, 7.0
    other = load(training_store("b", correlator=(CORRELATOR, C[None]), smeared=(SMEARED, y[None, :, None])))
    for name in ("x", "s", "y", "noise", "weight", "offset", "scale"):
        assert np.array_equal(getattr(first.data, name), getattr(other.data, name)), name
    assert np.array_equal(first.transform.matrix, other.transform.matrix)
    assert first.typical == other.typical
    assert not np.array_equal(first.data.x_val, other.data.x_val)
    assert first.linear_loss != other.linear_loss


def test_training_and_validation_samples_are_disjoint_and_whole(clean, training_store):
    C, y = (a[:100] for a in clean)
    fitted = load(training_store("a", correlator=(CORRELATOR, C[None]), smeared=(SMEARED, y[None, :, None])))
    rows = {tuple(r) for r in fitted.data.y}, {tuple(r) for r in fitted.data.y_val}
    assert not rows[0] & rows[1]
    assert [len(r) for r in rows] == [80, 20]
    assert rows[0] | rows[1] == {tuple(r) for r in y.astype(np.float32)}
    assert fitted.data.x == pytest.approx(fitted.transform(C[~is_validation(np.arange(100))]), abs=1e-3)


def test_fewer_samples_are_the_first_ones(clean, training_store):
    C, y = (a[:100] for a in clean)
    path = training_store("a", correlator=(CORRELATOR, C[None]), smeared=(SMEARED, y[None, :, None]))
    assert np.array_equal(load(path, Nrho=50).data.y, load(path).data.y[:40])


def test_validation_noise_is_that_of_the_lattice(clean, training_store):
    """In units of s L, the noise on validation inputs is white and the same at every call."""
    C, y = (a[:100] for a in clean)
    path = training_store("a", correlator=(CORRELATOR, C[None]), smeared=(SMEARED, y[None, :, None]))
    fitted = load(path)
    validation = C[is_validation(np.arange(100))]
    scatter = (fitted.data.x_val - fitted.transform(validation)) @ np.linalg.inv(fitted.data.noise)
    z = scatter / NOISE.scale(validation)[:, None]
    assert np.mean(z**2) == pytest.approx(1, abs=5 * np.sqrt(2 / z.size))
    assert np.array_equal(load(path).data.x_val, fitted.data.x_val)
    assert not np.array_equal(load(path, ensemble="Nref").data.x_val, fitted.data.x_val)


def test_linear_loss_is_that_of_the_linear_estimator_on_the_validation_data(clean, training_store):
    C, y = (a[:100] for a in clean)
    fitted = load(training_store("a", correlator=(CORRELATOR, C[None]), smeared=(SMEARED, y[None, :, None])))
    estimate = fitted.data.x_val @ fitted.linear.weight + fitted.linear.offset
    assert fitted.linear_loss == pytest.approx(np.abs(estimate - fitted.data.y_val).mean(), rel=1e-4)


def test_published_protocol_predicts_rho_itself_and_the_default_a_correction(clean, training_store):
    C, y = (a[:100] for a in clean)
    path = training_store("a", correlator=(CORRELATOR, C[None]), smeared=(SMEARED, y[None, :, None]))
    published, default = load(path, "published"), load(path)
    assert not published.data.weight.any()
    assert not published.data.offset.any()
    assert np.all(published.data.scale == 1)
    assert np.array_equal(default.data.weight, default.linear.weight)
    assert np.array_equal(default.data.offset, default.linear.offset)
    assert np.array_equal(default.data.scale, default.linear.residual)


def test_stored_noise_copies_are_taken_where_they_are(clean, training_store):
    C, y = (a[:100] for a in clean)
    noisy = NOISE.draw(C, 3, np.random.default_rng(0)).astype(np.float32)
    fitted = load(
        training_store(
            "a",
            correlator=(CORRELATOR, C[None]),
            smeared=(SMEARED, y[None, :, None]),
            noisy=(("Nb", "sample", "copy", "t"), noisy[None]),
        )
    )
    expected = fitted.transform(noisy[~is_validation(np.arange(100))])
    assert fitted.data.stored == pytest.approx(expected, rel=1e-6, abs=1e-5)


def test_streamed_data_are_those_in_memory_chunk_by_chunk(clean, training_store):
    """Cut into chunks of 30: the same transforms, samples, validation noise and losses."""
    C, y = clean[0][:100], clean[1][:100]
    noisy = C[:, None] * (1 + 0.01 * np.random.default_rng(1).standard_normal((100, 3, 1)))
    arrays = {
        "correlator": (CORRELATOR, C[None]),
        "smeared": (SMEARED, y[None, :, None]),
        "noisy": (("Nb", "sample", "copy", "t"), noisy[None]),
    }
    whole = load(training_store("whole.zarr", **arrays))
    cut = load(training_store("cut.zarr", chunk=30, **arrays), stream=True)
    assert cut.data.rows == (24, 24, 24, 8)
    assert cut.data.validation == (6, 6, 6, 2)
    assert (cut.linear_loss, cut.typical) == pytest.approx((whole.linear_loss, whole.typical), rel=1e-6)
    chunks = [cut.data.read(i) for i in (3, 2, 1, 0)][::-1]
    for name in ("x", "s", "y", "x_val", "y_val", "stored"):
        joined = np.concatenate([getattr(chunk, name) for chunk in chunks])
        np.testing.assert_allclose(joined, getattr(whole.data, name), rtol=1e-4, atol=1e-4, err_msg=name)
