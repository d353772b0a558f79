"""What must be equal on two machines for one to run what the other compiled.

Circuits are machine code for the processor that compiled them: with AVX-512 where that has it. On a
processor without it the first call ends the process.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("fhe-inhibitor", "concrete-python", "distributed")
# Instructions that a compiler may use; what else the kernel lists (caches, virtualization, bugs)
# matters to no program.
INSTRUCTIONS = re.compile(
    r"sse\w*|ssse3|pni|avx\w*|amx\w*|fma\w*|f16c|bmi[12]|abm|popcnt|movbe|aes|vaes|v?pclmulqdq|gfni"
    r"|sha_ni|adx|xop|tbm|cx16|lahf_lm|fsgsbase|cmov|mmx|fxsr|rdrnd|rdseed|prfchw|3dnowprefetch"
    r"|movdiri|movdir64b|clwb|clflushopt|xsave\w*|asimd\w*|sve\w*|neon|fp|crc32|atomics|sha[1-5]\w*"
)
MAX_NAMED = 4  # of features that are missing


@dataclass(frozen=True)
class Machine:
    """A machine: its architecture, instructions, and versions of Python and of what must fit."""

    architecture: str
    instructions: frozenset[str]
    versions: Mapping[str, str] = field(default_factory=dict)


def this_machine() -> Machine:
    """Describe the machine, and the installation, that this process runs on."""
    return Machine(platform.machine(), _instructions(), _versions())


def why_unfit(compiled_on: Machine, other: Machine) -> str | None:
    """Return why circuits of one machine can't run on another, in one line; None if they can.

    >>> old = Machine("x86_64", frozenset({"avx2"}), {"concrete-python": "2.11.0"})
    >>> new = Machine("x86_64", frozenset({"avx2", "avx512f"}), {"concrete-python": "2.11.0"})
    >>> why_unfit(old, new)
    >>> why_unfit(new, old)
    'its processor lacks avx512f, which the circuits were compiled for'
    """
    if other.architecture != compiled_on.architecture:
        return f"it is {other.architecture}, the circuits are for {compiled_on.architecture}"
    if missing := sorted(compiled_on.instructions - other.instructions):
        named = ", ".join(missing[:MAX_NAMED])
        more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
        return f"its processor lacks {named}{more}, which the circuits were compiled for"
    for name, wanted in compiled_on.versions.items():
        if (found := other.versions.get(name)) != wanted:
            return f"it has {name} {found}, wanted {wanted}"
    return None


def _instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the instruction sets that the kernel lists; none where it lists nothing."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if re.match(r"(flags|Features)\s*:", line)), "")
    return frozenset(filter(INSTRUCTIONS.fullmatch, flags.partition(":")[2].split()))


def _versions() -> dict[str, str]:
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found
