"""The table of one-layer transformers: both mechanisms over seeds, and the paper's row beside."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from fhe_inhibitor.experiments.small_tasks import TASKS, SmallTask
from fhe_inhibitor.system.pages import markdown_table
from fhe_inhibitor.system.statistics import Mean, equal_means, mean

MECHANISMS = {"dot_product": "dot product", "inhibitor": "inhibitor"}
LEVEL = 0.05
TEST = (
    "Mean over seeds with Student's interval of 95%, of initial weights and the order of examples; "
    "data and split stay the same. p: Welch's t-test of the two means, by scipy; how the paper "
    "tested its differences isn't known here."
)


def describe_one_layer(results: Sequence[dict[str, Any]]) -> str:
    """Return the table and what it says, of the results of `small.run_one_layer`."""
    values: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    sources: dict[str, str] = {}
    for result in results:
        for row in result["rows"]:
            kind = row["settings"]["attention_kind"]
            values[row["task"]][kind][row["seed"]] = row["value"]
            sources[row["task"]] = (
                f"{result['source']}; {result['n_train']:,} to train on, {result['n_test']:,} to "
                "measure on"
            )
    rows, differing = [], []
    for name in (name for name in TASKS if name in values):
        task = TASKS[name]
        write = _writer(task)
        of_kind = {kind: list(values[name][kind].values()) for kind in MECHANISMS}
        ours = [_cell(mean(found), write) if found else "" for found in of_kind.values()]
        p = equal_means(*of_kind.values())
        if p < LEVEL:
            differing.append(f"{name} ({_better(task, of_kind)} is better)")
        rows.append(
            [
                _title(task), sources[name], f"{task.metric}{', less is better' * task.lower}",
                *ours, "" if math.isnan(p) else f"{p:.2g}", *task.paper,
            ]
        )  # fmt: skip
    head = (
        "task", "examples", "measured", *MECHANISMS.values(), "p",
        *(f"paper, {title}" for title in MECHANISMS.values()),
    )  # fmt: skip
    verdict = f"Different at {LEVEL:.0%}: {', '.join(differing) or 'none'}."
    return "\n".join([TEST, "", *markdown_table(head, rows), "", verdict])


def _title(task: SmallTask) -> str:
    """Return the paper's task, or what stands for it here."""
    own = task.stands_for.lower().startswith(task.name)
    return task.stands_for if own else f"{task.name}, in the place of {task.stands_for}"


def _writer(task: SmallTask) -> Callable[[float], str]:
    """Return how a value of the task is written, in the paper's unit."""
    if task.metric == "edit distance":
        return lambda value: f"{value:.2f}"
    digits = 3 if task.lower else 1
    return lambda value: f"{100 * value:.{digits}f}%"


def _cell(found: Mean, write: Callable[[float], str]) -> str:
    if found.low is None or found.high is None:
        return f"{write(found.value)} (1 seed)"
    return f"{write(found.value)} ({write(found.low)} to {write(found.high)}; {found.n} seeds)"


def _better(task: SmallTask, of_kind: dict[str, list[float]]) -> str:
    best = (min if task.lower else max)(of_kind, key=lambda kind: mean(of_kind[kind]).value)
    return f"the {MECHANISMS[best]}"
