"""Tables of results as plain text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

SHOWN_ENERGIES = 12


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


def budget_rows(budget: xr.Dataset, every: int = 1) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the budget at one sigma: E, central value, each source, total, truth and pull."""
    columns = {"E [GeV]": (budget.E.values, ".4f"), "central": (budget.central.values, ".5f")}
    columns |= {str(s): (budget.error.sel(source=s).values, ".5f") for s in budget.source.values}
    columns["total"] = budget.total.values, ".5f"
    if "truth" in budget:
        columns |= {"truth": (budget.truth.values, ".5f"), "pull": (budget.pull.values, "+.2f")}
    cells = [[format(v, spec) for v in values[::every]] for values, spec in columns.values()]
    return list(columns), [list(row) for row in zip(*cells, strict=True)]


def budget_table(name: str, budget: xr.Dataset) -> str:
    """Return the budget of one target as text, a dozen energies for each sigma."""
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
    return "\n\n".join(parts)


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
