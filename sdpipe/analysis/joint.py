"""Several correlators of the same configurations as one observable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdpipe.analysis.answers import Answer, Answers, answer, each_target
from sdpipe.arrays import Array
from sdpipe.correlators.record import first_line, optional
from sdpipe.errors import UserError
from sdpipe.infer.integrals import WeightFunction, quadrature_weights

DERIVATIVE_STEP = 1e-4
"""Of the derivative of a function of densities, in units of their errors."""


@dataclass(frozen=True, eq=False)
class Joint:
    """Densities of runs whose samples belong together: sample k of each is of the same configurations.

    ``answers`` are those of the runs, ``samples`` (boot, number) all their samples side by side.
    """

    answers: tuple[Answer, ...]
    samples: Array

    @property
    def central(self) -> Array:
        """All central values side by side, (number,)."""
        return np.concatenate([one.central.ravel() for one in self.answers])

    @property
    def latt(self) -> Array:
        """Covariance of the noise (number, number), between the runs as within them, from the aligned samples."""
        return np.cov(self.samples.T, ddof=0)

    @property
    def unresolved(self) -> Array:
        """Covariance of what the data do not resolve, in blocks: there is none between different correlators."""
        sizes = np.cumsum([0, *(one.central.size for one in self.answers)])
        covariance = np.zeros((sizes[-1], sizes[-1]))
        for low, high, one in zip(sizes[:-1], sizes[1:], self.answers, strict=True):
            covariance[low:high, low:high] = one.unresolved
        return covariance

    @property
    def covariance(self) -> Array:
        """The whole covariance (number, number)."""
        return self.latt + self.unresolved

    def split(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """Return values (number,) as one array (sigma, E) for each run."""
        cuts = np.cumsum([one.central.size for one in self.answers])[:-1]
        return [part.reshape(one.central.shape) for part, one in zip(np.split(values, cuts), self.answers, strict=True)]

    def of(self, f: Callable[..., Any]) -> xr.Dataset:
        """Return O = f(rho_1, rho_2, ...) with its errors, rho_i (sigma, E) those of the runs in their order.

        O is a number or an array. The noise goes through f sample by sample, what is not resolved linearly, by the
        derivative of f at the central values. Returns ``central``, ``error (source)``, ``total``, ``covariance`` and
        ``samples (boot)``. Several numbers have the dimension ``number`` or, where they are (sigma, E) as those of each
        run are, such as a ratio of densities, ``sigma`` and ``E``: that is what ``run.plot.joint`` draws. Raises
        UserError where f cannot be computed, or is not finite, and where it is (sigma, E) but runs differ in these.
        """
        try:
            centre = np.asarray(f(*self.split(self.central)), float)
        except (TypeError, ValueError, IndexError) as error:
            raise UserError(f"joint: the function cannot be computed ({first_line(error)})") from None
        whole = centre.shape == self.answers[0].central.shape
        if whole and not self._grid:
            remedy = "reconstruct all with smearing.sigma and energies of the first, or take single values of each"
            raise UserError(f"joint: the runs differ in sigma or E, which this function compares; {remedy}")
        samples = np.stack([np.asarray(f(*self.split(row)), float).ravel() for row in self.samples])
        flat = centre.ravel()
        if not np.isfinite(flat).all() or not np.isfinite(samples).all():
            raise UserError("joint: the function is not finite on every sample")
        root = _root(self.unresolved)
        derivative = np.stack([self._along(f, column) for column in root.T], axis=1)
        parts = {"latt": np.atleast_2d(np.cov(samples.T, ddof=0)), "unresolved": derivative @ derivative.T}
        covariance = sum(parts.values())
        error = np.stack([np.sqrt(np.diag(V)) for V in parts.values()])
        grid = self._grid if whole else {}
        dims, shape = (("sigma", "E"), centre.shape) if grid else (("number",), flat.shape)
        result = xr.Dataset(
            {
                "central": (dims, centre.reshape(shape)),
                "error": (("source", *dims), error.reshape(-1, *shape)),
                "total": (dims, np.sqrt(np.diag(covariance)).reshape(shape)),
                "covariance": ((*dims, *(f"{dim}2" for dim in dims)), covariance.reshape(2 * shape)),
                "samples": (("boot", *dims), samples.reshape(-1, *shape)),
            },
            {"source": list(parts), **grid},
        )
        return result if centre.ndim else result.isel(number=0, number2=0)

    @property
    def _grid(self) -> dict[str, tuple[str, Array, dict[str, str]]]:
        """Coordinates of the sigma and E of all runs, none where they differ."""
        first, *others = self.answers
        for name in ("sigma", "E"):
            own = getattr(first, name)
            if any(len(getattr(x, name)) != len(own) or not np.allclose(getattr(x, name), own) for x in others):
                return {}
        unit = {"units": first.unit}
        return {
            f"{name}{end}": (f"{name}{end}", getattr(first, name), unit) for name in ("sigma", "E") for end in ("", "2")
        }

    def _along(self, f: Callable[..., Any], step: Array) -> Array:
        """Return the derivative of f along a step of one error."""
        up, down = (
            np.asarray(f(*self.split(self.central + s * DERIVATIVE_STEP * step)), float).ravel() for s in (1, -1)
        )
        return (up - down) / (2 * DERIVATIVE_STEP)

    def integral(self, *weights: WeightFunction) -> xr.Dataset:
        """Return O = sum_c int dE w_c(E) rho_sigma^c(E), one weight for each run, all of the same sigma.

        The integral goes over the energies of each run; what :meth:`of` returns has the dimension sigma. Raises
        UserError for another number of weights or of sigma.
        """
        if len(weights) != len(self.answers):
            raise UserError(f"joint: {len(weights)} weights for {len(self.answers)} runs; needed: one for each")
        if len({one.central.shape[0] for one in self.answers}) > 1:
            raise UserError("joint: an integral needs the same number of sigma in all runs")
        w = [
            quadrature_weights(one.E) * np.broadcast_to(g(one.E), one.E.shape)
            for g, one in zip(weights, self.answers, strict=True)
        ]
        result = self.of(lambda *rho: sum(r @ v for r, v in zip(rho, w, strict=True)))
        return result.rename(number="sigma", number2="sigma2")

    def to_gvar(self) -> list[NDArray[Any]]:
        """Return gvars (sigma, E) for each run, with :attr:`covariance`; raises UserError where gvar is not there."""
        gvar = optional("gvar", "joint")
        return self.split(np.array(gvar.gvar(self.central, self.covariance)))

    def to_pyerrors(self, name: str) -> list[NDArray[Any]]:
        """Return pyerrors Obs (sigma, E) for each run, whose covariance has this ``name``."""
        pyerrors = optional("pyerrors", "joint")
        V = (self.covariance + self.covariance.T) / 2
        return self.split(np.array(pyerrors.cov_Obs(self.central.tolist(), V, name), dtype=object))


def joint(runs: Sequence[Answers], targets: str | Sequence[str] | None = None) -> Joint:
    """Return the densities of several runs, or targets of one, as one observable of common configurations.

        O = sum_c int dE w_c(E) rho_sigma^c(E), or any other function of the rho^c

    Kernels, smearings, sigma and energies may differ. Samples that were drawn from bins of several lengths, each as
    long as the autocorrelation of its correlator asks for, are drawn again from bins of the longest, see
    :meth:`sdpipe.run.Run.resampled`, which reads the data files. ``targets`` is one name, or one for each run; may be
    left out where each has one target. Raises UserError for runs whose configurations, ``bin``, resampling, seed or
    number of samples differ, saying which and what they are, for mock targets, which have no configurations, and where
    there is no calibrated budget.

    >>> from tempfile import TemporaryDirectory
    >>> few = ["validation={samples: 60, levels: [0.683], families: {}, bootstrap: 2}", "bootstrap=20"]
    >>> with TemporaryDirectory() as place:
    ...     run = sdpipe.reconstruct("data/pseudoscalar.txt", "energies.count=8", *few, run=place + "/mine")
    ...     ratio = sdpipe.joint([run, run]).of(lambda V, A: V[0, 3] / A[0, 3])
    >>> float(ratio.central), round(float(ratio.error.sel(source="latt")), 9)
    (1.0, 0.0)
    """
    named = each_target(runs, targets, "joint")
    answers = [answer(run, name) for run, name in zip(runs, named, strict=True)]
    facts = [_facts(one) for one in answers]
    bins = [fact.pop("correlation_bin") for fact in facts]
    for one, fact in zip(answers, facts, strict=True):
        differ = [key for key, value in fact.items() if value != facts[0][key]]
        if differ:
            words = ", ".join(f"{key} {facts[0][key]} and {fact[key]}" for key in differ)
            raise UserError(
                f"joint: {answers[0].target} and {one.target} are not of the same samples: {words}; "
                "set bin, seed and bootstrap alike"
            )
    if len(set(bins)) > 1:
        answers = [one if b == max(bins) else _in_bins(one, max(bins)) for one, b in zip(answers, bins, strict=True)]
    side_by_side = [one.samples.reshape(len(one.samples), -1) for one in answers]
    return Joint(tuple(answers), np.concatenate(side_by_side, axis=1))


def _in_bins(one: Answer, size: int) -> Answer:
    """Return an answer with samples from bins of another ``size``."""
    samples = one.run.resampled(one.target, size)
    flat = samples.reshape(len(samples), -1)
    return replace(one, samples=samples, latt=np.cov(flat.T, ddof=0).reshape(2 * (one.central.size,)))


def _facts(one: Answer) -> dict[str, Any]:
    """Return what must be the same for sample k to be of the same configurations."""
    attrs = one.run.predictions[one.target].correlator.attrs
    if "resampling" not in attrs or attrs["resampling"] == "none":
        raise UserError(f"joint: {one.target} has no configurations that could be those of another correlator")
    kept = ("resampling", "configurations", "samples", "correlation_bin")
    return {key: attrs.get(key) for key in kept} | {"seed": one.run.config.seed, "bootstrap": len(one.samples)}


def _root(V: Array) -> Array:
    """Return R (n, direction) with R R^T = V, without directions of no variance."""
    values, vectors = np.linalg.eigh(V)
    kept = values > 1e-12 * max(values[-1], 1e-300)
    return vectors[:, kept] * np.sqrt(values[kept])
