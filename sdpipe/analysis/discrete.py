"""Is a density smooth over sigma, as a limit sigma -> 0 takes it to be, or do separate levels describe it, too?"""

from __future__ import annotations

import numpy as np

from sdpipe.analysis.answers import Answer
from sdpipe.analysis.levels import FLOOR, FittedLevels, fit_levels
from sdpipe.errors import UserError
from sdpipe.infer.trust import Flag
from sdpipe.physics.noise import chi2_p_value

NEAREST = 2.0
"""Widths between levels on average, at least: nearer ones are smooth when smeared, whatever they are."""

RESOLVED = 6.0
"""Widths between levels from which on rho_sigma is 0 between them, to exp(-RESOLVED^2 / 8), 1 %."""

ENOUGH = 0.05
"""p-value from which on levels describe a density."""


def separate_levels(one: Answer) -> tuple[FittedLevels, float] | None:
    """Return the fewest levels that describe rho_sigma(E) at all sigma, and p; None where only a smooth density does.

    Counts go up to one level for each NEAREST widths of the range of energies, the smallest sigma taken, and levels
    that are nearer than it do not count. Energies are thinned to half a width.
    """
    width, span = float(one.sigma.min()), float(one.E[-1] - one.E[0])
    step = max(1, int(width / 2 / (span / max(len(one.E) - 1, 1))))
    one = one.rows(range(0, len(one.E), step))
    V = one.covariance + (FLOOR * np.abs(one.central).max()) ** 2 * np.eye(one.central.size)
    smearing = one.run.config.smearing.function
    for count in range(1, int(span / (NEAREST * width)) + 2):
        try:
            levels = fit_levels(one.sigma, one.E, one.central, V, smearing, count)
        except UserError:  # more parameters than rho_sigma determines
            return None
        p = float(chi2_p_value(levels.chi2, levels.freedom))
        if p >= ENOUGH and (np.diff(levels.mass) >= width).all():
            return levels, p
    return None


def against_limit(one: Answer) -> list[Flag]:
    """Return a flag where separate levels describe one answer, too, which speaks against a limit sigma -> 0.

    A sum of levels has no limit at a level, and 0 between two. Where sigma is small against their spacing that is seen;
    where it is not, the limit of a fit in powers of sigma is another number, with a good chi^2.
    """
    if (levels := separate_levels(one)) is None:
        return []
    fitted, p = levels
    facts = {"masses": fitted.mass.tolist(), "unit": one.unit, "chi2": fitted.chi2, "freedom": fitted.freedom, "p": p}
    if len(fitted.mass) == 1:
        return [Flag("one_level", facts)]
    spacing, widths = float(np.diff(fitted.mass).min()), [float(one.sigma.min()), float(one.sigma.max())]
    code = "levels_apart" if spacing >= RESOLVED * widths[1] else "levels_not_apart"
    return [Flag(code, facts | {"spacing": spacing, "sigma": widths})]
