"""Where the time of ``sdpipe run configs/quickstart.yaml`` goes: seconds of each stage, and its parts.

Each stage is a command of its own here, so that each imports what it needs and starts its pool anew. Parts are shares
of a block of ``generate`` and of ``validate``, of a target of ``analyze`` and of the page, done again in this process,
by the profiler of Python.
"""

from __future__ import annotations

import cProfile
import pstats
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.commands import run_stage
from benchmarks.table import Row
from sdpipe.config.load import load_config
from sdpipe.disk.layout import Layout
from sdpipe.pipeline.made_from import MadeFrom
from sdpipe.pipeline.pieces import of_budgets, of_report, of_training, of_validation
from sdpipe.pipeline.results import analyze_target, write_report
from sdpipe.pipeline.tasks import generate_block, validate_block
from sdpipe.problem.inputs import Inputs

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.yaml"

STAGES = ("generate", "train", "predict", "validate", "analyze", "report")

PARTS = {
    "generate": (("samples.py", "generate"), ("positive.py", "for_priors"), ("posterior.py", "__call__")),
    "validate": (("networks.py", "of_inputs"), ("positive.py", "for_priors"), ("posterior.py", "__call__")),
    "analyze": (("forks.py", "forked"), ("store.py", "load"), ("store.py", "write_dataset")),
    "report": (("results.py", "pictures_of_run"), ("page.py", "compose")),
}
"""File and name of functions none of which calls another one of them."""


def shares(stage: str, do: Callable[[], object]) -> str:
    """Return the shares of the parts of a stage in the time of what ``do`` does, once it has been done before."""
    do()
    profile = cProfile.Profile()
    profile.runcall(do)
    stats = pstats.Stats(profile)
    of = {(Path(file).name, name): cumulative for (file, _, name), (_, _, _, cumulative, _) in stats.stats.items()}
    return ", ".join(f"{file[:-3]}.{name} {of[file, name] / stats.total_tt:.0%}" for file, name in PARTS[stage])


def processor() -> float:
    """Return the processor seconds of all processes that this one has waited for, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(root: Path) -> list[Row]:
    """Run the quickstart stage by stage from an empty directory."""
    layout = Layout(root / "stages")
    shutil.rmtree(layout.root, ignore_errors=True)
    wall, used = {}, {}
    for stage in STAGES:
        before = processor()
        wall[stage] = run_stage(stage, QUICKSTART, layout)
        used[stage] = processor() - before
    config = load_config(layout.root)
    inputs = Inputs(config)
    made, problem = MadeFrom(inputs, layout), inputs.problem
    block, draws = (next(p for p in pieces(made) if p.work) for pieces in (of_training, of_validation))
    budget, page = (pieces(made)[-1] for pieces in (of_budgets, of_report))
    notes = {
        "generate": shares("generate", lambda: generate_block(problem, layout.root, block)),
        "validate": shares("validate", lambda: validate_block(problem, layout.root, draws)),
        "analyze": shares("analyze", lambda: analyze_target(config, layout.root, budget)),
        "report": shares("report", lambda: write_report(config, layout, [page], [])),
    }
    return [
        Row(f"quickstart: {stage}", wall[stage], "s",
            note=f"{used[stage]:.0f} s of processor time{'; ' * (stage in notes)}{notes.get(stage, '')}")
        for stage in STAGES
    ]  # fmt: skip
