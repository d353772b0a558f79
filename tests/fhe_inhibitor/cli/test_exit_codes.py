"""Each exit code of the documented table is what a command gives."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from fhe_inhibitor.cli.exit_codes import MEANINGS, ExitCode, markdown_table
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.remote.errors import (
    AccessDenied,
    JobFailed,
    ModelMismatch,
    QuotaExceeded,
    ServerUnreachable,
    UnknownModel,
)
from fhe_inhibitor.system.child import ChildError
from fhe_inhibitor.system.signals import Ended
from tests.fhe_inhibitor.cli.test_main import model, run

__all__ = ["model", "run"]  # fixtures

# What ends a command, and its code, written out. A closed output is tested in test_main.
ENDS: list[tuple[BaseException, int]] = [
    (RuntimeError("broke"), 1),
    (ChildError("native code crashed"), 1),
    (ServerUnreachable("no answer"), 1),
    (QuotaExceeded("no room"), 1),
    (JobFailed("gave up"), 1),
    (MemoryError(), 1),
    (InputError("wrong"), 2),
    (AccessDenied("unknown token"), 2),
    (ModelMismatch("another model"), 2),
    (UnknownModel("no model of that name"), 2),
    (Ended(signal.SIGHUP), 129),
    (KeyboardInterrupt(), 130),
    (Ended(signal.SIGTERM), 143),
]


@pytest.mark.parametrize(("end", "code"), ENDS, ids=lambda x: type(x).__name__)
def test_a_command_ends_with_the_code_of_what_happened(
    run,  # noqa: F811
    model: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    end: BaseException,
    code: int,
) -> None:
    def fail(*_: object) -> None:
        raise end

    monkeypatch.setattr(IntegerModel, "integer_logits", fail)
    outcome = run("classify", "--mode", "disable", "--model", model, "a film")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (code, "", 1)


def test_the_table_has_these_codes_and_no_other(run) -> None:  # noqa: F811
    codes = {run("--version").code, *(code for _, code in ENDS), 128 + signal.SIGPIPE}
    assert {int(code) for code in ExitCode} == codes == {int(code) for code in MEANINGS}
    rows = markdown_table().splitlines()
    assert len(rows) == 2 + len(codes)
    assert "| 130 | Ended by Ctrl-C. |" in rows
