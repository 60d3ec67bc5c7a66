"""Smearing functions: what rho is integrated with, by name or as a function of your own.

    rho_sigma(E) = int_0^inf d omega f_sigma(omega, E) rho(omega)

E and sigma are in GeV like omega. How fast f falls is declared (:class:`Tail`), since it decides where integrals may
end and which of them exist.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from sdpipe.arrays import Array
from sdpipe.errors import UserError

UNDERFLOW = 700.0
"""exp(-x) is an ordinary floating-point number up to this x."""


@dataclass(frozen=True)
class Tail:
    """How f falls: |f| ~ omega^power exp(-rate omega) as omega -> infinity; ``rate`` in 1/GeV.

    An infinite rate is that of a Gaussian, or of any function that is negligible 9 sigma above E.

    >>> Tail(0.0, -2).times(Tail(0.0, -2))
    Tail(rate=0.0, power=-4)
    >>> Tail(0.0, -1).converges
    False
    """

    rate: float
    power: float = 0.0

    @property
    def converges(self) -> bool:
        """Whether the integral of such a function exists."""
        return self.rate > 0 or (self.rate == 0 and self.power < -1)

    def times(self, other: Tail) -> Tail:
        """Return the tail of a product."""
        return Tail(self.rate + other.rate, self.power + other.power)

    def length(self, sigma: float) -> float:
        """Return how far above E the integral goes in GeV; what is left out of it is below 1e-17, 1e-12 for a power.

        Infinite where the integral does not exist.
        """
        if not self.converges:
            return np.inf
        if self.rate == np.inf:
            return 9 * sigma
        if self.rate > 0:
            return (40 + max(self.power + 1, 1) * np.log(1 + 40 / self.rate)) / self.rate
        return float(max(sigma, 1.0) * 1e12 ** min(1 / (-self.power - 1), 6.0))


class Smearing(ABC):
    """A smearing function f_sigma(omega, E): a class with its formula, and with how it falls."""

    name: ClassVar[str]
    pole: ClassVar[bool] = False
    """Whether f diverges at omega = 0."""
    scaleless: ClassVar[bool] = True
    """Whether f is in 1/GeV, and the same function in any other unit of energy."""
    units: ClassVar[str] = "1"
    """Units of rho_sigma(E) for a dimensionless rho."""

    @abstractmethod
    def __call__(self, E: ArrayLike, omega: ArrayLike, sigma: ArrayLike) -> Array:
        """Return f_sigma(omega, E); arguments broadcast."""

    @abstractmethod
    def tail(self, sigma: float) -> Tail:
        """Return how f falls at large omega."""

    def grown(self, E: ArrayLike, omega: ArrayLike, sigma: ArrayLike, rate: float) -> Array:
        """Return f exp(rate omega), zero where f is."""
        f = self(E, omega, sigma)
        return f * np.exp(np.where(f == 0, 0, rate * np.asarray(omega, float))) if rate else f


def gaussian(E: ArrayLike, omega: ArrayLike, sigma: ArrayLike) -> Array:
    """Return G_sigma(E - omega) = exp(-(E - omega)^2 / (2 sigma^2)) / (sqrt(2 pi) sigma), in 1/GeV.

    Normalised on the whole line (arXiv:2307.00808, eq. 4). Arguments broadcast.
    """
    E, omega, sigma = np.asarray(E, float), np.asarray(omega, float), np.asarray(sigma, float)
    return np.exp(-((E - omega) ** 2) / (2 * sigma**2)) / (np.sqrt(2 * np.pi) * sigma)


@dataclass(frozen=True)
class Gaussian(Smearing):
    """G_sigma(E - omega), see :func:`gaussian`."""

    name: ClassVar[str] = "gaussian"

    def __call__(self, E: ArrayLike, omega: ArrayLike, sigma: ArrayLike) -> Array:
        """Return G_sigma(E - omega) in 1/GeV."""
        return gaussian(E, omega, sigma)

    def tail(self, sigma: float) -> Tail:  # noqa: ARG002
        """Return a tail that falls faster than any exponential."""
        return Tail(np.inf)


GAUSSIAN = Gaussian()
"""The smearing of arXiv:2307.00808, which networks are trained for."""


@dataclass(frozen=True)
class HalfNorm(Gaussian):
    """G_sigma(E - omega) / int_0^inf G_sigma(E - omega') d omega', the Gaussian normalised on omega > 0, in 1/GeV.

    As in lsdensities and its uses, arXiv:2405.01388.
    """

    name: ClassVar[str] = "halfnorm"

    def __call__(self, E: ArrayLike, omega: ArrayLike, sigma: ArrayLike) -> Array:
        """Return the Gaussian over its integral from 0."""
        from scipy.special import erfc

        E, sigma = np.asarray(E, float), np.asarray(sigma, float)
        return gaussian(E, omega, sigma) * 2 / erfc(-E / (np.sqrt(2) * sigma))


@dataclass(frozen=True)
class Cauchy(Smearing):
    """The real or imaginary part of 1/(omega - E - i sigma), in 1/GeV.

        re    (omega - E) / [(omega - E)^2 + sigma^2]
        im    sigma / [(omega - E)^2 + sigma^2]

    What amplitudes are made of ("Spectral-function determination of complex electroweak amplitudes with lattice QCD"):
    sigma is their epsilon. The real part falls as 1/omega, so that only densities that fall have a finite integral with
    it.
    """

    name: ClassVar[str] = "cauchy"
    part: Literal["re", "im"] = "im"

    def __call__(self, E: ArrayLike, omega: ArrayLike, sigma: ArrayLike) -> Array:
        """Return the part."""
        E, omega, sigma = np.asarray(E, float), np.asarray(omega, float), np.asarray(sigma, float)
        return (omega - E if self.part == "re" else sigma) / ((omega - E) ** 2 + sigma**2)

    def tail(self, sigma: float) -> Tail:  # noqa: ARG002
        """Return the power with which it falls, 1 or 2."""
        return Tail(0.0, -1.0 if self.part == "re" else -2.0)


Step = Literal["sigmoid", "erf"]


def step(x: ArrayLike, sigma: ArrayLike, kind: Step = "sigmoid") -> Array:
    """Return a step Theta_sigma(x), 1/(1 + exp(-x/sigma)) or [1 + erf(x/sigma)]/2, smooth over sigma."""
    from scipy.special import erfc, expit

    y = np.asarray(x, float) / np.asarray(sigma, float)
    return expit(y) if kind == "sigmoid" else erfc(-y) / 2


@dataclass(frozen=True)
class Sigmoid(Smearing):
    """(E - omega)^power Theta_sigma(E - omega), in GeV^power: E is the largest energy that a decay leaves.

    Inclusive semileptonic decays need powers 0, 1 and 2 (P. Gambino et al., arXiv:2203.11762); Theta of :func:`step`.
    """

    name: ClassVar[str] = "sigmoid"
    scaleless: ClassVar[bool] = False
    power: int = 0
    step: Step = "sigmoid"

    @property
    def units(self) -> str:  # type: ignore[override]
        """Units of rho_sigma(E) for a dimensionless rho."""
        return f"GeV^{self.power + 1}" if self.power else "GeV"

    def __call__(self, E: ArrayLike, omega: ArrayLike, sigma: ArrayLike) -> Array:
        """Return the power times the step."""
        x = np.asarray(E, float) - np.asarray(omega, float)
        return x**self.power * step(x, sigma, self.step)

    def tail(self, sigma: float) -> Tail:
        """Return the tail of the step."""
        return Tail(1 / sigma if self.step == "sigmoid" else np.inf, self.power)


@dataclass(frozen=True)
class Tau(Smearing):
    """The kernels of inclusive hadronic tau decays, with x = omega / m_tau, E in place of m_tau.

        T    (1 - x^2)^2 (1 + 2 x^2) Theta_sigma(m_tau - omega) / x^pole
        L    (1 - x^2)^2 Theta_sigma(m_tau - omega) / x^pole

    A. Evangelista et al., arXiv:2308.03125, where 1/x belongs to densities that hold the factor omega^2 of the
    correlator, C(t) ~ int d omega exp(-omega t) omega^2 rho(omega^2). ``power`` is that of 1/x: 1 as there; -1 where
    the kernel of C(t) has omega^2 instead. sigma in GeV is theirs times m_tau.
    """

    name: ClassVar[str] = "tau"
    scaleless: ClassVar[bool] = False
    units: ClassVar[str] = "GeV"
    part: Literal["L", "T"] = "T"
    power: int = 1
    step: Step = "sigmoid"

    @property
    def pole(self) -> bool:  # type: ignore[override]
        """Whether f diverges at omega = 0."""
        return self.power > 0

    def __call__(self, E: ArrayLike, omega: ArrayLike, sigma: ArrayLike) -> Array:
        """Return the kernel."""
        E, omega = np.asarray(E, float), np.asarray(omega, float)
        x = omega / E
        polynomial = (1 - x**2) ** 2 * (1 + 2 * x**2 if self.part == "T" else 1)
        return polynomial * x**-self.power * step(E - omega, sigma, self.step)

    def tail(self, sigma: float) -> Tail:
        """Return the tail of the step times that of the polynomial."""
        return Tail(1 / sigma if self.step == "sigmoid" else np.inf, (6 if self.part == "T" else 4) - self.power)


@dataclass(frozen=True)
class Sinh(Smearing):
    """(2 / pi^2 sigma^2) (omega - E) / sinh((omega - E) / sigma), in 1/GeV, with unit area on the whole line.

    For rho(omega)/omega at omega -> 0 of the kernel ``thermal``: C. Bonanno et al., arXiv:2308.01287.
    """

    name: ClassVar[str] = "sinh"

    def __call__(self, E: ArrayLike, omega: ArrayLike, sigma: ArrayLike) -> Array:
        """Return y / sinh y, y = (omega - E) / sigma, with its factor."""
        E, omega, sigma = np.asarray(E, float), np.asarray(omega, float), np.asarray(sigma, float)
        y = np.abs(omega - E) / sigma
        small = y < 1e-4
        safe = np.where(small, 1.0, y)
        ratio = np.where(small, 1 - y**2 / 6, 2 * safe * np.exp(-safe) / -np.expm1(-2 * safe))
        return 2 / (np.pi**2 * sigma) * ratio

    def tail(self, sigma: float) -> Tail:
        """Return omega exp(-omega / sigma)."""
        return Tail(1 / sigma, 1.0)


@dataclass(frozen=True)
class Function(Smearing):
    """A smearing function of your own: ``f(E, omega, sigma)``, whose arguments broadcast, and how it falls.

    sigma is the scale in GeV over which f changes near E. A weight that depends on omega alone ignores E and sigma.
    A rate is that of the largest sigma.

    >>> weight = Function(lambda _E, omega, sigma: omega**2 * np.exp(-2 * omega / sigma), Tail(2 / 0.5, 2))
    >>> float(weight(0, 0.5, 0.5).round(4))
    0.0338

    Under a name in ``OWN`` networks can be trained for it: ``smearing: {kind: own, name: NAME, sigma: [...]}``.

    Raises UserError, when called, where f gives a value that is not finite or not real.
    """

    name: ClassVar[str] = "function"
    scaleless: ClassVar[bool] = False
    f: Callable[..., Array]
    falls: Tail
    units: str = "1"

    def __call__(self, E: ArrayLike, omega: ArrayLike, sigma: ArrayLike) -> Array:
        """Return f, checked."""
        arguments = [np.asarray(a, float) for a in (E, omega, sigma)]
        f = np.asarray(self.f(*arguments))
        if np.iscomplexobj(f):
            raise UserError("the smearing function gives complex values; give its real and imaginary part one by one")
        f = np.broadcast_to(f, np.broadcast_shapes(*(a.shape for a in arguments))).astype(float)
        if not np.isfinite(f).all():
            omega_there = np.broadcast_arrays(*arguments)[1][~np.isfinite(f)].ravel()[0]
            raise UserError(f"the smearing function gives {f[~np.isfinite(f)][0]} at omega = {omega_there:.6g}")
        return f

    def tail(self, sigma: float) -> Tail:  # noqa: ARG002
        """Return the tail as it was declared."""
        return self.falls


@dataclass(frozen=True)
class Rescaled(Smearing):
    """``smearing`` as a function of energies in units of ``unit`` GeV, f'(omega, E) = unit f(unit omega, unit E).

    Its integrals over omega are those of f.
    """

    name: ClassVar[str] = "rescaled"
    scaleless: ClassVar[bool] = False
    smearing: Smearing
    unit: float

    @property
    def pole(self) -> bool:  # type: ignore[override]
        """Whether f diverges at omega = 0."""
        return self.smearing.pole

    @property
    def units(self) -> str:  # type: ignore[override]
        """Units of rho_sigma(E) for a dimensionless rho."""
        return self.smearing.units

    def __call__(self, E: ArrayLike, omega: ArrayLike, sigma: ArrayLike) -> Array:
        """Return unit f(unit omega, unit E)."""
        E, omega, sigma = (self.unit * np.asarray(x, float) for x in (E, omega, sigma))
        return self.unit * self.smearing(E, omega, sigma)

    def tail(self, sigma: float) -> Tail:
        """Return the tail of f."""
        tail = self.smearing.tail(self.unit * sigma)
        return Tail(self.unit * tail.rate, tail.power)


OWN: dict[str, Smearing] = {}
"""Name -> smearing of your own, which a config may then name; what it does must not change under the same name."""

KINDS: dict[str, Callable[..., Smearing]] = {
    **{kind.name: kind for kind in (Gaussian, HalfNorm, Cauchy, Sigmoid, Tau, Sinh)},
    "own": lambda name: OWN[name],
}
"""Kind -> what makes a smearing from its parameters."""


def from_kind(kind: str, **parameters: Any) -> Smearing:
    """Return the smearing of a kind.

    >>> from_kind("cauchy", part="re")
    Cauchy(part='re')
    """
    return KINDS[kind](**parameters)
