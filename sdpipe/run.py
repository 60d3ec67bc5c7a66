"""What is made of a run from Python, and a run that is made of a correlator."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdpipe.config.schema import digest, plain
from sdpipe.correlators.objects import read_python
from sdpipe.correlators.record import Snapshot
from sdpipe.directory import RunDirectory
from sdpipe.disk import files
from sdpipe.disk.layout import Layout
from sdpipe.errors import UserError
from sdpipe.pipeline import stages
from sdpipe.pipeline.state import State
from sdpipe.problem.inputs import TARGET_STREAM
from sdpipe.version import __version__

if TYPE_CHECKING:
    import pandas as pd

    from sdpipe.analysis.joint import Joint
    from sdpipe.infer.integrals import WeightFunction
    from sdpipe.physics.smearing import Smearing
    from sdpipe.show.plots import Plots


class Run(RunDirectory):
    """A run directory. Stores are opened when first asked for, and read lazily.

    What is damaged is not read: DamageError says which file, and the command that makes it anew. What was made from
    other inputs than the config and its data files have now is read with a warning that says the command.

    >>> run = sdpipe.open_run("runs/quickstart")
    >>> run.training.correlator.dims, run.history.val_loss.dims
    (('Nb', 'sample', 't'), ('ensemble', 'sigma', 'replica', 'epoch'))
    >>> run.predictions["o3"].rho.dims
    ('sigma', 'ensemble', 'replica', 'boot', 'E')
    >>> bool((run.budget["o3"].total > 0).all()), "coverage" in run.validation
    (True, True)
    >>> run.networks[0].architecture, run.plot.reconstruction("o3").get_lines()[0].get_label()
    ('arcS', 'central value')
    """

    @property
    def plot(self) -> Plots:
        """Figures on matplotlib axes: reconstruction, budget, methods, history, samples."""
        from sdpipe.show.plots import Plots

        return Plots(self)

    def compare(self, target: str) -> xr.Dataset:
        """Return the networks and every method side by side, see :func:`sdpipe.infer.compare.compare`.

        ``central``, ``error`` and ``calibrated (estimate, sigma, E)``, ``pull (estimate, other, sigma, E)``, the bounds
        where there are any; the attributes ``trusted`` and ``reason`` are the estimate to trust and why, ``says`` is a
        paragraph on what agrees, what does not, and which to trust why. Raises UserError where there is no budget of
        the target.

        >>> compared = sdpipe.open_run("runs/quickstart").compare("o3")
        >>> list(compared.estimate.values), "Trust" in compared.attrs["says"]
        (['networks', 'linear', 'posterior'], True)
        """
        from sdpipe.infer.compare import compare
        from sdpipe.show.side_by_side import paragraph

        calibrated = self.config.budget.calibration == "conformal"
        compared = compare(self._budget_of(target), self.validation.load() if calibrated else None)
        return compared.assign_attrs(says=paragraph(compared))

    def extrapolate(
        self, target: str, E: float | Sequence[float] | None = None, powers: tuple[int, ...] = (0, 2)
    ) -> xr.Dataset:
        """Return the limit sigma -> 0 of the networks from the widths of the run, see :mod:`sdpipe.infer.extrapolate`.

        ``E`` are energies of the run in GeV, all of them where it is not given; ``powers`` of sigma begin with 0.
        Returns ``limit``, ``error``, ``chi2``, ``p_value (E)``, ``coefficients (power, E)`` and ``covariance (sigma,
        sigma2, E)``. It holds where rho is smooth over the widths: chi2 says whether the widths agree with that, and
        the attribute ``says`` whether separate levels describe the density, too, against whose spacing sigma is not
        small, see :mod:`sdpipe.analysis.discrete`.

        Raises UserError where there is no budget of the target, without ``validate``, which the covariance between
        widths comes from, for other energies, and where the widths do not determine the coefficients.

        >>> limit = sdpipe.open_run("runs/quickstart").extrapolate("o3")
        >>> limit.limit.dims, limit.covariance.dims
        (('E',), ('sigma', 'sigma2', 'E'))
        """
        from sdpipe.analysis.answers import answer
        from sdpipe.analysis.discrete import against_limit
        from sdpipe.infer.extrapolate import limits
        from sdpipe.show.flags import worded

        budget = self._budget_of(target)
        if "calibrated" not in budget:
            raise UserError("the limit sigma -> 0 needs the calibrated error: set budget.calibration=conformal")
        if E is not None:
            budget = budget.isel(E=self._rows(E))
        rule = self.predictions[target].attrs["scale_rule"]
        limit = limits(budget, self.validation.load(), rule, powers)
        return limit.assign_attrs(says=worded(against_limit(answer(self, target))))

    def stability(self, target: str, E: float | Sequence[float] | None = None) -> xr.Dataset:
        """Return HLT of one target against lambda, at energies of the run or at the two that are stored.

        See :func:`sdpipe.estimators.hlt.stability`; beside it are ``estimator_central`` and ``estimator_error`` of HLT.
        ``methods`` need not have hlt; of known states (``targets.X.subtract``) it sees what they leave. Raises
        UserError where there is no budget of the target, and for other energies.
        """
        from sdpipe.estimators.hlt import kept

        rows = kept(self.config.energies.count) if E is None else self._rows(E)
        self._budget_of(target)
        stored = self.predictions[target].load()
        factor = stored.attrs["scale"]
        C = factor * stored.correlator.mean("boot").values
        scans, estimate = self._predictor.scans(C, rows, factor)
        dims, coords = ("estimator", "sigma", "E"), {"estimator": ["hlt"], "E": stored.E.values}
        scans = scans.assign_coords(coords)
        scans["estimator_central"] = (dims, estimate.mean[None] / factor)
        scans["estimator_error"] = (dims, estimate.error[None] / abs(factor))
        return scans

    def smear(self, target: str, smearing: Smearing, bounds: bool = False) -> xr.Dataset:
        """Return another smearing of rho of one target, by posterior, HLT and bounds, which need no training for it.

        ``smearing`` is one of :mod:`sdpipe.physics.smearing`, ``Function(f, Tail(rate, power))`` with your own f(E,
        omega, sigma) among them; sigma and E are those of the run. Returns ``central``, ``error (estimator, sigma,
        E)``, ``samples (estimator, boot, sigma, E)`` and, with ``bounds`` for rho >= 0 at ``budget.level``, ``lower``,
        ``upper (sigma, E)``. Samples of several smearings share their bootstrap: the covariance of their noise is
        :func:`~sdpipe.estimators.hlt_solution.joint_covariance` of two of them. Networks know the smearing of their
        training alone. Raises UserError where there is no prediction of the target, where the
        integrals of the smearing do not exist, and where it is not finite.

        States that are known (``targets.X.subtract``) are in what is returned.

        >>> from sdpipe.physics.smearing import Function, Tail
        >>> weight = Function(lambda E, omega, sigma: np.exp(-2 * omega / sigma) + 0 * E, Tail(3.0))
        >>> sdpipe.open_run("runs/quickstart").smear("o3", weight).central.dims
        ('estimator', 'sigma', 'E')
        """
        from sdpipe.analysis.put_back import with_states

        prediction = self._prediction_of(target)
        factor = prediction.attrs["scale"]
        samples = factor * prediction.correlator.values
        smeared = self._predictor.smear(samples, smearing, factor, bounds)
        return with_states(smeared, prediction, self.config.observables, smearing)

    def _rows(self, E: float | Sequence[float]) -> NDArray[np.intp]:
        """Return where energies are in the grid of the run; raise UserError where one is not."""
        grid, wanted = np.array(self.config.energies.grid), np.atleast_1d(np.asarray(E, float))
        rows = np.abs(wanted[:, None] - grid).argmin(axis=1)
        if not np.allclose(grid[rows], wanted, rtol=1e-6):
            near = ", ".join(f"{grid[i]:.12g}" for i in dict.fromkeys(rows.tolist()))
            raise UserError(f"E = {E}: not energies of the run; the nearest are {near}")
        return rows

    def _prediction_of(self, target: str) -> xr.Dataset:
        return _one(self.predictions, "prediction", target)

    def _budget_of(self, target: str) -> xr.Dataset:
        return _one(self.budget, "budget", target).load()

    def integral(self, target: str, f: WeightFunction, between: tuple[float, float] | None = None) -> xr.Dataset:
        """Return I = ∫ f(E) rho_sigma(E) dE of one target with every error of the budget, see :func:`sdpipe.integral`.

        After ``validate``, ``calibrated (sigma)`` is the total of the budget, with the correlations between energies
        that the calibration draws have, scaled so that it covers this integral of ``budget.level`` of these draws. Its
        attribute ``flags`` says what speaks against the result. Raises UserError where there is no prediction of
        the target, and for an f or limits that cannot be used.

        >>> moment = sdpipe.open_run("runs/quickstart").integral("o3", lambda E: E**2, between=(0.5, 2.0))
        >>> moment.central.dims, bool((moment.calibrated > 0).all())
        (('sigma',), True)
        """
        from sdpipe.infer.integrals import calibrated, integral
        from sdpipe.infer.trust import judge, unresolved
        from sdpipe.show.flags import worded

        data, budget = self._prediction_of(target).load(), self.config.budget
        validation = self.validation.load() if budget.calibration == "conformal" else None
        resolution = None if validation is None else unresolved(data, validation)
        result = integral(data.rho, f, budget.central, budget.references, data.get("truth"), between, resolution)
        if validation is not None:
            rule, total = data.attrs["scale_rule"], self.budget[target].total
            result["calibrated"] = calibrated(result.weight, total, validation, rule, budget.level)
        more = worded(judge(data, validation)[1])
        return result.assign_attrs(flags=[*data.attrs["flags"], *more])

    def levels(
        self, target: str, count: int = 1, E: tuple[float, float] | None = None, rest: bool = False
    ) -> xr.Dataset:
        """Return masses and residues of ``count`` levels of one target, see :func:`sdpipe.analysis.levels.levels`.

        >>> found = sdpipe.open_run("runs/quickstart").levels("peaks", E=(0.2, 1.4), rest=True)
        >>> found.mass.dims, "p_value" in found.attrs
        (('level',), True)
        """
        from sdpipe.analysis.levels import levels
        from sdpipe.show.flags import in_words

        return in_words(levels(self, target, count, E=E, rest=rest))

    def ground_state(self, target: str, between: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return amplitude and mass, each (boot,), of one state fitted to each bootstrap sample of one target.

        See :func:`sdpipe.correlators.known.ground_state`; :meth:`subtract` takes them.
        """
        from sdpipe.correlators.known import ground_state

        samples = self._prediction_of(target).correlator
        return ground_state(samples.values, samples.t.values.tolist(), self.config.kernel_function, between)

    def resampled(self, target: str, bin: int) -> NDArray[Any]:  # noqa: A002 - the name of the config's key
        """Return bootstrap samples (boot, sigma, E) of the central estimate, drawn from means over ``bin`` rows.

        Those of ``predictions`` are from bins as long as the autocorrelation of their own correlator asks for; in bins
        of one length, samples of correlators of the same configurations belong together, :func:`sdpipe.joint`. C(t) of
        the samples have the errors that they have there. Raises UserError for a target whose file holds no
        configurations, for one with known states taken off, and for bins of which fewer than two are left.

        >>> run = sdpipe.open_run("runs/quickstart")
        >>> run.resampled("o3", 2)
        Traceback (most recent call last):
        sdpipe.errors.UserError: o3 has no configurations to draw from, or known states are taken off it
        """
        from sdpipe.analysis.answers import lead_samples

        config, stored = self.config, self._prediction_of(target)
        data = self._state.inputs.target(target).correlator
        if data is None or data.dim != "cfg":
            raise UserError(f"{target} has no configurations to draw from, or known states are taken off it")
        if not isinstance(bin, int) or not 1 <= bin <= len(data.samples) // 2:
            raise UserError(f"{target}: bins of {bin}; allowed: 1 to {len(data.samples) // 2}")
        again = replace(data, facts=data.facts | {"correlation_bin": bin})
        C, factor = again.bootstrap(config.bootstrap, config.seed, TARGET_STREAM), stored.attrs["scale"]
        return lead_samples(self._predictor.predict(factor * C, factor, factor * data.mean), config.budget.central)

    def subtract(self, target: str, states: Sequence[tuple[Any, Any]], to: str | Path, *keys: str) -> xr.Dataset:
        """Return the budget of one target with known states (amplitude, mass) taken off first and put back after.

        What is left of each bootstrap sample is reconstructed as data of its own, with its own noise and the times at
        which there is something left, and some later ones. This is a run in the directory ``to``, whose goodness of fit
        tells of a state that was wrongly taken off. ``keys`` are as for :func:`sdpipe.reconstruct`, such as
        ``"spectra.E0=[0.8, 1.3]"`` with ``"training.audience=none"`` for a threshold above the state. Amplitude and
        mass are numbers, pairs (value, error), gvars, or one value for each bootstrap sample, such as
        :meth:`ground_state` returns, see :func:`sdpipe.correlators.known.states_of`. Returns what
        :func:`sdpipe.analysis.put_back.put_back` does. Raises UserError for a state that is heavier than the cutoff or
        more than the data, and as :func:`sdpipe.reconstruct` does; nothing is written then.

        >>> from tempfile import TemporaryDirectory
        >>> few = ["validation={samples: 60, levels: [0.683], families: {}, bootstrap: 2}"]
        >>> keys = ["training.audience=none", "methods=[posterior]", *few]
        >>> with TemporaryDirectory() as place:
        ...     budget = sdpipe.open_run("runs/quickstart").subtract("peaks", [(0.5, 0.7)], place + "/rest", *keys)
        >>> bool((budget.calibrated > 0).all())
        True
        """
        from sdpipe.analysis.answers import lead_samples
        from sdpipe.analysis.put_back import put_back
        from sdpipe.correlators.known import check_states, last_time, state, states_of
        from sdpipe.problem.suggest import LARGEST_ERROR

        config, grid = self.config, self.config.observables
        C = self._prediction_of(target).correlator.values.astype(float)
        A, M = states_of(states, len(C), config.seed)
        check_states(C, A, M, grid.kernel, grid.times)
        lattice, same = config.lattice, {"smearing": config.smearing, "energies": config.energies}
        same = [f"{name}={json.dumps(plain(section))}" for name, section in same.items()]
        rest = C - state(A, M, grid.kernel, grid.times)
        good = rest.std(axis=0) < LARGEST_ERROR * np.abs(rest.mean(axis=0))
        seen = grid.times[len(good) - 1 if good.all() else max(int(np.argmin(good)) - 1, 0)]
        times = [grid.times[0], last_time(seen, grid.times)]
        keywords = {"period": lattice.period, "spacing": lattice.spacing, "first": lattice.slices[0], "times": times}
        keywords = [f"lattice.{key}={value}" for key, value in keywords.items()]
        here = ["resampling=bootstrap", f"kernel={config.kernel}", *keywords, *same, *keys]
        rest_run = reconstruct(rest, *here, run=to)
        (name,) = rest_run.config.targets
        samples = lead_samples(rest_run.predictions[name].load(), rest_run.config.budget.central)
        return put_back(rest_run.budget[name], samples, A, M, rest_run.config.observables)

    def band(self, target: str) -> xr.Dataset:
        """Return the bound of Cauchy and Schwarz on one density off the diagonal of a matrix of correlators.

        The targets of the run must hold its diagonal elements, too, see :func:`sdpipe.analysis.cauchy_schwarz.band`.

        >>> sdpipe.open_run("runs/quickstart").band("o3")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        sdpipe.errors.UserError: ...: o3: no band; needed: a budget of component [i, j] and of [i, i] and [j, j] ...
        """
        from sdpipe.analysis.cauchy_schwarz import band
        from sdpipe.show.flags import in_words

        return in_words(band(self.config, self.budget, target))

    def pull(self, target: str, beside: xr.Dataset) -> xr.Dataset:
        """Return how far one target is from a density beside it, see :func:`sdpipe.analysis.beside.pull`.

        >>> run = sdpipe.open_run("runs/quickstart")
        >>> run.pull("o3", sdpipe.smeared(([0.0, 50.0], [1.0, 1.0]), run)).chi2.dims
        ('sigma',)
        """
        from sdpipe.analysis.beside import pull

        return pull(self, target, beside)

    def table(self, target: str, format: Literal["frame", "csv", "latex"] = "frame") -> pd.DataFrame | str:  # noqa: A002
        """Return the answer of one target as a table: energies, and central value with calibrated error at each sigma.

        Errors are in brackets, as in 0.09613(81). ``format`` is a data frame, ``csv`` with the numbers of the whole
        budget in full precision, or ``latex``. Raises UserError where there is no budget of the target, and for
        another format.

        >>> print(sdpipe.open_run("runs/quickstart").table("o3", format="latex").splitlines()[0])
        \\begin{tabular}{lll}
        """
        from sdpipe.show import tables

        budget = self._budget_of(target)
        makers = {"frame": tables.answer_frame, "csv": tables.as_csv, "latex": tables.as_latex}
        if format not in makers:
            raise UserError(f"format: {format!r} is not allowed; allowed: {', '.join(makers)}")
        return makers[format](budget)

    def save(self, target: str, path: str | Path) -> Path:
        """Write the budget of one target for a paper, see :func:`sdpipe.analysis.paper.write`, and return the path.

        ``.h5`` and ``.nc``: central value, every error and the covariance with units; ``.yaml``: a table for HEPData.
        All say the version, config and seed that made them. Raises UserError where there is no budget of the target,
        and for another end of the name.

        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as place:
        ...     sdpipe.open_run("runs/quickstart").save("o3", place + "/o3.h5").name
        'o3.h5'
        """
        from sdpipe.analysis.paper import write

        budget = self._budget_of(target)
        provenance = {"target": target, "made_by": f"sdpipe {__version__}", "config": digest(plain(self.config))}
        provenance |= {"run": self.config.name, "seed": str(self.config.seed)}
        return write(budget, path, provenance)

    def to_xarray(self, target: str) -> xr.Dataset:
        """Return ``central``, ``error (sigma, E)`` and their whole ``covariance (sigma, E, sigma2, E2)`` of one target.

        The error is the calibrated one, see :func:`sdpipe.infer.export.correlated`. Raises UserError where there is no
        budget of the target, and without ``validate``, which the correlations come from.

        >>> made = sdpipe.open_run("runs/quickstart").to_xarray("o3")
        >>> made.covariance.dims
        ('sigma', 'E', 'sigma2', 'E2')
        """
        from sdpipe.infer.export import correlated

        budget = self._budget_of(target)
        if "calibrated" not in budget:
            raise UserError("a covariance needs the calibrated error: set budget.calibration=conformal")
        return correlated(budget, self.validation.load(), self.predictions[target].attrs["scale_rule"])

    def to_gvar(self, target: str, *others: str) -> NDArray[Any] | list[NDArray[Any]]:
        """Return rho (sigma, E) of one target as correlated gvars, with the covariance of :meth:`to_xarray`.

        Two calls know nothing of each other. Targets of the same configurations, named in one call, come as a list
        with their correlations, those of :func:`sdpipe.joint`. Raises UserError as these do, and where gvar is not
        installed.

        >>> rho = sdpipe.open_run("runs/quickstart").to_gvar("o3")
        >>> type(rho[0] @ np.ones(rho.shape[1])).__name__
        'GVar'
        """
        from sdpipe.infer.export import as_gvars

        if others:
            return self._joint(target, *others).to_gvar()
        return as_gvars(self.to_xarray(target))

    def to_pyerrors(self, target: str, *others: str) -> NDArray[Any] | list[NDArray[Any]]:
        """Return the same as pyerrors Obs (sigma, E); their covariance is named by config, run and targets.

        >>> rho = sdpipe.open_run("runs/quickstart").to_pyerrors("o3")
        >>> type(rho[0] @ np.ones(rho.shape[1])).__name__
        'Obs'
        """
        from sdpipe.infer.export import as_obs

        name = "_".join([self.config.name, digest(plain(self.config))[:8], *map(str, (target, *others))])
        return self._joint(target, *others).to_pyerrors(name) if others else as_obs(self.to_xarray(target), name)

    def _joint(self, *targets: str) -> Joint:
        from sdpipe.analysis.joint import joint

        return joint([self] * len(targets), targets)


def _one(groups: Mapping[str, xr.Dataset], what: str, target: str) -> xr.Dataset:
    """Return the group of one target; raise UserError where there is none, with those that there are."""
    if not isinstance(target, str):
        raise UserError(f"{target!r} is no name of a target; several are named one by one, as in to_gvar('a', 'b')")
    if target not in groups:
        raise UserError(f"there is no {what} of {target}; those there: {', '.join(groups) or 'none'}")
    return groups[target]


def open_run(path: str | Path) -> Run:
    """Open the run directory ``path``.

    Raises UserError where it is not one.

    >>> run = sdpipe.open_run("runs/quickstart")
    >>> run.config.budget.central
    'Nmax'
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such run directory")
    return Run(path)


def reconstruct(
    data: Any, *keys: str, run: str | Path | None = None, subtract: Sequence[Mapping[str, Any] | tuple[Any, Any]] = ()
) -> Run:
    """Take a correlator to its smeared spectral density by the audience that comes with sdpipe, without training.

    Parameters
    ----------
    data
        A file (docs/correlators.md), or what :func:`sdpipe.read_correlator` takes in place of one, such as an array of
        samples (n, T), gvars or a pyerrors Corr. The run directory then keeps it.
    keys
        ``"KEY=VALUE"`` strings as on the command line, such as ``"kernel=vector"`` or ``"smearing.sigma=[0.3, 0.4]"``;
        what they leave open follows from the data (``sdpipe check`` says how).
    run
        The run directory; by default ``runs/`` and the name of the correlator.
    subtract
        Known states, taken off the data first and put back after: pairs (amplitude, mass) of numbers, of pairs (value,
        error), of gvars or of pyerrors Obs, whose errors are taken as independent of the data; or ``{"between": (16,
        24)}``, which fits one state to every sample of the data at these times, see
        :func:`sdpipe.correlators.known.load`.

    Returns the run, with predictions, budget, figures and report. Raises UserError as the command does.

    >>> from tempfile import TemporaryDirectory
    >>> few = ["validation={samples: 60, levels: [0.683], families: {}, bootstrap: 2}", "bootstrap=20"]
    >>> with TemporaryDirectory() as place:
    ...     run = sdpipe.reconstruct("data/pseudoscalar.txt", "energies.count=8", *few, run=place + "/mine")
    ...     run.budget["pseudoscalar"].calibrated.dims
    ('sigma', 'E')
    """
    from sdpipe.config.load import config_of
    from sdpipe.correlators.states import as_key
    from sdpipe.pipeline import session
    from sdpipe.problem.suggest import suggest

    kept, keys = None, (*keys, *as_key(subtract))
    if not isinstance(data, str | os.PathLike):
        run = run or Path("runs/array")
        kept, reading = _kept(data, Layout(Path(run).absolute()).given)
        data, keys = kept.path, (*reading, *keys)
    suggestion = suggest(Path(data), keys, kept)
    for reason in suggestion.taken:
        warnings.warn(reason, stacklevel=2)
    config = config_of(suggestion.config, str(data))
    layout = Layout(Path(run or Path("runs") / config.name).absolute())
    state = State(config, layout)
    names = stages.wanted(config)
    if kept:
        state.inputs.hold(kept)
        session.check(state, names)  # nothing is written where anything is refused
        layout.root.mkdir(parents=True, exist_ok=True)
        files.write_bytes(kept.path, kept.content)
    session.perform(state, names)
    return Run(layout.root)


def _kept(values: Any, path: Path) -> tuple[Snapshot, list[str]]:
    """Return a correlator of this session as the file that it becomes in its run directory, and keys that read it."""
    record, content = read_python(values), BytesIO()
    reading = [f"{key}={value}" for key, value in record.said.items()]
    if record.times is not None:
        if (np.diff(record.times) != 1).any():
            raise record.fault(f"t = {', '.join(f'{t:g}' for t in record.times)}; needed: times without gaps")
        reading.append(f"lattice.first={record.times[0]:g}")
    if record.samples is None:
        np.savez(content, mean=record.mean, cov=record.covariance)
    else:
        np.savez(content, samples=record.samples)
    return Snapshot.from_bytes(path, content.getvalue()), reading
