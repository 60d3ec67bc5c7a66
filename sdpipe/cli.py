"""The command line: stages, overrides, exit codes; no physics."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from sdpipe import __version__
from sdpipe.errors import ConfigError, DamageError, RunError, UserError

if TYPE_CHECKING:
    from sdpipe.config.schema import Config
    from sdpipe.disk.layout import Layout
    from sdpipe.pipeline.status import Stage

HELP = {
    "generate": "draw mock spectral densities; write training.zarr",
    "train": "train the networks; write networks/ and history.zarr",
    "predict": "send every target through every network; write predictions.zarr",
    "validate": "test the error bars on draws with known truth; write validation.zarr and its figures",
    "analyze": "write the error budget and its figures; print its tables",
    "report": "write report.html",
    "run": "generate, train, predict, validate, analyze and report in one go",
    "status": "print what is done, missing or stale",
}

EXAMPLES = {
    "generate": "sdpipe generate configs/quickstart.yaml spectra.Nrho=50000 --run runs/mine",
    "train": "sdpipe train runs/mine training.replicas=5 -v",
    "predict": "sdpipe predict runs/mine targets.other.kind=correlator targets.other.path=other.h5",
    "validate": "sdpipe validate runs/mine validation.samples=4000",
    "analyze": "sdpipe analyze runs/mine > tables.txt",
    "report": "sdpipe report runs/mine",
    "run": "sdpipe run configs/quickstart.yaml cluster.cpu=slurm-cpu --run runs/mine --dry-run",
    "status": "sdpipe status runs/mine --json",
}

WHAT_CONFIG_IS = "CONFIG is a YAML file, or the directory of a run, whose own config is then taken."


class _Parser(argparse.ArgumentParser):
    """A parser whose faults are reported like all others: one line, exit status 2."""

    def error(self, message: str) -> NoReturn:
        message = message.replace("CONFIG, KEY=VALUE", "CONFIG")  # argparse counts optional positionals as required
        raise UserError(f"command line: {message}; {self.prog} --help says what is allowed")


def _overview() -> argparse.ArgumentParser:
    width = max(map(len, HELP))
    parser = _Parser(
        prog="sdpipe",
        usage="sdpipe STAGE CONFIG [KEY=VALUE ...] [--run DIR] [--dry-run] [-q | -v]",
        description="Smeared spectral densities from lattice correlators, with a full error budget.\n\nstages:\n"
        + "\n".join(f"  {stage:{width}}  {text}" for stage, text in HELP.items())
        + f"\n\n{WHAT_CONFIG_IS}",
        epilog="Exit status: 0 done; 2 a fault that you can mend; 1 anything else; 130 interrupted.\n"
        "sdpipe STAGE --help says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sdpipe {__version__}")
    parser.add_argument("stage", metavar="STAGE", choices=HELP, help=argparse.SUPPRESS)
    return parser


def _stage_parser(stage: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"sdpipe {stage}",
        description=f"{HELP[stage]}\n\n{WHAT_CONFIG_IS}",
        epilog=f"Example: {EXAMPLES[stage]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="a YAML file, or a run directory")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="override a dotted key of the config")
    parser.add_argument("--run", metavar="DIR", type=Path, help="the run directory (default: runs/<name>)")
    if stage == "status":
        parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
        parser.add_argument("--verify", action="store_true", help="read all chunks, metadata and checkpoints")
    else:
        parser.add_argument("--take-over", action="store_true", help="go on in place of a driver that died elsewhere")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("-q", "--quiet", dest="level", action="store_const", const=-1, default=0)
    volume.add_argument("-v", "--verbose", dest="level", action="store_const", const=1)
    parser.set_defaults(stage=stage)
    return parser


def _arguments(argv: list[str]) -> argparse.Namespace:
    if not argv or argv[0] not in HELP:
        _overview().parse_args(argv)
    return _stage_parser(argv[0]).parse_intermixed_args(argv[1:])


def _execute(arguments: argparse.Namespace) -> None:
    from sdpipe.config.load import read_config

    config, origin = read_config(arguments.config, arguments.overrides)
    try:
        _work(arguments, config)
    except ConfigError as error:
        raise UserError(*origin.describe(error.places)) from None


def _work(arguments: argparse.Namespace, config: Config) -> None:
    from sdpipe.disk import lock

    root = arguments.run or (arguments.config if arguments.config.is_dir() else Path("runs") / config.name)
    root = root.absolute()
    if root.suffix == ".zarr":
        raise UserError(f"{root}: a run directory must not end in .zarr, as its stores do; choose another name")
    try:
        _work_in(root, arguments, config)
    except OSError as error:
        if error.filename and Path(os.fsdecode(error.filename)).is_relative_to(root):
            raise lock.failure(root, error) from error
        raise


def _work_in(root: Path, arguments: argparse.Namespace, config: Config) -> None:
    from sdpipe.disk.layout import Layout
    from sdpipe.pipeline import session, stages
    from sdpipe.show.console import Console

    layout, console = Layout(root), Console(arguments.level)
    if arguments.stage == "status":
        layout.require()
        session.check_inputs(config, layout, ["run"])
        damaged = _verified(config, layout) if arguments.verify else None
        print(_status(arguments, config, layout, damaged))
        if damaged:
            raise UserError(*(f"{error.file}: {error.what}" for error in damaged), f"run: sdpipe run {layout.root}")
        return
    names = stages.in_one_go(config) if arguments.stage == "run" else [arguments.stage]
    if arguments.dry_run:
        from sdpipe.pipeline.plan import plan

        scripts = session.check(config, layout, names)
        print("\n\n".join([plan(config, layout, names), *scripts]))
        return
    with session.opened(config, layout.root, console, names, arguments.take_over) as run:
        worked = [name for name in names if stages.perform(name, run)]
        for name in names:
            if name not in worked:
                console.detail(f"{name}: nothing to do")
        if not worked:
            console.say(f"{layout.root}: everything is done; nothing to do")
        tables = _tables(config, layout, {*worked, arguments.stage})
    if tables:
        print(tables, flush=True)
    if arguments.stage == "run":
        console.say(f"report: {layout.report}")
    elif arguments.stage in ("predict", "validate", "analyze"):
        from sdpipe.pipeline import status

        if command := _next(arguments, status.survey(config, layout)):
            console.say(f"next: {command}")


def _tables(config: Config, layout: Layout, stages: set[str]) -> str:
    """Return the tables of those of ``stages`` that have any."""
    from sdpipe.disk import store
    from sdpipe.show import tables

    parts = []
    if "validate" in stages:
        parts.append(tables.validation_table(store.load(layout.validation)))
    if "analyze" in stages:
        parts += [tables.budget_table(name, store.load(layout.budget / name)) for name in config.targets]
    return "\n\n".join(parts)


def _verified(config: Config, layout: Layout) -> list[DamageError]:
    """Return all damage. Where no driver is at work, what is damaged does not count as done from now on."""
    from sdpipe.disk import lock
    from sdpipe.pipeline import verify

    found = [e for e in verify.damage(layout) if not verify.unfinished(config, layout, e.file)]
    if not any(driver.may_live() for driver in lock.drivers(layout.drivers)):
        with suppress(OSError):  # a run that cannot be written can be verified all the same
            for error in found:
                verify.forget(config, layout, error.file)
    return found


def _next(arguments: argparse.Namespace, stages: list[Stage]) -> str | None:
    """Return the command that does what is left."""
    from sdpipe.pipeline import status

    stage = status.next_stage(stages)
    run = ["--run", str(arguments.run)] if arguments.run else []
    return shlex.join(["sdpipe", stage, str(arguments.config), *arguments.overrides, *run]) if stage else None


def _status(arguments: argparse.Namespace, config: Config, layout: Layout, damaged: list[DamageError] | None) -> str:
    """Return what ``sdpipe status`` prints: ``damaged`` is None where the bytes were not read."""
    from sdpipe.pipeline import status

    found = status.survey(config, layout)
    command = _next(arguments, found)
    if arguments.json:
        return status.as_json(config, layout, found, command, damaged)
    parts = [status.text(found, status.in_training(layout))]
    if damaged == []:
        parts.append("verified: every chunk, all metadata and every checkpoint of what is done are as written")
    if command:
        parts.append(f"next: {command}")
    return "\n\n".join(parts)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    argv = sys.argv[1:] if argv is None else argv
    try:
        _execute(_arguments(argv))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read stdout has read enough, as in: sdpipe status RUN | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except UserError as error:
        for fault in error.faults:
            print(f"error: {fault}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what is finished is safe; the same command goes on from there", file=sys.stderr)
        return 130
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        if {"-v", "--verbose"} & set(argv):
            raise
        reason = str(error).splitlines()[0] if str(error) else ""
        print(f"error: {type(error).__name__}: {reason} (-v shows where)", file=sys.stderr)
        return 1
    return 0


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
