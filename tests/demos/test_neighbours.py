"""Fair neighbours: what is kept and measured again, what the page says, and a run of it all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demos.neighbours import __main__ as command
from demos.neighbours import heads
from demos.neighbours.page import advise, to_markdown
from demos.neighbours.results import (
    DOT_PRODUCT,
    ENCODER,
    ENCODER_HIDDEN,
    HEADS,
    INHIBITOR,
    TEACHER,
    WORDS,
    Accuracy,
    KeptResults,
    Neighbour,
    Results,
    Times,
)
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.system.files import read_results
from fhe_inhibitor.system.machine import Machine
from fhe_inhibitor.system.statistics import share
from fhe_inhibitor.text.data import LabelledText
from tests.fhe_inhibitor.conftest import SEED, SHAPE
from tests.tiny_model import write_tiny_model

MACHINE = Machine(
    processor="a processor", cores=2, memory_gb=8, load_average=0.0, versions={"python": "3.11"},
    commit="abc", date="2026-11-29",
)  # fmt: skip


def neighbour(right: int, made_from: str = "m", times: Times | None = None) -> Neighbour:
    accuracy = Accuracy(validation=share(right, 1000), held_out=share(right, 1000))
    return Neighbour(
        machine=MACHINE, made_from=made_from, accuracy=accuracy, n_encrypted=24,
        client_bytes=90_000_000, times=times,
    )  # fmt: skip


def times(seconds: float, lookups: dict[int, int], made_from: str = "m") -> Times:
    return Times(
        machine=MACHINE, made_from=made_from, clear_s=[0.01], encrypted_s=[99.0, seconds, 0.0],
        equal=2, lookups=lookups, complexity=1e9, keygen_s=1.0, evaluation_keys_bytes=64,
        request_bytes=9480, response_bytes=1200,
    )  # fmt: skip


def test_the_page_says_what_is_missing_and_how_it_is_made() -> None:
    page = to_markdown(Results(tokens=12, train_texts=9, neighbours={INHIBITOR: neighbour(850)}))
    row = next(line for line in page.splitlines() if line.startswith("| dot-product student"))
    assert "missing" in row and "`fhe-inhibitor train`" in row and "`--baseline`" in row
    assert "| inhibitor student | not timed yet |" in page
    assert "Times: not taken yet." in page


def test_the_page_has_the_figures() -> None:
    rows = {
        INHIBITOR: neighbour(850, times=times(9.0, {5: 1732, 4: 216})),
        ENCODER: neighbour(800, times=times(0.05, {})),
    }
    page = to_markdown(Results(tokens=12, train_texts=9, neighbours=rows))
    assert "| 85.0 (82.7 to 87.1) |" in page
    assert "| inhibitor student | 9.00 | 3 | 1,732 of 5 bits, 216 of 4 bits | 1.00e+09 |" in page
    # Without lookups no complexity and no evaluation keys.
    assert "| public encoder, linear head | 0.05 | 3 | 0 | 0 | 1.0 | none | 24 | 9.5 kB |" in page
    assert "-5.0 points on validation, -5.0 held out, outside the intervals." in page


@pytest.mark.parametrize(
    "kind, less_accurate, factor, words",
    [
        (DOT_PRODUCT, False, 1.2, "**It is the better choice.**"),
        (DOT_PRODUCT, True, 1.2, "seconds count more than these points"),
        (DOT_PRODUCT, False, 0.5, "The inhibitor is the better choice where seconds count."),
        (DOT_PRODUCT, True, 0.5, "The inhibitor is the better choice."),
        (DOT_PRODUCT, False, None, "has not been timed"),
        (ENCODER, False, 400.0, "better choice where the weights are no secret"),
        (ENCODER, True, 400.0, "these points don't matter"),
        (ENCODER_HIDDEN, False, 20.0, "better choice where the client can run the encoder"),
        (ENCODER_HIDDEN, True, 20.0, "else take the inhibitor"),
    ],
)
def test_advice_follows_from_figures(
    kind: str, less_accurate: bool, factor: float | None, words: str
) -> None:
    assert words in advise(kind, less_accurate, factor)


def test_the_command_reads_what_train_measured(tmp_path: Path) -> None:
    rows = {"validation": fake_rows(30, 0), "held_out": fake_rows(40, 0)}
    assert command.read_training(tmp_path, rows, 12) == {}
    measured = {"teacher": {"validation": 0.9, "held_out": 0.8}, "bag_of_words": {"8": {}}}
    (tmp_path / "results.json").write_text(json.dumps(measured))
    found = command.read_training(tmp_path, rows, 12)
    assert {*found} == {TEACHER} and found[TEACHER]["validation"].value == pytest.approx(0.9)
    page = to_markdown(
        Results(
            tokens=12, train_texts=9, in_the_clear=found, neighbours={INHIBITOR: neighbour(850)}
        )
    )
    assert "fine-tuned on the task, all tokens | 90.0 (" in page
    assert "**Nothing encrypted**: +5.0 points on validation" in page


def test_what_is_finished_is_kept_and_what_changed_is_measured_again(tmp_path: Path) -> None:
    kept = KeptResults(tmp_path, tokens=12, train_texts=9)
    assert kept.lacks(INHIBITOR, "a")
    kept.add(INHIBITOR, neighbour(850, "a"))
    assert kept.lacks_times(INHIBITOR, "a+b")
    kept.add_times(INHIBITOR, times(1.0, {}, "a+b"))
    again = KeptResults(tmp_path, tokens=12, train_texts=9)
    assert again.found == kept.found == read_results(tmp_path / "neighbours.json", Results, "")
    assert not again.lacks(INHIBITOR, "a") and again.lacks(INHIBITOR, "other")
    # Times beside a further student count for the inhibitor alone, not those beside another one.
    assert not again.lacks_times(INHIBITOR, "a") and not again.lacks_times(INHIBITOR, "a+b")
    assert again.lacks_times(INHIBITOR, "a+c")


def test_a_file_of_other_results_is_refused(tmp_path: Path) -> None:
    KeptResults(tmp_path, tokens=12, train_texts=9).add(WORDS, neighbour(1))
    with pytest.raises(InputError, match="12 tokens and 9 texts .* name another folder"):
        KeptResults(tmp_path, tokens=12, train_texts=10)
    (tmp_path / "neighbours.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="can't be read as results"):
        KeptResults(tmp_path, tokens=12, train_texts=9)


def fake_rows(n: int, seed: int) -> list[LabelledText]:
    """Texts of five words, of which a film is good or bad."""
    rng = np.random.default_rng(seed)
    words = rng.choice(["a", "film", "the", "plot"], (n, 4))
    labels = rng.integers(0, 2, n)
    return [
        LabelledText(f"{' '.join(row)} {('bad', 'good')[label]}", int(label))
        for row, label in zip(words, labels, strict=True)
    ]


def fake_embedding(texts: list[str]) -> np.ndarray:
    """What stands for an encoder: length 1, and the mean of its coordinates tells the label."""
    rows = np.random.default_rng(len(texts)).normal(size=(len(texts), 64))
    rows += [[0.6 if text.endswith("good") else -0.6] for text in texts]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def run_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Results:
    """Run the command on a tiny model and made-up texts."""
    if not (tmp_path / "tiny").exists():
        write_tiny_model(tmp_path / "tiny", SEED, shape=SHAPE)
    rows = {"train": fake_rows(200, 0), "validation": fake_rows(30, 1)}
    monkeypatch.setattr(command, "load_splits", lambda data: rows)
    monkeypatch.setattr(command, "hold_out", lambda train: (train[40:], train[:40]))
    monkeypatch.setattr(heads, "minilm_distilbert", lambda: None)
    monkeypatch.setattr(heads, "encoder_files", lambda: [tmp_path / "tiny" / "config.json"])
    monkeypatch.setattr(heads, "embed", lambda encoder, texts: fake_embedding(texts))
    monkeypatch.setattr(heads, "embed_kept", lambda encoder, texts, *rest: fake_embedding(texts))
    monkeypatch.setattr(heads, "choose_texts", lambda rows, n: rows[:n])
    command.main(
        tmp_path, tmp_path / "out", tmp_path / "work", str(tmp_path / "tiny"), None, 100, **options
    )
    return read_results(tmp_path / "out" / "neighbours.json", Results, "")


def test_accuracies_without_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = run_command(tmp_path, monkeypatch, sentences=1, accuracy_only=True)
    assert {*results.neighbours} == {INHIBITOR, *HEADS}
    assert all(row.times is None for row in results.neighbours.values())
    for kind in HEADS:
        measured = results.neighbours[kind].accuracy
        assert measured.validation.value > 0.9 and measured.validation.n == 30
        assert measured.float_held_out and measured.held_out.n == 40
    model = IntegerModel.load(tmp_path / "tiny")
    assert results.neighbours[INHIBITOR].made_from == model.hash
    assert results.neighbours[ENCODER].n_encrypted == 64
    assert results.in_the_clear == {}  # the tiny model has no results of `train`
    page = (tmp_path / "out" / "neighbours.md").read_text("utf-8")
    assert page.count("not timed yet") == 4


@pytest.mark.slow
def test_times_are_added_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run_command(tmp_path, monkeypatch, sentences=2, accuracy_only=True)
    after = run_command(tmp_path, monkeypatch, sentences=2, accuracy_only=False)
    for kind, row in after.neighbours.items():
        assert row.model_copy(update={"times": None}) == before.neighbours[kind]
        assert row.times is not None and len(row.times.encrypted_s) == 2
        assert row.times.equal == (None if kind == INHIBITOR else 2)
    by_kind = {kind: row.times for kind, row in after.neighbours.items() if row.times}
    assert by_kind[WORDS].lookups == by_kind[ENCODER].lookups == {}
    assert by_kind[ENCODER_HIDDEN].lookups == {6: 32}
    assert by_kind[ENCODER_HIDDEN].evaluation_keys_bytes > 1e6 > by_kind[INHIBITOR].request_bytes
    assert (tmp_path / "out" / "neighbours.md").read_text("utf-8").count("2 of 2") == 3
