"""Runs in the environment of a peer: its estimates of rho_sigma(E) from samples of correlators, .npz to .npz.

    python peer_methods.py PEER QUESTION.npz ANSWER.npz

The question holds ``samples (n, boot, t)`` of C(t) = int d omega rho(omega) b(t, omega) at ``slices`` t = 1, 2, ...,
with b = e^(-a omega t) or, for a ``period`` T, e^(-a omega t) + e^(-a omega (T - t)); their mean is the datum and their
covariance its error. ``first`` is the first slice to use, ``spacing`` is a, ``sigma`` and ``energies`` say which
Gaussian averages are wanted, rho is looked for below ``cutoff``. The answer holds for each ``method`` the ``central``
values and errors ``error (n, method, E)``, NaN where there are none, ``seconds (n,)`` of processor time, and ``why
(n,)``: what was raised. Settings are those of each package's documentation, or its defaults.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

Answer = dict[str, tuple[Any, Any]]
"""Method -> central values (E,) and errors (E,)."""


def lsdensities(samples: np.ndarray, question: dict[str, Any]) -> Answer:
    """HLT at alpha = 0 from E0 = 0, with the lambda of the plateau and that of the largest likelihood.

    In lattice units, where rho_sigma(E) is 1/a of what it is here. Its statistical and systematic errors are added in
    quadrature, as it does. It takes t = 1, 2, ... without exception. Its results are linear in the samples, so that a
    ``thin`` set of n, more than there are times, with the same mean and covariance gives the same, its statistical
    errors 1/2n smaller; 64 instead of 800 halve its time.
    """
    from lsdensities.InverseProblemWrapper import AlgorithmParameters, InverseProblemWrapper
    from lsdensities.utils.rhoUtils import Inputs, MatrixBundle, Obs, init_precision
    from mpmath import mpf

    a, E, digits = float(question["spacing"]), question["energies"] * question["spacing"], int(question["digits"])
    init_precision(digits)
    if thin := int(question["thin"]):
        z = np.random.default_rng(0).standard_normal((thin, samples.shape[1]))
        white = np.sqrt(thin - 1) * np.linalg.qr(z - z.mean(axis=0))[0]
        samples = samples.mean(axis=0) + white @ np.linalg.cholesky(np.cov(samples.T)).T
    (boots, tmax), period = samples.shape, int(question["period"])
    extent = period or tmax + 1
    par = Inputs()
    par.time_extent, par.tmax, par.num_boot, par.num_samples = extent, tmax, boots, boots
    par.periodicity, par.kerneltype = "COSH" if period else "EXP", "FULLNORMGAUSS"
    par.Na, par.Ne, par.A0cut = 1, len(E), float(question["A0cut"])
    par.sigma, par.emin, par.emax, par.e0, par.prec = float(question["sigma"] * a), E[0], E[-1], 0.0, digits
    par.logpath = par.plotpath = str(Path.cwd())
    par.assign_values()
    C = Obs(T=tmax + 1, tmax=tmax, nms=boots, is_resampled=True)
    C.sample[:, 1:], C.sample[:, 0] = samples, samples[:, 0]
    C.evaluate()
    C.evaluate_covmatrix()
    C.fill_mp_sample()
    bundle = MatrixBundle(Bmatrix=C.mpcov, bnorm=mpf(str(C.central[1] ** 2)))
    solver = InverseProblemWrapper(
        par=par, algorithmPar=AlgorithmParameters(), matrix_bundle=bundle, correlator=C, energies=E
    )
    solver.prepareHLT()
    solver.run(savePlots=False)
    return {
        "plateau": (a * solver.rhoResultHLT, a * solver.rho_quadrature_err_HLT),
        "likelihood": (a * solver.rhoResultBayes, a * solver.rho_quadrature_err_Bayes),
    }


def fredipy(samples: np.ndarray, question: dict[str, Any]) -> Answer:
    """A Gaussian process for rho with the kernel v^2 exp(-(omega - omega')^2 / 2 l^2), smeared with its covariance.

    v and l start at the 0.3 and 0.4 of its README and are those of the largest likelihood that it computes.
    """
    import fredipy as fp
    from scipy.optimize import minimize

    t, T = question["spacing"] * question["slices"], float(question["spacing"] * question["period"])

    def b(t: np.ndarray, omega: np.ndarray) -> np.ndarray:
        return np.exp(-omega * t) + (np.exp(-omega * (T - t)) if T else 0.0)

    integrator = fp.integrators.Riemann_1D(w_min=0, w_max=float(question["cutoff"]), int_n=1000)
    data = {"x": t, "y": samples.mean(axis=0), "cov_y": np.cov(samples.T)}
    constraint = fp.constraints.LinearEquality(fp.operators.Integral(b, integrator), data)
    model = fp.models.GaussianProcess(fp.kernels.RadialBasisFunction(0.3, 0.4), [constraint])

    def cost(logarithms: np.ndarray) -> float:
        model.set_kernel_params(np.exp(logarithms).tolist())
        try:
            return -model.log_likelihood()
        except np.linalg.LinAlgError:
            return np.inf

    best = minimize(
        cost, np.log([0.3, 0.4]), method="Nelder-Mead", options={"maxfev": 200, "xatol": 1e-2, "fatol": 1e-2}
    )
    model.set_kernel_params(np.exp(best.x).tolist())
    rho, covariance = model.predict(integrator.w, full_cov=True)
    smear = smearing(question, integrator.w[:, 0]) * float(np.squeeze(integrator.dw))
    variance = np.einsum("ei,ij,ej->e", smear, covariance, smear)
    return {"": (smear @ rho[:, 0], np.sqrt(np.maximum(variance, 0)))}


def ana_cont(samples: np.ndarray, question: dict[str, Any]) -> Answer:
    """Maximum entropy with a flat default model and the recommended choice of alpha, ``chi2kink``; it has no error.

    With x = beta omega and tau = t / beta its kernels are, and ours where rho is

        time_bosonic   x/2 [e^(-x tau) + e^(-x (1 - tau))] / (1 - e^(-x)) A,    rho = omega A / 2 (1 - e^(-x)),
        time_fermionic e^(-x tau) / (1 + e^(-x)) A,                             rho = A / (1 + e^(-x)),

    the latter for b = e^(-omega t) on omega >= 0 with a beta of twice the last time. The flat model is of norm 1, as
    its documentation has it, and C is normalised so that the model gives C at the first time. The bosonic one takes
    beta C for its data, but not for their errors.
    """
    from ana_cont.continuation import AnalyticContinuationProblem

    t, T = question["spacing"] * question["slices"], float(question["spacing"] * question["period"])
    beta, omega = T or 2 * t[-1], np.linspace(0, float(question["cutoff"]), 501)
    x, tau = beta * omega, t[0] / beta
    y = np.maximum(x, 1e-9)
    if T:
        flat, of_A = y / 2 * (np.exp(-y * tau) + np.exp(-y * (1 - tau))) / -np.expm1(-y), y / beta / 2 / -np.expm1(-y)
    else:
        flat, of_A = np.exp(-y * tau) / (1 + np.exp(-y)), 1 / (1 + np.exp(-y))
    C, covariance = samples.mean(axis=0), np.cov(samples.T)
    factor = flat.mean() / C[0] / (beta if T else 1)
    problem = AnalyticContinuationProblem(
        im_axis=t, re_axis=omega, im_data=factor * C, kernel_mode="time_bosonic" if T else "time_fermionic", beta=beta
    )
    found, _ = problem.solve(
        method="maxent_svd",
        model=np.full(omega.size, 1 / x[-1]),
        cov=(factor * (beta if T else 1)) ** 2 * covariance,
        alpha_determination="chi2kink",
    )
    weights = np.full(omega.size, omega[1])
    weights[[0, -1]] /= 2
    central = smearing(question, omega) @ (weights * of_A * found.A_opt / factor)
    return {"": (central, np.full(central.size, np.nan))}


def smearing(question: dict[str, Any], omega: np.ndarray) -> np.ndarray:
    """Return the Gaussians G_sigma(E - omega), shape (E, omega)."""
    sigma = float(question["sigma"])
    z = (question["energies"][:, None] - omega) / sigma
    return np.exp(-(z**2) / 2) / (np.sqrt(2 * np.pi) * sigma)


PEERS: dict[str, Callable[[np.ndarray, dict[str, Any]], Answer]] = {
    "lsdensities": lsdensities,
    "fredipy": fredipy,
    "ana-cont": ana_cont,
}


def answers(peer: str, question: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return what ``peer`` makes of every correlator of the question; where it raises it says what."""
    begin = 0 if peer == "lsdensities" else int(question["first"]) - 1
    question = question | {"slices": question["slices"][begin:]}
    made, seconds, why = [], [], []
    for samples in question["samples"][:, :, begin:]:
        began, found, words = time.process_time(), {}, ""
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                found = PEERS[peer](samples, question)
            if not all(np.isfinite(np.asarray(one[0], float)).all() for one in found.values()):
                found, words = {}, "its result is not finite"
        except Exception as error:
            words = f"{type(error).__name__}: {' '.join(str(error).split())}"
        made.append(found)
        seconds.append(time.process_time() - began)
        why.append(words)
    names = list(next((found for found in made if found), {"": None}))
    central, error = np.full((2, len(made), len(names), len(question["energies"])), np.nan)
    for i, found in enumerate(made):
        for j, name in enumerate(names if found else ()):
            central[i, j], error[i, j] = found[name]
    return {
        "method": np.array(names),
        "central": central,
        "error": error,
        "seconds": np.array(seconds),
        "why": np.array(why),
    }


if __name__ == "__main__":
    name, source, target = sys.argv[1], *(Path(p).resolve() for p in sys.argv[2:])
    with np.load(source) as content:
        asked = dict(content)
    with TemporaryDirectory() as directory, contextlib.chdir(directory):
        found = answers(name, asked)
    partial = target.with_suffix(".partial.npz")
    np.savez(partial, **found)
    partial.replace(target)
