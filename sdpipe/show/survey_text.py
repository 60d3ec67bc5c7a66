"""What ``sdpipe check`` prints: what a correlator is, before anything is computed from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import yaml

from sdpipe.correlators.correlator import ENOUGH_BINS, Correlator, describe
from sdpipe.correlators.survey import Survey
from sdpipe.estimators import MOST_TIMES
from sdpipe.estimators.positive import least_chi2
from sdpipe.estimators.posterior import Posterior
from sdpipe.estimators.prior_moments import PriorMoments
from sdpipe.infer import trust
from sdpipe.infer.misread import explains, misread
from sdpipe.physics import units
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import FLOOR, IMPOSSIBLE, Noise, chi2_p_value
from sdpipe.show import flags
from sdpipe.show.run_status import table

TOO_LARGE = "doubtful: data scatter less than their errors allow: is their covariance that of one configuration?"

SHOWN_TIMES = 24
"""Most times in the table."""


@dataclass(frozen=True)
class Tested:
    """The correlator at the times that are ``used``, what ``lines`` say of it, and whether a density explains it."""

    used: Correlator
    lines: tuple[str, ...]
    explained: bool

    @classmethod
    def from_correlator(cls, kernel: Kernel, used: Correlator) -> Tested:
        """Return the goodness of fit, and what is doubtful."""
        noise = Noise(used.times, used.mean, used.covariance, used.where, floor=FLOOR)
        chi2, dof = _goodness_of_fit(kernel, noise, used)
        p_value = chi2_p_value(chi2, dof, used.estimated_from)
        posterior, explained = _has_posterior(kernel, used), bool(p_value >= IMPOSSIBLE)
        nearest = (
            "the C(t) that the posterior implies" if posterior else "the nearest C(t) that a spectral density makes"
        )
        unexplained = "" if explained else ": no spectral density explains these data with this kernel"
        signed = explains(float(p_value), float(dof))
        found = misread(kernel, noise, used.mean, used.facts, used.estimated_from, signed)
        lines = (
            f"goodness of fit at t = {used.times[0]}..{used.times[-1]}: chi2/dof = {float(chi2):.1f}/{float(dof):.1f} "
            f"to {nearest}, p = {float(p_value):.2g}{unexplained}",
            *_positive(kernel, noise, used),
            *(f"doubtful: {flag}" for flag in (*used.flags, *flags.worded(found))),
            *([TOO_LARGE] if 1 - p_value < IMPOSSIBLE and used.facts["covariance"] == "full" else []),
        )
        return cls(used, lines, explained)


def text(survey: Survey, tested: Tested, why: Sequence[str] = ()) -> str:
    """Return statistics, errors, effective mass and correlations of a correlator; goodness of fit at the times in use.

    ``why`` are lines on what follows from the data.
    """
    whole, kernel = survey.correlator, survey.kernel
    rows = np.unique(np.linspace(0, len(whole.times) - 1, min(len(whole.times), SHOWN_TIMES)).round().astype(int))
    columns = {
        "t": [str(whole.times[i]) for i in rows],
        "C(t)": [f"{whole.mean[i]:.6g}" for i in rows],
        "error %": [f"{100 * survey.relative[i]:.3g}" for i in rows],
        "signal/noise": [f"{1 / survey.relative[i]:.3g}" for i in rows],
        units.label("m_eff", kernel.unit): [_known(survey.mass[i]) for i in rows],
        "+-": [_known(survey.mass_error[i], 2) for i in rows],
    }
    lines = [
        _what(whole, tested.used),
        f"kernel {kernel.name}, {kernel.lattice}: t = {whole.times[0]}..{whole.times[-1]}",
        *_bins(whole),
        "",
        table(columns),
        *([f"shown: {len(rows)} of {len(whole.times)} times"] if len(rows) < len(whole.times) else []),
        "",
        f"eigenvalues of the correlation matrix: {survey.eigenvalues[0]:.2g} to {survey.eigenvalues[-1]:.3g}",
        *tested.lines,
    ]
    return "\n".join([*lines, *(["", *why] if why else [])])


def short(survey: Survey, tested: Tested, why: Sequence[str]) -> str:
    """Return what a file holds, whether a spectral density explains it, what is doubtful, and ``why``."""
    return "\n".join([_what(survey.correlator, tested.used), *tested.lines, *why])


def _what(whole: Correlator, used: Correlator) -> str:
    """Say what the file holds, and which covariance of it is used."""
    return f"{whole.where}: {describe(whole.facts | {'covariance': used.facts['covariance']})}"


def _positive(kernel: Kernel, noise: Noise, used: Correlator) -> list[str]:
    """Say how near a density without negative parts comes to the data, where there are not too many times for it."""
    if not _has_posterior(kernel, used):
        return []
    chi2, explained = least_chi2(kernel, noise, used.mean, used.estimated_from)
    none = "" if explained else ": none explains these data"
    return [f"chi2 = {chi2:.1f} at {len(used.times)} times for the nearest rho >= 0{none}"]


def _has_posterior(kernel: Kernel, used: Correlator) -> bool:
    return 2 <= len(used.times) <= MOST_TIMES and kernel.slowest_decay(used.times) > 0


def _goodness_of_fit(kernel: Kernel, noise: Noise, used: Correlator) -> tuple[float, float]:
    """Return chi^2 and degrees of freedom of the posterior or, at times that it does not take, of the kernel."""
    if not _has_posterior(kernel, used):
        last = kernel.spacing * max(used.times[-1], 1)
        (chi2,), (dof,) = trust.goodness_of_fit(kernel, noise, 0.1 / last, used.mean[None])
        return chi2, dof
    energy = (1 / kernel.spacing,)
    moments = PriorMoments.over_scales(Observables(kernel, used.times, energy, energy))
    return Posterior.for_noise(moments, noise).goodness(used.mean)


def keys(config: dict) -> str:
    """Return the keys of a config that data suggest, as YAML.

    >>> print(keys({"kernel": "periodic", "smearing": {"sigma": [0.2]}, "name": "x"}))
    kernel: periodic
    smearing: {sigma: [0.2]}
    """
    shown = {name: config[name] for name in ("lattice", "kernel", "smearing", "energies", "spectra") if name in config}
    lines = []
    for name, value in shown.items():
        flow = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000).strip()
        lines.append(f"{name}: {flow.removesuffix('...').strip()}")
    return "\n".join(lines)


def _known(value: float, digits: int = 5) -> str:
    return f"{value:.{digits}g}" if np.isfinite(value) else "-"


def _bins(correlator: Correlator) -> list[str]:
    """Say what autocorrelation asks of bins."""
    facts = correlator.facts
    if "tau_int" not in facts:
        return []
    tau, error = facts["tau_int"], facts["tau_int_error"]
    words = "independent as far as can be seen"
    if tau - 2 * error > 0.5:
        words = (
            f"bins of {int(np.ceil(ENOUGH_BINS * (tau - 1 / (4 * tau))))} configurations would be independent to 5 %"
        )
    return [f"autocorrelation: tau_int = {tau:.2f} +- {error:.2f} configurations; {words}"]
