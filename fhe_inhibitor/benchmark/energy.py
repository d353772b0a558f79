"""Energy that the processor's package took, where Linux lets it be read (RAPL, `powercap`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


def unreadable(powercap: Path = POWERCAP) -> str:
    """Return why the energy can't be read; an empty string if it can."""
    if not powercap.is_dir():
        return f"there is no {powercap}: the system, or its virtual machine, offers no counter"
    counters = _counters(powercap)
    if not counters:
        return f"{powercap} names no package"
    try:
        for counter in counters:
            counter.read_text()
    except OSError as error:
        return f"{error.filename}: {error.strerror}; reading it usually needs root"
    return ""


def measure_joules(run: Callable[[], object], powercap: Path = POWERCAP) -> float:
    """Return the joules of all packages while `run` ran, whatever else ran included."""
    before = _read(powercap)
    run()
    after = _read(powercap)
    counters = zip(before, after, strict=True)
    return sum((stop - start) % (limit + 1) for (start, limit), (stop, _) in counters) / 1e6


def _counters(powercap: Path) -> list[Path]:
    """Whole packages, `intel-rapl:0`, AMD's too; `intel-rapl:0:0` would be a part of one."""
    return sorted(powercap.glob("intel-rapl:[0-9]/energy_uj"))


def _read(powercap: Path) -> list[tuple[int, int]]:
    """Microjoules, and where the counter wraps."""
    return [
        (int(counter.read_text()), int((counter.parent / "max_energy_range_uj").read_text()))
        for counter in _counters(powercap)
    ]
