"""Which networks train side by side: stacks of one architecture and training-set size, cut for the workers there are.

A stack is one task. How networks are put into stacks is noted when a training begins, and the note is kept until all of
them are done: last bits of a network depend on who is beside it, and a training that was interrupted is to go on to the
same bits, with whatever workers there are then.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from sdpipe.config.schema import Config
from sdpipe.disk.files import read_sealed, write_sealed
from sdpipe.disk.layout import Layout
from sdpipe.errors import DamageError
from sdpipe.pipeline.made_from import MadeFrom
from sdpipe.pipeline.pieces import NetworkId, every_network

COST = {"arcS": 1, "arcM": 2, "arcL": 4, "mlpXXS": 1, "mlpXS": 1, "mlpS": 1, "mlpM": 2, "mlpL": 5}
"""Time that a network takes, relative to the smallest."""

NetworkIds = tuple[NetworkId, ...]


@dataclass(frozen=True)
class StackPlan:
    """Networks that train side by side; those of ``wanted`` are kept.

    ``identities`` say what the networks of each ensemble are made from.
    """

    name: str
    networks: NetworkIds
    wanted: NetworkIds
    identities: Mapping[str, str]


def plan(identities: MadeFrom, layout: Layout, missing: Iterable[NetworkId], workers: int) -> list[StackPlan]:
    """Return the stacks that train the networks ``missing``, the costly ones first.

    Those that a training which has not ended was cut into are taken as they were, the other networks are cut anew for
    so many ``workers``. Of a stack that is partly done all networks train, and the missing ones are kept.
    """
    config, missing = identities.config, tuple(missing)
    by_stem = {network.stem: network for network in every_network(config)}
    noted = [tuple(by_stem[stem] for stem in stems if stem in by_stem) for stems in _read_note(layout)]
    begun = [stack for stack in noted if set(stack) & set(missing) and len({_kind(config, n) for n in stack}) == 1]
    new = cut(config, [n for n in missing if n not in {n for stack in begun for n in stack}], workers)
    stacks = sorted([*begun, *new], key=lambda stack: -sum(_cost(config, n) for n in stack))
    return [
        StackPlan(
            _name(config, stack),
            stack,
            tuple(n for n in missing if n in stack),
            {n.ensemble: identities.networks[n.ensemble] for n in stack},
        )
        for stack in stacks
    ]


def cut(config: Config, networks: Iterable[NetworkId], workers: int) -> list[NetworkIds]:
    """Return the networks as stacks of one architecture and size, which keep so many ``workers`` equally long at work.

    The networks are laid end to end, each as long as it costs, those of one kind together. What is laid is cut into as
    many equal lengths as there are workers, and a stack ends at each cut and where the kind changes: with one worker
    all networks of a kind are one stack. This is the wrap-around rule of R. McNaughton, Management Science 6 (1959) 1;
    a network is not cut itself, but goes where its middle lies.
    """
    laid = sorted(networks, key=lambda n: (-_cost(config, n), _kind(config, n)))
    total, end = sum(_cost(config, n) for n in laid), 0
    stacks: dict[tuple[str, int, int], list[NetworkId]] = {}
    for network in laid:
        begin, end = end, end + _cost(config, network)
        length = (begin + end) * workers // (2 * total)
        stacks.setdefault((*_kind(config, network), length), []).append(network)
    return [tuple(stack) for stack in stacks.values()]


def note(layout: Layout, plans: Iterable[StackPlan]) -> None:
    """Write down which networks train side by side, for :func:`plan` to go on from after an interruption."""
    stems = [[network.stem for network in plan.networks] for plan in plans]
    write_sealed(layout.stacks, json.dumps(stems).encode())


def _read_note(layout: Layout) -> list[list[str]]:
    """Return what :func:`note` wrote, or nothing where no training is under way or the note is damaged."""
    with suppress(FileNotFoundError, DamageError):
        return json.loads(read_sealed(layout.stacks))
    return []


def _kind(config: Config, network: NetworkId) -> tuple[str, int]:
    ensemble = config.ensembles[network.ensemble]
    return ensemble.network, ensemble.Nrho


def _cost(config: Config, network: NetworkId) -> int:
    architecture, Nrho = _kind(config, network)
    return COST[architecture] * Nrho


def _name(config: Config, stack: NetworkIds) -> str:
    """Return the name of a stack on the dashboard: its first network and how many more, as train-Nmax-0.44-r0+4."""
    label = stack[0].label(config)
    return f"{label}+{len(stack) - 1}" if len(stack) > 1 else label
