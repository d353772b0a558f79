"""`doctor`: one line for each finding, with its remedy below it, and an exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from compile.local import diagnosis
from fhe_inhibitor.system.diagnosis import Finding, State
from tests.fhe_inhibitor.cli.test_main import run

__all__ = ["run"]  # a fixture


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What will have been found."""
    findings: list[Finding] = []

    def diagnose(*_: object) -> Iterator[Finding]:
        yield from findings

    monkeypatch.setattr(diagnosis, "diagnose", diagnose)
    return findings


@pytest.mark.parametrize(("worst", "code"), [("ok", 0), ("warning", 0), ("failure", 1)])
def test_only_a_failure_fails(run, found: list[Finding], worst: State, code: int) -> None:  # noqa: F811
    found.append(Finding(name="versions", state="ok", found="Python"))
    found.append(Finding(name="keys", state=worst, found="mode [0755]\x1b", remedy="chmod"))
    outcome = run("doctor")
    assert (outcome.code, outcome.err) == (code, "")
    first, second, third = outcome.out.splitlines()
    assert first.split() == ["ok", "versions", "Python"]
    assert second.split() == [worst, "keys", "mode", "[0755]"]
    assert third.strip() == "chmod" and third.index("chmod") == second.index("mode")
    outcome = run("doctor", "--json")
    assert outcome.code == code
    answer = json.loads(outcome.out)
    assert answer["ok"] == (code == 0)
    assert [finding["state"] for finding in answer["findings"]] == ["ok", worst]
