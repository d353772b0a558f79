"""How fast a machine is, in the optimizer's units of complexity: known, or of measured lookups."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import read_json


@dataclass(frozen=True)
class Speed:
    """How fast a machine is: seconds of one unit of complexity, and where that was measured."""

    unit_s: float
    measured: str


# One lookup of 5 bits, of 1.08e8 units, takes about 8 ms there.
USUAL = Speed(7.5e-11, "two quiet cores of an AMD EPYC with AVX-512")
# On one of them, as lookups share out over cores without loss.
USUAL_CORE = Speed(2 * USUAL.unit_s, "one core of an AMD EPYC with AVX-512, half as fast as two")


def read_speed(path: Path) -> Speed:
    """Return the speed of the machine on which `compile` wrote this report, report.json.

    It is the time of the lookups of all the report's lengths over their complexity. Raises
    InputError for another file, and for a report without measured lookups.
    """
    report = read_json(path)
    try:
        if report["lookup_s"] is None:
            raise InputError(
                f"{path} has no measured lookups: run `compile` without --no-measure, here"
            )
        return speed_of(report, f"lookups measured in {path}")
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise InputError(
            f"{path} isn't a report.json that this version's `compile` wrote ({error!r})"
        ) from error


def speed_of(report: Mapping[str, Any], measured: str) -> Speed:
    """Return the speed that measured lookups tell; `measured` says where they were.

    report: as `compile` wrote it, its widths still the strings that JSON makes of them. Raises
    InputError for times and units that aren't above 0, and KeyError, TypeError or ZeroDivisionError
    for what is no report.
    """
    counts: Counter[str] = Counter()
    for length in report["lengths"]:
        counts.update(length["lookups"])
    for name in ("lookup_s", "lookup_units"):
        if wrong := [w for w in counts if not 0 < report[name][w] < math.inf]:
            raise InputError(
                f"{name} of {measured} is {report[name][wrong[0]]!r} at width {wrong[0]}, wanted a "
                "number above 0: run `compile` again"
            )
    total_s, total = (
        sum(n * report[name][width] for width, n in counts.items())
        for name in ("lookup_s", "lookup_units")
    )
    return Speed(total_s / total, measured)
