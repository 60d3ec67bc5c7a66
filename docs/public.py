"""Draw docs/public.png, medians of Err and coverages of every method, from the tables of docs/public.md.

python docs/public.py
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from sdpipe.show.picture import COLOURS, STYLE

PAGE = Path(__file__).with_suffix(".md")
SUITES = {"V": "V, vector", "O": "O, O(3) Monte Carlo", "A": "A, ACTest"}


def table(suite: str) -> dict[str, tuple[float, float]]:
    """Return method -> median of Err and coverage at 68.3 %, both in percent, NaN where there is none."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {suite}:")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in re.findall(r"^\| .*\|$", section, re.MULTILINE)]
    return {row[0]: tuple(100 * float(row[i] or "nan") for i in (2, 4)) for row in rows[1:]}


def main() -> None:
    """Draw and save the figure."""
    suites = {name: table(name) for name in SUITES}
    methods = list(suites["V"])[::-1]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for (suite, found), colour, marker in zip(suites.items(), COLOURS, "osD", strict=False):
            for ax, column in ((left, 0), (right, 1)):
                places = [i for i, name in enumerate(methods) if name in found]
                values = [found[methods[i]][column] for i in places]
                ax.plot(values, places, marker, color=colour, label=SUITES[suite])
        left.set(xlabel="median of Err [%]", yticks=range(len(methods)), yticklabels=methods, xlim=(0, None))
        right.axvline(68.3, color="0.5", lw=0.8)
        right.set(xlabel="coverage at 68.3 % [%]", xlim=(0, 104))
        figure.legend(*right.get_legend_handles_labels(), fontsize=8, loc="outside upper right", ncols=len(SUITES))
        for ax in (left, right):
            ax.grid(axis="y", color="0.9", lw=0.8)
        figure.savefig(PAGE.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
