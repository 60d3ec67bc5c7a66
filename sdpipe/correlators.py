"""Correlators from files, on the time slices that the networks see."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from sdpipe import rng
from sdpipe.errors import UserError
from sdpipe.kernels import Kernel

Array = NDArray[np.float64]


def _dataset(file: h5py.File, path: Path, name: str) -> Array:
    node = file.get(name)
    if not isinstance(node, h5py.Dataset):
        names: list[str] = []
        file.visititems(lambda n, o: names.append(n) if isinstance(o, h5py.Dataset) else None)
        raise UserError(f"{path}: there is no dataset {name!r}; those there: {', '.join(names[:20]) or 'none'}")
    if node.dtype.kind not in "fiu":
        raise UserError(f"{path}: {name}: values must be real numbers, not {node.dtype}")
    values = np.asarray(node[()], float)
    if values.size == 0:
        raise UserError(f"{path}: {name}: the dataset is empty")
    if not np.isfinite(values).all():
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise UserError(f"{path}: {name}: value {values[first]} at index {first}; all values must be finite")
    return values


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: not a readable HDF5 file ({str(error).splitlines()[0][:80]})") from None


def read_configurations(path: Path, dataset: str) -> Array:
    """Read ``dataset``, one row a gauge configuration, shape (cfg, T).

    Raises UserError for a file or dataset that is missing, not real, not finite, or has one row only.
    """
    with _open(path) as file:
        values = _dataset(file, path, dataset)
    if values.ndim != 2:
        raise UserError(f"{path}: {dataset}: shape {values.shape}; it must be (configurations, times)")
    if len(values) < 2:
        raise UserError(f"{path}: {dataset}: one configuration has no statistical error; at least 2 are needed")
    constant = np.flatnonzero(np.ptp(values, axis=0) == 0)
    if constant.size:
        t = int(constant[0])
        raise UserError(f"{path}: {dataset}: column t = {t} is the same on every configuration (zero variance)")
    return values


def read_mean_and_covariance(path: Path, group: str) -> tuple[Array, Array]:
    """Read ``mean (T,)`` and ``cov (T, T)`` from one group of an HDF5 file.

    Raises UserError where the group is missing or the two do not fit each other.
    """
    with _open(path) as file:
        if not isinstance(file.get(group), h5py.Group):
            groups = ", ".join(k for k, v in file.items() if isinstance(v, h5py.Group))
            raise UserError(f"{path}: there is no group {group!r}; those there: {groups or 'none'}")
        mean, cov = _dataset(file, path, f"{group}/mean"), _dataset(file, path, f"{group}/cov")
    if mean.ndim != 1 or cov.shape != (mean.size, mean.size):
        raise UserError(f"{path}: {group}: mean has shape {mean.shape} and cov {cov.shape}; needed (T,) and (T, T)")
    return mean, cov


def select(length: int, kernel: Kernel, times: tuple[int, ...], where: str) -> Array:
    """Return the matrix (t, length) that takes data at t = 0 .. length-1 to the slices ``times``.

    For a kernel with C(t) = C(T - t), data over a whole period are folded, [C(t) + C(T - t)] / 2, unless
    ``times`` reaches beyond T/2.

    Raises UserError when the data do not hold these times.
    """
    folds = kernel.symmetric and length == kernel.period and max(times) <= kernel.period // 2
    half = kernel.symmetric and length == kernel.period // 2 + 1
    whole = not kernel.symmetric or length == kernel.period or max(times) > kernel.period // 2
    if not (half or whole) or max(times) >= length:
        allowed = f"{kernel.period} (a period), or {kernel.period // 2 + 1} (folded)"
        if not kernel.symmetric or max(times) > kernel.period // 2:
            allowed = f"at least {max(times) + 1}"
        raise UserError(f"{where}: {length} time slices, but lattice.period {kernel.period} and times need {allowed}")
    matrix = np.zeros((len(times), length))
    for row, t in enumerate(times):
        if folds and t > 0:
            matrix[row, t] += 0.5
            matrix[row, kernel.period - t] += 0.5
        else:
            matrix[row, t] = 1.0
    return matrix


def bootstrap(configurations: Array, count: int, seed: int, stream: str) -> Array:
    """Return ``count`` bootstrap means (boot, t) of configurations (cfg, t), drawn with replacement."""
    n = len(configurations)
    drawn = rng.generator(seed, "bootstrap", stream).integers(n, size=(count, n))
    weights = np.stack([np.bincount(row, minlength=n) for row in drawn]) / n
    return weights @ configurations
