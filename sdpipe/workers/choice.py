"""Which workers each stage runs on: processes of this machine, or a pool of Slurm jobs."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from sdpipe.config.schema import Config
from sdpipe.disk.layout import Layout
from sdpipe.errors import ConfigError

if TYPE_CHECKING:
    from sdpipe.workers.pools import LocalMachine, Pool


def pools(config: Config) -> dict[str, str]:
    """Return the pool that each stage with workers uses: local, or a section of jobqueue.yaml."""
    return dict.fromkeys(("generate", "predict", "validate"), config.cluster.cpu) | {"train": config.cluster.gpu}


def wide_stacks(config: Config) -> bool:
    """Return whether all networks of one architecture and training-set size train as one stack.

    Left to itself: where one GPU trains them all. Several workers are kept busy by smaller stacks.
    """
    training = config.training
    if training.stack != "auto":
        return training.stack == "architecture"
    if training.device == "cpu" or training.replicas_per_task:
        return False
    if config.cluster.gpu != "local":
        return config.cluster.jobs == 1
    from sdpipe.learn.training import device_for

    return device_for(training.device).type == "cuda"


class Workers(ExitStack):
    """The workers of one command, until it ends."""

    def __init__(self, config: Config, layout: Layout, say: Callable[[str], None]) -> None:
        super().__init__()
        self._config, self._layout, self._say = config, layout, say
        self._local: LocalMachine | None = None

    @contextmanager
    def pool(self, stage: str, tasks: int) -> Iterator[Pool]:
        """Start the pool of a stage, never more workers than tasks."""
        section, log = pools(self._config)[stage], self._layout.logs / f"dask-{stage}.html"
        if section == "local":
            with self._machine().pool(tasks, log) as pool:
                yield pool
            return
        from sdpipe.workers import slurm

        gpu, key = stage == "train", "gpu" if stage == "train" else "cpu"
        settings, tls = slurm.read_section(section, key, gpu, self._layout.logs), self._layout.state("tls")
        with slurm.slurm_pool(settings, tasks, self._config.cluster.jobs, gpu, tls, log, self._say) as pool:
            yield pool

    def _machine(self) -> LocalMachine:
        from sdpipe.workers import pools

        if self._local is None:
            self._local = self.enter_context(pools.LocalMachine(self._say))
        return self._local


def check_device(config: Config) -> None:
    """Raise ConfigError where networks are to be trained on a GPU of this machine, and it has none."""
    if config.training.device != "cuda" or config.cluster.gpu != "local":
        return
    import torch

    if not torch.cuda.is_available():
        fault = f"no CUDA GPU on this machine ({socket.gethostname()}); allowed here: auto, cpu"
        raise ConfigError((("training", "device"), fault))


def check_pools(config: Config, layout: Layout, stages: list[str]) -> list[str]:
    """Let Slurm check the job scripts of the pools that ``stages`` use; return them.

    Raises UserError with Slurm's own words where it refuses one.
    """
    scripts: dict[str, str] = {}
    for stage in stages:
        section = pools(config).get(stage, "local")
        if section == "local" or section in scripts:
            continue
        from sdpipe.workers import slurm

        key = "gpu" if stage == "train" else "cpu"
        settings = slurm.read_section(section, key, stage == "train", layout.logs)
        slurm.preflight(settings, key)
        scripts[section] = slurm.job_script(settings)
    return list(scripts.values())
