"""From ``training.zarr`` to what a stack is trained on: who sees which samples, whole or streamed."""

import numpy as np
import pytest

from sdpipe.disk import store
from sdpipe.learn import dataset
from sdpipe.learn.training import PROTOCOLS
from sdpipe.physics.samples import is_validation
from tests.learn.test_moments import GRID, NOISE

CORRELATOR, SMEARED, NOISY = ("Nb", "sample", "t"), ("Nb", "sample", "sigma", "E"), ("Nb", "sample", "copy", "t")
VALIDATES = is_validation(np.arange(100))


@pytest.fixture
def samples(clean):
    """Correlators (sample, t) and targets (sample, E) of one hundred samples."""
    return tuple(a[:100].copy() for a in clean)


@pytest.fixture
def training_store(tmp_path):
    """Write samples of one Nb as a training store."""

    def write(name, C, y, noisy=None, chunk=100):
        path = tmp_path / name
        arrays = {"correlator": (CORRELATOR, C[None]), "smeared": (SMEARED, y[None, :, None])}
        coords = {"Nb": [8], "sample": np.arange(100), "t": list(GRID.times), "sigma": [0.5], "E": list(GRID.energies)}
        if noisy is not None:
            arrays["noisy"], coords["copy"] = (NOISY, noisy[None]), np.arange(noisy.shape[1])
        variables = {
            k: store.Variable(dims, tuple(min(size, chunk) for size in values.shape), "float32", "1", k)
            for k, (dims, values) in arrays.items()
        }
        store.Template(coords, variables).create(path, store.attributes("hash", 1))
        for k, (_, values) in arrays.items():
            store.write_block(path, tuple(slice(0, size) for size in values.shape), {k: values})
        return path

    return write


def load(path, protocol="default", Nrho=100, ensemble="Nmax", stream=False):
    samples = dataset.StoredSamples(path, 8, Nrho, sigma_index=0, stream=stream)
    return dataset.fit(samples, NOISE, "whiten", PROTOCOLS[protocol].residual, (1, ensemble))


def test_what_is_fitted_sees_training_samples_only(samples, training_store):
    C, y = samples
    first = load(training_store("a", C, y))
    C[VALIDATES], y[VALIDATES] = 2 * C[VALIDATES] + 1, 7.0
    other = load(training_store("b", C, y))
    ours, theirs = first.data.read(0), other.data.read(0)
    for name in ("x", "s", "y"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
    for name in ("noise", "weight", "offset", "scale"):
        assert np.array_equal(getattr(first.data, name), getattr(other.data, name)), name
    assert np.array_equal(first.transform.matrix, other.transform.matrix)
    assert not np.array_equal(ours.x_val, theirs.x_val)
    assert first.linear_loss != other.linear_loss


def test_training_and_validation_samples_are_disjoint_and_whole(samples, training_store):
    C, y = samples
    fitted = load(training_store("a", C, y))
    chunk = fitted.data.read(0)
    rows = {tuple(r) for r in chunk.y}, {tuple(r) for r in chunk.y_val}
    assert not rows[0] & rows[1]
    assert [len(r) for r in rows] == [80, 20]
    assert rows[0] | rows[1] == {tuple(r) for r in y.astype(np.float32)}
    assert chunk.x == pytest.approx(fitted.transform(C[~VALIDATES]), abs=1e-3)


def test_fewer_samples_are_the_first_ones(samples, training_store):
    path = training_store("a", *samples)
    assert np.array_equal(load(path, Nrho=50).data.read(0).y, load(path).data.read(0).y[:40])


def test_validation_noise_is_that_of_the_lattice(samples, training_store):
    """In units of s L, the noise on validation inputs is white and the same at every call."""
    path, validation = training_store("a", *samples), samples[0][VALIDATES]
    fitted = load(path)
    x_val = fitted.data.read(0).x_val
    z = (x_val - fitted.transform(validation)) @ np.linalg.inv(fitted.data.noise) / NOISE.scale(validation)[:, None]
    assert np.mean(z**2) == pytest.approx(1, abs=5 * np.sqrt(2 / z.size))
    assert np.array_equal(load(path).data.read(0).x_val, x_val)
    assert not np.array_equal(load(path, ensemble="Nref").data.read(0).x_val, x_val)


def test_linear_loss_is_that_of_the_linear_estimator_on_the_validation_data(samples, training_store):
    fitted = load(training_store("a", *samples))
    chunk = fitted.data.read(0)
    estimate = chunk.x_val @ fitted.linear.weight + fitted.linear.offset
    assert fitted.linear_loss == pytest.approx(np.abs(estimate - chunk.y_val).mean(), rel=1e-4)


def test_published_protocol_predicts_rho_itself_and_the_default_a_correction(samples, training_store):
    path = training_store("a", *samples)
    published, default = load(path, "published").data, load(path)
    assert not published.weight.any()
    assert not published.offset.any()
    assert np.all(published.scale == 1)
    linear = default.linear
    for name, value in (("weight", linear.weight), ("offset", linear.offset), ("scale", linear.residual)):
        assert np.array_equal(getattr(default.data, name), value), name


def test_stored_noise_copies_are_taken_where_they_are(samples, training_store):
    noisy = NOISE.draw(samples[0], 3, np.random.default_rng(0)).astype(np.float32)
    fitted = load(training_store("a", *samples, noisy))
    assert fitted.data.copies == 3
    assert fitted.data.read(0).stored == pytest.approx(fitted.transform(noisy[~VALIDATES]), rel=1e-6, abs=1e-5)


def test_streamed_data_are_those_in_memory_chunk_by_chunk(samples, training_store):
    """Cut into chunks of 30: the same transforms, samples, validation noise and losses."""
    noisy = samples[0][:, None] * (1 + 0.01 * np.random.default_rng(1).standard_normal((100, 3, 1)))
    whole = load(training_store("whole.zarr", *samples, noisy))
    cut = load(training_store("cut.zarr", *samples, noisy, chunk=30), stream=True)
    assert cut.data.rows == (24, 24, 24, 8)
    assert cut.data.held_out == (6, 6, 6, 2)
    assert cut.linear_loss == pytest.approx(whole.linear_loss, rel=1e-6)
    chunks = [cut.data.read(i) for i in (3, 2, 1, 0)][::-1]
    for name in ("x", "s", "y", "x_val", "y_val", "stored"):
        joined = np.concatenate([getattr(chunk, name) for chunk in chunks])
        np.testing.assert_allclose(joined, getattr(whole.data.read(0), name), rtol=1e-4, atol=1e-4, err_msg=name)
