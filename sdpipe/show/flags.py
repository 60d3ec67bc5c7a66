"""What speaks against a result, in words: a sentence for each reason code, and the command that mends it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

import xarray as xr
import yaml

from sdpipe.infer.trust import FACTOR, SUSPICIOUS, Flag

_TOO = "at E = {masses} {unit} {describe} rho_sigma, too (chi2/dof {chi2:.3g}/{freedom}, p = {p:.2g})"

WORDS = {
    "noise_unlike": "the variance of its noise is {ratio:.3g} times that of the training noise (allowed: 1/{factor:g} "
    "to {factor:g}) in a direction that matters, strongest at t = {t}",
    "no_density": "no spectral density explains the data: chi2/dof = {chi2:.1f}/{dof:.3g} with kernel {kernel}",
    "other_kernel": "C(t) is e^{log:.3g} times more probable with kernel {other}, T = {period}, than with {kernel}: "
    "kernel, period or first slice are wrong",
    "errors_too_large": "the nearest rho >= 0 has chi2 = {chi2:.2g} at {times} times, far less than errors of the mean "
    "allow unless times are strongly correlated: are they errors of one configuration? Then error=sample "
    "configurations=n",
    "one_time": "t = {t} is off by {errors:.3g} errors: chi2 of the nearest rho >= 0 is {chi2:.4g} at {times} times "
    "and {rest:.3g} without it: is this slice damaged? Mend it, or say lattice.times that begin after it or end before",
    "other_samples": "errors are too small: chi2 of the nearest rho >= 0 is {chi2:.4g} at {times} times with samples "
    "read as configurations, and {other:.3g} as {kind} samples, whose errors are {larger:.3g} times larger: are they? "
    "Then resampling={kind}",
    "unanswered": "{estimator}: its rule for lambda has no answer, or none that reproduces C(t), at {count} of "
    "{points} points (sigma, E), and the nearest was taken",
    "no_positive_density": "{interval}: no spectral density rho >= 0 agrees with the data: chi2 is at least "
    "{chi2_min:.4g}, bounds are for chi2 up to {chi2_max:.4g}; rho has negative parts, errors are too small, or E0 is "
    "too high",
    "not_certified": "{interval}: {count} of {points} bounds could not be certified and are left out",
    "outside": "{interval}: the central value is outside them at {count} of {points} points (sigma, E): no rho >= 0 "
    "that agrees with the data has it there, whatever the prior",
    "other_correlator": "C(t) over that of the run is off by a factor of {ratio:.3g} at some time, and by no more than "
    "{largest:.3g} in all draws that calibrate; the calibrated error promises nothing here",
    "out_of_distribution": "out of distribution: p {sign} {p_value:.3g} that the training set holds such a correlator; "
    "the calibrated error promises nothing here",
    "contradicted": "{estimator} is {errors:.4g} errors of both away at sigma = {sigma:.3g}, E = {E:.3g}: one of the "
    "two is wrong",
    "nothing_resolved": "nothing is resolved: at every sigma half of the errors are more than {ratio:.2g} times the "
    "largest value; a larger sigma, more configurations or later times would help",
    "one_level": f"one level {_TOO}: it has no limit sigma -> 0; mass and residue: run.levels",
    "levels_apart": f"levels {_TOO}: sigma = {{sigma}} is small against their spacing, {{spacing:.2g}}: masses and "
    "residues: run.levels",
    "levels_not_apart": f"levels {_TOO}: sigma = {{sigma}} is not small against their spacing, {{spacing:.2g}}: the "
    "limit holds for a density that is smooth over sigma, and between levels it is 0",
    "levels_together": "levels {levels[0]} and {levels[1]} cannot be told apart: they are nearer than {errors:g} "
    "errors",
    "not_these_levels": "these levels do not describe rho: chi2/dof {chi2:.3g}/{freedom}, p = {p:.2g}",
    "beyond_its_bound": "its size is {errors:.3g} errors above sqrt(rho rho) of {diagonal[0]} and {diagonal[1]} at "
    "sigma = {sigma:.3g}, E = {E:.3g} {unit}: no matrix of densities is so (Cauchy and Schwarz); one of the three is "
    "wrong",
    "too_few_draws": "{samples} draws per family are too few to flag what is out of distribution: no p-value is below "
    "{smallest:.2g}; from 400 on they reach {suspicious:g}",
}
"""Reason code of a :class:`~sdpipe.infer.trust.Flag` -> its sentence."""


def words(flag: Flag) -> str:
    """Return the sentence of a flag.

    >>> words(Flag("not_certified", {"interval": "bounds", "count": 1, "points": 2}))
    'bounds: 1 of 2 bounds could not be certified and are left out'
    """
    facts = {"factor": FACTOR, "suspicious": SUSPICIOUS, **flag.facts}
    if flag.code == "out_of_distribution":
        facts["sign"] = "<=" if facts.pop("smallest") else "="
    if flag.code == "one_time":
        facts["t"] = " or ".join(map(str, facts["t"]))
    if "masses" in facts:
        facts["describe"] = "describe" if len(facts["masses"]) > 1 else "describes"
        facts["masses"] = ", ".join(f"{mass:.3g}" for mass in facts["masses"])
    if flag.code in ("levels_apart", "levels_not_apart"):
        facts["sigma"] = " to ".join(dict.fromkeys(f"{width:.3g}" for width in facts["sigma"]))
    return WORDS[flag.code].format(**facts)


def worded(flags: Iterable[Flag | str], remedy: str = "") -> list[str]:
    """Return flags as sentences; ``remedy`` is the command to run where the noise is unlike that of the training."""
    sentences = []
    for flag in flags:
        if isinstance(flag, str):
            sentences.append(flag)
            continue
        more = f"; {remedy}" if flag.code == "noise_unlike" and remedy else ""
        sentences.append(words(flag) + more)
    return sentences


def in_words(result: xr.Dataset) -> xr.Dataset:
    """Return a result whose attribute ``says`` holds flags with their sentences in place of them.

    >>> in_words(xr.Dataset(attrs={"says": [Flag("levels_together", {"levels": [0, 1], "errors": 2.0})]})).attrs["says"]
    ['levels 0 and 1 cannot be told apart: they are nearer than 2 errors']
    """
    return result.assign_attrs(says=worded(result.attrs["says"]))


def remedy(root: str, name: str, data: dict[str, Any], trains: bool = True) -> str:
    """Return the command that makes a run for the noise of the correlator ``data``, keys of the section ``noise``.

    It ``trains`` networks, or takes those that serve any noise.

    >>> remedy("runs/a", "mine", {"path": "x.h5"})
    "retrain: sdpipe run runs/a 'noise={kind: correlator, path: x.h5}' --run runs/a-mine"
    """
    section = yaml.safe_dump({"kind": "correlator", **data}, default_flow_style=True, sort_keys=False, width=10**6)
    what = "retrain: " if trains else "give it a run of its own: "
    return what + shlex.join(["sdpipe", "run", root, f"noise={section.strip()}", "--run", f"{root}-{name}"])
