"""Which figures go onto the page, section by section, and the command of each.

Nothing is computed here that another command computes: numbers come out of `Inputs`, and what is
derived from them (medians, seconds on a line of so many bits, a price) is plain arithmetic that the
section states.
"""

from __future__ import annotations

from compile.evaluation.run import MAX_LOAD
from compile.paper.circuits import errors_section, model_section, security_section
from compile.paper.comparison import accuracy_section, peers_section
from compile.paper.inputs import Inputs
from compile.paper.records import PaperReport
from compile.paper.runs import (
    bytes_section,
    cost_section,
    energy_section,
    latency_section,
    memory_section,
)
from compile.paper.sources import sources_of

SECTIONS = (
    model_section,
    security_section,
    accuracy_section,
    latency_section,
    bytes_section,
    memory_section,
    errors_section,
    energy_section,
    cost_section,
    peers_section,
)


def collect(inputs: Inputs) -> PaperReport:
    """Return the page."""
    machine = inputs.machine
    return PaperReport(
        model=inputs.model,
        model_hash=inputs.model_hash,
        made=machine.date,
        quiet=machine.load_average <= MAX_LOAD * machine.cores,
        machine=machine,
        command=inputs.command,
        sections=tuple(section(inputs) for section in SECTIONS),
        sources=sources_of(inputs),
        measured=inputs.measured,
    )
