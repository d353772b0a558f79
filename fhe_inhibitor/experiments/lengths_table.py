"""The section of hidden states by length on the page of experiments."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from fhe_inhibitor.system.pages import markdown_table

STUDENTS = {"single": "single sentences", "joined": "joined sentences"}
Band = tuple[str, int, int, int]  # task, more than so many tokens, up to so many, texts


def describe_lengths(results: Sequence[dict[str, Any]]) -> str:
    """Return the table by task and length, means over seeds, and what it says.

    results: as `lengths.LengthsResult` has them.
    """
    bands: dict[Band, dict[tuple[str, int], list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        for row in result["rows"]:
            of = row["settings"]
            band = (row["task"], of["more_than"], of["up_to"], of["n_texts"])
            bands[band][row["recipe"], of["layer"]].append(row["value"])
    last = max(layer for found in bands.values() for _, layer in found)
    columns = [(student, layer) for layer in (0, last) for student in STUDENTS]
    rows = [
        [
            task, f"{more_than + 1} to {up_to}", n_texts,
            *(f"{fmean(found[column]):.3f}" for column in columns),
        ]
        for (task, more_than, up_to, n_texts), found in bands.items()
    ]  # fmt: skip
    head = [
        "task", "tokens", "texts",
        *(f"{'last' if layer else 'first'} layer, {STUDENTS[name]}" for name, layer in columns),
    ]  # fmt: skip
    table = "\n".join(markdown_table(head, rows))
    said = " ".join([_verdict(bands, last), *_at_equal_length(bands, last)])
    return "\n\n".join([_describe_texts(results[0]), table, said])


def _describe_texts(result: dict[str, Any]) -> str:
    experiment, n_tokens = result["experiment"], result["n_tokens"]
    tasks = " and ".join(
        f"{n_tokens[name]:g} in {name}" for name in n_tokens if name not in STUDENTS
    )
    return (
        f"{experiment['steps']} steps of each layer. An example of the joined text has "
        f"{experiment['joined']} sentences at most. The median example has "
        f"{n_tokens['single']:g} tokens in the single sentences, {n_tokens['joined']:g} in the "
        f"joined ones, {tasks}."
    )


def _verdict(bands: dict[Band, dict[tuple[str, int], list[float]]], last: int) -> str:
    """Say what the last layer has of the task with the longest texts, shortest and longest."""
    longest = max(bands, key=lambda band: band[2])
    shortest = min((band for band in bands if band[0] == longest[0]), key=lambda band: band[2])
    return " ".join(
        f"With {more_than + 1} to {up_to} tokens of {task}, the error of the last layer is "
        f"{fmean(bands[band]['single', last]):.0%} after single sentences and "
        f"{fmean(bands[band]['joined', last]):.0%} after joined ones."
        for band in dict.fromkeys((shortest, longest))
        for task, more_than, up_to, _ in [band]
    )


def _at_equal_length(
    bands: dict[Band, dict[tuple[str, int], list[float]]], last: int
) -> Iterator[str]:
    """Say how often the task with the longest texts has the larger error of texts as long."""
    longest = max(bands, key=lambda band: band[2])[0]
    pairs = [
        (bands[own], bands[other], other[0])
        for own in bands
        for other in bands
        if own[0] == longest != other[0] and own[1:3] == other[1:3]
    ]
    for task in dict.fromkeys(task for *_, task in pairs):
        shared = [(own, other) for own, other, name in pairs if name == task]
        further = {
            student: sum(fmean(a[student, last]) > fmean(b[student, last]) for a, b in shared)
            for student in STUDENTS
        }
        yield (
            f"Of texts of the same length, {longest} has the larger error than {task} in "
            f"{further['single']} of {len(shared)} rows after single sentences and in "
            f"{further['joined']} after joined ones: length is not all that tells the tasks apart."
        )
