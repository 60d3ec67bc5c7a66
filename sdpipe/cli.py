"""The command line: what can be typed, and what help says of it. What is typed is done by :mod:`sdpipe.command`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from sdpipe.errors import UserError
from sdpipe.pipeline.spoken import SAYS
from sdpipe.version import __version__

WHAT_FILE_IS = (
    "FILE holds a correlator (docs/correlators.md). KEY is that of a config, such as kernel, lattice.period or\n"
    "smearing.sigma, or of a correlator section, such as dataset, resampling or error; what is left out follows from\n"
    "the data."
)
WHAT_CONFIG_IS = "CONFIG is a YAML file, or the directory of a run, whose own config is then taken."


class _Parser(argparse.ArgumentParser):
    """A parser whose faults are reported like all others: one line, exit status 2."""

    def error(self, message: str) -> NoReturn:
        message = message.replace("CONFIG, KEY=VALUE", "CONFIG")  # argparse counts optional positionals as required
        raise UserError(f"command line: {message}; {self.prog} --help says what is allowed")


def _overview() -> argparse.ArgumentParser:
    width = max(map(len, SAYS))
    parser = _Parser(
        prog="sdpipe",
        usage="sdpipe STAGE CONFIG [KEY=VALUE ...] [--run DIR] [--dry-run] [-q | -v]",
        description="Smeared spectral densities from lattice correlators, with a full error budget.\n\nstages:\n"
        + "\n".join(f"  {name:{width}}  {text}" for name, (text, _) in SAYS.items())
        + f"\n\n{WHAT_CONFIG_IS}",
        epilog="Exit status: 0 done; 2 a fault that you can mend; 1 anything else; 130 interrupted.\n"
        "sdpipe STAGE --help says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words = "print the version; with --verbose those of all packages, threads and BLAS, for a bug report"
    parser.add_argument("--version", action="version", version=f"sdpipe {__version__}", help=words)
    parser.add_argument("stage", metavar="STAGE", choices=SAYS, help=argparse.SUPPRESS)
    return parser


def parser_of(stage: str) -> argparse.ArgumentParser:
    """Return the parser of one command; docs/commands.py writes a page of them all."""
    says, example = SAYS[stage]
    parser = _Parser(
        prog=f"sdpipe {stage}",
        description=f"{says}\n\n{WHAT_CONFIG_IS}",
        epilog=f"Example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(stage=stage)
    if stage == "docs":
        parser.description = says
        return parser
    if stage == "new":
        parser.description = says
        parser.add_argument("config", metavar="FILE", type=Path, help="the file to write, such as my.yaml")
        return parser
    what, words = {
        "reconstruct": ("FILE", "a correlator"),
        "check": ("FILE", "a correlator, a YAML file, or a run directory"),
    }.get(stage, ("CONFIG", "a YAML file, or a run directory"))
    if what == "FILE":
        parser.description = f"{says}\n\n{WHAT_FILE_IS}"
    parser.add_argument("config", metavar=what, type=Path, help=words)
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="override a dotted key of the config")
    if stage == "check":
        return parser
    parser.add_argument("--run", metavar="DIR", type=Path, help="the run directory (default: runs/<name>)")
    if stage == "status":
        parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
        parser.add_argument(
            "--verify",
            action="store_true",
            help="read every byte of what is done; what is damaged no longer counts as done",
        )
    else:
        parser.add_argument("--take-over", action="store_true", help="go on in place of a driver that died elsewhere")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument(
        "-q", "--quiet", dest="level", action="store_const", const=-1, default=0, help="say warnings and faults only"
    )
    volume.add_argument(
        "-v", "--verbose", dest="level", action="store_const", const=1, help="print whole tables, and say more"
    )
    return parser


def _arguments(argv: list[str]) -> argparse.Namespace:
    if not argv or argv[0] not in SAYS:
        _overview().parse_args(argv)
    return parser_of(argv[0]).parse_intermixed_args(argv[1:])


def execute(argv: list[str]) -> None:
    """Run one command; raises what :func:`sdpipe.__main__.main` makes exit statuses of."""
    if sorted(argv) in (["--verbose", "--version"], ["--version", "-v"]):
        arguments = argparse.Namespace(stage="versions")
    else:
        arguments = _arguments(argv)
    from sdpipe.command import perform  # what it imports takes much longer than help

    perform(arguments)
