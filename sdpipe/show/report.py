"""report.html: what was asked of a run, what came out, whether to trust it, and how to make it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import xarray as xr
from markupsafe import Markup

from sdpipe.config import mocks
from sdpipe.config.schema import Config, plain
from sdpipe.config.sections import ChebyshevFamily
from sdpipe.correlators.labelled import describe
from sdpipe.disk import store
from sdpipe.disk.layout import Layout
from sdpipe.show import asymptotics, figures, glossary, provenance, tables, validation_figures
from sdpipe.show.page import Facts, Gallery, Picture, Section, Table, Text, compose

DENSITY = Markup("ρ̂<sub>σ</sub>(E)")
KERNELS = {
    "vector": Markup("b<sub>T</sub>(t, ω) = ω²/(12π²) · [e<sup>−aωt</sup> + e<sup>−aω(T−t)</sup>]"),
    "periodic": Markup("b<sub>T</sub>(t, ω) = e<sup>−aωt</sup> + e<sup>−aω(T−t)</sup>"),
    "exponential": Markup("b<sub>T</sub>(t, ω) = e<sup>−aωt</sup>"),
}


@dataclass(frozen=True)
class Source:
    """What the page is made from, read once."""

    config: Config
    layout: Layout

    @cached_property
    def budgets(self) -> dict[str, xr.Dataset]:
        return {name: store.load(self.layout.budget / name) for name in self.config.targets}

    @cached_property
    def history(self) -> xr.Dataset:
        return store.load(self.layout.history)

    def flags(self, target: str) -> list[str]:
        """Return what the stages had to say against the result for one target."""
        groups = (self.layout.predictions / target, self.layout.budget / target)
        return list(dict.fromkeys(f for g in groups for f in store.read_attributes(g).get("flags", [])))


def _span(low: float, high: float) -> str:
    return f"{low:g} … {high:g}"


def _noise(config: Config) -> str:
    """Return what the noise is; that of a model, with what its errors are relative to."""
    keys = {k: v for k, v in plain(config.noise).items() if v is not None}
    kind, model = keys.pop("kind"), keys.pop("model", None)
    words = f"{kind}: " + ", ".join(f"{k} {v}" for k, v in keys.items())
    if model is None:
        return words
    name = model.pop("kind")
    return f"{words}; errors relative to C(t) of {name}, " + ", ".join(f"{k} {v}" for k, v in model.items())


def _question(source: Source) -> list[Section]:
    """What was asked: problem, prior, noise, audience."""
    c = source.config
    ensembles = [[name, f"{e.Nb}", f"{e.Nrho}", e.network] for name, e in c.ensembles.items()]
    rows = [
        ("Kernel", Markup("{} (<b>{}</b>)").format(KERNELS[c.kernel], c.kernel)),
        ("Lattice", f"T = {c.lattice.period}, t = {_span(*c.lattice.times)}, a = {c.lattice.spacing:g} GeV⁻¹"),
        ("Smearing", f"{c.smearing.kind}, σ = {', '.join(f'{s:g}' for s in c.smearing.sigma)} GeV"),
        ("Energies", f"{c.energies.count} from {c.energies.min:g} to {c.energies.max:g} GeV"),
        (
            "Prior",
            f"Chebyshev basis of size Nb = {', '.join(map(str, c.spectra.Nb))}; {c.spectra.Nrho} spectral densities "
            f"each; threshold E0 in {_span(*c.spectra.E0)} GeV; ε = {c.spectra.epsilon:g}",
        ),
        ("Noise", _noise(c)),
        ("Training", f"protocol {c.training.protocol}, inputs {c.training.inputs}, {c.training.replicas} replicas"),
        ("Targets", f"{', '.join(c.targets)}; {c.bootstrap} bootstrap samples each"),
    ]
    audience = Table("Broad audience", ["ensemble", "Nb", "Nρ", "network"], ensembles)
    budget = ", ".join(f"{x}: {name}" for x, name in c.budget.references.items()) or "none"
    words = f"Central ensemble {c.budget.central}; reference for each systematic error: {budget}."
    return [Section("question", "What was asked", [Facts(rows), audience, Text(words, "note")])]


def _quoted(budget: xr.Dataset) -> tuple[str, xr.DataArray]:
    """Return name and values of the error to quote."""
    name = "calibrated" if "calibrated" in budget else "total"
    return name, budget[name]


def _summary(source: Source) -> list[Section]:
    """One row for each target and sigma, and every flag."""
    flags = [Text(f"{name}: {flag}", "flag") for name in source.budgets for flag in source.flags(name)]
    rows = []
    for name, budget in source.budgets.items():
        for sigma in budget.sigma.values:
            one = budget.sel(sigma=sigma)
            largest = str(one.source.values[int(one.error.mean("E").argmax("source"))])
            quoted, error = _quoted(one)
            ratio = float(error.mean() / np.abs(one.central).max())
            inside = f"{float((np.abs(one.central - one.truth) <= error).mean()):.0%}" if "truth" in one else "unknown"
            kind, count = source.config.targets[name].kind, len(source.flags(name))
            rows.append([name, str(count), f"{sigma:g}", quoted, f"{ratio:.2%}", inside, largest, kind])
    header = ["target", "flags", "σ [GeV]", "error", "its mean / peak", "truth inside it", "largest source", "kind"]
    none = [] if flags else [Text("No flags.", "note")]
    return [Section("summary", "Summary", [*flags, *none, Table("Results", header, rows)])]


def _target_facts(source: Source, name: str) -> Facts:
    """What a target is, how its correlator was read and scaled, and what tests it."""
    budget, kind = source.budgets[name], source.config.targets[name].kind
    a = budget.attrs
    read = store.read(source.layout.predictions / name).correlator.attrs
    rows = [("Kind", f"{kind}; {'the truth is known' if 'truth' in budget else 'no truth is known'}")]
    if "resampling" in read:
        rows.append(("Correlator", describe(read)))
    rows.append(("scale", f"{a['scale']:.4g}"))
    if "calibrated" in budget:
        rows += [("Level of calibrated", f"{a['level']:.1%}"), ("p_value", f"{a['p_value']:.3g}")]
    beyond = f"χ²/dof = {a['chi2']:.1f}/{a['dof']}" if a["dof"] else "all of the data within reach of the kernel"
    rows.append(("back_check", f"{a['back_check']:.3g}; {beyond}"))
    return Facts(rows)


def _shown(budget: xr.Dataset) -> str:
    """Return what a picture of a reconstruction shows."""
    shown = ["total and statistical error (bands)"]
    shown += ["calibrated error (thin lines)"] if "calibrated" in budget else []
    shown += ["linear estimator (dotted) with its own error (light band)"]
    shown += ["truth (dashed)"] if "truth" in budget else []
    return ", ".join(shown)


def _reconstruction(budget: xr.Dataset, title: str, at: str) -> Picture:
    one = budget.isel(sigma=0)
    top = one.isel(E=int(np.abs(one.central).argmax("E")))
    quoted, error = _quoted(top)
    words = f"Reconstructed density {at}: central value, {_shown(budget)}; its largest value is "
    words += f"{top.central:.3g} ± {error:.2g} ({quoted}) at E = {top.E:.3g} GeV"
    return Picture(figures.panels(figures.reconstruction, budget, title), words)


def _by_source(budget: xr.Dataset, title: str, at: str) -> Picture:
    largest = budget.error.isel(sigma=0).max("E")
    errors = ", ".join(f"{s} {float(largest.sel(source=s)):.2g}" for s in largest.source.values)
    words = f"Errors {at} by source against E; the largest of each: {errors}"
    return Picture(figures.panels(figures.by_source, budget, title), words)


def _asymptotics(source: Source, name: str, title: str) -> list[Gallery]:
    """The result against the sizes of the audience, a row for each sigma, where the config has a series of them."""
    rho = store.read(source.layout.predictions / name).rho
    drawn = asymptotics.draw_all(name, rho, source.budgets[name], source.config)
    caption = f"{title}: how the result moves with the sizes of the audience; bars, statistical error; bands, the "
    caption += "systematic error that is quoted, around the central value."
    words = f"Reconstructed density of {title} against the sizes of the audience at σ = "
    return [
        Gallery([Picture(figure, f"{words}{sigma:g} GeV")], caption)
        for figure, sigma in zip(drawn, rho.sigma.values, strict=False)
    ]


def _target(source: Source, name: str) -> Section:
    budget, flags = source.budgets[name], source.flags(name)
    title = figures.title_of(name, flags)
    shapes, sources, listed = [], [], []
    for sigma in budget.sigma.values:
        one, at = budget.sel(sigma=[sigma]), f"of {title} at σ = {sigma:g} GeV"
        shapes.append(_reconstruction(one, title, at))
        sources.append(_by_source(one, title, at))
        listed.append(Table(f"Error budget {at}", *tables.budget_rows(one.isel(sigma=0)), folded=True))
    caption = Markup("{}: {}, central value, {}.").format(title, DENSITY, _shown(budget))
    explained = f"{title}: error by source: latt, lattice data; net, spread of replicas; "
    explained += "resolution, what the data cannot resolve; " if "resolution" in budget.source else ""
    explained += "each other one, the shift to its reference; total, all of them in quadrature."
    galleries = [Gallery(shapes, caption), Gallery(sources, explained), *_asymptotics(source, name, title)]
    blocks = [_target_facts(source, name), *(Text(flag, "flag") for flag in flags), *galleries, *listed]
    return Section(f"target-{name}", name, blocks)


def _targets(source: Source) -> list[Section]:
    """The reconstruction of every target with its error budget."""
    return [_target(source, name) for name in source.budgets]


def _training(source: Source) -> list[Section]:
    """Training histories against the linear baseline."""
    pictures = []
    for sigma in source.history.sigma.values:
        one = source.history.sel(sigma=[sigma])
        best = float((one.val_loss.min("epoch").mean("replica") / one.linear_loss).min())
        words = f"Validation error of every network at σ = {sigma:g} GeV against the epoch, with the linear baselines; "
        words += f"the best ensemble ends at {best:.3g} of its baseline"
        pictures.append(Picture(figures.panels(figures.histories, one), words))
    caption = "Mean absolute error on validation samples; dotted: the best linear estimator on the same noise."
    table = Table("Networks and the linear baseline", *tables.training_table(source.history))
    return [Section("training", "Training", [Gallery(pictures, caption), table])]


_CALIBRATES = {
    mocks.PRIOR: "; it calibrates mock targets, and data with a scale that is given",
    mocks.PRIOR_AUTO: ", each draw scaled as data with scale: auto are; it calibrates these",
}


def _family(config: Config, name: str) -> str:
    """Return what a family draws from, with its ranges in numbers."""
    section = mocks.families_of(config).get(name)
    if section is None:
        return "Not a family of this config any more."
    if isinstance(section, ChebyshevFamily):
        return f"The prior at basis size Nb = {section.Nb}{_CALIBRATES.get(name, '')}."
    ranges = asdict(mocks.off_prior(config, section))
    words = [f"{k} {_span(*v)}" + ("" if k == "count" else " GeV") for k, v in ranges.items()]
    return f"{type(section).__doc__} Here {', '.join(words)}."


def _validation(source: Source) -> list[Section]:
    """How often the truth is inside the error, where ``sdpipe validate`` has measured it."""
    if not source.layout.validation.exists():
        return []
    found = store.load(source.layout.validation)
    level = found.attrs["quoted"]
    words = {
        "pulls": "Histogram of (central − truth) / total error of each family, with the normal density",
        "coverage": "Coverage of the calibrated error against its level, with its band; dashed: linear estimator",
        "coverage-energy": f"Coverage of the calibrated error at level {level:g} against E",
        "width": "Mean half width of each error, and the bias, by family",
    }
    caption = "Families in one colour each. Pulls: dashed, the normal density. Coverage against level: full, networks; "
    caption += "dashed, linear estimator; grey, binomial band. Coverage against E: dashed, the level. Widths: each "
    caption += "error of a family on a logarithmic scale, and the bias."
    explained = "The draw of each family with the smallest and the one with the largest rms pull. Full: central value; "
    explained += f"band: its calibrated error at level {level:g}; dotted: linear estimator; dashed: truth."
    sigmas = [(f" at σ = {sigma:g} GeV", found.sel(sigma=[sigma])) for sigma in found.sigma.values]
    pictures = [
        Picture(figures.panels(draw, one), words[name] + at)
        for name, draw in validation_figures.PANELS.items()
        for at, one in sigmas
    ]
    cases = [
        Picture(validation_figures.cases(found, float(one.sigma[0])), f"Best and worst draw of each family{at}")
        for at, one in sigmas
    ]
    calibrate = int((~found.tested.isel(family=0)).sum())
    lead = (
        f"{found.sizes['sample']} draws with known truth in each family, predicted as if they were data. {calibrate} "
        "of the prior calibrate; all others test. Coverages are percentages of draws and energies within each error, "
        f"widths mean half widths at level {level:.1%}."
    )
    families = [(name, _family(source.config, name)) for name in map(str, found.family.values)]
    tested = [
        Table(f"Coverage at {tested:.1%}", *tables.coverage_rows(found, tested), folded=tested != level)
        for tested in found.level.values
    ]
    tested.append(Table(f"Mean absolute errors, and mean half widths at {level:.1%}", *tables.accuracy_rows(found)))
    blocks = [Text(lead, "note"), Facts(families), *tested, Gallery(pictures, caption), Gallery(cases, explained)]
    return [Section("validation", "Validation", blocks)]


def _terms(_source: Source) -> list[Section]:
    """What the words of the page mean."""
    return [glossary.section()]


def _provenance(source: Source) -> list[Section]:
    """Versions, seeds, hashes and timings, and how to make the run again."""
    return [provenance.section(source.config, source.layout), provenance.recipe(source.config, source.layout)]


SECTIONS: tuple[Callable[[Source], list[Section]], ...] = (
    _question,
    _summary,
    _targets,
    _training,
    _validation,
    _terms,
    _provenance,
)
"""The page from top to bottom; each returns no section where it has nothing to say."""


def render(config: Config, layout: Layout) -> str:
    """Return the page of a run whose budgets are done."""
    source = Source(config, layout)
    lead = Markup(
        "Smeared spectral densities {} from Euclidean correlators, by a broad audience of neural networks "
        "(arXiv:2307.00808), with statistical and systematic errors."
    ).format(DENSITY)
    return compose(config.name, lead, [section for make in SECTIONS for section in make(source)])
