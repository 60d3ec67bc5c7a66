"""What workers do for each stage, and what the driver makes of trained networks.

A task is idempotent, opens no data file, writes the receipt of a piece when all of its files are on disk, and returns
little. It gets what it computes with, and leaves whole files: any of them may run again on another machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sdpipe.analysis.put_back import restored
from sdpipe.arrays import Array
from sdpipe.config.origins import PLACE
from sdpipe.config.schema import Config
from sdpipe.config.sources import RangeNoise
from sdpipe.correlators.correlator import describe
from sdpipe.disk import store
from sdpipe.disk.layout import Layout
from sdpipe.errors import DamageError
from sdpipe.estimators.local import FEATURES, Local
from sdpipe.estimators.posterior import Posterior
from sdpipe.infer import coverage, trust
from sdpipe.infer.predict import Measured, Predictor, reconstruct
from sdpipe.learn import shipped, trained
from sdpipe.learn.audience import Audience, Statistics
from sdpipe.learn.audience import load as read_audience
from sdpipe.learn.audience import save as save_audience
from sdpipe.physics import rng
from sdpipe.physics.covariances import SHARED
from sdpipe.physics.noise import Noise
from sdpipe.physics.samples import generate, is_validation, noisy_copies
from sdpipe.pipeline.pieces import (
    VALIDATION_BLOCK,
    Block,
    Piece,
    chunk_samples,
    every_network,
    finish,
)
from sdpipe.problem.inputs import Target
from sdpipe.problem.problem import Problem, families, of_one_correlator, options, prior_moments
from sdpipe.show import flags as wording
from sdpipe.version import __version__
from sdpipe.workers.forks import forked

VERSIONS = {"numpy": np.__version__, "sdpipe": __version__}
"""What the last bits of a sample may depend on; the receipt of a block notes them."""

# --- generate --------------------------------------------------------------------------------------------------------


def training_template(config: Config) -> store.Template:
    """Return coordinates and arrays of ``training.zarr``."""
    chunk, n_t, n_E = chunk_samples(config), len(config.lattice.slices), config.energies.count
    n_sigma, copies, observables = len(config.smearing.sigma), config.copies, config.observables
    unit, units, density = observables.kernel.unit, observables.kernel.units, observables.units
    sample, grid = np.arange(config.spectra.Nrho), _grid(config)
    coords = {
        "Nb": ("Nb", np.array(config.spectra.Nb), {"long_name": "size of the Chebyshev basis"}),
        "sample": ("sample", sample),
        "t": ("t", np.array(config.lattice.slices), {"units": "lattice units"}),
        **grid,
        "validation": ("sample", is_validation(sample), {"long_name": "sample validates; the others train"}),
    }
    rows, shares = ("Nb", "sample"), config.spectra.prior(max(config.spectra.Nb)).shares
    flags = {"flag_values": list(range(len(shares))), "flag_meanings": " ".join(shares)}
    variables = {
        "correlator": store.Variable((*rows, "t"), (1, chunk, n_t), "float32", units, "clean correlator"),
        "smeared": store.Variable(
            (*rows, "sigma", "E"), (1, chunk, n_sigma, n_E), "float32", density, "smeared spectral density"
        ),
        "threshold": store.Variable(rows, (1, chunk), "float64", unit, "threshold E0"),
        "component": store.Variable(rows, (1, chunk), "uint8", "1", "component of the prior", flags),
    }
    if copies:
        coords["copy"] = ("copy", np.arange(copies))
    if isinstance(config.noise, RangeNoise):
        coords["lattice"] = ("copy", np.arange(copies) % len(config.lattices), {"long_name": "lattice that it is on"})
        variables["covariance"] = store.Variable(
            (*rows, "copy"), (1, chunk, copies), "int32", "1", "number of the covariance that a copy has"
        )
    elif copies:
        variables["noisy"] = store.Variable(
            (*rows, "copy", "t"), (1, chunk, copies, n_t), "float32", units, "correlator with lattice noise"
        )
    if config.training.corrects:
        dims, chunks, n_features = (*rows, "copy", "sigma", "E"), (1, chunk, copies, n_sigma, n_E), features(config)
        local = config.training.inputs == "local"
        seen, parts = (dims, chunks) if local else (dims[:-2], chunks[:-2])
        coords["feature"] = ("feature", np.arange(n_features))
        variables |= {
            "features": store.Variable(
                (*seen, "feature"), (*parts, n_features), "float32", "1", "features of the posterior"
            ),
            "posterior_mean": store.Variable(
                dims, chunks, "float32", density, "posterior mean of the noisy correlator"
            ),
            "posterior_sd": store.Variable(dims, chunks, "float32", density, "its standard deviation"),
        }
    return store.Template(coords, variables)


def features(config: Config) -> int:
    """Return how many features of the posterior networks see."""
    return FEATURES if config.training.inputs == "local" else prior_moments(config).features


def network_shape(config: Config) -> tuple[int, int]:
    """Return how many numbers a network of this config sees, and how many it returns."""
    training, sigmas = config.training, len(config.smearing.sigma) if config.sigma_together else 1
    outputs = 1 if training.inputs == "local" else config.energies.count * sigmas
    inputs = features(config) if training.corrects else len(config.lattice.slices)
    return inputs, 2 * outputs if training.head == "scale" else outputs


def _grid(config: Config) -> dict[str, Any]:
    unit = {"units": config.kernel_function.unit}
    return {
        "sigma": ("sigma", np.array(config.smearing.sigma), unit),
        "E": ("E", np.array(config.observables.energies), unit),
    }


def generate_blocks(problem: Problem, root: Path, blocks: Sequence[Piece]) -> int:
    """Write some blocks of ``training.zarr``; return the number of their samples."""
    return sum(generate_block(problem, root, piece) for piece in blocks)


def generate_block(problem: Problem, root: Path, piece: Piece) -> int:
    """Write one block of ``training.zarr``; return the number of its samples."""
    config, block, layout = problem.config, piece.work, Layout(root)
    drawn = generate(problem.prior(block.of), problem.observables, config.seed, block.start, block.stop)
    arrays = {name: getattr(drawn, name) for name in ("correlator", "smeared", "threshold", "component")}
    if problem.covariances:
        arrays |= _through_covariances(problem, block)
    elif config.copies:
        copies = (config.copies, config.seed, block.of, block.start)
        arrays["noisy"] = noisy_copies(drawn.correlator, problem.noise, *copies)
        if config.training.corrects:
            arrays |= _posterior_arrays(problem, 0, problem.noise, arrays["noisy"])
    written = store.write_block(layout.training, block.region, arrays)
    finish(layout, piece, written, **VERSIONS)
    return block.stop - block.start


def _posterior_arrays(problem: Problem, lattice: int, noise: Noise, noisy: Array) -> dict[str, Array]:
    """Return what networks see of noisy C (..., t) on a lattice, with mean and standard deviation of the posterior."""
    if problem.config.training.inputs == "local":
        seen = Local.for_noise(problem.config.lattices[lattice], noise)(noisy, noisy[..., None, :])
        at_copy = np.s_[..., 0, :, :]
        return {"features": seen.features[*at_copy, :], "posterior_mean": seen.mean[at_copy], "posterior_sd": seen.sd}
    estimate = Posterior.for_noise(problem.moments[lattice], noise)(noisy)
    return {"features": estimate.features, "posterior_mean": estimate.mean, "posterior_sd": estimate.sd}


def _through_covariances(problem: Problem, block: Block) -> dict[str, Array]:
    """Return for noisy copies of a block the number of their covariance, and what the posterior says of them."""
    config, copies = problem.config, []
    on_lattice = [
        generate(problem.prior(block.of), grid.times_only, config.seed, block.start, block.stop).correlator
        for grid in config.lattices
    ]
    for copy in range(config.copies):
        i, parts = copy % len(on_lattice), []
        where = (config.seed, copy, config.copies, block.start, block.stop)
        for rows, number, noise in problem.covariances[i].of_samples(*where):
            z = rng.normals(rng.generator(config.seed, "noise copies", block.of, number), (SHARED, 1, noise.deviates))
            noisy = noise.added(on_lattice[i][rows], z[: rows.stop - rows.start])
            arrays = _posterior_arrays(problem, i, noise, noisy)
            parts.append({"covariance": np.full((len(noisy), 1), number), **arrays})
        copies.append({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    return {name: np.concatenate([one[name] for one in copies], axis=1) for name in copies[0]}


# --- train -----------------------------------------------------------------------------------------------------------


def write_audience(problem: Problem, layout: Layout, piece: Piece) -> None:
    """Write the file of what all networks and estimators share.

    Its statistics are those of the training set of the central ensemble or, where nothing is trained, of draws made for
    them.
    """
    config, audience = problem.config, problem.audience
    if config.origin.trains:
        central = config.ensembles[config.budget.central]
        training = store.read(layout.training).sel(Nb=central.Nb).isel(sample=slice(central.Nrho))
        statistics = Statistics.from_training(
            training, audience.observables, problem.noise, audience.inputs, config.sigma_together
        )
    else:
        prior = problem.prior(config.central_Nb)
        statistics = Statistics.from_draws(prior, audience.observables, problem.noise, config.seed)
    path = layout.audience
    save_audience(path, replace(audience, statistics=statistics))
    finish(layout, piece, [path])


def serve_shipped(problem: Problem, layout: Layout, wanted: Sequence[Piece]) -> None:
    """Write the networks of the shipped audience, made to serve the lattice of the run."""
    every = shipped.read(PLACE / "audience.npz", problem.config.origin.sha256)
    kept = {(k["ensemble"], k["replica"]): k for k in every}
    for piece in wanted:
        path, network = layout.networks / f"{piece.name}.npz", kept[piece.work.ensemble, piece.work.replica]
        trained.save(path, shipped.serve(network, problem.audience, piece.made_from))
        losses = {name: network[name] for name in ("linear_loss", "posterior_loss")}
        finish(layout, piece, [path], **losses, val_loss=min(network["val_loss"]))


def load_audience(layout: Layout) -> Audience:
    """Load what all networks and estimators of a run share, checked against its receipt.

    Raises UserError where it has none, DamageError where it does not agree with it.
    """
    return read_audience(layout.audience, layout.receipts.hash_of(layout.audience, "train", "audience"))


def load_networks(config: Config, layout: Layout, audience: Audience) -> list[trained.Network]:
    """Load every network of a run, each checked against its receipt and the ``audience`` that it belongs to.

    Raises UserError where one has none, DamageError where it does not agree with it.
    """
    networks = []
    for network in every_network(config):
        path = layout.networks / f"{network.stem}.npz"
        loaded = trained.load(path, layout.receipts.hash_of(path, "train", network.stem))
        if loaded.audience != audience.identity:
            raise DamageError(path, "of another audience")
        networks.append(loaded)
    return networks


def load_predictor(config: Config, layout: Layout) -> Predictor:
    """Load the networks of a run, with the estimators beside them."""
    audience, budget = load_audience(layout), config.budget
    members = load_networks(config, layout, audience)
    audience = replace(audience, options=options(config))
    return Predictor(audience, members, budget.central, config.methods, budget.level, config.spectra.positive)


def write_history(config: Config, layout: Layout, made_from: str) -> None:
    """Write the training histories of all networks, and their figure."""
    from sdpipe.show import figures, picture

    audience = load_audience(layout)
    histories = trained.histories(load_networks(config, layout, audience), audience)
    written = store.write_dataset(layout.history, histories, store.attributes(made_from, config.seed))
    drawn = [picture.write(one, layout.figures) for one in figures.history_pictures(histories)]
    finish(layout, Piece("train", "history", made_from), [*written, *drawn])


# --- predict ---------------------------------------------------------------------------------------------------------


def predict_target(problem: Problem, root: Path, piece: Piece, target: Target) -> dict[str, Any]:
    """Write the predictions of every network for one target."""
    config, layout, name = problem.config, Layout(root), piece.name
    flags = [f"noise: {flag}" for flag in problem.noise.flags]
    data, facts, remedy = None, {}, ""
    if (correlator := target.correlator) is not None:
        facts = correlator.facts
        flags += correlator.flags
        data = Measured(correlator.mean, correlator.covariance, correlator.estimated_from, flags, facts)
        remedy = wording.remedy(str(root), name, config.targets[name].source.keys(), config.origin.trains)
    data = data or Measured(target.samples.mean(axis=0), flags=flags)
    scale = "auto" if target.scale is None else target.scale
    prediction = reconstruct(load_predictor(config, layout), target.samples, data, scale)
    prediction = prediction.assign_attrs(target=name, flags=wording.worded(prediction.attrs["flags"], remedy))
    prediction.correlator.attrs.update(facts)
    if correlator is not None and correlator.states is not None:
        prediction = restored(prediction, *correlator.states, config.observables)
    if target.truth is not None:
        words = {"units": config.observables.units, "long_name": "true smeared density"}
        prediction["truth"] = (("sigma", "E"), target.truth, words)
    attrs = store.attributes(piece.made_from, config.seed)
    finish(layout, piece, store.write_dataset(layout.predictions / name, prediction, attrs))
    return {"flags": prediction.attrs["flags"], "data": describe(facts) if facts else ""}


# --- validate --------------------------------------------------------------------------------------------------------


def validation_template(config: Config) -> store.Template:
    """Return coordinates and arrays of the store of predicted draws."""
    sources = ["latt", "net", *config.budget.references] if config.origin.networks else ["latt"]
    n_sigma, n_E, units = len(config.smearing.sigma), config.energies.count, config.observables.units
    coords = {
        "family": np.array(list(families(config)), object),
        "sample": np.arange(config.validation.samples),
        "source": np.array(sources, object),
        "scale_rule": np.array(list(config.priors), object),
        **_grid(config),
    }
    dims, chunks = ("family", "sample", "sigma", "E"), (1, VALIDATION_BLOCK, n_sigma, n_E)

    def per_energy(long_name: str) -> store.Variable:
        return store.Variable(dims, chunks, "float32", units, long_name)

    def per_sample(long_name: str) -> store.Variable:
        return store.Variable(dims[:2], chunks[:2], "float64", "1", long_name)

    variables = {
        "truth": per_energy("true smeared spectral density"),
        "central": per_energy("central value"),
        "error": store.Variable(
            ("family", "sample", "source", "sigma", "E"),
            (1, VALIDATION_BLOCK, len(sources), n_sigma, n_E),
            "float32",
            units,
            "error by source",
        ),
        "scale": per_sample("factor on the correlator before the networks see it"),
        "noise_scale": per_sample("noise scale C(t_ref) / C_latt(t_ref) of the correlator that they see"),
        "distance": per_sample("distance of C(t) from the prior: squared, of Mahalanobis, or -2 log evidence"),
        "spread": per_sample("standard deviation over networks, mean over sigma and E"),
        "goodness_of_fit": per_sample("p-value of the nearest correlator in the span of the kernel"),
    }
    if of_one_correlator(config):
        variables["unlike"] = per_sample("largest |log| of C(t) over C_latt(t), noise aside, at the same C(t_ref)")
    if config.estimators:
        coords["estimator"] = np.array(config.estimators, object)
        each = ("family", "sample", "estimator", "sigma", "E")
        shape = (1, VALIDATION_BLOCK, len(config.estimators), n_sigma, n_E)
        for name, words in (("central", "estimate of each estimator"), ("error", "its error")):
            variables[f"estimator_{name}"] = store.Variable(each, shape, "float32", units, words)
    if config.training.corrects or config.training.head == "scale" or not config.origin.networks:
        variables["beyond"] = per_energy("error of the source that is not the audience's")
    return store.Template(coords, variables)


def validate_block(problem: Problem, root: Path, piece: Piece, forks: int = 1) -> None:
    """Predict one block of draws with known truth, in ``forks`` processes, and write what the networks say."""
    config, block, layout = problem.config, piece.work, Layout(root)
    clean, truth = problem.draw(block.of, block.start, block.stop)
    generator = rng.generator(config.seed, "validation noise", block.of, block.start)
    normalise = block.of == config.priors["auto"]
    predictor = load_predictor(config, layout)
    references, boots, each = config.budget.references, config.validation.bootstrap, partial(forked, processes=forks)
    predicted = coverage.predict_draws(predictor, references, clean, boots, normalise, generator, each)
    if not of_one_correlator(config):
        del predicted["unlike"]
    finish(layout, piece, store.write_block(layout.draws, block.region, {"truth": truth, **predicted}))


def write_validation(problem: Problem, layout: Layout, piece: Piece) -> list[trust.Flag]:
    """Write ``validation.zarr`` from the predicted draws; return what is doubtful about it."""
    config = problem.config
    predictor, draws = load_predictor(config, layout), store.load(layout.draws)
    residuals = None
    if "beyond" not in draws or not (predictor.networks is None or predictor.networks.on_features):
        fresh = problem.draw(next(iter(config.priors.values())), 0, config.validation.samples, stream="resolution")
        residuals = predictor.residuals(*fresh)
    levels = sorted({*config.validation.levels, config.budget.level})
    measured = coverage.measure(draws, levels, config.budget.level, predictor.source, residuals, predictor.answered_by)
    measured.attrs["central"] = config.budget.central
    attrs = store.attributes(piece.made_from, config.seed)
    finish(layout, piece, store.write_dataset(layout.validation, measured, attrs))
    return trust.too_few(draws.sizes["sample"])
