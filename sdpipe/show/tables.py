"""Tables of results, and their cells as text."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from sdpipe.infer.budget import NETWORKS
from sdpipe.infer.calibration import verdict
from sdpipe.infer.compare import within_bounds
from sdpipe.infer.trust import rises_at_the_end
from sdpipe.physics import units
from sdpipe.physics.units import equation, label
from sdpipe.show.run_status import table
from sdpipe.show.words import named

TABLE_ENERGIES = 12
ANSWERS = 6
"""Energies of the short table of a target."""
DECIMALS = 7
"""Most decimals, and most digits before the point, of a column without powers of ten."""
FINEST = 1e-3
"""The smallest error, relative to the largest, whose digits the other numbers of a budget follow."""


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


def quoted(value: float, error: float) -> str:
    """Return a number with two digits of its error in brackets, with a power of ten where it is large or small.

    >>> [quoted(0.09613, 0.00081), quoted(12.34, 1.23), quoted(1.5e-6, 3e-8), quoted(0.5, 0.0), quoted(0.02, 0.2)]
    ['0.09613(81)', '12.3(1.2)', '1.500(30)e-06', '0.5(0)', '0.02(20)']
    """
    if not (np.isfinite(value) and np.isfinite(error) and error > 0):
        return f"{value:.6g}({error:.2g})"
    power = int(np.floor(np.log10(max(abs(value), error))))
    power = 0 if -DECIMALS < 2 * power < DECIMALS else power
    v, e = value / 10.0**power, float(f"{error / 10.0**power:.1e}")
    decimals = max(1 - int(np.floor(np.log10(e))), 0)
    inside = f"{e:.{decimals}f}" if e >= 1 else f"{e * 10**decimals:.0f}"
    return f"{v:.{decimals}f}({inside})" + (f"e{power:+03d}" if power else "")


def answer_frame(budget: xr.Dataset, count: int | None = None) -> pd.DataFrame:
    """Return central value and calibrated error, the total one without ``validate``, of ``count`` energies or all."""
    rows = range(budget.sizes["E"])
    if count is not None and count < len(rows):
        rows = np.linspace(0, len(rows) - 1, count).round().astype(int).tolist()
    unit = units.unit_of(budget)
    columns = {label("E", unit): [f"{budget.E.values[i]:.4f}" for i in rows]}
    for sigma in budget.sigma.values:
        one = budget.sel(sigma=sigma)
        pairs = zip(one.central.values[rows], one.get("calibrated", one.total).values[rows], strict=True)
        columns[equation("sigma", sigma, unit)] = [quoted(*pair) for pair in pairs]
    return pd.DataFrame(columns)


def as_csv(budget: xr.Dataset) -> str:
    """Return the numbers of a budget as CSV, one row for each sigma and energy."""
    columns = {name: budget[name] for name in ("central", "calibrated", "band", "total") if name in budget}
    columns |= {str(source): budget.error.sel(source=source, drop=True) for source in budget.source.values}
    for name in budget.estimator.values if "estimator" in budget else ():
        one = budget.sel(estimator=name, drop=True)
        columns |= {
            f"{name}": one.estimator_central,
            f"{name} error": one.get("estimator_calibrated", one.estimator_error),
        }
    columns |= {name: budget[name] for name in ("lower", "upper", "truth", "pull") if name in budget}
    frame = xr.Dataset(columns).to_dataframe(dim_order=["sigma", "E"])[list(columns)]
    unit = units.unit_of(budget)
    return frame.to_csv(index_label=[label("sigma", unit), label("E", unit)])


def as_latex(budget: xr.Dataset) -> str:
    """Return the answer of a budget as a LaTeX tabular, for the package booktabs."""
    frame = answer_frame(budget).map(_in_math)
    unit = units.unit_of(budget)
    frame.columns = [label("$E$", unit), *(equation(r"$\sigma$", s, unit) for s in budget.sigma.values)]
    return frame.to_latex(index=False, escape=False)


def _in_math(cell: str) -> str:
    """Return a number for LaTeX.

    >>> _in_math("-0.12(3)"), _in_math("1.500(30)e-06")
    ('$-0.12(3)$', '$1.500(30) \\\\times 10^{-6}$')
    """
    digits, _, power = cell.partition("e")
    return rf"${digits} \times 10^{{{int(power)}}}$" if power else f"${digits}$"


RISES = "rho rises to the highest energy: there is more above the window, see energies.max"
"""What the answer says where that is so."""
HARDLY = 0.01
"""Share of an error that is not worth a word."""


def gained(budget: xr.Dataset) -> str:
    """Return what the bounds for rho >= 0 cut off the interval of a budget.

    >>> one = xr.DataArray([[1.0, 1.0]], {"sigma": [0.4], "E": [0.5, 1.0]}, ("sigma", "E"))
    >>> gained(xr.Dataset({"central": one, "total": 0.2 * one, "lower": 0 * one, "upper": one * [2, 1.12]}))
    'rho >= 0: its bounds cut 10% off the error on average, most at E = 1 GeV, 20%'
    """
    error = budget.get("calibrated", budget.total)
    low, high = within_bounds(budget.central, error, budget.lower, budget.upper)
    lost = 1 - ((high - low) / (2 * error)).where(error > 0, 1)
    if not float(lost.max()) >= HARDLY:
        return f"rho >= 0: its bounds cut less than {HARDLY:.0%} off the error at every energy"
    most = lost.isel(lost.argmax(list(lost.dims)))
    place = equation("E", float(most.E), units.unit_of(budget), 3)
    return f"rho >= 0: its bounds cut {float(lost.mean()):.0%} off the error on average, most at {place}, {most:.0%}"


def answer_table(name: str, budget: xr.Dataset) -> str:
    """Return the answer of one target as text: a few energies, how often a known truth is inside, what is doubtful."""
    which = "calibrated" if "calibrated" in budget else "total"
    who = budget.attrs.get("answered_by", NETWORKS)
    by = "" if who == NETWORKS else f" of {who}, without networks"
    parts = [f"{name}, with {which} error{by}", table(answer_frame(budget, ANSWERS))]
    if "truth" in budget:
        inside = (np.abs(budget.central - budget.truth) <= budget[which]).mean("E").values
        parts.append(
            f"truth inside the error at {', '.join(f'{x:.0%}' for x in inside)} of {budget.sizes['E']} energies"
        )
    parts += [gained(budget)] if "lower" in budget else []
    parts += [RISES] if rises_at_the_end(budget) else []
    parts += [f"flag: {flag}" for flag in budget.attrs.get("flags", [])]
    return "\n".join(parts)


def budget_frame(budget: xr.Dataset) -> pd.DataFrame:
    """Return the budget at one sigma: E, central value, each source, total and calibrated error, the estimate of each
    method with its error, calibrated where that is known, truth and pull.

    Each error has two digits of its own; all else has the digits of the smallest total error, down to FINEST of the
    largest.
    """
    total = np.sort(budget.total.values[budget.total.values > 0])
    finest = 10 * total[:1].clip(FINEST * total.max(initial=0))

    def value(name: str) -> list[str]:
        return numbers(budget[name].values, finest)

    def error(array: xr.DataArray) -> list[str]:
        return list(map(two_digits, array.values))

    columns = {label("E", units.unit_of(budget)): [f"{E:.4f}" for E in budget.E.values], "central": value("central")}
    columns |= {named(str(source)): error(budget.error.sel(source=source)) for source in budget.source.values}
    columns |= {name: error(budget[name]) for name in ("total", "calibrated") if name in budget}
    for name in budget.estimator.values if "estimator" in budget else ():
        one = budget.sel(estimator=name)
        columns[str(name)] = numbers(one.estimator_central.values, finest)
        columns[f"± {name}"] = error(one.get("estimator_calibrated", one.estimator_error))
    if "truth" in budget:
        columns["truth"] = value("truth")
    if "pull" in budget:
        columns["pull"] = [f"{pull:+.2f}" for pull in budget.pull.values]
    return pd.DataFrame(columns)


def budget_table(name: str, budget: xr.Dataset) -> str:
    """Return the budget of one target as text, a dozen energies for each sigma, then what is doubtful about it."""
    every = max(1, budget.sizes["E"] // TABLE_ENERGIES)
    parts = []
    for sigma in budget.sigma.values:
        one = budget.sel(sigma=sigma)
        parts.append(f"{name}, {equation('sigma', sigma, units.unit_of(budget))}\n{table(budget_frame(one)[::every])}")
        if "pull" in budget:
            pull = np.abs(one.pull.values)
            parts[-1] += (
                f"\ntruth within 1 total error at {np.mean(pull <= 1):.0%} and within 2 at {np.mean(pull <= 2):.0%} "
                f"of {pull.size} energies"
            )
    flags = "\n".join(f"flag: {flag}" for flag in budget.attrs.get("flags", []))
    return "\n\n".join(filter(None, [*parts, flags]))


def _by_family(rows: xr.Dataset) -> dict[str, list[str]]:
    return {"family": list(map(str, rows.family.values)), "sigma": [f"{s:g}" for s in rows.sigma.values]}


def coverage_frame(validation: xr.Dataset, level: float) -> pd.DataFrame:
    """Return, for each family and sigma at one level, how often the truth lies inside each error.

    The verdict on the calibrated coverage, see :func:`~sdpipe.infer.calibration.verdict`, is for the family as a whole.
    An estimate that is NaN is outside its error.
    """
    rows = validation[["coverage_of"]].assign(tested=validation.tested.sum("sample")).sel(level=level)
    rows = rows.stack(row=("family", "sigma"))
    columns, covered = _by_family(rows), {str(b): rows.coverage_of.sel(budget=b).values for b in rows.budget.values}
    for budget, values in covered.items():
        columns[f"{budget} %"] = [f"{100 * c:.1f}" for c in values]
    for budget in ("total", "calibrated"):
        pairs = zip(covered[budget], rows.tested.values, strict=True)
        columns[f"{budget} is"] = [verdict(coverage, level, int(count)) for coverage, count in pairs]
    return pd.DataFrame(columns)


def accuracy_frame(validation: xr.Dataset) -> pd.DataFrame:
    """Return, for each family and sigma, how far the estimates are off, and how wide the errors are.

    An estimate that is NaN makes the mean difference and the mean width NaN.
    """
    rows = validation[["mae", "width", "flag_rate"]].stack(row=("family", "sigma"))
    columns, scale = _by_family(rows), rows.mae.isel(estimate=0).values
    for name in rows.estimate.values:
        columns[f"MAE {name}"] = numbers(rows.mae.sel(estimate=name).values, scale)
    for budget in rows.budget.values:
        if budget not in ("published", "total"):
            columns[f"± {budget}"] = numbers(rows.width.sel(budget=budget).values, scale)
    columns["flagged %"] = [f"{100 * rate:.1f}" for rate in rows.flag_rate.values]
    return pd.DataFrame(columns)


def validation_table(validation: xr.Dataset) -> str:
    """Return the validation at the quoted level as text: coverages, then accuracy and widths."""
    level = float(validation.attrs["quoted"])
    return (
        f"validation, truth inside each error at level {level:g}\n{table(coverage_frame(validation, level))}\n\n"
        f"validation, mean absolute errors and mean half widths at level {level:g}\n{table(accuracy_frame(validation))}"
    )


def verdict_table(validation: xr.Dataset) -> str:
    """Return, for each family, the coverage of the calibrated error at each sigma, and whether it holds."""
    level = float(validation.attrs["quoted"])
    whole = coverage_frame(validation, level)
    columns: dict[str, list[str]] = {"family": list(dict.fromkeys(whole["family"]))}
    for sigma, rows in whole.groupby("sigma", sort=False):
        width = equation("sigma", float(sigma), units.unit_of(validation))
        columns[width] = list(rows["calibrated %"] + " %, " + rows["calibrated is"])
    meaning = {"too wide": "covers more than it promises", "too narrow": "covers less than it promises"}
    notes = [f"{name}: the error {words}" for name, words in meaning.items() if name in set(whole["calibrated is"])]
    heading = f"validation, truth inside the calibrated error at level {level:g}"
    return "\n".join([heading, table(pd.DataFrame(columns)), *notes])


def training_frame(history: xr.Dataset) -> pd.DataFrame:
    """Return, for each ensemble and sigma, the mean best validation MAE, that over each baseline, the epochs."""
    rows, best = [], history.val_loss.min("epoch")
    for ensemble in history.ensemble.values:
        for sigma in history.sigma.values:
            where = {"ensemble": ensemble, "sigma": sigma}
            loss = float(best.sel(where).mean("replica"))
            bars = [float(history[f"{name}_loss"].sel(where)) for name in ("linear", "posterior")]
            ratios = [f"{loss / bar:.3f}" if np.isfinite(bar) else "-" for bar in bars]
            epochs = history.val_loss.sel(where).notnull().sum("epoch").values
            span = f"{epochs.min()}" if epochs.min() == epochs.max() else f"{epochs.min()}-{epochs.max()}"
            rows.append([str(ensemble), f"{sigma:g}", f"{loss:.5f}", f"{bars[0]:.5f}", *ratios, span])
    sigma = label("sigma", units.unit_of(history))
    header = ["ensemble", sigma, "val MAE", "linear MAE", "/ linear", "/ posterior", "epochs"]
    return pd.DataFrame(rows, columns=header)
