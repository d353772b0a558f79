"""What a compiler made of an inner loop: its vector instructions, counted from the assembly."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from fhe_inhibitor.system.files import Record

LABEL = re.compile(r"^(\.L\w+):")
JUMP = re.compile(r"^\s+(?:j\w+|b\.\w+|cbnz\s+\w+,|tbnz\s+.*,)\s+(\.L\w+)")
INSTRUCTION = re.compile(r"^\s+(v\w+)\s+(.*)")  # of AVX; other processors' loops count none
MOVES = ("vmov", "vpbroadcast", "vbroadcast", "vzero")


class Loop(Record):
    """The busiest innermost loop of a function.

    instructions: vector instructions of one iteration. registers: the widest that they name.
    steps: vectors accumulated in one iteration; arithmetic: instructions for each of those,
    loads and broadcasts not counted.
    """

    instructions: dict[str, int]
    registers: str
    steps: int
    arithmetic: float


def busiest_loop(assembly: str, sums: Sequence[str]) -> Loop | None:
    """Return the innermost loop that accumulates most vectors, None if none does.

    sums: the instructions that accumulate; the first that occurs counts.

    >>> busiest_loop('''
    ... .LBB0_1:
    ...     vpsubw  %zmm1, %zmm2, %zmm3
    ...     vpabsw  %zmm3, %zmm3
    ...     vpaddw  %zmm3, %zmm0, %zmm0
    ...     jne .LBB0_1
    ... ''', ["vpaddw"]).arithmetic
    3.0
    """
    accumulate = next((name for name in sums if name in assembly), "")
    loops = [_describe(body, accumulate) for body in _innermost_loops(assembly.splitlines())]
    return max((loop for loop in loops if loop.steps), key=lambda loop: loop.steps, default=None)


def _innermost_loops(lines: list[str]) -> list[list[str]]:
    """Return the lines between a label and a jump back to it that hold no other such pair."""
    labels: dict[str, int] = {}
    spans: list[tuple[int, int]] = []
    for number, line in enumerate(lines):
        if label := LABEL.match(line):
            labels[label[1]] = number
        elif (jump := JUMP.match(line)) and jump[1] in labels:
            spans.append((labels[jump[1]], number))
    return [
        lines[start : stop + 1]
        for start, stop in spans
        if not any((start, stop) != other and start <= other[0] <= other[1] <= stop
                   for other in spans)
    ]  # fmt: skip


def _describe(body: list[str], accumulate: str) -> Loop:
    found = [match for line in body if (match := INSTRUCTION.match(line))]
    counts = Counter(match[1] for match in found)
    operands = " ".join(match[2] for match in found)
    steps = counts[accumulate]
    arithmetic = sum(count for name, count in counts.items() if not name.startswith(MOVES))
    registers = next((kind for kind in ("zmm", "ymm", "xmm") if kind in operands), "")
    return Loop(
        instructions=dict(sorted(counts.items())),
        registers=registers,
        steps=steps,
        arithmetic=arithmetic / steps if steps else 0.0,
    )
