"""Correlators from files: one result, whatever the format; its statistics, and what is doubtful about it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from sdpipe import read_correlator
from sdpipe.correlators.correlator import Source, load
from sdpipe.correlators.labelled import unlabelled
from sdpipe.correlators.readers import sha256
from sdpipe.correlators.statistics import binned, bootstrap, covariance_of_mean
from sdpipe.errors import UserError

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "etas-Ds.h5"
T = 8


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    """Configurations (cfg, t) with correlations in t; those of ``REAL_DATA`` where they are."""
    if REAL_DATA.exists():
        with h5py.File(REAL_DATA) as file:
            return file["etas"][()]
    t = np.arange(16)
    mean = np.exp(-0.4 * t) + np.exp(-0.4 * (16 - t))
    rng = np.random.default_rng(0)
    common = rng.standard_normal((60, 1))
    return mean * (1 + 0.01 * common + 0.003 * rng.standard_normal((60, 16)))


@pytest.fixture
def eta(tmp_path: Path, samples: np.ndarray) -> Path:
    path = tmp_path / "eta.h5"
    with h5py.File(path, "w") as file:
        file["eta"] = samples
    return path


def error(data: xr.Dataset) -> np.ndarray:
    return np.sqrt(np.diag(data.covariance))


def jackknife(samples: np.ndarray) -> np.ndarray:
    return (samples.sum(axis=0) - samples) / (len(samples) - 1)


# --- formats -------------------------------------------------------------------------------------------------


def write_hdf5(path: Path, x: np.ndarray) -> dict[str, str]:
    with h5py.File(path, "w") as file:
        file["a/eta"], file["a/pion"] = x, 2 * x
    return {"dataset": "a/eta"}


def write_hdf5_jackknife(path: Path, x: np.ndarray) -> dict[str, str]:
    with h5py.File(path, "w") as file:
        file["eta"] = jackknife(x)
    return {"dataset": "eta", "resampling": "jackknife"}


def write_hdf5_that_says_so(path: Path, x: np.ndarray) -> dict[str, str]:
    with h5py.File(path, "w") as file:
        file["eta"] = jackknife(x)
        file["eta"].attrs["resampling"] = "jackknife"
    return {}


def write_hdf5_covariance(path: Path, x: np.ndarray) -> dict[str, str]:
    with h5py.File(path, "w") as file:
        file["octet(0)/mean"], file["octet(0)/cov"] = x.mean(axis=0), covariance_of_mean(x)
    return {"dataset": "octet(0)", "error": "mean"}


def write_hdf5_covariance_alone(path: Path, x: np.ndarray) -> dict[str, str]:
    with h5py.File(path, "w") as file:
        file["mean"], file["cov"] = x.mean(axis=0), covariance_of_mean(x)
    return {"error": "mean"}


def write_hdf5_covariance_of_one(path: Path, x: np.ndarray) -> dict[str, object]:
    with h5py.File(path, "w") as file:
        file["octet(0)/mean"], file["octet(0)/cov"] = x.mean(axis=0), np.cov(x, rowvar=False)
    return {"dataset": "octet(0)", "error": "sample", "configurations": len(x)}


def write_npy(path: Path, x: np.ndarray) -> dict[str, str]:
    np.save(path, x)
    return {}


def write_npz(path: Path, x: np.ndarray) -> dict[str, str]:
    np.savez(path, eta=x, pion=x)
    return {"dataset": "eta"}


def write_npz_covariance(path: Path, x: np.ndarray) -> dict[str, str]:
    np.savez(path, mean=x.mean(axis=0), cov=covariance_of_mean(x))
    return {"error": "mean"}


def table(x: np.ndarray) -> np.ndarray:
    cfg, t = np.indices(x.shape)
    return np.stack([cfg.ravel() * 5 + 100, t.ravel(), x.ravel()], axis=1)


def write_columns(path: Path, x: np.ndarray) -> dict[str, str]:
    np.savetxt(path, table(x), fmt=["%d", "%d", "%.17g"], header="cfg t C")
    return {}


def write_csv_from_windows(path: Path, x: np.ndarray) -> dict[str, str]:
    """As a spreadsheet saves it: column names, a byte order mark, CRLF at the end of lines, rows by time."""
    rows = sorted(table(x).tolist(), key=lambda row: row[1])
    lines = ["cfg,t,C", *(f"{int(cfg)},{int(t)},{C!r}" for cfg, t, C in rows)]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n")
    return {}


def write_netcdf(path: Path, x: np.ndarray) -> dict[str, str]:
    data = xr.Dataset({"eta": (("t", "cfg"), x.T), "other": ("cfg", x[:, 0])}, coords={"t": np.arange(x.shape[1])})
    data.to_netcdf(path, engine="h5netcdf")
    return {}


def write_netcdf3(path: Path, x: np.ndarray) -> dict[str, str]:
    xr.Dataset({"eta": (("cfg", "t"), x)}).to_netcdf(path, engine="scipy")
    return {"dataset": "eta"}


def write_zarr(path: Path, x: np.ndarray) -> dict[str, str]:
    data = xr.Dataset({"eta": (("jack", "t"), jackknife(x))}, coords={"t": np.arange(x.shape[1])})
    data.to_zarr(path, zarr_format=3, consolidated=False)
    return {}


def write_pyerrors(path: Path, x: np.ndarray) -> dict[str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pe = pytest.importorskip("pyerrors", exc_type=ImportError)
    corr = pe.Corr([pe.Obs([column], ["B450"]) for column in x.T])
    pe.input.json.dump_to_json(corr, str(path).removesuffix(".json.gz"))
    return {}


def write_pyerrors_replica(path: Path, x: np.ndarray) -> dict[str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pe = pytest.importorskip("pyerrors", exc_type=ImportError)
    cut = len(x) // 3
    obs = [pe.Obs([column[:cut], column[cut:]], ["B450|r01", "B450|r02"]) for column in x.T]
    pe.input.json.dump_to_json(obs, str(path).removesuffix(".json.gz"))
    return {}


def write_gvar(path: Path, x: np.ndarray) -> dict[str, str]:
    gv = pytest.importorskip("gvar")
    gv.gdump(gv.gvar(x.mean(axis=0), covariance_of_mean(x)), str(path))
    return {}


def write_gvars(path: Path, x: np.ndarray) -> dict[str, str]:
    gv = pytest.importorskip("gvar")
    eta = gv.gvar(x.mean(axis=0), covariance_of_mean(x))
    gv.gdump({"eta": eta, ("a", 1): eta * eta, "m": eta[0]}, str(path))
    return {"dataset": "eta"}


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("x.h5", write_hdf5),
        ("x.hdf5", write_hdf5_jackknife),
        ("x.h5", write_hdf5_that_says_so),
        ("x.h5", write_hdf5_covariance),
        ("x.h5", write_hdf5_covariance_alone),
        ("x.h5", write_hdf5_covariance_of_one),
        ("x.npy", write_npy),
        ("x.npz", write_npz),
        ("x.npz", write_npz_covariance),
        ("x.txt", write_columns),
        ("x.csv", write_csv_from_windows),
        ("x.nc", write_netcdf),
        ("x.nc", write_netcdf3),
        ("x.zarr", write_zarr),
        ("x.json.gz", write_pyerrors),
        ("x.json.gz", write_pyerrors_replica),
        ("x.json", write_gvar),
        ("x.json", write_gvars),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_every_format_gives_the_same_mean_and_covariance(
    tmp_path: Path, samples: np.ndarray, name: str, write: Callable[[Path, np.ndarray], dict[str, str]]
) -> None:
    path = tmp_path / name
    data = read_correlator(path, **write(path, samples))
    error_of_mean = np.sqrt(np.diag(covariance_of_mean(samples)))
    assert list(data.t.values) == list(range(samples.shape[1]))
    np.testing.assert_allclose(data["mean"], samples.mean(axis=0), rtol=1e-12)
    correlation = data.covariance / np.outer(error_of_mean, error_of_mean)
    np.testing.assert_allclose(correlation, np.corrcoef(samples.T), atol=1e-9)
    assert data.covariance.dims == ("t", "t2")
    assert data.attrs["sha256"] == sha256(path)
    assert data.attrs["flags"] == []
    if data.attrs["resampling"] != "none":
        np.testing.assert_allclose(data.samples, samples, rtol=1e-9)
        assert data.samples.dims == ("cfg", "t")
        assert data.attrs["configurations"] == len(samples)


@pytest.mark.parametrize("name", ["x.h5", "x.nc", "x.zarr", "x.npy"])
def test_bootstrap_samples_keep_their_spread(tmp_path: Path, samples: np.ndarray, name: str) -> None:
    """Their standard deviation is the error of the mean: no factor sqrt(n)."""
    boots, path = bootstrap(samples, 1000, 1, "eta"), tmp_path / name
    labelled, keys = xr.Dataset({"eta": (("boot", "t"), boots)}), {}
    if name == "x.nc":
        labelled.to_netcdf(path, engine="h5netcdf")
    elif name == "x.zarr":
        labelled.to_zarr(path, zarr_format=3, consolidated=False)
    else:
        keys = {"resampling": "bootstrap"}
        if name == "x.npy":
            np.save(path, boots)
        else:
            with h5py.File(path, "w") as file:
                file["eta"] = boots
    data = read_correlator(path, **keys)
    assert data.samples.dims == ("boot", "t")
    np.testing.assert_allclose(data.samples, boots)
    assert error(data) == pytest.approx(np.sqrt(np.diag(covariance_of_mean(samples))), rel=0.15)
    assert np.array_equal(unlabelled(data).bootstrap(17, 1, "x"), boots)


def test_columns_of_errors_give_a_diagonal_covariance(tmp_path: Path, samples: np.ndarray) -> None:
    mean, sigma, path = samples.mean(axis=0), samples.std(axis=0, ddof=1), tmp_path / "x.dat"
    n = len(samples)
    np.savetxt(path, np.stack([np.arange(mean.size), mean, sigma / np.sqrt(n)], axis=1))
    of_mean = read_correlator(path, error="mean", covariance="diagonal")
    np.savetxt(path, np.stack([np.arange(mean.size), mean, sigma], axis=1))
    of_one = read_correlator(path, error="sample", configurations=n, covariance="diagonal")
    for data in (of_mean, of_one):
        np.testing.assert_allclose(data["mean"], mean)
        np.testing.assert_allclose(data.covariance, np.diag(sigma**2 / n), rtol=1e-9, atol=0)
        assert "samples" not in data


@pytest.mark.parametrize("correlation", [0.0, 0.7, 0.98])
def test_errors_alone_never_fold_to_less_than_the_error_of_the_samples(tmp_path: Path, correlation: float) -> None:
    """Their correlation between t and T - t is not known: independence would understate by up to sqrt(2)."""
    t, n, period = np.arange(16), 2000, 16
    common, own = np.random.default_rng(3).standard_normal((2, n, period))
    common = common[:, np.minimum(t, period - t)]
    x = np.cosh(0.3 * (t - 8)) * (1 + 0.01 * (np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own))
    np.save(tmp_path / "x.npy", x)
    rows = np.stack([t, x.mean(axis=0), x.std(axis=0, ddof=1) / np.sqrt(n)], axis=1)
    np.savetxt(tmp_path / "x.txt", rows)
    truth = error(read_correlator(tmp_path / "x.npy", period=period, times=(1, 8)))
    folded = error(
        read_correlator(tmp_path / "x.txt", error="mean", covariance="diagonal", period=period, times=(1, 8))
    )
    assert (folded > 0.97 * truth).all()
    assert folded[:-1] / truth[:-1] == pytest.approx(np.sqrt(2 / (1 + correlation)) * np.ones(7), rel=0.05)
    assert folded[-1] == pytest.approx(truth[-1])


def test_the_result_saved_with_xarray_reads_back(eta: Path, tmp_path: Path) -> None:
    data = read_correlator(eta, bin=2, covariance="shrink")
    data.to_netcdf(tmp_path / "again.nc", engine="h5netcdf")
    data.to_zarr(tmp_path / "again.zarr", zarr_format=3, consolidated=False)
    for name in ("again.nc", "again.zarr"):
        again = read_correlator(tmp_path / name, covariance="shrink")
        np.testing.assert_array_equal(again.samples, data.samples)
        np.testing.assert_allclose(again.covariance, data.covariance, rtol=1e-12)


def test_two_ensembles_of_pyerrors_are_combined_by_its_gamma_method(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pe = pytest.importorskip("pyerrors", exc_type=ImportError)
    rng = np.random.default_rng(2)
    a, b = (1 + 0.1 * rng.standard_normal((200, 3)) for _ in range(2))
    corr = pe.Corr([pe.Obs([x], ["A"]) + pe.Obs([y], ["B"]) for x, y in zip(a.T, b.T, strict=True)])
    pe.input.json.dump_to_json(corr, str(tmp_path / "x"))
    data = read_correlator(tmp_path / "x.json.gz")
    np.testing.assert_allclose(data["mean"], a.mean(axis=0) + b.mean(axis=0))
    assert error(data) == pytest.approx(0.1 * np.sqrt(2 / 200) * np.ones(3), rel=0.3)


def test_a_format_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gvar", None)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match=r"needs gvar; run: pip install 'sdpipe\[gvar\]'"):
        read_correlator(tmp_path / "x.json")


# --- statistics ----------------------------------------------------------------------------------------------


def test_bins_and_slices_are_taken_before_the_statistics(eta: Path, samples: np.ndarray) -> None:
    period = samples.shape[1]
    data = read_correlator(eta, bin=3, period=period, times=(1, 4))
    t = np.arange(1, 5)
    folded = binned((samples[:, t] + samples[:, -t]) / 2, 3)
    assert list(data.t.values) == [1, 2, 3, 4]
    np.testing.assert_allclose(data.samples, folded, rtol=1e-12)
    np.testing.assert_allclose(data.covariance, covariance_of_mean(folded), rtol=1e-9)
    assert (data.attrs["bin"], data.attrs["samples"]) == (3, len(folded))
    assert data.attrs["dropped"] == len(samples) % 3
    assert list(read_correlator(eta, period=period).t.values) == list(range(period // 2 + 1))


def test_a_bin_shorter_than_the_memory_of_the_chain_is_flagged(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    x = np.zeros((3000, 3))
    for i in range(1, len(x)):
        x[i] = 0.8 * x[i - 1] + rng.standard_normal(3)
    np.save(tmp_path / "x.npy", 100 + x)
    with pytest.warns(UserWarning, match=r"bin 1 is shorter than 2 tau_int = \d.*choose bin: \d+ or more") as caught:
        data = read_correlator(tmp_path / "x.npy")
    assert data.attrs["flags"] == [str(caught[0].message)]
    assert data.attrs["tau_int"] == pytest.approx(4.5, rel=0.3)
    assert read_correlator(tmp_path / "x.npy", bin=12).attrs["flags"] == []


def test_independent_configurations_are_not_flagged(tmp_path: Path) -> None:
    x = 10 + np.random.default_rng(1).standard_normal((200, 20))
    np.save(tmp_path / "x.npy", x)
    data = read_correlator(tmp_path / "x.npy")
    assert data.attrs["flags"] == []
    assert data.attrs["tau_int"] == pytest.approx(0.5, abs=4 * data.attrs["tau_int_error"])


def test_few_configurations_need_a_covariance_that_they_determine(tmp_path: Path, samples: np.ndarray) -> None:
    few = samples[:10, :10]
    np.save(tmp_path / "x.npy", few)
    with pytest.raises(UserError, match="10 samples do not determine a covariance of 10 times"):
        read_correlator(tmp_path / "x.npy")
    full = covariance_of_mean(few)
    shrunk = read_correlator(tmp_path / "x.npy", covariance="shrink")
    assert np.linalg.eigvalsh(shrunk.covariance / np.sqrt(np.outer(np.diag(full), np.diag(full))))[0] > 1e-6
    np.testing.assert_allclose(np.diag(shrunk.covariance), np.diag(full))
    np.testing.assert_allclose(
        read_correlator(tmp_path / "x.npy", covariance="diagonal").covariance, np.diag(np.diag(full))
    )
    np.save(tmp_path / "x.npy", samples[:11, :10])
    assert read_correlator(tmp_path / "x.npy").attrs["covariance"] == "full"


def few(count: int, size: int = 16) -> np.ndarray:
    """Return configurations (cfg, t) with 0.1 % errors, strongly correlated in t."""
    rng = np.random.default_rng(2)
    z = rng.standard_normal((count, 1)) + 0.3 * rng.standard_normal((count, size)).cumsum(axis=1)
    return np.exp(-0.4 * np.arange(size)) * (1 + 0.001 * z)


def write_bootstrap(path: Path, x: np.ndarray, dtype: str) -> dict[str, str]:
    boots = bootstrap(x, 800, 1, "few").astype(dtype)
    if path.suffix == ".nc":
        xr.Dataset({"x": (("boot", "t"), boots)}).to_netcdf(path, engine="h5netcdf")
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["x"] = boots
    else:
        np.save(path, boots) if path.suffix == ".npy" else np.savez(path, boots)
    return {"resampling": "bootstrap"}


def write_pair(path: Path, x: np.ndarray, dtype: str) -> dict[str, str]:
    pair = {"mean": x.mean(axis=0).astype(dtype), "cov": covariance_of_mean(x).astype(dtype)}
    if path.suffix == ".nc":
        xr.Dataset({"mean": ("t", pair["mean"]), "cov": (("t", "t2"), pair["cov"])}).to_netcdf(path, engine="h5netcdf")
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["g/mean"], file["g/cov"] = pair["mean"], pair["cov"]
    else:
        np.savez(path, **pair)
    return {"error": "mean"}


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(
    ("name", "write"),
    [
        *((f"x.{ending}", write_bootstrap) for ending in ("h5", "npy", "npz", "nc")),
        *((f"x.{ending}", write_pair) for ending in ("h5", "npz", "nc")),
    ],
)
def test_a_covariance_that_only_rounding_makes_definite_is_refused(
    tmp_path: Path, name: str, write: Callable, dtype: str
) -> None:
    """Ten configurations have rank 9, however many bootstrap samples are drawn from them."""
    keys = write(tmp_path / name, few(10), dtype)
    with pytest.raises(UserError, match=r"not positive definite .* covariance: shrink .* or diagonal, or fewer times"):
        read_correlator(tmp_path / name, **keys)
    assert read_correlator(tmp_path / name, **keys, covariance="diagonal").sizes["t"] == 16
    assert read_correlator(tmp_path / name, **keys, times=(0, 7)).attrs["covariance"] == "full"
    keys = write(tmp_path / f"sound-{name}", few(40), dtype)
    assert read_correlator(tmp_path / f"sound-{name}", **keys).attrs["covariance"] == "full"


@pytest.mark.parametrize("write", [write_bootstrap, write_pair])
def test_configurations_behind_a_file_are_counted_where_they_are_said(tmp_path: Path, write: Callable) -> None:
    path = tmp_path / "x.h5"
    keys = write(path, few(40), "f8")
    assert unlabelled(read_correlator(path, **keys)).estimated_from is None
    assert unlabelled(read_correlator(path, **keys, configurations=40)).estimated_from == 40
    assert unlabelled(read_correlator(path, **keys, configurations=40, covariance="diagonal")).estimated_from is None
    with h5py.File(path, "a") as file:
        file.attrs["configurations"] = 16
        for node in file.values():
            node.attrs["configurations"] = 16
    with pytest.raises(UserError, match=r"16 configurations do not determine .* 16 times; .*: covariance: diagonal"):
        read_correlator(path, **keys)
    with pytest.raises(UserError, match="configurations: 40, but the file itself says 16"):
        read_correlator(path, **keys, configurations=40)
    with h5py.File(path, "a") as file:
        for node in file.values():
            node.attrs["configurations"] = "many"
    with pytest.raises(UserError, match="configurations: many; it must be a whole number, 2 or more"):
        read_correlator(path, **keys)


def test_samples_of_a_mean_with_covariance_are_drawn_around_it(tmp_path: Path, samples: np.ndarray) -> None:
    path, x = tmp_path / "x.npz", samples[:, :4]
    keys = write_npz_covariance(path, x)
    drawn = load(Source(path, **keys)).bootstrap(20_000, 1, "eta")
    cov = covariance_of_mean(x)
    sigma = np.sqrt(np.diag(cov))
    assert (drawn.mean(axis=0) - x.mean(axis=0)) / sigma == pytest.approx(np.zeros(4), abs=0.05)
    np.testing.assert_allclose(np.cov(drawn.T) / np.outer(sigma, sigma), cov / np.outer(sigma, sigma), atol=0.05)


def test_a_normalised_correlator_is_sound_where_its_constant_slice_is_not_used(tmp_path: Path) -> None:
    x = 2 + 0.1 * np.random.default_rng(1).standard_normal((50, T))
    x[:, 0] = 1
    np.save(tmp_path / "x.npy", x)
    assert read_correlator(tmp_path / "x.npy", times=(1, 4)).sizes["t"] == 4
    with pytest.raises(UserError, match="t = 0 is the same in every sample"):
        read_correlator(tmp_path / "x.npy", times=(0, 4))


def test_a_file_that_holds_late_slices_only_cannot_be_folded(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("6 0.1 0.01\n7 0.2 0.01\n")
    with pytest.raises(UserError, match="its first time slice, 6, is beyond half the period 8"):
        read_correlator(tmp_path / "x.txt", error="mean", covariance="diagonal", period=8)


@pytest.mark.parametrize(
    "keys", [{"bin": 0}, {"covariance": "none"}, {"times": (3, 1)}, {"times": (1,)}, {"period": 0}, {"resampling": "x"}]
)
def test_arguments_that_mean_nothing_are_refused(eta: Path, keys: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(keys))):
        read_correlator(eta, **keys)


def test_a_list_of_files_is_refused(eta: Path) -> None:
    with pytest.raises(UserError, match=r"path: .* is not allowed; allowed: the path of one file"):
        read_correlator([eta])


@pytest.mark.skipif(not REAL_DATA.exists(), reason=f"needs {REAL_DATA.name}, real lattice data not shipped here")
def test_real_data_fold_to_a_falling_correlator_with_a_plateau() -> None:
    data = read_correlator(REAL_DATA, "etas", period=64, times=(1, 32))
    C = data["mean"].values
    assert data.sizes == {"t": 32, "t2": 32, "cfg": 225}
    assert np.all(np.diff(C) < 0)
    assert np.all(error(data) < 0.01 * C)
    assert np.log(C[14] / C[19]) / 5 == pytest.approx(0.416, abs=0.005)
    assert data.attrs["flags"] == []
