"""What a bug report needs: versions of everything, threads and BLAS."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from sdpipe.version import SCHEMA, __version__

PACKAGES = (
    *("numpy", "scipy", "pandas", "xarray", "zarr", "h5py"),
    *("dask", "distributed", "dask-jobqueue", "torch", "matplotlib"),
)
"""Packages whose version may change a result, or how it is computed or drawn."""

OPTIONAL = ("clarabel", "gvar", "pyerrors")

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that say how many threads a product of matrices takes."""


def installed(package: str) -> str:
    """Return the version of a package, or that it is not there; the package is not imported.

    >>> installed("no-such-package")
    'not installed'
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def text() -> str:
    """Return versions, threads and BLAS, one a line.

    >>> [line.split()[0] for line in text().splitlines()][:4]
    ['sdpipe', 'python', 'machine', 'numpy']
    """
    from numpy import show_config

    blas = show_config(mode="dicts")["Build Dependencies"]["blas"]
    rows = [
        ("sdpipe", f"{__version__} (schema {SCHEMA})"),
        ("python", f"{platform.python_version()} ({platform.python_implementation()})"),
        ("machine", f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs"),
        *((name, installed(name)) for name in (*PACKAGES, *OPTIONAL)),
        *((name, os.environ.get(name, "not set")) for name in THREADS),
        ("BLAS", f"{blas['name']} {blas['version']}"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)
