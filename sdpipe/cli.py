"""The command line: stages, overrides, exit codes; no physics."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import NoReturn

from sdpipe import __version__
from sdpipe.errors import RunError, UserError

HELP = {
    "generate": "draw mock spectral densities; write training.zarr",
    "train": "train the networks; write networks/ and history.zarr",
    "predict": "send every target through every network; write predictions.zarr",
    "analyze": "write the error budget and its figures; print its tables",
    "report": "write report.html",
    "run": "generate, train, predict, analyze and report in one go",
    "status": "print what is done, missing or stale",
}


class _Parser(argparse.ArgumentParser):
    """A parser whose faults are reported like all others: one line, exit status 2."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"command line: {message}; {self.prog} --help says what is allowed")


def _overview() -> argparse.ArgumentParser:
    width = max(map(len, HELP))
    parser = _Parser(
        prog="sdpipe",
        usage="sdpipe STAGE CONFIG [KEY=VALUE ...] [--run DIR] [--dry-run] [-q | -v]",
        description="Smeared spectral densities from lattice correlators, with a full error budget.\n\nstages:\n"
        + "\n".join(f"  {stage:{width}}  {text}" for stage, text in HELP.items()),
        epilog="Exit status: 0 done; 2 a fault that you can mend; 1 anything else; 130 interrupted.\n"
        "sdpipe STAGE --help says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sdpipe {__version__}")
    parser.add_argument("stage", metavar="STAGE", choices=HELP, help=argparse.SUPPRESS)
    return parser


def _stage_parser(stage: str) -> argparse.ArgumentParser:
    example = f"sdpipe {stage} runs/quickstart"
    if stage in ("generate", "run"):
        example = f"sdpipe {stage} configs/quickstart.yaml training.replicas=5 --run runs/mine"
    parser = _Parser(prog=f"sdpipe {stage}", description=HELP[stage], epilog=f"Example: {example}", allow_abbrev=False)
    parser.add_argument("config", metavar="CONFIG", type=Path, help="a YAML file, or a run directory")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="override a dotted key of the config")
    parser.add_argument("--run", metavar="DIR", type=Path, help="the run directory (default: runs/<name>)")
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
    from sdpipe import stages
    from sdpipe.configfile import load_config
    from sdpipe.console import Console
    from sdpipe.layout import Layout

    config = load_config(arguments.config, arguments.overrides)
    root = arguments.run or (arguments.config if arguments.config.is_dir() else Path("runs") / config.name)
    layout, console = Layout(root.absolute()), Console(arguments.level)
    if arguments.stage == "status":
        from sdpipe.status import running_rows, status_rows
        from sdpipe.tables import table

        layout.require()
        stages.check_inputs(config, layout, ["run"])
        print(table(*status_rows(config, layout)))
        header, rows = running_rows(layout)
        if rows:
            print("\n" + table(header, rows))
        return
    names = list(stages.STAGES) if arguments.stage == "run" else [arguments.stage]
    if arguments.dry_run:
        from sdpipe.plan import plan

        stages.check_inputs(config, layout, names)
        print("\n\n".join([plan(config, layout, names), *stages.check_pools(config, layout, names)]))
        return
    run = stages.prepare(config, layout.root, console, names)
    worked = [name for name in names if stages.STAGES[name](run)]
    for name in names:
        if name not in worked:
            console.detail(f"{name}: nothing to do")
    if not worked:
        console.say(f"{layout.root}: everything is done; nothing to do")
    if "analyze" in worked or names == ["analyze"]:
        from sdpipe import store
        from sdpipe.tables import budget_table

        print("\n\n".join(budget_table(t, store.read(layout.budget / t).load()) for t in config.targets))


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    argv = sys.argv[1:] if argv is None else argv
    try:
        _execute(_arguments(argv))
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
