"""What is typed on the command line, done: overrides, stages, what is printed; no physics."""

from __future__ import annotations

import argparse
import os
import shlex
import sysconfig
from importlib import resources
from pathlib import Path

from sdpipe.config.load import read_config
from sdpipe.config.schema import Config
from sdpipe.disk import lock
from sdpipe.disk.layout import Layout
from sdpipe.errors import ConfigError, UserError
from sdpipe.pipeline import ownership, session, stages
from sdpipe.pipeline.stages import STAGES
from sdpipe.pipeline.state import State, verify
from sdpipe.show.console import listen, log, say

MEND = "no density explains these data: see to kernel, period, first slice, errors and resampling, then check again"


def perform(arguments: argparse.Namespace) -> None:
    """Do what was typed; raises what :func:`sdpipe.__main__.main` makes exit statuses of."""
    if arguments.stage == "versions":
        from sdpipe.show import versions

        say(versions.text())
        return
    if arguments.stage in ("new", "docs"):
        _docs() if arguments.stage == "docs" else _new(arguments.config)
        return
    if arguments.stage == "reconstruct" or (arguments.stage == "check" and not _is_config(arguments.config)):
        _from_file(arguments)
        return
    if arguments.config.is_dir():
        try:
            config, origin = ownership.own_config(Layout(arguments.config), arguments.overrides)
        except OSError as error:
            raise lock.failure(arguments.config.absolute(), error) from error
    else:
        config, origin = read_config(arguments.config, arguments.overrides)
    try:
        _work(arguments, config)
    except ConfigError as error:
        raise UserError(*origin.describe(error.places)) from None


def _is_run(path: Path) -> bool:
    """Return whether it is a directory that a config is read from; a .zarr store is data."""
    return path.is_dir() and path.suffix != ".zarr"


def _is_config(path: Path) -> bool:
    return _is_run(path) or path.suffix in (".yaml", ".yml")


def _from_file(arguments: argparse.Namespace) -> None:
    """Say what a correlator file holds or, for ``reconstruct``, make a config of it and run that, too."""
    from sdpipe.config.load import config_of
    from sdpipe.problem.suggest import suggest
    from sdpipe.show import survey_text

    suggestion = suggest(arguments.config, arguments.overrides)
    config = config_of(suggestion.config, str(arguments.config))
    tested = survey_text.Tested.from_correlator(suggestion.survey.kernel, suggestion.used)
    if arguments.stage == "check":
        text = survey_text.text(suggestion.survey, tested, suggestion.why)
        following = _typed(arguments, "reconstruct") if tested.explained else MEND
        say(f"{text}\n\n{survey_text.keys(suggestion.config)}\n\nnext: {following}")
        return
    listen(arguments.level)
    whole = survey_text.text if arguments.level > 0 else survey_text.short
    for line in whole(suggestion.survey, tested, suggestion.why).splitlines():
        log.info(line)
    _work(arguments, config)


def _surveys(state: State) -> str:
    """Say what every correlator of a config is."""
    from sdpipe.correlators.survey import Survey
    from sdpipe.show import survey_text

    config = state.config
    kernel, E0 = config.kernel_function, config.spectra.E0
    surveyed = [(Survey.from_correlator(c, kernel), c) for c in state.inputs.correlators()]
    return "\n\n".join(
        survey_text.text(s, survey_text.Tested.from_correlator(kernel, c), s.doubts(E0)) for s, c in surveyed
    )


def _new(path: Path) -> None:
    """Write the template of a config, which is there in a wheel, too, to a new file."""
    template = resources.files("sdpipe.config").joinpath("template.yaml").read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(template)
    except FileExistsError:
        raise UserError(f"{path}: there already; choose another name") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    say(f"{path}: edit the lines marked <-, then: {shlex.join(['sdpipe', 'run', str(path), '--dry-run'])}")


def _docs() -> None:
    """Say where the pages are: in the checkout, as a site where that was built, or where a wheel has put them."""
    root, installed = Path(__file__).resolve().parents[1], Path("share", "doc", "sdpipe", "index.md")
    here = [root / "site" / "index.html", root / "docs" / "index.md"] if (root / "pyproject.toml").exists() else []
    places = [*here, root / installed, Path(sysconfig.get_path("data")) / installed]
    readable = next((path for path in places if path.exists()), None)
    if readable is None:
        raise UserError(f"the documentation was not installed; looked for: {', '.join(map(str, places))}")
    say(f"documentation: {readable}\nsdpipe COMMAND --help says more of a command")


def _work(arguments: argparse.Namespace, config: Config) -> None:
    """Run one command on a config, in its run directory."""
    default = arguments.config if _is_run(arguments.config) else Path("runs") / config.name
    root = getattr(arguments, "run", None) or default
    if root.suffix == ".zarr":
        raise UserError(f"{root}: a run directory must not end in .zarr, as its stores do; choose another name")
    state = State(config, Layout(root.absolute()))
    try:
        _perform(arguments, state)
    except OSError as error:
        if error.filename and Path(os.fsdecode(error.filename)).is_relative_to(state.layout.root):
            raise lock.failure(state.layout.root, error) from error
        raise


def _perform(arguments: argparse.Namespace, state: State) -> None:
    layout, command = state.layout, arguments.stage
    if command == "check":
        survey = _surveys(state) or "neither noise nor any target is a correlator"
        say(f"{survey}\n\nnext: {_typed(arguments, 'run')} --dry-run")
        return
    listen(arguments.level)
    if command == "status":
        _status(arguments, state)
        return
    names = stages.wanted(state.config) if command in ("run", "reconstruct") else [command]
    if arguments.dry_run:
        scripts = session.check(state, names)
        surveys = _surveys(state)
        following = f"next: {_typed(arguments, command)}"
        say("\n\n".join([stages.plan(state, names), *([surveys] if surveys else []), *scripts, following]))
        return
    worked = session.perform(state, names, arguments.take_over)
    if printed := _tables(state.config, layout, {*worked, command}, whole=arguments.level > 0):
        say(printed)
    if command in ("run", "reconstruct", "report"):
        log.info(f"report: {layout.report}")
    elif command in ("generate", "train", "predict", "validate", "analyze") and (
        following := _next(arguments, stages.survey(state))
    ):
        log.info(f"next: {following}")


def _tables(config: Config, layout: Layout, names: set[str], whole: bool) -> str:
    """Return the tables of those stages that have any: the answer, or the ``whole`` of it."""
    if not names & {"validate", "analyze"}:
        return ""
    from sdpipe.disk import store
    from sdpipe.show import tables

    parts = []
    if "validate" in names:
        validated = tables.validation_table if whole else tables.verdict_table
        parts.append(validated(store.load(layout.validation)))
    if "analyze" in names:
        answer = tables.budget_table if whole else tables.answer_table
        parts += [answer(name, store.load(layout.budget / name)) for name in config.targets]
    return "\n\n".join(parts)


def _next(arguments: argparse.Namespace, survey: list[stages.StageProgress]) -> str | None:
    """Return the command that does what is left."""
    stage = stages.next_stage(survey)
    return _typed(arguments, stage) if stage else None


def _typed(arguments: argparse.Namespace, command: str) -> str:
    """Return another command with the same file or config, overrides and run directory."""
    run = ["--run", str(arguments.run)] if getattr(arguments, "run", None) else []
    return shlex.join(["sdpipe", command, str(arguments.config), *arguments.overrides, *run])


def _status(arguments: argparse.Namespace, state: State) -> None:
    """Print how far each stage is. With ``--verify``, what is damaged does not count as done from now on.

    Raises UserError, after printing, where a file is damaged.
    """
    from sdpipe.show import run_status

    layout = state.layout
    layout.require()
    ownership.check_owner(layout, state.config)
    damaged = None
    if arguments.verify:
        layout.refuse_links()
        driver = lock.holder(layout.driver)
        every = [piece for stage in STAGES.values() for piece in stage.pieces(state.identities)]
        damaged = verify(layout, every, forget=driver is None or not driver.may_live())
    survey = stages.survey(state)
    following, training = _next(arguments, survey), layout.in_training()
    if arguments.json:
        say(run_status.status_json(state.config.name, str(layout.root), survey, training, following, damaged))
    else:
        parts = [run_status.status_text(survey, training)]
        if keys := ownership.edited(layout):
            back = f"its copy is {layout.config_copy}; to put that back, run: {layout.go_on}"
            parts.append(f"{layout.config} was edited: {'; '.join(keys)}; {back}")
        if damaged == []:
            parts.append("verified: every file of what is done is as it was written")
        if arguments.level > 0 and (others := [layout.relative(path) for path in layout.foreign()]):
            parts.append(f"not of sdpipe, left alone: {', '.join(others)}")
        say("\n\n".join([*parts, *([f"next: {following}"] if following else [])]))
    if damaged:
        raise UserError(*(f"{error.file}: {error.what}" for error in damaged), f"run: sdpipe run {layout.root}")
