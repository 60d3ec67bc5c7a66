"""Results stay what they were: every array of every store of one small run, kept in tests/golden.npz."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray as xr

if TYPE_CHECKING:
    from tests.fixtures import Outcome

HERE = Path(__file__).parent
STORES = ("training.zarr", "history.zarr", "predictions.zarr/o3", "budget.zarr/o3", "validation.zarr")


@pytest.fixture(scope="module")
def made(in_process: Callable[..., Outcome], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run."""
    directory = tmp_path_factory.mktemp("golden")
    outcome = in_process("run", HERE / "golden.yaml", "--run", directory / "run", "-q", cwd=directory)
    assert outcome.status == 0, outcome.err
    return directory / "run"


@pytest.mark.parametrize("store", STORES)
def test_every_array_is_as_it_was(made: Path, store: str) -> None:
    """Up to what the rounding of BLAS and PyTorch on another processor makes of trained networks and of differences."""
    data, kept = xr.open_zarr(made / store, consolidated=False).load(), np.load(HERE / "golden.npz")
    names = {name.rpartition("/")[2] for name in kept.files if name.rpartition("/")[0] == store}
    assert names == set(data.variables)
    for name in names:
        now, then = data[name].values, kept[f"{store}/{name}"]
        if then.dtype.kind == "f":
            assert now.dtype == then.dtype, name
            np.testing.assert_allclose(now, then, rtol=1e-3, atol=1e-3 * np.nanmax(np.abs(then)), err_msg=name)
        else:
            assert now.tolist() == then.tolist(), name
