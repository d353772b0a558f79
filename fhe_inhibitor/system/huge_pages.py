"""Huge pages for evaluation keys, and for the ciphertexts between lookups.

Each lookup reads evaluation keys of 100 MB and more. In pages of 4 kB they are too many for the
processor's table of addresses (its translation look-aside buffer). Linux gives pages of 2 MB to
memory that asks for them, and the malloc of glibc asks if GLIBC_TUNABLES says so when a process
starts. A setting of `glibc.malloc.hugetlb` that is already there stays.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

VARIABLE, TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
MODES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
OWN_ENVIRONMENT = Path("/proc/self/environ")  # as it was when this process started


def mode() -> str:
    """Return which memory Linux gives huge pages: always, madvise (that asks) or never.

    It is "unknown" on other systems.
    """
    with suppress(OSError, IndexError):
        return MODES.read_text().split("[")[1].split("]")[0]
    return "unknown"


def has_huge_pages(in_children: bool = False) -> bool:
    """Return whether this process, or its children, ask for huge pages that Linux grants."""
    if in_children and to_ask():
        return True
    with suppress(OSError):
        variables = OWN_ENVIRONMENT.read_bytes().split(b"\0")
        tunables = b"".join(entry for entry in variables if entry.startswith(VARIABLE.encode()))
        return mode() == "always" or (mode() == "madvise" and f"{TUNABLE}=1".encode() in tunables)
    return False


def to_ask() -> dict[str, str]:
    """Return what the environment lacks for a process that starts from here to have huge pages."""
    tunables = os.environ.get(VARIABLE, "")
    if mode() != "madvise" or TUNABLE in tunables:
        return {}
    return {VARIABLE: ":".join(filter(None, (tunables, f"{TUNABLE}=1")))}


def restart_with_huge_pages() -> None:
    """Start this program again, with its arguments, if it has no huge pages but could.

    For a program that runs circuits in its own process; a `system.child.Child` has them anyway.
    """
    if (lacking := to_ask()) and sys.executable:
        os.environ.update(lacking)
        with suppress(OSError):
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
