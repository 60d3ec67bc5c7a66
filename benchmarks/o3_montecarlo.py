"""Simulate the two-dimensional O(3) model, for data/o3-montecarlo.h5: ``python -m benchmarks o3``.

    S = -beta sum_{x, mu} sigma(x) . sigma(x + mu),   |sigma| = 1, on a periodic L x L lattice,
    j^ab_mu(x) = beta [sigma^a(x) sigma^b(x + mu) - sigma^b(x) sigma^a(x + mu)],
    C(t) = sum_{a, b} sum_x <j^ab_1(t, x) j^ab_1(0, 0)> = int d omega rho(omega) [e^(-omega t) + e^(-omega (L - t))].

In the continuum limit rho is that of target ``o3`` with E_th = 2m, and what states of four and more particles add (J.
Bulava et al., arXiv:2111.12774). The sum goes over all nine pairs (a, b): six times the correlator of one current.

Clusters are those of U. Wolff, Phys. Rev. Lett. 62 (1989) 361; all clusters of the lattice are found and each is
flipped with probability 1/2. In a random frame (r, u1, u2) the current j^{r u} is linear in r . sigma, so that only
pairs of sites in one cluster contribute (U. Wolff, Nucl. Phys. B 334 (1990) 581, for the spin),

    C(t) = 3 sum_{u = u1, u2} < sum_c J_c(t0) J_c(t0 + t) > / L,
    J_c(t0) = beta sum_{x in c at t0} (r . sigma)(x) [(u . sigma)(x + 1) - (u . sigma)(x - 1)],

averaged over t0 and over the two directions of time, and sum_x <sigma(t, x) . sigma(0, 0)> likewise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from benchmarks.table import Row, processor_seconds
from sdpipe.correlators.statistics import autocorrelation_time

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Simulation:
    """One chain: each row of it is the mean over ``sweeps`` updates of the whole lattice."""

    beta: float
    L: int
    rows: int
    sweeps: int
    thermalisation: int
    seed: int


CHAINS = {
    "beta1.50": Simulation(1.5, 192, 1500, 150, 1000, 20261126),
    "beta1.40": Simulation(1.4, 128, 1500, 150, 1000, 20261128),
    "beta1.60": Simulation(1.6, 256, 250, 100, 1000, 20261129),
    "single": Simulation(1.5, 192, 1000, 1, 1000, 20261127),
}
"""Group of the file -> its chain; ``beta1.60`` is short, to see where cutoff effects go; ``single`` has one update in
each row, and so shows their autocorrelation."""

LITERATURE = {"beta1.50": (11.05, 0.01), "beta1.40": (6.90, 0.01)}
"""Correlation length 1/m in lattice units and its error (commonly quoted; not looked up at their source)."""

WINDOW = (1.0, 5.0)
"""Times m t of the fit of the mass."""

LICENCE = "BSD-3-Clause, as sdpipe"


@cache
def compiled() -> Callable[..., float]:
    """Return the update with its measurement, compiled by numba."""
    try:
        from numba import njit
    except ImportError:
        raise SystemExit("error: the simulation needs numba; run: pip install 'sdpipe[benchmarks]'") from None

    @njit(fastmath=True)
    def sweep(sigma, beta, frame, generator, current, spin):
        """Update ``sigma`` (L, L, 3) and add to ``current`` and ``spin`` (L/2 + 1); return sum of sigma . sigma'."""
        L = sigma.shape[0]
        N = L * L
        a, u, v = np.empty(N), np.empty(N), np.empty(N)
        energy = 0.0
        for i in range(L):
            for k in range(L):
                s, right, up = sigma[i, k], sigma[i, (k + 1) % L], sigma[(i + 1) % L, k]
                n = i * L + k
                a[n] = s[0] * frame[0, 0] + s[1] * frame[0, 1] + s[2] * frame[0, 2]
                u[n] = s[0] * frame[1, 0] + s[1] * frame[1, 1] + s[2] * frame[1, 2]
                v[n] = s[0] * frame[2, 0] + s[1] * frame[2, 1] + s[2] * frame[2, 2]
                for c in range(3):
                    energy += s[c] * (right[c] + up[c])
        free = np.ones(N, np.bool_)
        stack = np.empty(N, np.int32)
        profile, seen, place = np.zeros((2, L, 3)), np.zeros((2, L), np.bool_), np.empty((2, L), np.int32)
        neighbours, touched = np.empty(4, np.int32), np.zeros(2, np.int32)
        for start in range(N):
            if not free[start]:
                continue
            free[start] = False
            stack[0] = start
            size, done = 1, 0
            while done < size:
                n = stack[done]
                done += 1
                i, k = n // L, n % L
                below, above = n - L if i > 0 else n + N - L, n + L if i < L - 1 else n + L - N
                left, right = n - 1 if k > 0 else n + L - 1, n + 1 if k < L - 1 else n + 1 - L
                neighbours[0], neighbours[1], neighbours[2], neighbours[3] = below, above, left, right
                for j in range(4):
                    m = neighbours[j]
                    if free[m]:
                        bond = a[n] * a[m]
                        if bond > 0 and generator.random() > np.exp(-2 * beta * bond):
                            free[m] = False
                            stack[size] = m
                            size += 1
                for way in range(2):
                    if way == 0:
                        t, du, dv = i, u[right] - u[left], v[right] - v[left]
                    else:
                        t, du, dv = k, u[above] - u[below], v[above] - v[below]
                    if not seen[way, t]:
                        seen[way, t] = True
                        place[way, touched[way]] = t
                        touched[way] += 1
                    profile[way, t, 0] += a[n]
                    profile[way, t, 1] += a[n] * du
                    profile[way, t, 2] += a[n] * dv
            for way in range(2):
                for p in range(touched[way]):
                    for q in range(p + 1):
                        one, other = place[way, p], place[way, q]
                        t = abs(one - other)
                        t = min(t, L - t)
                        weight = 2.0 if 2 * t == L else 1.0
                        f, g = profile[way, one], profile[way, other]
                        spin[t] += weight * f[0] * g[0]
                        current[t] += weight * (f[1] * g[1] + f[2] * g[2])
                for p in range(touched[way]):
                    seen[way, place[way, p]] = False
                    profile[way, place[way, p]] = 0.0
                touched[way] = 0
            if generator.random() < 0.5:
                for p in range(size):
                    n = stack[p]
                    s = sigma[n // L, n % L]
                    for c in range(3):
                        s[c] -= 2 * a[n] * frame[0, c]
        return energy

    return sweep


def frame_of(generator: np.random.Generator) -> Array:
    """Return three orthonormal vectors, uniformly distributed."""
    q, r = np.linalg.qr(generator.standard_normal((3, 3)))
    return np.ascontiguousarray((q * np.sign(np.diagonal(r))).T)


def simulate(plan: Simulation) -> tuple[Array, Array, Array]:
    """Return rows of C(t) and of the spin correlator (row, L/2 + 1), and of the mean sigma . sigma' of neighbours."""
    sweep, generator = compiled(), np.random.default_rng(plan.seed)
    sigma = generator.standard_normal((plan.L, plan.L, 3))
    sigma /= np.linalg.norm(sigma, axis=-1, keepdims=True)
    current, spin = np.zeros((2, plan.rows + 1, plan.L // 2 + 1))
    energy = np.zeros(plan.rows + 1)
    for row in range(plan.rows + 1):  # the first holds what is thrown away
        for _ in range(plan.sweeps if row else plan.thermalisation):
            energy[row] += sweep(sigma, plan.beta, frame_of(generator), generator, current[row], spin[row])
    pairs = 2 * plan.L**2 * plan.sweeps
    return 3 * plan.beta**2 * current[1:] / pairs, 3 * spin[1:] / pairs, energy[1:] / pairs


def mass(spin: Array, L: int) -> tuple[float, float, float]:
    """Return m in lattice units, its error and chi^2 per degree of freedom from rows of the spin correlator (row, t).

    The correlated fit A [e^(-m t) + e^(-m (L - t))] for ``WINDOW``, every second slice; the window follows from the
    effective mass at a tenth of L.
    """
    mean, i = spin.mean(axis=0), L // 10
    guess = float(np.arccosh((mean[i + 1] + mean[i - 1]) / (2 * mean[i])))
    t = np.arange(round(WINDOW[0] / guess), min(round(WINDOW[1] / guess), spin.shape[1]), 2)
    tau = max(float(autocorrelation_time(spin[:, k])[0].max()) for k in (t[:1], t[-1:]))
    root = np.linalg.cholesky(np.cov(spin[:, t].T) * max(2 * tau, 1.0) / len(spin))

    def residual(p: Array) -> Array:
        model = p[0] * (np.exp(-p[1] * t) + np.exp(-p[1] * (L - t)))
        return np.linalg.solve(root, model - mean[t])

    best = least_squares(residual, [mean[i] * np.exp(guess * i), guess], x_scale="jac")
    error = np.sqrt(np.linalg.inv(best.jac.T @ best.jac)[1, 1])
    return float(best.x[1]), float(error), float(2 * best.cost / (len(t) - 2))


def write(path: Path, chains: dict[str, tuple[Simulation, Array, Array, Array]]) -> None:
    """Write C(t), t = 0 ... L/2, and the spin correlator up to 5/m of chains (plan, current, spin, energy).

    Where a chain has one update in each row, C(t) alone.
    """
    with h5py.File(path, "w") as file:
        file.attrs["title"] = "two-dimensional O(3) model: zero-momentum correlator of the current's space component"
        file.attrs["made_by"] = "python -m benchmarks o3"
        file.attrs["licence"] = LICENCE
        for name, (plan, current, spin, energy) in chains.items():
            group = file.create_group(name)
            options = {"compression": "gzip", "compression_opts": 9, "shuffle": True}
            samples = group.create_dataset("current", data=current.astype(np.float32), **options)
            samples.attrs.update(resampling="configurations", first_time=0, normalisation="sum over all (a, b)")
            group.attrs.update(beta=plan.beta, L=plan.L, T=plan.L, seed=plan.seed, updates_per_row=plan.sweeps)
            group.attrs.update(neighbours=energy.mean(), thermalisation=plan.thermalisation)
            if plan.sweeps == 1:
                continue
            m, error, chi2 = mass(spin, plan.L)
            kept = spin[:, : round(WINDOW[1] / m) + 1].astype(np.float32)
            group.attrs.update(mass=m, mass_error=error, mass_chi2_per_dof=chi2)
            samples = group.create_dataset("spin", data=kept, **options)
            samples.attrs.update(resampling="configurations", first_time=0)


def measure(directory: Path) -> list[Row]:
    """Simulate, write ``o3-montecarlo.h5`` in ``directory``; return 1/m beside the literature, and what it took."""
    rows, chains = [], {}
    for name, plan in CHAINS.items():
        found: list[Array] = []
        seconds = processor_seconds(lambda plan=plan, found=found: found.extend(simulate(plan)))
        chains[name] = (plan, *found)
        rows.append(Row(f"{name}: {plan.rows} x {plan.sweeps} updates of {plan.L} x {plan.L}", seconds, "s"))
        if name in LITERATURE:
            m, error, chi2 = mass(found[1], plan.L)
            note = (
                f"+- {error / m**2:.3f}, chi2/dof {chi2:.2f}; baseline {LITERATURE[name][0]} +- {LITERATURE[name][1]}"
            )
            rows.append(Row(f"{name}: 1/m", 1 / m, "a", LITERATURE[name][0], note=note))
    write(directory / "o3-montecarlo.h5", chains)
    return rows
