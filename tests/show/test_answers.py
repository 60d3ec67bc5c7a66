"""The answer on the screen, and as a table for a paper."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import sdpipe
from sdpipe.errors import UserError
from sdpipe.show import tables
from tests.fixtures import Finished


@pytest.fixture(scope="module")
def budget(finished: Finished) -> xr.Dataset:
    return sdpipe.open_run(finished.root).budget["o3"].load()


@pytest.mark.parametrize("error", [0.000123, 0.0987, 0.9951, 1.04, 23.4, 3e-7])
@pytest.mark.parametrize("value", [0.0, 0.5, -123.456, 7e-9, 2.5e8])
def test_a_quoted_number_reads_back_to_its_value_and_error(value: float, error: float) -> None:
    digits, _, rest = tables.quoted(value, error).partition("(")
    inside, _, power = rest.partition(")")
    unit = 10.0 ** int(power.lstrip("e") or 0)
    decimals = len(digits.partition(".")[2])
    last = 1 if "." in inside or not decimals else 10.0**-decimals
    assert float(digits) * unit == pytest.approx(value, abs=0.06 * error)
    assert float(inside) * last * unit == pytest.approx(error, rel=0.06)


def test_the_answer_has_six_energies_from_the_first_to_the_last(budget: xr.Dataset) -> None:
    text = tables.answer_table("o3", budget.assign_attrs(flags=["doubtful"])).splitlines()
    wanted = min(6, budget.sizes["E"])
    assert text[0] == "o3, with calibrated error"
    assert [float(text[i].split()[0]) for i in (2, 1 + wanted)] == pytest.approx(budget.E.values[[0, -1]], abs=1e-4)
    assert text[-1] == "flag: doubtful"
    assert len(text) == wanted + 4


def test_without_validation_the_answer_says_that_its_error_is_the_total(budget: xr.Dataset) -> None:
    assert tables.answer_table("o3", budget.drop_vars("calibrated")).startswith("o3, with total error")


def test_csv_holds_the_numbers_of_the_budget(finished: Finished, budget: xr.Dataset) -> None:
    text = sdpipe.open_run(finished.root).table("o3", format="csv")
    read = pd.read_csv(io.StringIO(text), index_col=["a sigma", "a E"])
    for name in ("central", "calibrated", "truth"):
        np.testing.assert_allclose(read[name], budget[name].transpose("sigma", "E").values.ravel(), rtol=1e-12)
    assert {"latt", "posterior", "posterior error"} <= set(read.columns)


@pytest.mark.parametrize(
    ("unit", "csv", "latex", "screen"),
    [
        ("GeV", "sigma [GeV],E [GeV],", r"$E$ [GeV] & $\sigma = 0.44$ GeV & ", "E [GeV]  sigma = 0.44 GeV"),
        ("1/a", "a sigma,a E,", r"$a E$ & $a \sigma = 0.44$ & ", "a E     a sigma = 0.44"),
    ],
)
def test_tables_are_in_the_unit_of_the_run(budget: xr.Dataset, unit: str, csv: str, latex: str, screen: str) -> None:
    budget = budget.copy()
    budget = budget.assign_coords({name: budget[name].assign_attrs(units=unit) for name in ("E", "sigma")})
    assert tables.as_csv(budget).startswith(csv)
    assert latex in tables.as_latex(budget)
    assert tables.answer_table("o3", budget).splitlines()[1].startswith(screen)


def test_latex_has_a_row_for_each_energy(finished: Finished, budget: xr.Dataset) -> None:
    lines = sdpipe.open_run(finished.root).table("o3", format="latex").splitlines()
    rows = [line for line in lines if line.startswith("$") and "sigma" not in line]
    assert len(rows) == budget.sizes["E"]
    assert all(row.count("&") == budget.sizes["sigma"] for row in rows)
    with pytest.raises(UserError, match="allowed: frame, csv, latex"):
        sdpipe.open_run(finished.root).table("o3", format="html")


def test_the_answer_says_where_rho_rises_to_the_end_of_the_window(budget: xr.Dataset) -> None:
    error = budget.get("calibrated", budget.total)
    slope = 10 * float(error.max() / budget.sigma.min())
    rising = budget.assign(central=slope * (budget.E - budget.E.min()) + 0 * budget.central)
    assert tables.RISES in tables.answer_table("o3", rising).splitlines()
    falling = budget.assign(central=-rising.central)
    assert tables.RISES not in tables.answer_table("o3", falling)
    flat = budget.assign(central=1e-3 * rising.central)
    assert tables.RISES not in tables.answer_table("o3", flat)
