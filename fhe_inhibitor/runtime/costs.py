"""What a stage, and a session, cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from circuits.blocks import plain_name


@dataclass(frozen=True)
class StageCost:
    """Time of a stage, and its lookups by bit width."""

    name: str
    seconds: float
    lookups: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SessionCost:
    """What a session cost beyond its texts.

    setup: making circuits and keys, or loading them. evaluation_keys_bytes: as sent, once.
    peak_memory_bytes: of the process, client and server together. lookup_s: seconds of one lookup
    by bit width, if that was measured.
    """

    setup: tuple[StageCost, ...]
    evaluation_keys_bytes: int
    peak_memory_bytes: int
    lookup_s: Mapping[int, float] = field(default_factory=dict)


def stage_name(task_stage: str) -> str:
    """Return the stage that a task is part of: heads and blocks of rows of one layer count
    together, and so do the pieces of a document.

    >>> stage_name("layer0.attend.head1.rows2"), stage_name("piece 2/9: score")
    ('layer0.attend', 'score')
    """
    stage = task_stage.rpartition(": ")[2]
    return plain_name(stage.partition(".head")[0])


def total(name: str, costs: Iterable[StageCost]) -> StageCost:
    """Return the sum of costs under a name."""
    listed = list(costs)
    lookups = sum((Counter(cost.lookups) for cost in listed), Counter[int]())
    return StageCost(name, sum(cost.seconds for cost in listed), dict(sorted(lookups.items())))


def total_by_name(costs: Iterable[StageCost]) -> tuple[StageCost, ...]:
    """Return the sums of costs of the same name, in order of first appearance."""
    by_name: dict[str, list[StageCost]] = {}
    for cost in costs:
        by_name.setdefault(cost.name, []).append(cost)
    return tuple(total(name, listed) for name, listed in by_name.items())


def predict_seconds(lookups: Mapping[int, int], lookup_s: Mapping[int, float]) -> float:
    """Return lookups by width times the time of one.

    >>> predict_seconds({3: 100, 5: 10}, {3: 0.25, 5: 0.5})
    30.0
    """
    return sum(count * lookup_s[width] for width, count in lookups.items())
