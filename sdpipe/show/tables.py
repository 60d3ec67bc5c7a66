"""Tables of results as plain text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdpipe.infer.calibration import verdict

SHOWN_ENERGIES = 12
DECIMALS = 7
"""Most decimals, and most digits before the point, of a column without powers of ten."""
FINEST = 1e-3
"""The smallest error, relative to the largest, whose digits the other numbers of a budget follow."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows in aligned columns, the first to the left, the others to the right.

    >>> print(table(["E", "rho"], [["0.1", "1.25"], ["10.0", "3"]]))
    E      rho
    0.1   1.25
    10.0     3
    """
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, c)) for c in columns]
    lines = []
    for row in (header, *rows):
        cells = [row[0].ljust(widths[0])] + [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def size(count: float) -> str:
    """Return a number of bytes in the unit that suits it.

    >>> size(812), size(15_400_000)
    ('812 B', '15.4 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def age(seconds: float) -> str:
    """Return how long ago something was.

    >>> age(3.2), age(200), age(7300), age(400_000)
    ('3 s ago', '3 min ago', '2 h ago', '5 d ago')
    """
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"


def numbers(values: NDArray[np.float64], error: NDArray[np.float64]) -> list[str]:
    """Return a column of numbers to the third digit of the median positive ``error``, with powers of ten if need be.

    >>> numbers(np.array([1.5, 0.25]), np.array([0.003, 0.004]))
    ['1.50000', '0.25000']
    >>> numbers(np.array([1.5e-6, 2.5e-7]), np.array([3e-8, 4e-8]))
    ['1.5000e-06', '2.5000e-07']
    """
    typical = np.median(error[error > 0]) if (error > 0).any() else 1
    largest = np.abs(values[np.isfinite(values)]).max(initial=0)
    first, top = (int(np.floor(np.log10(x))) if x > 0 else 0 for x in (typical, largest))
    decimals = max(2 - first, 0)
    spec = f".{decimals}f" if max(decimals, top) <= DECIMALS else f".{max(2 - first + top, 2)}e"
    return [format(v, spec) for v in values]


def two_digits(error: float) -> str:
    """Return an error with two significant digits of its own.

    >>> [two_digits(x) for x in (0.000182, 2.1e-6, 0.0301, 9.96, 123.4, 0.0)]
    ['0.00018', '2.1e-06', '0.030', '10', '120', '0']
    """
    rounded = float(f"{error:.1e}")
    if 10 <= rounded < 10**DECIMALS:
        return f"{rounded:.0f}"
    return f"{error:#.2g}" if error else "0"


def budget_rows(budget: xr.Dataset, every: int = 1) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the budget at one sigma: E, central value, each source, total and calibrated error, the
    linear estimate with its error, calibrated where that is known, truth and pull.

    Each error has two digits of its own; all else has the digits of the smallest total error, down to FINEST of the
    largest.
    """
    total = np.sort(budget.total.values[budget.total.values > 0])
    finest = 10 * total[:1].clip(FINEST * total.max(initial=0))
    values = {name: numbers(budget[name].values, finest) for name in ("central", "linear", "truth") if name in budget}
    errors = dict(zip(map(str, budget.source.values), budget.error.values, strict=True))
    errors |= {name: budget[name].values for name in ("total", "calibrated") if name in budget}
    columns = {"E [GeV]": [f"{E:.4f}" for E in budget.E.values], "central": values.pop("central")}
    columns |= {name: [two_digits(x) for x in column] for name, column in errors.items()}
    if "linear" in budget:
        own = budget.get("linear_calibrated", budget.linear_error)
        columns |= {"linear": values.pop("linear"), "linear error": [two_digits(x) for x in own.values]}
    columns |= values
    if "pull" in budget:
        columns["pull"] = [f"{pull:+.2f}" for pull in budget.pull.values]
    header, rows = _rows(columns)
    return header, rows[::every]


def budget_table(name: str, budget: xr.Dataset) -> str:
    """Return the budget of one target as text, a dozen energies for each sigma, then what is doubtful about it."""
    every = max(1, budget.sizes["E"] // SHOWN_ENERGIES)
    parts = []
    for sigma in budget.sigma.values:
        one = budget.sel(sigma=sigma)
        parts.append(f"{name}, sigma = {sigma:g} GeV\n" + table(*budget_rows(one, every)))
        if "pull" in budget:
            pull = np.abs(one.pull.values)
            parts[-1] += (
                f"\ntruth within 1 total error at {np.mean(pull <= 1):.0%} and within 2 at {np.mean(pull <= 2):.0%} "
                f"of {pull.size} energies"
            )
    flags = "\n".join(f"flag: {flag}" for flag in budget.attrs.get("flags", []))
    return "\n\n".join(filter(None, [*parts, flags]))


def coverage_rows(validation: xr.Dataset, level: float) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: each family and sigma at one level, how often the truth lies inside each error.

    The verdict on the calibrated coverage, see :func:`~sdpipe.infer.calibration.verdict`, is for the family as a whole.
    An estimate that is NaN is outside its error.
    """
    at = validation[["coverage_of"]].assign(tested=validation.tested.sum("sample")).sel(level=level)
    at = at.stack(row=("family", "sigma"))
    columns = _by_family(at)
    for budget in ("published", "total", "calibrated", "linear"):
        columns[f"{budget} %"] = [f"{100 * c:.1f}" for c in at.coverage_of.sel(budget=budget).values]
    for budget in ("total", "calibrated"):
        pairs = zip(at.coverage_of.sel(budget=budget).values, at.tested.values, strict=True)
        columns[f"verdict {budget}"] = [verdict(coverage, level, int(count)) for coverage, count in pairs]
    return _rows(columns)


def accuracy_rows(validation: xr.Dataset) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: each family and sigma, how far the estimates are off, and how wide the errors.

    An estimate that is NaN makes the mean difference and the mean width NaN.
    """
    at = validation[["mae", "width", "flag_rate"]].stack(row=("family", "sigma"))
    columns, scale = _by_family(at), at.mae.sel(estimator="networks").values
    columns |= {f"MAE {name}": numbers(at.mae.sel(estimator=name).values, scale) for name in ("networks", "linear")}
    for budget in ("published", "calibrated", "linear"):
        columns[f"width {budget}"] = numbers(at.width.sel(budget=budget).values, scale)
    columns["flagged %"] = [f"{100 * rate:.1f}" for rate in at.flag_rate.values]
    return _rows(columns)


def _by_family(at: xr.Dataset) -> dict[str, list[str]]:
    return {"family": list(map(str, at.family.values)), "sigma [GeV]": [f"{s:g}" for s in at.sigma.values]}


def _rows(columns: dict[str, list[str]]) -> tuple[list[str], list[list[str]]]:
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


def validation_table(validation: xr.Dataset) -> str:
    """Return the validation at the quoted level as text: coverages, then accuracy and widths."""
    level = float(validation.attrs["quoted"])
    coverage, accuracy = table(*coverage_rows(validation, level)), table(*accuracy_rows(validation))
    return (
        f"validation, truth inside each error at level {level:g}\n{coverage}\n\n"
        f"validation, mean absolute errors and mean half widths at level {level:g}\n{accuracy}"
    )


def training_table(history: xr.Dataset) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: each ensemble and sigma, mean best validation MAE, the linear one, their ratio."""
    rows = []
    best = history.val_loss.min("epoch")
    for ensemble in history.ensemble.values:
        for sigma in history.sigma.values:
            at = {"ensemble": ensemble, "sigma": sigma}
            loss, linear = float(best.sel(at).mean("replica")), float(history.linear_loss.sel(at))
            epochs = history.val_loss.sel(at).notnull().sum("epoch").values
            span = f"{epochs.min()}" if epochs.min() == epochs.max() else f"{epochs.min()}-{epochs.max()}"
            rows.append([str(ensemble), f"{sigma:g}", f"{loss:.5f}", f"{linear:.5f}", f"{loss / linear:.3f}", span])
    return ["ensemble", "sigma [GeV]", "val MAE", "linear MAE", "ratio", "epochs"], rows
