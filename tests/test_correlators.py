"""Correlators from HDF5 files: what is read, folded and bootstrapped, and what is refused."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from sdpipe.correlators import bootstrap, read_configurations, read_mean_and_covariance, select
from sdpipe.errors import UserError
from sdpipe.kernels import Kernel

T = 8
REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "etas-Ds.h5"


@pytest.fixture
def samples():
    return np.random.default_rng(0).standard_normal((30, T)) + np.arange(10, 10 + T)


@pytest.fixture
def write(tmp_path):
    """Write {name: values} to an HDF5 file and return its path."""

    def make(**datasets):
        path = tmp_path / "data.h5"
        with h5py.File(path, "w") as file:
            for name, values in datasets.items():
                file[name] = values
        return path

    return make


def test_one_row_a_configuration_is_read_as_it_is(write, samples):
    path = write(**{"deep/eta": samples.astype(np.float32)})
    values = read_configurations(path, "deep/eta")
    assert values.dtype == float
    assert np.array_equal(values, samples.astype(np.float32))
    assert np.array_equal(read_configurations(write(n=np.arange(6).reshape(3, 2)), "n"), [[0, 1], [2, 3], [4, 5]])


def test_mean_and_covariance_are_read_from_their_group(write, samples):
    cov = np.cov(samples.T)
    path = write(**{"octet(0)/mean": samples.mean(axis=0), "octet(0)/cov": cov, "octet(1)/mean": [1.0]})
    mean, read = read_mean_and_covariance(path, "octet(0)")
    assert np.array_equal(mean, samples.mean(axis=0))
    assert np.array_equal(read, cov)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.h5: no such file"):
        read_configurations(tmp_path / "nowhere.h5", "eta")
    with pytest.raises(UserError, match="not a readable HDF5 file"):
        read_configurations(tmp_path, "eta")


@pytest.mark.parametrize("part", [0.9, 0.5, 0.01])
def test_a_truncated_file_is_refused(write, samples, part):
    path = write(eta=np.tile(samples, (50, 1)))
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(UserError, match="not a readable HDF5 file"):
        read_configurations(path, "eta")


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "data.h5"
    path.write_text("t,C(t)\n0,1.0\n")
    with pytest.raises(UserError, match="not a readable HDF5 file"):
        read_mean_and_covariance(path, "octet(0)")


def test_a_missing_dataset_is_refused_with_those_there(write, samples):
    path = write(eta=samples, **{"group/pion": samples})
    with pytest.raises(UserError, match="no dataset 'kaon'; those there: eta, group/pion"):
        read_configurations(path, "kaon")
    with pytest.raises(UserError, match="no dataset 'group'"):
        read_configurations(path, "group")
    with pytest.raises(UserError, match="those there: none"):
        read_configurations(write(), "kaon")


def test_a_missing_group_is_refused_with_those_there(write, samples):
    path = write(eta=samples, **{"octet(1)/mean": [1.0], "octet(2)/mean": [1.0]})
    with pytest.raises(UserError, match=r"no group 'octet\(0\)'; those there: octet\(1\), octet\(2\)"):
        read_mean_and_covariance(path, "octet(0)")
    with pytest.raises(UserError, match="no group 'eta'"):
        read_mean_and_covariance(path, "eta")
    with pytest.raises(UserError, match=r"no dataset 'octet\(1\)/cov'"):
        read_mean_and_covariance(path, "octet(1)")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_with_their_place(write, samples, bad):
    samples[4, 2] = bad
    with pytest.raises(UserError, match=r"eta: value (nan|inf) at index \(4, 2\)"):
        read_configurations(write(eta=samples), "eta")
    cov = np.eye(2)
    cov[1, 0] = bad
    with pytest.raises(UserError, match=r"g/cov: value (nan|inf) at index \(1, 0\)"):
        read_mean_and_covariance(write(**{"g/mean": [1.0, 2.0], "g/cov": cov}), "g")


def test_one_configuration_is_refused(write, samples):
    with pytest.raises(UserError, match="one configuration has no statistical error"):
        read_configurations(write(eta=samples[:1]), "eta")


def test_an_empty_dataset_is_refused(write):
    with pytest.raises(UserError, match="the dataset is empty"):
        read_configurations(write(eta=np.empty((0, T))), "eta")


def test_a_time_without_variance_is_refused(write, samples):
    samples[:, 5] = 0.1
    with pytest.raises(UserError, match="column t = 5 is the same on every configuration"):
        read_configurations(write(eta=samples), "eta")


@pytest.mark.parametrize("values", [np.array([[b"a", b"b"]] * 3), np.ones((3, 2)) * 1j])
def test_values_that_are_no_real_numbers_are_refused(write, values):
    with pytest.raises(UserError, match="eta: values must be real numbers, not"):
        read_configurations(write(eta=values), "eta")


@pytest.mark.parametrize("shape", [(6,), (2, 3, 4), ()])
def test_data_of_another_shape_are_refused(write, shape):
    values = np.random.default_rng(0).standard_normal(shape)
    with pytest.raises(UserError, match=r"it must be \(configurations, times\)"):
        read_configurations(write(eta=values), "eta")


@pytest.mark.parametrize(("mean", "cov"), [((3,), (4, 4)), ((3,), (3,)), ((3, 3), (3, 3)), ((4,), (4, 3))])
def test_mean_and_covariance_that_do_not_fit_are_refused(write, mean, cov):
    with pytest.raises(UserError, match=r"needed \(T,\) and \(T, T\)"):
        read_mean_and_covariance(write(**{"g/mean": np.ones(mean), "g/cov": np.ones(cov)}), "g")


@pytest.mark.parametrize("name", ["vector", "periodic"])
def test_a_whole_period_is_folded(samples, name):
    folded = samples @ select(T, Kernel(name, T), (0, 1, 3, 4), "x").T
    for column, t in zip(folded.T, (0, 1, 3, 4), strict=True):
        assert column == pytest.approx((samples[:, t] + samples[:, -t % T]) / 2, rel=1e-14)


def test_folding_leaves_a_symmetric_correlator_as_it_is():
    kernel = Kernel("periodic", T)
    C = kernel(np.arange(T), 0.7)
    assert pytest.approx(C[1:5], rel=1e-14) == C @ select(T, kernel, (1, 2, 3, 4), "x").T


def test_half_a_period_is_taken_as_folded_already():
    C = np.arange(10.0, 10 + T // 2 + 1)
    assert np.array_equal(C @ select(C.size, Kernel("vector", T), (1, 4), "x").T, [11, 14])


def test_times_beyond_half_the_period_are_not_folded():
    C = np.arange(10.0, 10 + T)
    assert np.array_equal(C @ select(T, Kernel("vector", T), (1, 4, 7), "x").T, [11, 14, 17])


def test_open_boundaries_are_not_folded():
    C = np.arange(10.0, 10 + T)
    assert np.array_equal(C @ select(T, Kernel("exponential", T), (1, 3), "x").T, [11, 13])


@pytest.mark.parametrize(
    ("length", "name", "times", "words"),
    [
        (6, "vector", (1, 4), r"6 time slices, .* 8 \(a period\), or 5 \(folded\)"),
        (T + 1, "periodic", (1, 4), r"9 time slices, .* 8 \(a period\)"),
        (T // 2 + 1, "vector", (1, 6), "5 time slices, .* need at least 7"),
        (3, "exponential", (1, 3), "3 time slices, .* need at least 4"),
    ],
)
def test_data_of_the_wrong_length_are_refused(length, name, times, words):
    with pytest.raises(UserError, match=f"file: eta: {words}"):
        select(length, Kernel(name, T), times, "file: eta")


def test_bootstrap_means_scatter_like_the_error_of_the_mean(samples):
    n, count = len(samples), 20_000
    boots = bootstrap(samples, count, seed=1, stream="eta")
    error = samples.std(axis=0) / np.sqrt(n)
    assert boots.shape == (count, T)
    assert boots.std(axis=0) == pytest.approx(error, rel=5 / np.sqrt(2 * count))
    assert (boots.mean(axis=0) - samples.mean(axis=0)) / error == pytest.approx(np.zeros(T), abs=5 / np.sqrt(count))
    assert np.corrcoef(boots.T) == pytest.approx(np.corrcoef(samples.T), abs=0.05)


def test_each_bootstrap_mean_takes_as_many_configurations_as_there_are():
    boots = bootstrap(np.eye(5), 100, seed=1, stream="x") * 5
    assert np.abs(boots - np.round(boots)).max() < 1e-12
    assert boots.sum(axis=1) == pytest.approx(np.full(100, 5))
    assert boots.max() >= 2


def test_bootstrap_is_a_function_of_seed_and_stream(samples):
    first = bootstrap(samples, 4, 1, "eta")
    assert np.array_equal(first, bootstrap(samples, 4, 1, "eta"))
    assert not np.array_equal(first, bootstrap(samples, 4, 2, "eta"))
    assert not np.array_equal(first, bootstrap(samples, 4, 1, "pion"))


@pytest.mark.skipif(
    not REAL_DATA.exists(), reason="needs ../shared/data/etas-Ds.h5, real lattice data not shipped here"
)
def test_real_data_fold_to_a_falling_correlator_with_a_plateau():
    values = read_configurations(REAL_DATA, "etas")
    assert values.shape == (225, 64)
    folded = values @ select(64, Kernel("periodic", 64), tuple(range(1, 33)), "etas").T
    C = folded.mean(axis=0)
    error = folded.std(axis=0, ddof=1) / np.sqrt(225)
    assert np.all(np.diff(C) < 0)
    assert np.all(error < 0.01 * C)
    mass = np.log(C[14] / C[19]) / 5
    assert mass == pytest.approx(0.416, abs=0.005)
