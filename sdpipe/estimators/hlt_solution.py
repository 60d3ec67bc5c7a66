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
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_triangular
from scipy.special import chdtri, erf

from sdpipe.arrays import Array
from sdpipe.errors import UserError
from sdpipe.estimators.hlt_functional import decomposed, graded, panels, weighted
from sdpipe.estimators.hlt_lambda import CONTROL, LAMBDAS, RULES, WIDER, Rule, Stability, balance, best_mu, plateau
from sdpipe.physics.kernels import Observables
from sdpipe.physics.noise import Noise
from sdpipe.physics.quadrature import nodes_and_weights

FAR = 1e6
"""Largest floor over noise at which both share one factorisation: beyond, digits are lost."""

REPRODUCED = 1e-6
"""An estimate by marginal likelihood is found where chi^2 of its C(t) is as large with this probability or more."""


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
        False where the rule has no answer and the nearest was taken; by marginal likelihood, where C(t) is not
        reproduced.
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
        How lambda is chosen: ``evidence`` (:func:`~sdpipe.estimators.hlt_lambda.best_mu`), ``plateau`` or ``balance``
        (functions of these names there), which say what the systematic error is; or lambda' itself, the same at
        every energy, whose systematic error is that of a plateau.
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
    rule: Rule | float = "evidence"
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
        edges = panels(o, E0, alpha)
        omega, w = (x.ravel() for x in nodes_and_weights(edges))
        root = np.sqrt(w)
        L = noise.cholesky
        U, S, V = decomposed(o, L, omega, root, alpha)
        y = weighted(o, omega, alpha) * root[:, None]
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

    def by(self, rule: Rule | float, others: Sequence[HLT] = ()) -> HLT:
        """Return the same with another rule for lambda; ``others`` differ in alpha, with which a plateau must agree.

        Raises UserError for a rule that there is not, and a lambda' that is not positive.
        """
        if not (rule in RULES if isinstance(rule, str) else 0 < rule < np.inf):
            raise UserError(f"rule {rule}; allowed: {', '.join(RULES)}, or a positive lambda'")
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
            choose = {"plateau": self._plateau, "balance": self._balance}.get(self.rule, self._given)
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
        return around(self.floored, centre, C)

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
        S, Q, P = graded(solve_triangular(G, np.diag(self.singular), lower=True))
        rotation = self.rotation @ solve_triangular(G, Q, lower=True, trans=1)
        others = tuple(other.floored(C) for other in self.others)
        return replace(self, rotation=rotation, singular=S, overlap=self.overlap @ P, others=others)

    def covariance(self, C: ArrayLike) -> Array:
        """Return the covariance, both errors in one, shape (..., sigma, E, sigma, E), for C (..., t).

            tau^2 [sum_k c_k c'_k mu / (S_k^2 + mu) + rest],    tau^2 = s^2 / mu

        by marginal likelihood; by the other rules that of the noise, s^2 h h', and the systematic error as fully
        correlated. Its diagonal is the square of :attr:`Reconstruction.error`. Raises UserError as a call does.
        """
        estimate = self(C)
        if self.rule != "evidence":
            s = np.abs(self.noise.scale(np.asarray(C, float)))[..., None, None, None]
            h = s * np.moveaxis(self.filters(np.moveaxis(estimate.mu, (-2, -1), (0, 1))), (0, 1), (-3, -2))
            systematic = np.einsum("...se,...uf->...seuf", estimate.systematic, estimate.systematic)
            return np.einsum("...sek,...ufk->...seuf", h, h) + systematic
        mu = estimate.mu[..., 0, 0]
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
        scan = self.scan(C)
        first, found = plateau(scan, [other.scan(C) for other in self.others])
        mu = np.take_along_axis(scan.mu, first[..., None], axis=-1)[..., 0]
        return self._controlled(C, mu, found)

    def _given(self, C: Array) -> tuple[Array, ...]:
        """Return mean, errors, mu and found at the lambda' that the rule is, for one C (t,)."""
        mu = self.unit * self.rule
        return self._controlled(C, mu, np.ones(mu.shape, bool))

    def _controlled(self, C: Array, mu: Array, found: NDArray[np.bool_]) -> tuple[Array, ...]:
        """Return mean, errors, mu and found for mu (sigma, E); half the change to the control is systematic."""
        mean, control = (self.samples(C, each) for each in (mu, CONTROL * mu))
        statistical = np.abs(self.noise.scale(C)) * np.linalg.norm(self.filters(mu), axis=-1)
        return mean, statistical, np.abs(mean - control) / 2, mu, found

    def _balance(self, C: Array) -> tuple[Array, ...]:
        """Return mean, errors, mu and found by the balance of A/A[0] and B, for one C (t,)."""
        lambdas, found = balance(self.scan(C, np.concatenate([WIDER, LAMBDAS])))
        mus = [self.unit * each for each in lambdas]
        (mean, control), s = (self.samples(C, mu) for mu in mus), float(np.abs(self.noise.scale(C)))
        error, noisier = (s * np.linalg.norm(self.filters(mu), axis=-1) for mu in mus)
        change = np.abs(mean - control)
        return mean, error, change * erf(change / noisier / np.sqrt(2)), mus[0], found


def around(floored: Callable[[Array], HLT], centre: ArrayLike, C: ArrayLike) -> Reconstruction:
    """Return the estimate for each ``centre`` (..., t), with samples C (..., boot, t), by the HLT of each."""
    centre, C = np.asarray(centre, float), np.asarray(C, float)
    flat, each = centre.reshape(-1, centre.shape[-1]), C.reshape(-1, *C.shape[-2:])
    reconstructions = []
    for one, samples in zip(flat, each, strict=True):
        hlt = floored(one)
        r = hlt(one)
        reconstructions.append(replace(r, samples=hlt.samples(samples, r.mu)))
    parts = {f.name: np.stack([getattr(r, f.name) for r in reconstructions]) for f in fields(Reconstruction)}
    return Reconstruction(**{k: v.reshape(*centre.shape[:-1], *v.shape[1:]) for k, v in parts.items()})


def joint_covariance(one: Array, other: Array) -> Array:
    """Return the covariance between two sets of samples of the same bootstrap, of another kind or method perhaps.

    Shapes (boot, ...) and (boot, ...) give (..., ...), as of the real and imaginary part of an amplitude.
    """
    a, b = (x - x.mean(axis=0) for x in (one, other))
    return np.tensordot(a, b, axes=(0, 0)) / len(a)
