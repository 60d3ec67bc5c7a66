"""Write docs/commands.md from the parsers of the command line: python docs/commands.py"""

from __future__ import annotations

import argparse
from pathlib import Path

from sdpipe.cli import SAYS, parser_of

FILE = Path(__file__).with_suffix(".md")

HEAD = """\
# Command line

```console
$ sdpipe COMMAND CONFIG [KEY=VALUE ...] [options]
```

`python -m sdpipe` is the same as `sdpipe`. CONFIG is a YAML file, or the directory of a run, whose own config is then
taken. `KEY=VALUE` overrides a [key of the config](configuration.md) by its dotted path; VALUE is read as YAML. Every
stage does only what is not done yet. [What to type](tasks.md) lists commands by task.

Results go to stdout, everything else to stderr. The exit status is 0 where all is done, 2 for a fault that you can mend
([faults](faq.md)), 130 after Ctrl-C, and 1 for anything else.

This page is made from the parsers by `python docs/commands.py`.
"""

ORDER = ("check", "reconstruct", "new", "run", "status")
"""Commands that stand before the stages."""


def _name(action: argparse.Action) -> str:
    """Return an argument as one types it."""
    value = f" {action.metavar}" if action.metavar and action.option_strings else ""
    return ", ".join(f"{option}{value}" for option in action.option_strings) or str(action.metavar)


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}.".replace("<", r"\<")


def _section(command: str) -> list[str]:
    """Return the section of one command: what it does, its arguments, an example."""
    says, example = SAYS[command]
    rows = [a for a in parser_of(command)._actions if not isinstance(a, argparse._HelpAction)]
    table = [f"| `{_name(a)}` | {_sentence(a.help)} |" for a in rows]
    block = ["```console", f"$ {example}", "```"]
    head = ["", "| argument | |", "|---|---|"] if table else []
    return [f"## {command}", "", _sentence(says), "", *block, *head, *table]


def reference() -> str:
    """Return the page."""
    names = [*ORDER, *(name for name in SAYS if name not in ORDER)]
    return HEAD + "\n" + "\n\n".join("\n".join(_section(name)) for name in names) + "\n"


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
