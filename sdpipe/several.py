"""Several runs as one result."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from sdpipe.analysis.answers import Answers
from sdpipe.analysis.combine import SOURCES, Point, Term, design_of, gather, in_turn, limit_of, together, with_sigma
from sdpipe.analysis.discrete import against_limit
from sdpipe.errors import UserError
from sdpipe.show.flags import worded


def combine(
    runs: Sequence[Answers],
    target: str | Sequence[str] | None = None,
    terms: Sequence[Term] = ("a2",),
    *,
    points: Sequence[Point] | None = None,
    common: Sequence[str] = ("unresolved",),
    average: bool = True,
    leave_out: int = 0,
) -> xr.Dataset:
    """Return the limit of rho_sigma(E) from several ensembles, by correlated least squares in closed form.

        rho_sigma(E; x_i) = rho_sigma(E) + sum_k c_k(sigma, E) f_k(x_i)

    at each sigma and E or, where a term depends on sigma, at each E for all sigma at once, in which case sigma of the
    result is 0. The covariance between sigma and energies goes through all fits, which are linear in the data.

    Parameters
    ----------
    runs
        Open runs with the same kernel, smearing, sigma and energies in physical units (``lattice.spacing``); energies
        that only some of them have are left out.
    target
        Name of the target, one for each run where they differ; may be left out where each run has one.
    terms
        f_k: ``"a"``, ``"a2"``, ``"a4"``, ... for powers of the spacing, ``"sigma2"``, ``"sigma4"``, ...,
        ``"exp(-mL)"``, and functions of a point, such as ``def pion(x): return x["mpi"]**2 - 0.135**2``.
    points
        For each run a mapping with what the terms need, such as ``{"mL": 4.2, "mpi": 0.14}``. ``a`` is
        ``lattice.spacing`` in 1/GeV unless given; ``factor`` multiplies rho_sigma(E) of the run, for ensembles of
        different normalisation.
    common
        Which sources are one and the same error in all ensembles. ``"unresolved"`` is, since it comes from one prior.
        With ``"latt"`` bootstrap sample k of each run belongs to the same configurations.
    average
        Whether to average over all subsets of the terms by the Akaike weight, see
        :func:`sdpipe.analysis.averaging.average`. Without it all terms are in one fit.
    leave_out
        Average also over fits without up to so many of the ensembles.

    Returns
    -------
    ``central``, ``total (sigma, E)``, ``error (source, sigma, E)`` with sources ``latt``, ``unresolved`` and ``model``,
    ``covariance (sigma, E, sigma2, E2)``, ``samples (boot, sigma, E)`` of the noise; of each model ``value``,
    ``weight``, ``chi2``, ``p_value (model, sigma, E)``, ``freedom (model)`` and ``coefficients (model, term, sigma,
    E)``; ``independent_central`` and ``independent_total``, the answer where nothing is common; the ``data`` and
    ``data_error (ensemble, width, E)`` with the ``design (ensemble, width, term)``. Where terms depend on sigma,
    ``in_turn`` and ``in_turn_error (order, E)`` are the limits with all terms taken one after the other, where the
    widths and ensembles determine them; and the attribute ``says`` tells whether separate levels describe the most
    precise of the ensembles, too, see :mod:`sdpipe.analysis.discrete`.

    Raises
    ------
    UserError
        For runs that cannot be combined, fewer ensembles than coefficients, terms that are not known or act alike, and
        a covariance that is not positive definite, with its direction.

    >>> run = sdpipe.open_run("runs/quickstart")
    >>> sdpipe.combine([run, run, run], "o3", points=[{"a": 0.3}, {"a": 0.4}, {"a": 0.5}], average=False).central.dims
    ('sigma', 'E')
    """
    unknown = [name for name in common if name not in SOURCES]
    if unknown:
        raise UserError(f"common: {', '.join(map(str, unknown))} not allowed; allowed: {', '.join(SOURCES)}")
    data = gather(runs, target, points, common)
    design, labels = design_of(data, terms)
    needed = design.shape[-1]
    if len(data.answers) < needed and not with_sigma(design):
        raise UserError(f"{len(data.answers)} ensembles do not determine {needed} coefficients: {', '.join(labels)}")
    result = limit_of(data, design, labels, average, leave_out)
    if common:
        alone = limit_of(together(data.answers, data.points, ()), design, labels, average, leave_out)
        result["independent_central"], result["independent_total"] = alone.central, alone.total
    if with_sigma(design):
        precise = min(data.answers, key=lambda one: float(one.error.mean()) / float(np.abs(one.central).max()))
        result = result.merge(in_turn(data, design)).assign_attrs(says=worded(against_limit(precise)))
    return result
