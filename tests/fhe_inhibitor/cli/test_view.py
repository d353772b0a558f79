"""What servers and texts say is shown as it is: neither markup nor a terminal's controls."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fhe_inhibitor.cli.view import Display, print_classifications, print_keys
from fhe_inhibitor.runtime.classifier import Classification
from fhe_inhibitor.runtime.costs import SessionCost, StageCost

HOSTILE = "[/x] [bold]good[/bold] :smile: \x1b]0;title\x07\x1b[2J\r\n\u202e"
SHOWN = "[/x] [bold]good[/bold] :smile: ]0;title[2J"


def classification() -> Classification:
    return Classification(
        text="a film",
        label=HOSTILE,
        probability=0.9,
        tokens=("a", HOSTILE),
        n_tokens=2,
        n_positions=2,
        logits=(1, -1),
        clear_logits=None,
        logit_scale=0.1,
        stages=(StageCost(HOSTILE, 1.0, {4: 10}),),
        seconds=1.0,
        request_bytes=1,
        response_bytes=1,
    )


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def assert_plain(out: str) -> None:
    assert not set(out) & set("\x1b\x07\r\u202e")


def test_labels_tokens_and_stages_are_shown_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cost = SessionCost((), 1, 1)
    print_classifications([classification()], [HOSTILE, "other"], cost)
    out = capsys.readouterr().out
    assert out.count(SHOWN) == 4
    assert f"{SHOWN}, probability 0.900" in out
    assert_plain(out)


def test_a_text_is_too(capsys: pytest.CaptureFixture[str]) -> None:
    """It may come from a file that somebody else wrote."""
    result = replace(classification(), text=f"dull\n{HOSTILE}", label="good", tokens=("dull",))
    print_classifications([result], ["good", "bad"], SessionCost((), 1, 1))
    out = capsys.readouterr().out
    assert out.splitlines()[0].rstrip() == f"dull {SHOWN}"
    assert_plain(out)


def test_models_are_too(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    row = {
        "circuits_hash": "a" * 64,
        "model": HOSTILE,
        "created": "2026-01-01T00:00:00Z",
        "locked": False,
        "bytes": 10,
    }
    print_keys([row], tmp_path)
    out = capsys.readouterr().out
    assert SHOWN in out
    assert_plain(out)


def test_steps_and_notes_are_too(capsys: pytest.CaptureFixture[str]) -> None:
    with Display() as display:
        display.begin(HOSTILE)
        display.note(HOSTILE)
    err = capsys.readouterr().err
    assert err == f"note: {SHOWN}\n"
