"""What the exit codes of `fhe-inhibitor` mean: one table, for programs and for the documentation.

They depend on what happened, not on the command. Signals follow the shell's rule, 128 + n.
"""

from __future__ import annotations

import signal
from enum import IntEnum

from fhe_inhibitor.system.signals import exit_code_of


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1
    REFUSED = 2
    HANGUP = exit_code_of(signal.SIGHUP)
    INTERRUPTED = exit_code_of(signal.SIGINT)
    NOBODY_READS = exit_code_of(signal.SIGPIPE)
    TERMINATED = exit_code_of(signal.SIGTERM)


MEANINGS = {
    ExitCode.DONE: "All is done. For `doctor`: nothing failed, warnings aside.",
    ExitCode.FAILED: "It failed at run time: no server, or one that gave up on a text or has no "
    "room for more; native code that crashed; for `doctor`, a check that failed. The same command "
    "may work later.",
    ExitCode.REFUSED: "Refused as it stands, so change something first: an option, a text, a file, "
    "a model, a folder that can't be written, a token, a passphrase, a server whose model changed, "
    "or an extra that isn't installed.",
    ExitCode.HANGUP: "Ended by SIGHUP, as when a terminal closes.",
    ExitCode.INTERRUPTED: "Ended by Ctrl-C.",
    ExitCode.NOBODY_READS: "Whoever read the output went away, as `head` does.",
    ExitCode.TERMINATED: "Ended by SIGTERM.",
}


def markdown_table() -> str:
    """Return the codes and their meanings as a table."""
    rows = (f"| {code:d} | {meaning} |" for code, meaning in MEANINGS.items())
    return "\n".join(("| exit code | when |", "|---|---|", *rows))
