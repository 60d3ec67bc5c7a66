"""report.html: what was asked of a run, what came out, whether to trust it, and how to make it again."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from markupsafe import Markup
from matplotlib.axes import Axes

from sdpipe.analysis.cauchy_schwarz import band, diagonal, nowhere_negative
from sdpipe.config.densities import ChebyshevFamilySection, MixtureFamilySection
from sdpipe.config.schema import AnySmearing, Config, Spectra, plain, to_yaml
from sdpipe.correlators.correlator import describe
from sdpipe.errors import DamageError
from sdpipe.estimators import ESTIMATORS
from sdpipe.infer.budget import NETWORKS
from sdpipe.infer.calibration import BAND
from sdpipe.infer.compare import compare
from sdpipe.infer.trust import SUSPICIOUS, rises_at_the_end, too_few
from sdpipe.physics import units
from sdpipe.physics.kernels import KERNELS
from sdpipe.physics.noise import IMPOSSIBLE
from sdpipe.physics.units import amount, equation
from sdpipe.problem.problem import families
from sdpipe.show import correlator_figure, figures, lambda_scan, side_by_side, tables, validation_figures
from sdpipe.show.flags import worded
from sdpipe.show.overlay import overlay
from sdpipe.show.page import PageSection, compose, parts
from sdpipe.show.picture import Picture, as_svg, embedded
from sdpipe.show.versions import PACKAGES, installed
from sdpipe.show.words import OWN, named
from sdpipe.version import __version__

DENSITY = Markup("ρ̂<sub>σ</sub>(E)")
CALIBRATES = {
    "given": ". It calibrates mock targets, and data whose size is given",
    "auto": ". Each draw is scaled as data are; half of them calibrate the error of data, the other half test it",
}
"""What each of ``Config.priors`` is for."""

FROM = {
    "latt": "the noise of the data",
    "net": "the spread of the networks",
    "resolution": "what the data leave open",
    "scale": "what the data leave open",
}
"""Source of an error -> what it comes from, in a sentence."""

LEAD = Markup(
    "Smeared spectral densities {} from Euclidean correlators, by a broad audience of neural networks "
    "(arXiv:2307.00808), with statistical and systematic errors."
).format(DENSITY)
SHIPPED = (
    "Nothing was trained for this run. Its networks come with sdpipe and were trained on many lattices before. The "
    "lines show the loss that they had then."
)
REPRODUCE = (
    f"With sdpipe {__version__}, save this config and run the command below it. Samples come out the same to the last "
    "bit on any number of workers, networks up to the rounding of single precision."
)
CAPTIONS = {
    "sources": "{}: the panels show the error by source. The upper one has the noise of the data, the spread of the "
    "networks{}, and the total of all in quadrature. The lower one has the shifts to networks that were taught less.",
    "asymptotics": "{}: the panels show how the result moves with the sizes of the audience. Bars are statistical "
    "errors; bands are the systematic error that is quoted, around the central value.",
    "histories": "The lines show the mean absolute error on validation samples. The dotted line is the best linear "
    "estimator on the same noise, the dash-dotted one the posterior.",
    "validation": "The first panels show the pulls beside the normal density (grey); the legend gives the share beyond "
    "the histogram. The next show coverage less its level, of the central value (full) and of the last method "
    "(dashed), then coverage against E at the level of the grey line; grey bands are what the number of draws "
    "leaves open. The last show the width of each error, and the bias, on a logarithmic scale.",
    "cases": "The panels show the draw of each family with the smallest and the one with the largest rms pull: central "
    "value (full) with its calibrated error at level {:g} (band), posterior (dash-dotted) or linear estimator "
    "(dotted), and truth (dashed).",
}


@dataclass(frozen=True)
class ReportData:
    """What the page is made from.

    ``pictures`` are those of ``figures/`` as they lie there, by name; ``budgets`` and ``predictions`` are datasets by
    target, those of predictions may be lazy; ``validation`` is None where nothing was validated. A session has
    ``stage``, ``begun``, ``seconds`` and, where it is told, ``host``; ``data`` are pairs of what a file is for and what
    it is; a row of ``stores`` has store, created, inputs, seed, sdpipe and numpy, a row of ``networks`` network,
    inputs, sha256, validation MAE and linear MAE, all as text.
    """

    config: Config
    root: Path
    pictures: Mapping[str, Markup]
    budgets: Mapping[str, xr.Dataset]
    predictions: Mapping[str, xr.Dataset]
    history: xr.Dataset | None
    validation: xr.Dataset | None
    sessions: Sequence[Mapping[str, Any]]
    data: Sequence[tuple[str, str]]
    stores: Sequence[Sequence[str]]
    networks: Sequence[Sequence[str]]


def terms() -> tuple[tuple[str, str], ...]:
    """Return the words of the page and of the tables, those of every estimator among them."""
    return (
        (f"{OWN['latt']} (latt)", "the error from the bootstrap of the lattice data"),
        (f"{OWN['net']} (net)", "the error from the spread of replicas of one network"),
        (
            "shift by ... (b, n, rho)",
            "how far the answer moves with a smaller basis, a smaller network or fewer samples, weighed by how "
            "significant that is",
        ),
        (
            f"{OWN['resolution']} (resolution, scale)",
            "what the data cannot resolve: the rms residual of the networks on draws of the prior without noise; where "
            "networks correct the posterior, its error without that of noise; where networks give an error, that one",
        ),
        ("published", "the error of arXiv:2307.00808: all sources but what the data leave open, in quadrature"),
        ("total", "all sources in quadrature"),
        (
            "calibrated",
            "the total error times a factor, with which it contains the truth of draws of the prior as often as it "
            "promises, at each σ and E",
        ),
        *((name, f"{kind.summary}; its error, calibrated likewise") for name, kind in ESTIMATORS.items()),
        ("truth, pull", "the known smeared density of a mock target, and (central − truth) / total"),
        ("published %, ...", "share of draws and energies whose truth that error covers; of a method: its own error"),
        (
            "holds, too narrow, too wide",
            f"coverage within {BAND:g} binomial standard errors of its level, below, above",
        ),
        ("MAE", "mean absolute difference from the truth"),
        ("± calibrated, ...", "mean half width of each error at the quoted level"),
        (
            "p-value under the prior",
            f"could the data be a draw of the prior with its noise? Flagged below {SUSPICIOUS:.0%}",
        ),
        ("goodness of fit", f"could any spectral density make the correlator? p-value, flagged below {IMPOSSIBLE:.1%}"),
        ("flagged %", "share of draws that one of these two flags"),
        ("normalisation", "factor on the correlator before the networks see it; results are divided by it"),
        ("arcS, arcM, arcL", "networks of 16 and 32, 32 and 64, 64 and 128 feature maps: arXiv:2307.00808, Tab. 1"),
        ("mlpXXS, mlpXS, mlpS, mlpM, mlpL", "networks of 2 x 32, 2 x 64, 2 x 128, 3 x 256, 3 x 512 hidden units"),
    )


def _span(low: float, high: float) -> str:
    return f"{low:g} … {high:g}"


def _noise(config: Config) -> str:
    """Return what the noise is; that of a model, with what its errors are relative to."""
    keys = {k: v for k, v in plain(config.noise).items() if v not in (None, [])}
    kind, model = keys.pop("kind"), keys.pop("model", None)
    words = f"{kind}: " + ", ".join(f"{k} {v}" for k, v in keys.items())
    if model is None:
        return words
    name = model.pop("kind")
    return f"{words}; errors relative to C(t) of {name}, " + ", ".join(f"{k} {v}" for k, v in model.items())


def _prior(s: Spectra, unit: str) -> str:
    """Return what the networks were taught with."""
    shares = ", ".join(f"{name} {share / sum(s.mixture.values()):.1%}" for name, share in s.mixture.items() if share)
    sign = "; none negative" if s.positive else ""
    return (
        f"{s.Nrho} spectral densities for each Nb = {', '.join(map(str, s.Nb))}: {shares}{sign}; "
        f"threshold E0 in {amount(_span(*s.E0), unit)}; ε = {s.epsilon:g}"
    )


def _question(c: Config) -> PageSection:
    """What was asked: problem, prior, noise, audience."""
    unit = c.kernel_function.unit
    ensembles = [[name, f"{e.Nb}", f"{e.Nrho}", e.network] for name, e in c.ensembles.items()]
    audience = pd.DataFrame(ensembles, columns=["ensemble", "Nb", "Nρ", "network"])
    references = ", ".join(f"{x}: {name}" for x, name in c.budget.references.items()) or "none"
    words = f"Central ensemble {c.budget.central}; reference for each systematic error: {references}."
    rows = [
        ("Kernel", Markup("b<sub>T</sub>(t, ω) = {} (<b>{}</b>)").format(Markup(KERNELS[c.kernel].formula), c.kernel)),
        ("Lattice", f"t = {_span(*c.lattice.times)}, {c.kernel_function.lattice}"),
        ("Smearing", f"{_smearing(c.smearing)}, σ = {amount(', '.join(f'{s:g}' for s in c.smearing.sigma), unit)}"),
        ("Energies", f"{c.energies.count} from {amount(f'{c.energies.min:g} to {c.energies.max:g}', unit)}"),
        ("Prior", _prior(c.spectra, unit)),
        ("Noise", _noise(c)),
        (
            "Training",
            f"protocol {c.training.protocol}, inputs {c.training.inputs}, head {c.training.head}, "
            f"{c.training.replicas} replicas",
        ),
        ("Targets", f"{', '.join(c.targets)}; {c.bootstrap} bootstrap samples each"),
    ]
    blocks = [parts.facts(rows), parts.table("Broad audience", audience), parts.text(words, "note")]
    return PageSection("question", "What was asked", blocks)


def _smearing(s: AnySmearing) -> str:
    """Return kind and parameters."""
    return ", ".join([s.kind, *(f"{name} {value}" for name, value in s.parameters.items())])


def _summary(data: ReportData) -> PageSection:
    """The answer in ten seconds: a picture, a sentence for each target, every flag, and a small table."""
    name, budget = next(iter(data.budgets.items()))
    title = figures.title_of(name, budget.attrs["flags"])
    picture = _gallery(data, name, "reconstruction", _reconstruction_caption(budget, title))
    shown = {} if data.config.many else data.budgets
    sentences = [parts.text(_sentence(name, budget)) for name, budget in shown.items()]
    flags = _narrow(data)
    for name, budget in data.budgets.items():
        flags += [parts.text(f"{name}: {flag}", "flag") for flag in budget.attrs["flags"]]
    unable = [*_answered(data), *_unable(data)]
    none = "There are no flags, but not everything could be flagged:" if unable else "There are no flags."
    notes = [parts.text(words, "note") for words in unable]
    table = parts.table("Results", _results(data))
    return PageSection("summary", "Summary", [picture, *sentences, *(flags or [parts.text(none)]), *notes, table])


def _sentence(name: str, budget: xr.Dataset) -> Markup:
    """Return where the density is largest at the first sigma, how well it is known, and what limits that."""
    one, quoted, unit = budget.isel(sigma=0), figures.quoted(budget), units.unit_of(budget)
    peak = one.isel(E=int(np.abs(one.central).argmax("E")))
    source = str(one.source.values[int(one.error.mean("E").argmax("source"))])
    words = "With {}, {} of {} is largest at {}, where it is {}. Averaged over all energies, its {} error is {} of "
    words += "this value. Most of it comes from {}."
    if rises_at_the_end(budget):
        words += " The density rises to the highest energy: there is more above the window."
    return Markup(words).format(
        equation("σ", float(one.sigma), unit),
        DENSITY,
        name,
        equation("E", float(f"{float(peak.E):.3g}"), unit),
        tables.quoted(float(peak.central), float(peak[quoted])),
        quoted,
        f"{float(one[quoted].mean() / np.abs(peak.central)):.1%}",
        FROM.get(source, f"the {named(source)}"),
    )


def _results(data: ReportData) -> pd.DataFrame:
    """Return a row for each target and sigma."""
    rows = []
    for name, budget in data.budgets.items():
        quoted, flags = figures.quoted(budget), str(len(budget.attrs["flags"]))
        for sigma in budget.sigma.values:
            one = budget.sel(sigma=sigma)
            ratio = f"{float(one[quoted].mean() / np.abs(one.central).max()):.1%}"
            within = np.abs(one.central - one.truth) <= one[quoted] if "truth" in one else None
            inside = "unknown" if within is None else f"{float(within.mean()):.0%}"
            rows.append([_linked(data, name), f"{sigma:g}", ratio, inside, flags])
    sigma = units.label("σ", data.config.kernel_function.unit)
    return pd.DataFrame(rows, columns=["target", sigma, "error / peak", "truth inside", "flags"])


def _linked(data: ReportData, name: str) -> str:
    """Return the name of a target, as a link where it has a page of its own."""
    return Markup('<a href="report/{0}.html">{0}</a>').format(name) if data.config.many else name


def _narrow(data: ReportData) -> list[Markup]:
    """Return each family whose truth the calibrated error covers less often than it says."""
    if (validation := data.validation) is None:
        return []
    level = float(validation.attrs["quoted"])
    frame = tables.coverage_frame(validation, level)
    words = "validation: the calibrated error is too narrow for {} at {}: it covers {} % of the truth, not {:.1f}"
    narrow = frame[frame["calibrated is"] == "too narrow"]
    sigma = [equation("σ", float(s), data.config.kernel_function.unit) for s in narrow["sigma"]]
    rows = zip(narrow["family"], sigma, narrow["calibrated %"], strict=True)
    return [parts.text(words.format(*row, 100 * level), "flag") for row in rows]


def _treatment(prediction: xr.Dataset) -> str:
    """Return how the covariance of data was treated."""
    return prediction.correlator.attrs.get("covariance", "full")


def _answered(data: ReportData) -> list[str]:
    """Return who gives the central values, where it is not the networks."""
    who = {budget.attrs["answered_by"] for budget in data.budgets.values()} - {NETWORKS}
    return [f"There are no networks: central values and errors are those of {', '.join(sorted(who))}."] if who else []


def _unable(data: ReportData) -> list[str]:
    """Return what could not be flagged, whatever the data."""
    sentences = worded(too_few(data.validation.sizes["sample"])) if data.validation is not None else []
    if not all("p_value" in budget.attrs for budget in data.budgets.values()):
        sentences.append("Nothing tells whether a target is out of distribution: there is no validation.")
    weak = [f"{name} ({_treatment(p)})" for name, p in data.predictions.items() if _treatment(p) != "full"]
    sentences += [f"These covariances weaken the goodness of fit: {', '.join(weak)}."] if weak else []
    return sentences


def _target_facts(data: ReportData, name: str) -> Markup:
    """What a target is, how its correlator was read and scaled, and what tests it."""
    budget, read = data.budgets[name], data.predictions[name].correlator.attrs
    a, known = budget.attrs, "the truth is known" if "truth" in budget else "no truth is known"
    rows = [("Kind", f"{data.config.targets[name].kind}; {known}")]
    if "resampling" in read:
        rows.append(("Correlator", describe(read).replace("tau_int", "τ_int =").replace("+-", "±")))
    rows += _known_states(data.predictions[name])
    rows.append(("Normalisation", f"the correlator was multiplied by {a['scale']:.4g}"))
    if "calibrated" in budget:
        rows.append(("Level of the calibrated error", f"{a['level']:.1%}"))
        rows.append(("p-value under the prior", f"{a['p_value']:.3g}"))
    beyond = (
        f"χ²/dof = {a['chi2']:.1f}/{a['dof']:.3g}" if a["dof"] else "all of the data are within reach of the kernel"
    )
    treatment = _treatment(data.predictions[name])
    p_value = f"p = {a['goodness_of_fit']:.3g}; "
    if treatment != "full":
        p_value = f"there is no p-value, since covariance {treatment} hides what the full one would show; "
    return parts.facts([*rows, ("Goodness of fit", p_value + beyond)])


def _known_states(prediction: xr.Dataset) -> list[tuple[str, str]]:
    """Return amplitude and mass of each state that was taken off and put back."""
    if "state_mass" not in prediction:
        return []
    A, M = (prediction[name].load() for name in ("state_amplitude", "state_mass"))
    words = []
    for k in range(M.sizes["state"]):
        a, m = A.isel(state=k).values, M.isel(state=k).values
        mass = f"M = {m.mean():.5g} ± {m.std():.2g} {M.attrs['units']}"
        words.append(f"A = {a.mean():.5g} ± {a.std():.2g}, {mass}")
    return [("Known states, taken off and put back", "; ".join(words))]


def _pictures(data: ReportData, names: Iterable[str]) -> list[Markup]:
    """Return pictures by name; raise DamageError where one is not there."""
    for name in names:
        if name not in data.pictures:
            raise DamageError(data.root / "figures" / f"{name}.svg", "lost")
    return [data.pictures[name] for name in names]


def _of_each_sigma(stem: str, sigmas: int) -> list[str]:
    """Return the names of the pictures of one kind.

    >>> _of_each_sigma("o3-budget", 2)
    ['o3-budget-sigma0', 'o3-budget-sigma1']
    """
    return [f"{stem}-sigma{i}" for i in range(sigmas)]


def _target(data: ReportData, name: str) -> PageSection:
    """The reconstruction of a target with its error budget."""
    budget = data.budgets[name]
    title = figures.title_of(name, budget.attrs["flags"])
    flags = [parts.text(flag, "flag") for flag in budget.attrs["flags"]] + _within_its_bound(data, name, title)
    pictures, tables = _target_pictures(data, name, title), _budget_tables(budget, title)
    if data.config.many:
        pictures += [
            parts.text("This command draws the figures, where the run directory is:"),
            parts.code(_draws(data, name)),
        ]
    return PageSection(f"target-{name}", name, [_target_facts(data, name), *flags, *pictures, *tables])


def _draws(data: ReportData, name: str) -> str:
    """Return the command that draws the figures of one target."""
    saved = f"sdpipe.open_run({data.root.name!r}).plot.save({f'{name}-figures'!r}, target={name!r})"
    return shlex.join(["python", "-c", f"import sdpipe; {saved}"])


def _within_its_bound(data: ReportData, name: str, title: str) -> list[Markup]:
    """Return flags and pictures of an element off the diagonal of a matrix whose diagonal is there, too."""
    if diagonal(data.config, name) is None or not nowhere_negative(data.config.observables):
        return []
    bound = band(data.config, data.budgets, name)
    flags = [parts.text(flag, "flag") for flag in worded(bound.attrs["says"])]
    if data.config.many:
        return flags
    first, second = bound.attrs["diagonal"]

    def draw(one: xr.Dataset, ax: Axes) -> Axes:
        return overlay(figures.reconstruction(one, ax), bound, "bound", float(one.sigma))

    caption = f"{title}: the pale band is the bound of Cauchy and Schwarz, ± √(ρ ρ) of {first} and {second}."
    names = _of_each_sigma(f"{name}-bound", data.budgets[name].sizes["sigma"])
    panels = [figures.panels(draw, data.budgets[name].isel(sigma=[i]), title) for i in range(len(names))]
    drawn = [embedded(as_svg(Picture(*which, caption))) for which in zip(names, panels, strict=True)]
    return [*flags, parts.gallery(drawn, caption)]


def _gallery(data: ReportData, name: str, what: str, caption: str | Markup) -> Markup:
    """Return the pictures of one kind and target, one for each sigma; of many targets there are none."""
    if data.config.many:
        return Markup("")
    names = _of_each_sigma(f"{name}-{what}", data.budgets[name].sizes["sigma"])
    return parts.gallery(_pictures(data, names), caption)


def _correlator(data: ReportData, name: str, caption: str) -> Markup:
    """Return C(t) and, where it was drawn, the effective mass; of many targets there are none."""
    if data.config.many:
        return Markup("")
    mass = f"{name}-effective-mass"
    return parts.gallery(_pictures(data, [f"{name}-correlator", *([mass] if mass in data.pictures else [])]), caption)


def _target_pictures(data: ReportData, name: str, title: str) -> list[Markup]:
    """Return the pictures of one target with their captions, and what the correlator and the methods say.

    Of many targets there are no pictures.
    """
    budget, prediction = data.budgets[name], data.predictions[name]
    gallery = partial(_gallery, data, name)
    blocks = []
    if name != next(iter(data.budgets)):  # that of the first target is in the summary
        blocks.append(gallery("reconstruction", _reconstruction_caption(budget, title)))
    if "implied" in prediction:
        blocks.append(parts.text(correlator_figure.words(prediction)))
        blocks.append(_correlator(data, name, correlator_figure.caption(prediction, title)))
    blocks.append(gallery("budget", _source_caption(budget, title)))
    if "estimator" in budget:
        compared = compare(budget, data.validation)
        blocks.append(parts.text(side_by_side.paragraph(compared)))
        blocks.append(gallery("methods", side_by_side.caption(compared, title)))
    if "scan_mean" in prediction:
        blocks.append(gallery("stability", lambda_scan.caption(prediction, title)))
    if figures.series(data.config.ensembles, data.config.budget.central):
        blocks.append(gallery("asymptotics", CAPTIONS["asymptotics"].format(title)))
    return blocks


def _reconstruction_caption(budget: xr.Dataset, title: str) -> Markup:
    lower = "the same less the central value, in units of the total error"
    lower += ", and the calibrated error (dotted)" if "calibrated" in budget else ""
    caption = Markup("{}: the upper panel shows {}: the central value, {}. The lower one shows {}.")
    return caption.format(title, DENSITY, figures.bands(budget), lower)


def _source_caption(budget: xr.Dataset, title: str) -> str:
    meanings = {
        "resolution": ", what the data leave open",
        "scale": ", what the networks say that the data leave open",
    }
    own = "".join(words for name, words in meanings.items() if name in budget.source)
    return CAPTIONS["sources"].format(title, own)


def _budget_tables(budget: xr.Dataset, title: str) -> list[Markup]:
    """Return the budget of one target as a table for each sigma."""
    return [
        parts.table(
            f"Error budget of {title} at {equation('σ', sigma, units.unit_of(budget))}",
            tables.budget_frame(budget.sel(sigma=sigma)),
            folded=True,
        )
        for sigma in budget.sigma.values
    ]


def _training(data: ReportData) -> PageSection:
    """Training histories against the baselines."""
    pictures = _pictures(data, _of_each_sigma("history", data.history.sizes["sigma"]))
    table = parts.table("Networks and their baselines", tables.training_frame(data.history), folded=True)
    lead = [parts.text(SHIPPED, "note")] if data.config.origin.served else []
    return PageSection("training", "Training", [*lead, parts.gallery(pictures, CAPTIONS["histories"]), table])


def _family(config: Config, name: str) -> str:
    """Return what a family draws from, with its ranges in numbers."""
    section = families(config).get(name)
    if section is None:
        return "Not a family of this config any more."
    if isinstance(section, MixtureFamilySection):
        use = "".join(CALIBRATES[rule] for rule, prior in config.priors.items() if prior == name)
        return f"The prior at basis size Nb = {section.Nb}{use}."
    if isinstance(section, ChebyshevFamilySection):
        return f"The prior of arXiv:2307.00808 at basis size Nb = {section.Nb}."
    ranges = asdict(section.build(config.ranges))
    unit, plain = config.kernel_function.unit, ("count", "size")
    spans = {name: _span(*ends) for name, ends in ranges.items()}
    words = [f"{name} {span}" if name in plain else f"{name} {amount(span, unit)}" for name, span in spans.items()]
    return f"{type(section).__doc__} Here {', '.join(words)}."


def _validation(data: ReportData, validation: xr.Dataset) -> PageSection:
    """How often the truth is inside the error."""
    level, sigmas = validation.attrs["quoted"], validation.sizes["sigma"]
    calibrate = int((~validation.tested.isel(family=0)).sum())
    lead = (
        f"Each family has {validation.sizes['sample']} draws with known truth, which were predicted as if they were "
        f"data. {calibrate} draws of the prior calibrate the error, and all others test it. A coverage is the "
        "percentage of draws and energies whose truth is inside an error. A width is the mean half width at level "
        f"{level:.1%}."
    )
    sigma = {"sigma": units.label("σ", data.config.kernel_function.unit)}

    def coverage(level: float) -> pd.DataFrame:
        return tables.coverage_frame(validation, level).rename(columns=sigma)

    panels = [name for kind in validation_figures.PANELS for name in _of_each_sigma(f"validation-{kind}", sigmas)]
    cases = _of_each_sigma("validation-cases", sigmas)
    blocks = [
        parts.text(lead, "note"),
        parts.facts([(name, _family(data.config, name)) for name in map(str, validation.family.values)]),
        *(
            parts.table(f"Coverage at {tested:.1%}", coverage(tested), folded=tested != level)
            for tested in validation.level.values
        ),
        parts.table(
            f"Mean absolute errors, and mean half widths at {level:.1%}",
            tables.accuracy_frame(validation).rename(columns=sigma),
        ),
        parts.gallery(_pictures(data, panels), CAPTIONS["validation"]),
        parts.gallery(_pictures(data, cases), CAPTIONS["cases"].format(level)),
    ]
    return PageSection("validation", "Validation", blocks)


def _provenance(data: ReportData) -> PageSection:
    """Versions, seed, data files, timings, stores and networks."""
    packages = {"sdpipe": __version__, "python": platform.python_version(), **{p: installed(p) for p in PACKAGES}}
    facts = [
        ("Seed", str(data.config.seed)),
        ("Written with", ", ".join(f"{name} {number}" for name, number in packages.items())),
        *((f"Data of {what}", words) for what, words in data.data),
    ]
    hosts = ["host"] if any("host" in session for session in data.sessions) else []
    sessions = pd.DataFrame(data.sessions, columns=["stage", "seconds", "begun", *hosts])
    rows = [
        [stage, f"{of.seconds.sum():.1f}", str(len(of)), *of.iloc[-1][["begun", *hosts]]]
        for stage, of in sessions.groupby("stage", sort=False)
    ]
    timings = pd.DataFrame(rows, columns=["stage", "seconds", "sessions", "last begun", *hosts])
    stores = pd.DataFrame(data.stores, columns=["store", "created", "inputs", "seed", "sdpipe", "numpy"])
    networks = pd.DataFrame(data.networks, columns=["network", "inputs", "sha256", "val MAE", "linear MAE"])
    blocks = [
        parts.facts(facts),
        parts.table("Time taken", timings),
        parts.table("Stores", stores, folded=True),
        parts.table("Networks", networks, folded=True),
    ]
    return PageSection("provenance", "Provenance", blocks)


def _recipe(data: ReportData) -> PageSection:
    """The command that makes the run again, and the config that it needs."""
    command = f"python -m sdpipe run config.yaml --run {shlex.quote(data.root.name)}"
    blocks = [parts.text(REPRODUCE), parts.code(to_yaml(data.config), "config.yaml"), parts.code(command)]
    return PageSection("reproduce", "How to reproduce", blocks)


def _sections(data: ReportData) -> Iterator[PageSection]:
    """Make the page from top to bottom."""
    yield _summary(data)
    if not data.config.many:
        yield from (_target(data, name) for name in data.budgets)
    if data.validation is not None:
        yield _validation(data, data.validation)
    if data.history is not None:
        yield _training(data)
    yield _question(data.config)
    yield PageSection("terms", "What the words mean", [parts.facts(terms())])
    yield _provenance(data)
    yield _recipe(data)


def render(data: ReportData) -> str:
    """Return the page of a run whose budgets are done; of many targets, it links to the pages of each."""
    return compose(data.config.name, LEAD, list(_sections(data)))


def render_target(data: ReportData, name: str) -> str:
    """Return the page of one of many targets."""
    back = PageSection("run", "Run", [Markup('<p><a href="../report.html">{}</a></p>').format(data.config.name)])
    return compose(f"{data.config.name}: {name}", LEAD, [_target(data, name), back])
