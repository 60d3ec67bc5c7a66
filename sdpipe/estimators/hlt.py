"""The method of Hansen, Lupo and Tantalo in double precision: rho_sigma(E) as a linear combination of C(t).

With coefficients g_t(E) that minimise (M. Hansen, A. Lupo and N. Tantalo, arXiv:1903.06476)

    (1 - lambda) A[g] / A[0] + lambda B[g],  A[g] = int_E0^inf d omega e^(alpha a omega) [sum_t g_t b_T(t, omega) - f]^2
                                             B[g] = E^2 g^T Cov g / C(t_ref)^2,    f = f_sigma(omega, E)

they need hundreds of bits where the normal equations are solved. They are those of a ridge regression in the metric
of Cov = L L^T, whose matrix is made with 32 digits and orthogonalised, largest columns first; the singular values of
the triangle that is left are known to high relative accuracy by a Jacobi method (Z. Drmac and K. Veselic, SIAM J.
Matrix Anal. 29 (2008) 1322), so that all else is double precision:

    K_it = sqrt(w_i) e^(alpha a omega_i / 2) [L^-1 b(omega_i)]_t = U S V^T at quadrature nodes omega_i, weights w_i,
    rho_sigma(E) = sum_k c_k S_k / (S_k^2 + mu) z_k,    z = V^T L^-1 C,
    c = U^T y,    y_i = sqrt(w_i) e^(alpha a omega_i / 2) f(omega_i),
    mu = lambda' A[0] E^2 / C(t_ref)^2,    lambda' = lambda / (1 - lambda).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import lapack, solve_triangular
from scipy.special import chdtri, erf

from sdpipe.errors import UserError
from sdpipe.estimators.posterior import Posterior, PriorMoments
from sdpipe.estimators.protocol import Estimate, Estimator
from sdpipe.learn.audience import Audience
from sdpipe.physics import twofold
from sdpipe.physics.kernels import Observables
from sdpipe.physics.noise import Noise
from sdpipe.physics.quadrature import nodes_and_weights, refine
from sdpipe.physics.smearing import UNDERFLOW, Tail

if TYPE_CHECKING:
    import xarray as xr  # where it is needed, since a config is read without it

Array = NDArray[np.float64]
Rule = Literal["evidence", "plateau", "balance"]
RULES = get_args(Rule)

ALPHAS = (0.0, 1.0, 1.99)
"""Weights e^(alpha a omega) of the literature (arXiv:1903.06476)."""

LAMBDAS = 50 * 10 ** (-np.arange(0, 109) / 6.0)
"""lambda' of a stability plot, from the 50 at which lsdensities begins, six a decade as it has below 1."""

PLATEAU = 6
"""Consecutive compatible results that make a plateau (lambdaScanCap of lsdensities)."""

CONTROL = 0.1
"""The systematic error of a plateau compares lambda' with this multiple of it (kfactor of lsdensities)."""

LARGEST_MISFIT = 0.1
"""Largest A/A[0] of a plateau (what lsdensities calls A0cut and leaves to the user)."""

BALANCE = (10.0, 1.0)
"""Values of (A/A[0]) / B of the result and of its control."""

WIDER = LAMBDAS[0] * 10 ** (np.arange(48, 0, -1) / 6.0)
"""lambda' above those, where the balance may lie."""

FAR = 1e6
"""Largest floor over noise at which both share one factorisation: beyond, digits are lost."""

BELOW = 0.95
"""E0 by evidence is the next step of a ladder below this share of the posterior's: above a state it would be wrong."""

LADDER = 2**0.125
"""Ratio of the steps of that ladder, so that few factorisations serve all correlators."""

REPRODUCED = 1e-6
"""An estimate by evidence is found where chi^2 of its C(t) is as large with this probability or more."""

EVIDENCE_MU = 10 ** np.arange(2, -26.001, -0.2)
"""mu of the search for the largest evidence, in units of the largest S^2."""


SCANNED = 2
"""Energies that are kept of each target and width."""


@dataclass(frozen=True, eq=False)
class Stability:
    """Everything that a stability plot shows, against lambda'; arrays (sigma, E, lambda).

    Attributes
    ----------
    lambdas
        lambda' = lambda / (1 - lambda), descending, shape (lambda,).
    mean, error
        rho_sigma(E) and its statistical error.
    misfit, noise
        A/A[0] and B.
    mu
        mu of each.
    """

    lambdas: Array
    mean: Array
    error: Array
    misfit: Array
    noise: Array
    mu: Array


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """rho_sigma(E) of correlators (..., t) with its errors; arrays (..., sigma, E).

    Attributes
    ----------
    mean
        rho_sigma(E).
    statistical
        Error from that of C(t).
    systematic
        Error from the choice of lambda, or from what the data do not say: see ``rule`` of :class:`HLT`.
    mu
        mu of the coefficients.
    found
        False where the rule has no answer and the nearest was taken; by evidence, where C(t) is not reproduced.
    samples
        rho_sigma(E) of bootstrap samples, shape (..., boot, sigma, E), where there were any.
    """

    mean: Array
    statistical: Array
    systematic: Array
    mu: Array
    found: NDArray[np.bool_]
    samples: Array | None = None

    @property
    def error(self) -> Array:
        """Both errors in quadrature."""
        return np.hypot(self.statistical, self.systematic)

    @property
    def covariance(self) -> Array:
        """Statistical covariance of the bootstrap samples, shape (sigma, E, sigma, E).

        Raises UserError without samples.
        """
        if self.samples is None:
            raise UserError("a statistical covariance needs bootstrap samples")
        return joint_covariance(self.samples, self.samples)


@dataclass(frozen=True)
class Choice:
    """What HLT leaves open.

    Attributes
    ----------
    rule
        How lambda is chosen, see :class:`HLT`.
    alpha
        Weight e^(alpha a omega) of the result; a plateau agrees with those of ``ALPHAS``.
    E0
        Where integrals begin in GeV; None is the lower of a threshold and the lowest energy; "evidence" follows from
        each correlator, see :class:`ByThreshold`.
    """

    rule: Rule = "evidence"
    alpha: float = 0.0
    E0: float | Literal["evidence"] | None = None

    def build(self, observables: Observables, noise: Noise, threshold: float) -> HLT | ByThreshold:
        """Return HLT by these choices, for densities that are zero below a threshold in GeV."""
        if self.E0 == "evidence":
            return ByThreshold.for_noise(self, observables, noise)
        if self.rule == "plateau":
            return self.each(observables, noise, threshold)[0]
        return HLT.for_noise(observables, noise, self._start(observables, threshold), self.alpha).by(self.rule)

    def each(self, observables: Observables, noise: Noise, threshold: float) -> list[HLT]:
        """Return HLT for ``alpha``, then for each of ``ALPHAS`` for which it exists."""
        E0 = self._start(observables, threshold)
        more = [alpha for alpha in ALPHAS if alpha != self.alpha and observables.norm_ends(alpha) is not None]
        plain = [HLT.for_noise(observables, noise, E0, alpha) for alpha in (self.alpha, *more)]
        beside = [[other for other in plain if other is not one and self.rule == "plateau"] for one in plain]
        return [one.by(self.rule, others) for one, others in zip(plain, beside, strict=True)]

    def _start(self, observables: Observables, threshold: float) -> float:
        if self.E0 == "evidence":
            raise ValueError("E0 by evidence is that of a correlator: see ByThreshold.choice")
        return min(threshold, *observables.energies) if self.E0 is None else self.E0


BY_EVIDENCE = Choice()
"""By evidence at alpha = 0."""


@dataclass(frozen=True, eq=False)
class HLT:
    """HLT of one (observables, noise, E0, alpha): every E, sigma and lambda then takes O(t) operations.

    >>> from sdpipe.physics.kernels import Kernel
    >>> from sdpipe.physics.noise import synthetic
    >>> from sdpipe.physics.spectra import o3
    >>> grid = Observables(Kernel("vector", 32), tuple(range(1, 17)), (0.44,), (0.5, 1.0, 1.5))
    >>> C, truth = grid.split(o3(1.0).integrals(grid))
    >>> noise = synthetic(grid.times, C, r1=1e-3, delta=0, tau=4)
    >>> r = HLT.for_noise(grid, noise)(C)
    >>> bool((abs(r.mean - truth) < 2 * r.error).all())
    True

    Attributes
    ----------
    observables, noise, E0, alpha
        As given.
    rotation
        L^-T V, shape (t, k): z = C rotation.
    singular
        S, descending, shape (k,).
    overlap
        c, shape (sigma, E, k).
    norm
        A[0] = |y|^2, shape (sigma, E).
    rest
        Products of y - U c, what no combination of the kernels reaches, shape (sigma, E, sigma, E).
    rule
        How lambda is chosen.

        ``evidence``: rho is a Gaussian process of covariance tau^2 e^(alpha a omega) delta(omega - omega'), with
        tau^2 = s^2 / mu of the largest evidence, sum_k [z_k^2 / (s^2 v_k) + log v_k] / 2 with v_k = 1 + S_k^2 / mu
        (L. Del Debbio, A. Lupo, M. Panero and N. Tantalo, arXiv:2311.18125 and 2409.04413). ``systematic`` is
        tau A[g]^(1/2): with the statistical error it makes the posterior's.

        ``plateau``: that of lsdensities (github.com/LupoA/lsdensities, InverseProblemWrapper; E. Bennett et al.,
        arXiv:2405.01388): from large lambda' down, the first of ``PLATEAU`` in a row whose 1-sigma intervals
        overlap with the one before, and with those of ``others`` at the same lambda', A/A[0] below
        ``LARGEST_MISFIT``; ``systematic`` is half the change to 0.1 lambda'.

        ``balance``: A/A[0] = 10 B: ``systematic`` is D erf(P / sqrt 2) with D the change to A/A[0] = B, a tenth of
        that, and P = D over the statistical error there. This is the rule of Get_optimal_lambda and Get_INVLT in
        github.com/GGagliardi/_CorrAnalysis_2.0, where 10 is a number that each analysis chooses, and of
        C. Alexandrou et al., arXiv:2212.08467.
    others
        The same for other alpha, with which a plateau must agree.
    """

    observables: Observables
    noise: Noise
    E0: float
    alpha: float
    rotation: Array
    singular: Array
    overlap: Array
    norm: Array
    rest: Array
    rule: Rule = "evidence"
    others: tuple[HLT, ...] = ()

    @classmethod
    def for_noise(cls, observables: Observables, noise: Noise, E0: float = 0.0, alpha: float = 0.0) -> HLT:
        """Return the method for one threshold E0 in GeV and one weight e^(alpha a omega).

        Raises UserError where the noise has other times, where the integrals diverge (alpha too large for the times or
        for the smearing, a pole at omega = 0), or where E0 is negative.
        """
        o = observables
        if noise.times != o.times:
            raise UserError(f"{noise.source}: times {noise.times}; HLT has {o.times}")
        if E0 < 0:
            raise UserError(f"E0 is {E0:g}; allowed: 0 or above", key="E0")
        if o.smearing.pole and E0 == 0:
            raise UserError(f"smearing {o.smearing.name} diverges at omega = 0; allowed: E0 above 0", key="E0")
        edges = _edges(o, E0, alpha)
        omega, w = (x.ravel() for x in nodes_and_weights(edges))
        root = np.sqrt(w)
        L = noise.cholesky
        U, S, V = _decomposed(o, L, omega, root, alpha)
        y = _weighted(o, omega, alpha) * root[:, None]
        c = U.T @ y
        outside = y - U @ c
        shape = (len(o.sigma), len(o.energies))
        return cls(
            o,
            noise,
            E0,
            alpha,
            solve_triangular(L.T, V, lower=False),
            S,
            c.T.reshape(*shape, -1),
            np.sum(y**2, axis=0).reshape(shape),
            (outside.T @ outside).reshape(*shape, *shape),
        )

    def by(self, rule: Rule, others: Sequence[HLT] = ()) -> HLT:
        """Return the same with another rule for lambda; ``others`` differ in alpha, with which a plateau must agree.

        Raises UserError for a rule that there is not.
        """
        if rule not in RULES:
            raise UserError(f"rule {rule}; allowed: {', '.join(RULES)}")
        return replace(self, rule=rule, others=tuple(others))

    @property
    def outside(self) -> Array:
        """|y - U c|^2, shape (sigma, E)."""
        return np.einsum("sese->se", self.rest)

    @property
    def unit(self) -> Array:
        """mu / lambda' = A[0] E^2 / C(t_ref)^2, shape (sigma, E); E^2 is 1 where E is 0."""
        E = np.array(self.observables.energies)
        return self.norm * np.where(E == 0, 1, E) ** 2 / self.noise.mean[self.noise.reference] ** 2

    def filters(self, mu: ArrayLike) -> Array:
        """Return h = c S / (S^2 + mu), shape (sigma, E, ..., k), for mu (sigma, E, ...): rho = h z."""
        mu = np.asarray(mu, float)
        c = self.overlap.reshape(*self.overlap.shape[:2], *[1] * (mu.ndim - 2), -1)
        return c * (self.singular / (self.singular**2 + mu[..., None]))

    def coefficients(self, mu: ArrayLike) -> Array:
        """Return g_t, shape (sigma, E, t), for mu (sigma, E)."""
        return self.filters(mu) @ self.rotation.T

    def misfit(self, mu: ArrayLike) -> Array:
        """Return A[g], shape (sigma, E, ...), for mu (sigma, E, ...)."""
        mu = np.asarray(mu, float)
        more = [1] * (mu.ndim - 2)
        c = self.overlap.reshape(*self.overlap.shape[:2], *more, -1)
        left = c * (mu[..., None] / (self.singular**2 + mu[..., None]))
        return self.outside.reshape(*self.outside.shape, *more) + np.sum(left**2, axis=-1)

    def samples(self, C: ArrayLike, mu: ArrayLike) -> Array:
        """Return rho_sigma(E) of each correlator, shape (..., sigma, E), for C (..., t): one matrix product.

        Raises UserError as a call does.
        """
        h = self.filters(mu)
        return (self._rotated(C) @ h.reshape(-1, h.shape[-1]).T).reshape(*np.shape(C)[:-1], *h.shape[:2])

    def scan(self, C: ArrayLike, lambdas: ArrayLike = LAMBDAS) -> Stability:
        """Return what a stability plot shows for one correlator C (t,).

        Raises UserError as a call does.
        """
        lambdas, z = np.asarray(lambdas, float), self._rotated(C)
        mu = self.unit[..., None] * lambdas
        h, size = self.filters(mu), np.linalg.norm
        s = float(np.abs(self.noise.scale(np.asarray(C, float))))
        misfit = self.misfit(mu) / self.norm[..., None]
        noise = size(h, axis=-1) ** 2 * (self.unit / self.norm)[..., None]
        return Stability(lambdas, h @ z, s * size(h, axis=-1), misfit, noise, mu)

    def __call__(self, C: ArrayLike) -> Reconstruction:
        """Return rho_sigma(E) for independent correlators C (..., t), each with a lambda of its own.

        Their noise is s L z, s = C(t_ref) / C_latt(t_ref). Raises UserError where C has another number of times, is not
        finite or is zero at t_ref.
        """
        z = self._rotated(C)
        shape = np.shape(C)[:-1]
        flat = np.asarray(C, float).reshape(-1, len(self.noise.times))
        s = np.abs(self.noise.scale(flat))
        if not s.all():
            raise UserError("a correlator is zero at t_ref; its noise has no scale")
        if self.rule == "evidence":
            parts = self._evidence(z.reshape(len(flat), -1), s)
        else:
            choose = self._plateau if self.rule == "plateau" else self._balance
            parts = [np.stack(x) for x in zip(*map(choose, flat), strict=True)]
        return Reconstruction(*(p.reshape(*shape, *p.shape[1:]) for p in parts))

    def bootstrap(self, C: ArrayLike) -> Reconstruction:
        """Return rho_sigma(E) of the mean of C (boot, t), its samples, and as statistical error their deviation.

        lambda is that of the mean, the same for all samples. Raises UserError as a call does.
        """
        C = np.asarray(C, float)
        r = self(C.mean(axis=0))
        samples = self.samples(C, r.mu)
        return Reconstruction(r.mean, samples.std(axis=0), r.systematic, r.mu, r.found, samples)

    def around(self, centre: ArrayLike, C: ArrayLike) -> Reconstruction:
        """Return the estimate for each ``centre`` (..., t), with samples C (..., boot, t) around it.

        ``samples (..., boot, sigma, E)`` have the lambda of their centre. Raises UserError as a call does.
        """
        return _around(self.floored, centre, C)

    def floored(self, C: Array) -> HLT:
        """Return the same with the noise of one C (t,), the floor of the noise included: that of ``noise.at_scale(C)``.

        With I + F = G G^T the covariance of z / s, and G^-1 S = Q S' P^T, it has S', the rotation times G^-T Q and the
        overlap times P, so that one factorisation of the kernel serves every correlator whose floor is not ``FAR``
        above the noise. ``others`` likewise.
        """
        if not self.noise.floor:
            return self
        floor = (self.noise.floor * C / self.noise.scale(C))[:, None] * self.rotation
        if np.abs(floor).max() > FAR:
            anew = HLT.for_noise(self.observables, self.noise.at_scale(C), self.E0, self.alpha)
            return anew.by(self.rule, [other.floored(C) for other in self.others])
        G = np.linalg.qr(np.vstack([np.eye(len(self.singular)), floor]), mode="r").T
        S, Q, P = _graded(solve_triangular(G, np.diag(self.singular), lower=True))
        rotation = self.rotation @ solve_triangular(G, Q, lower=True, trans=1)
        others = tuple(other.floored(C) for other in self.others)
        return replace(self, rotation=rotation, singular=S, overlap=self.overlap @ P, others=others)

    def covariance(self, C: ArrayLike) -> Array:
        """Return the covariance, both errors in one, shape (..., sigma, E, sigma, E), for C (..., t).

            tau^2 [sum_k c_k c'_k mu / (S_k^2 + mu) + rest],    tau^2 = s^2 / mu

        by evidence; by the other rules that of the noise, s^2 h h', and the systematic error as fully correlated. Its
        diagonal is the square of :attr:`Reconstruction.error`. Raises UserError as a call does.
        """
        found = self(C)
        if self.rule != "evidence":
            s = np.abs(self.noise.scale(np.asarray(C, float)))[..., None, None, None]
            h = s * np.moveaxis(self.filters(np.moveaxis(found.mu, (-2, -1), (0, 1))), (0, 1), (-3, -2))
            systematic = np.einsum("...se,...uf->...seuf", found.systematic, found.systematic)
            return np.einsum("...sek,...ufk->...seuf", h, h) + systematic
        mu = found.mu[..., 0, 0]
        tau2 = np.asarray(self.noise.scale(np.asarray(C, float)) ** 2 / mu)
        c = self.overlap.reshape(-1, self.overlap.shape[-1])
        damped = mu[..., None, None] / (self.singular**2 + mu[..., None, None])
        seen = (c * damped) @ c.T
        return tau2[..., None, None, None, None] * (seen.reshape(*mu.shape, *self.rest.shape) + self.rest)

    def _rotated(self, C: ArrayLike) -> Array:
        """Return z = V^T L^-1 C, shape (..., k), of C (..., t)."""
        C, n = np.asarray(C, float), len(self.noise.times)
        if C.shape[-1:] != (n,):
            raise UserError(f"correlators of shape {C.shape}; HLT takes (..., {n})")
        if not np.isfinite(C).all():
            raise UserError("correlators hold values that are not finite")
        return C @ self.rotation

    def _evidence(self, z: Array, s: Array) -> tuple[Array, ...]:
        """Return mean, errors, mu and found for z (n, k) and s (n,)."""
        mu = best_mu(z / s[:, None], self.singular)
        gain = self.singular / (self.singular**2 + mu[:, None])
        flat = self.overlap.reshape(-1, self.overlap.shape[-1])
        shape = (len(z), *self.overlap.shape[:2])
        left = (mu[:, None] / (self.singular**2 + mu[:, None])) ** 2
        A = left @ (flat**2).T + self.outside.ravel()
        statistical = s[:, None] * np.sqrt(gain**2 @ (flat**2).T)
        systematic = s[:, None] * np.sqrt(A / mu[:, None])
        mean = (gain * z) @ flat.T
        every = np.broadcast_to(mu[:, None], mean.shape)
        chi2 = np.sum((mu[:, None] / (self.singular**2 + mu[:, None]) * z / s[:, None]) ** 2, axis=1)
        found = np.broadcast_to((chi2 < chdtri(len(self.noise.times), REPRODUCED))[:, None], mean.shape)
        parts = (mean, statistical, systematic, every, found)
        return tuple(p.reshape(shape) for p in parts)

    def _plateau(self, C: Array) -> tuple[Array, ...]:
        """Return mean, errors, mu and found by the plateau, for one C (t,)."""
        at = self.scan(C)
        pulls = np.full(at.mean.shape, np.inf)
        pulls[..., 1:] = np.abs(np.diff(at.mean)) / (at.error[..., 1:] + at.error[..., :-1])
        for scan in (other.scan(C) for other in self.others):
            pulls = np.maximum(pulls, np.abs(scan.mean - at.mean) / (scan.error + at.error))
        pulls[at.misfit > LARGEST_MISFIT] = np.inf
        windows = np.lib.stride_tricks.sliding_window_view(pulls, PLATEAU, axis=-1).max(axis=-1)
        found = (windows <= 1).any(axis=-1)
        first = np.where(found, (windows <= 1).argmax(axis=-1), windows.argmin(axis=-1))
        mu = np.take_along_axis(at.mu, first[..., None], axis=-1)[..., 0]
        mean, error = (np.take_along_axis(x, first[..., None], axis=-1)[..., 0] for x in (at.mean, at.error))
        control = self.samples(C, CONTROL * mu)
        return mean, error, np.abs(mean - control) / 2, mu, found

    def _balance(self, C: Array) -> tuple[Array, ...]:
        """Return mean, errors, mu and found by the balance of A/A[0] and B, for one C (t,)."""
        at = self.scan(C, np.concatenate([WIDER, LAMBDAS]))
        ratio = np.log(at.misfit / at.noise)  # falls with lambda'
        mus, found = [], np.full(self.norm.shape, True)
        for target in np.log(BALANCE):
            below = ratio < target
            i = np.clip(below.argmax(axis=-1), 1, None)
            found &= below.any(axis=-1) & ~below[..., 0]
            r0, r1 = (np.take_along_axis(ratio, (i - k)[..., None], -1)[..., 0] for k in (1, 0))
            step = np.clip((r0 - target) / np.where(r0 > r1, r0 - r1, 1), 0, 1)
            mus.append(self.unit * np.exp(np.log(at.lambdas[i - 1]) + step * np.log(at.lambdas[i] / at.lambdas[i - 1])))
        (mean, control), s = (self.samples(C, mu) for mu in mus), float(np.abs(self.noise.scale(C)))
        error, noisier = (s * np.linalg.norm(self.filters(mu), axis=-1) for mu in mus)
        change = np.abs(mean - control)
        return mean, error, change * erf(change / noisier / np.sqrt(2)), mus[0], found


def _around(floored: Callable[[Array], HLT], centre: ArrayLike, C: ArrayLike) -> Reconstruction:
    """Return the estimate for each ``centre`` (..., t), with samples C (..., boot, t), by the HLT of each."""
    centre, C = np.asarray(centre, float), np.asarray(C, float)
    flat, each = centre.reshape(-1, centre.shape[-1]), C.reshape(-1, *C.shape[-2:])
    made = []
    for one, samples in zip(flat, each, strict=True):
        hlt = floored(one)
        r = hlt(one)
        made.append(replace(r, samples=hlt.samples(samples, r.mu)))
    parts = {f.name: np.stack([getattr(r, f.name) for r in made]) for f in fields(Reconstruction)}
    return Reconstruction(**{k: v.reshape(*centre.shape[:-1], *v.shape[1:]) for k, v in parts.items()})


@dataclass(frozen=True, eq=False)
class ByThreshold:
    """HLT whose E0 is by evidence, for each correlator its own.

    Where rho is zero below E0, kernels of lower energies say nothing of it but are larger by orders of magnitude: for
    data that fall steeply no double precision is left for what counts. E0 is a step of a ladder below the ``threshold``
    of the posterior over scales (:class:`~sdpipe.estimators.posterior.Estimate`), and may be above an energy E.

    Attributes
    ----------
    choices, observables, noise
        As given.
    posterior
        What knows thresholds.
    made
        The HLT of each E0 that was asked for.
    """

    choices: Choice
    observables: Observables
    noise: Noise
    posterior: Posterior
    made: dict[float, HLT] = field(default_factory=dict)

    @classmethod
    def for_noise(cls, choices: Choice, observables: Observables, noise: Noise) -> ByThreshold:
        """Return the method for one covariance; E0 of ``choices`` does not matter."""
        o = observables
        grid = Observables(o.kernel, o.times, o.sigma[:1], o.energies[:1])
        moments = PriorMoments.over_scales(grid, floor=noise.floor)
        return cls(choices, o, noise, Posterior.for_noise(moments, noise))

    def choice(self, C: Array) -> Choice:
        """Return the choices with E0 in GeV, that of one C (t,)."""
        a = self.observables.kernel.spacing
        steps = np.log(a * BELOW * self.posterior(C).threshold) / np.log(LADDER)
        return replace(self.choices, E0=float(LADDER ** np.floor(steps) / a))

    def floored(self, C: Array) -> HLT:
        """Return the HLT of one C (t,), the floor of its noise included."""
        choice = self.choice(C)
        if choice.E0 not in self.made:
            self.made[choice.E0] = choice.build(self.observables, self.noise, choice.E0)
        return self.made[choice.E0].floored(C)

    def around(self, centre: ArrayLike, C: ArrayLike) -> Reconstruction:
        """Return the estimate for each ``centre`` (..., t), with samples C (..., boot, t) around it, as HLT does."""
        return _around(self.floored, centre, C)


class HLTEstimator(Estimator):
    """HLT by a :class:`Choice`, ``hlt`` among the options of the audience; by evidence at alpha = 0 without one."""

    summary = "the method of Hansen, Lupo and Tantalo"

    def __init__(self, audience: Audience) -> None:
        self.audience, self.choice = audience, audience.options.get("hlt", BY_EVIDENCE)
        self.hlt = self.choice.build(audience.observables, audience.noise, audience.threshold)

    def estimate(self, C: ArrayLike, samples: ArrayLike | None = None) -> Estimate:
        """Return rho with both errors; samples have the lambda of their C."""
        C = np.asarray(C, float)
        r = self.hlt.around(C, C[..., None, :] if samples is None else samples)
        return Estimate(r.mean, r.error, None if samples is None else r.samples, r.found)

    def covariance(self, C: ArrayLike) -> Array:
        """Return the covariance (sigma, E, E), both errors in one, for C (t,)."""
        return np.einsum("sesf->sef", self.hlt.floored(np.asarray(C, float)).covariance(C))

    def scans(self, C: Array, rows: Sequence[int], scale: float) -> xr.Dataset:
        """Return :func:`stability` of one C (t,), ``scale`` times too large, at some of the energies."""
        s = self.audience
        choice = self.hlt.choice(C) if isinstance(self.hlt, ByThreshold) else self.choice
        return stability(choice.each(s.observables, s.noise, s.threshold), C, rows, scale)

    def diagnostics(self, C: Array, scale: float) -> xr.Dataset:
        """Return the scans at two of the energies."""
        return self.scans(C, kept(len(self.audience.observables.energies)), scale)


def kept(count: int) -> list[int]:
    """Return which of ``count`` energies are kept: a third and two thirds of the way up.

    >>> kept(47), kept(2)
    ([15, 31], [0, 1])
    """
    return [count * (k + 1) // (SCANNED + 1) for k in range(SCANNED)]


def stability(hlts: Sequence[HLT], C: Array, rows: Sequence[int], factor: float = 1.0) -> xr.Dataset:
    """Return the scans of one correlator ``factor`` times C, shape (t,), at some of the energies.

    ``hlts`` differ in alpha alone. Returns ``scan_mean``, ``scan_error``, ``scan_misfit`` (A/A[0]) and ``scan_noise``
    (B), each (alpha, sigma, E_scan, lambda) against lambda' = lambda / (1 - lambda), and ``scan_chosen (alpha, sigma,
    E_scan)``, the lambda' that each chooses by its rule. The floor of the noise enters as that of this correlator.
    """
    import xarray as xr

    rows, at = list(rows), [hlt.floored(C) for hlt in hlts]
    scans = [hlt.scan(C) for hlt in at]
    dims, first, rule = ("alpha", "sigma", "E_scan", "lambda"), hlts[0].observables, hlts[0].rule

    def stacked(name: str, unit: float = 1.0) -> Array:
        return np.stack([getattr(scan, name)[:, rows] for scan in scans]) / unit

    chosen = np.stack([(hlt(C).mu / hlt.unit)[:, rows] for hlt in at])
    unit, units = first.kernel.unit, first.units
    made = {
        "scan_mean": (dims, stacked("mean", factor), units, "HLT against lambda'"),
        "scan_error": (dims, stacked("error", abs(factor)), units, "its statistical error"),
        "scan_misfit": (dims, stacked("misfit"), "1", "A/A[0]"),
        "scan_noise": (dims, stacked("noise"), "1", "B"),
        "scan_chosen": (dims[:3], chosen, "1", f"lambda' by {rule}"),
    }
    coords = {
        "alpha": [hlt.alpha for hlt in hlts],
        "sigma": ("sigma", list(first.sigma), {"units": unit}),
        "E_scan": ("E_scan", [first.energies[i] for i in rows], {"units": unit}),
        "lambda": scans[0].lambdas,
    }
    return xr.Dataset({k: (d, v, {"units": u, "long_name": w}) for k, (d, v, u, w) in made.items()}, coords)


def joint_covariance(one: Array, other: Array) -> Array:
    """Return the covariance between two sets of samples of the same bootstrap, of another kind or method perhaps.

    Shapes (boot, ...) and (boot, ...) give (..., ...), as of the real and imaginary part of an amplitude.
    """
    a, b = (x - x.mean(axis=0) for x in (one, other))
    return np.tensordot(a, b, axes=(0, 0)) / len(a)


def best_mu(z: Array, singular: Array) -> Array:
    """Return mu (n,) of the largest evidence of z (n, k) ~ N(0, 1 + S^2 / mu), see :class:`HLT`."""
    mu = EVIDENCE_MU * singular[0] ** 2
    v = 1 + singular**2 / mu[:, None]
    loss = (z**2) @ (1 / v).T + np.log(v).sum(axis=1)
    i = np.clip(loss.argmin(axis=1), 1, len(mu) - 2)
    left, middle, right = (loss[np.arange(len(z)), i + k] for k in (-1, 0, 1))
    curvature = left - 2 * middle + right
    step = np.where(curvature > 0, (left - right) / (2 * np.where(curvature > 0, curvature, 1)), 0)
    return mu[i] * (mu[1] / mu[0]) ** np.clip(step, -1, 1)


def _decomposed(o: Observables, L: Array, omega: Array, root: Array, alpha: float) -> tuple[Array, Array, Array]:
    """Return U (node, k), S descending and V (t, k) of K = U S V^T; ``root`` are the roots of the weights.

    b_T(t, omega) is a function of omega that all times share, to which double precision is enough, times
    x^(t - d) + x^(T - t - d), or their difference, x = exp(-a omega), with d the slowest decay.
    """
    slowest = round(o.kernel.slowest_decay(o.times))
    powers = [np.array(o.times) - slowest]
    if o.kernel.parity:
        powers.append(o.kernel.period - slowest - np.array(o.times))
    near = omega < UNDERFLOW / o.kernel.spacing
    exp = twofold.exponential(-o.kernel.spacing * np.where(near, omega, UNDERFLOW / o.kernel.spacing))
    x = (np.where(near, exp[0], 0), np.where(near, exp[1], 0))
    ladder = [(np.ones_like(omega), np.zeros_like(omega))]
    for _ in range(max(int(p.max()) for p in powers)):
        ladder.append(twofold.multiply(ladder[-1], x))
    reference = o.kernel(slowest, omega, shift=alpha / 2) * root
    parity = o.kernel.parity
    shared = reference / (1 + (parity * ladder[o.kernel.period - 2 * slowest][0] if parity else 0))
    columns: list[twofold.Pair] = []
    for i in range(len(o.times)):
        b = ladder[powers[0][i]]
        for p in powers[1:]:
            high, low = ladder[p[i]]
            b = twofold.add(b, (parity * high, parity * low))
        for k in range(i):
            b = twofold.add(b, twofold.multiply(columns[k], (np.full_like(omega, -L[i, k]), np.zeros_like(omega))))
        columns.append(twofold.divide(b, (np.full_like(omega, L[i, i]), np.zeros_like(omega))))
    high, low = (np.stack([c[k] for c in columns], axis=1) for k in (0, 1))
    zero = np.zeros((len(omega), 1))
    Q, R = twofold.orthogonalise(twofold.multiply((high, low), (shared[:, None], zero)))
    S, V, W = _graded(R.T)
    return Q @ W, S, V


def _graded(A: Array) -> tuple[Array, Array, Array]:
    """Return S, U and V of A = U S V^T to high relative accuracy, where columns of A have very different sizes."""
    S, U, V, work, _, info = lapack.dgejsv(np.asfortranarray(A), joba=0, jobu=0, jobv=0)
    if info:
        raise RuntimeError(f"dgejsv: info = {info}")
    return S * (work[0] / work[1]), U, V


def _weighted(o: Observables, omega: Array, alpha: float) -> Array:
    """Return e^(alpha a omega / 2) f(omega), shape (omega, column), sigma by sigma."""
    E, sigma = np.array(o.energies), np.array(o.sigma)[:, None]
    grown = o.smearing.grown(E, omega[:, None, None], sigma, alpha * o.kernel.spacing / 2)
    return grown.reshape(omega.size, -1)


def _edges(o: Observables, E0: float, alpha: float) -> Array:
    """Return panels for A[g]: they grow from the fastest decay, are as fine as f needs, and end where all is small.

    Raises UserError where A[g] diverges.
    """
    a, growth = o.kernel.spacing, alpha * o.kernel.spacing
    slowest = o.kernel.slowest_decay(o.times)
    if alpha >= 2 * slowest:
        raise UserError(
            f"alpha is {alpha:g}: with C({slowest:g}) the integral diverges; it must be below {2 * slowest:g}",
            key="alpha",
        )
    lengths = o.norm_ends(alpha)
    if lengths is None:
        raise UserError(
            f"alpha is {alpha:g}: smearing {o.smearing.name} falls too slowly, its norm diverges; "
            "a smaller alpha is allowed, 0 where it falls as a power faster than omega^-1/2",
            key="alpha",
        )
    decay = Tail(a * (2 * slowest - alpha), 4.0 if o.kernel.name == "vector" else 2.0)
    top = max(o.energies) + max(max(n, 9 * s) + growth * s**2 for n, s in zip(lengths, o.sigma, strict=True))
    end = max(top, E0 + decay.length(1.0))
    widest = min(3 * min(o.sigma), 2 / a)
    known = max(o.energies) + 9 * max(o.sigma) + growth * max(o.sigma) ** 2
    edges, width = [E0], min(0.5 / (a * max(o.times)), widest)
    while edges[-1] < end:
        edges.append(edges[-1] + width)
        width = width * 1.5 if edges[-1] > known else min(1.5 * width, widest)
    edges[-1] = max(end, edges[-2] + 1e-9)
    return refine(lambda omega: _weighted(o, omega, alpha), np.array(edges), tolerance=1e-11, floor=1e-13)
