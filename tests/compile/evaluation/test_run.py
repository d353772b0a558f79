"""Evaluations that go on: in the clear, and encrypted on a tiny model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from circuits.intervals import interval, interval_lookup
from circuits.network import run
from compile.evaluation.records import Evaluation, TextRecord, read_evaluation
from compile.evaluation.run import Asked, evaluate_into, summarize
from compile.local.session import Session
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.evaluation import draw_noise
from fhe_inhibitor.integer.model import DEFAULT_MODEL, IntegerModel
from fhe_inhibitor.model import float_student
from fhe_inhibitor.model.float_student import float_logits
from fhe_inhibitor.model.loading import load_model
from fhe_inhibitor.runtime.classifier import Classification
from fhe_inhibitor.system.files import file_sha256
from fhe_inhibitor.system.folders import CACHE_VARIABLE, KEYS_VARIABLE
from fhe_inhibitor.text.data import read_tsv
from tests.observers import Recorder
from tests.tiny_model import SMALL_SHAPE, write_tiny_model

TSV = "sentence\tlabel\na good film\t1\nbad\t0\nthe film is n't very good\t0\nit 's dull .\t0\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny", seed=122)


@pytest.fixture(scope="module")
def model(folder: Path) -> IntegerModel:
    return IntegerModel.load(folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> IntegerModel:
    """For what is encrypted, keys included, in each test."""
    folder = tmp_path_factory.mktemp("small") / "tiny"
    return IntegerModel.load(write_tiny_model(folder, buckets=(2,), shape=SMALL_SHAPE))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache and a keyring that the encrypted tests share."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (CACHE_VARIABLE, KEYS_VARIABLE):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        yield


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "dev.tsv"
    path.write_text(TSV)
    return path


def evaluate(
    out: Path, model: IntegerModel, data: Path, mode: str = "disable", **changes: Any
) -> Evaluation:
    """Evaluate the first `limit` texts of a file, or all."""
    rows = read_tsv(data)
    limit = changes.pop("limit", None)
    observer = changes.pop("observer", None)
    fields = {"max_tokens": None, "n_draws": 2, "timed": False, **changes}
    asked = Asked(data=data, n_texts=len(rows), checkpoint=data.parent, **fields)
    with Session(model, mode, observer=observer, benchmark=asked.timed) as session:
        return evaluate_into(out, session, rows[:limit], asked, observer)


def test_each_text_is_kept_with_all_that_is_compared(model, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "file.jsonl"
    evaluate(out, model, data)
    of, found = read_evaluation(out)
    assert (of.mode, of.model, of.model_hash) == ("disable", "tiny", model.hash)
    assert (of.data, of.data_sha256, of.n_texts) == ("dev.tsv", file_sha256(data), 4)
    assert (of.max_tokens, of.labels, of.circuits_hash) == (4, ("negative", "positive"), None)
    tokenizer = hashlib.sha256(model.tokenizer.to_str().encode()).hexdigest()
    assert of.tokenizer_sha256 == tokenizer
    assert list(found.texts) == [0, 1, 2, 3]
    for index, row in enumerate(read_tsv(data)):
        record, read = found.texts[index], model.tokenize(row.text)
        x, padding = model.encode(read)
        assert (record.label, record.logits, record.float_logits) == (row.label, None, None)
        assert record.clear_logits == tuple(model.integer_logits(x, padding))
        assert (record.n_tokens, record.n_read, record.n_positions) == (
            read.n_total, len(read.tokens), len(x),
        )  # fmt: skip
        for seed, drawn in enumerate(record.drawn_logits):
            noisy = model.integer_logits(x, padding, draw_noise(model, [seed, index]))
            assert drawn == tuple(noisy)
    assert not any(row.text in out.read_text() for row in read_tsv(data) if " " in row.text)


def test_it_goes_on_after_a_kill_in_the_middle_of_a_line(model, data: Path, tmp_path: Path) -> None:
    """What comes of it is what one call would have kept, but for when."""
    out, recorder = tmp_path / "file.jsonl", Recorder()
    evaluate(out, model, data, limit=3)
    out.write_bytes(out.read_bytes()[:-20])
    found = evaluate(out, model, data, observer=recorder)
    assert any("half-written" in note for note in recorder.notes)
    assert [found.texts[index].sitting for index in range(4)] == [0, 0, 1, 1]
    at_once = evaluate(tmp_path / "other.jsonl", model, data)
    assert comparable(found) == comparable(at_once)
    before = out.read_bytes()
    evaluate(out, model, data)
    assert out.read_bytes() == before


def comparable(found: Evaluation) -> list[TextRecord]:
    changes = {"sitting": 0, "done": "", "seconds": 0.0, "stages": {}}
    return [found.texts[i].model_copy(update=changes) for i in sorted(found.texts)]


def test_a_file_of_something_else_is_refused(model, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "file.jsonl"
    evaluate(out, model, data, limit=1)
    before = out.read_bytes()
    other = IntegerModel.load(write_tiny_model(tmp_path / "other", seed=1))
    with pytest.raises(InputError, match="model_hash"):
        evaluate(out, other, data)
    with pytest.raises(InputError, match="max_tokens 4, now 3"):
        evaluate(out, model, data, max_tokens=3)
    data.write_text(TSV.replace("bad", "a bad film"))
    with pytest.raises(InputError, match="data_sha256"):
        evaluate(out, model, data)
    assert out.read_bytes() == before


def test_labels_that_are_not_the_data_s_are_refused(model, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "file.jsonl"
    evaluate(out, model, data, limit=2)
    out.write_text(
        out.read_text().replace(
            '"index":0,"sitting":0,"label":1', '"index":0,"sitting":0,"label":0'
        )
    )
    with pytest.raises(InputError, match="label 0 for text 0, the data 1: the file was changed"):
        evaluate(out, model, data)


def test_an_interrupted_text_is_done_again(
    model, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, classify = tmp_path / "file.jsonl", Session._classify

    def interrupted(session: Session, text: str, *arguments: object) -> Classification:
        if text == "the film is n't very good":
            raise KeyboardInterrupt
        return classify(session, text, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_classify", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate(out, model, data)
    assert list(read_evaluation(out)[1].texts) == [0, 1]
    assert list(evaluate(out, model, data).texts) == [0, 1, 2, 3]


def test_no_texts_are_refused(model, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 texts"):
        evaluate(tmp_path / "file.jsonl", model, data, limit=0)


def test_a_summary_in_the_clear_is_the_mean_over_draws(model, data: Path, tmp_path: Path) -> None:
    rows = read_tsv(data)
    found = evaluate(tmp_path / "file.jsonl", model, data, n_draws=3)
    right = [
        np.argmax(drawn) == row.label
        for index, row in enumerate(rows)
        for drawn in found.texts[index].drawn_logits
    ]
    summary = summarize(found, rows)
    assert summary["accuracy"]["value"] == pytest.approx(np.mean(right))
    assert (summary["accuracy"]["n_draws"], summary["rounding_noise"]) == (3, True)
    exact = summarize(evaluate(tmp_path / "exact.jsonl", model, data, n_draws=0), rows[:2])
    assert (exact["accuracy"]["n_texts"], exact["rounding_noise"]) == (2, False)


def test_the_float_student_reads_the_same_tokens(tmp_path: Path, data: Path) -> None:
    """Padded in batches and rounded to 6 digits, its logits are those of one text at a time."""
    model, rows = IntegerModel.load(), read_tsv(data)
    asked = Asked(data, len(rows), DEFAULT_MODEL, None, 0, False)
    with Session(model, "disable") as session:
        found = evaluate_into(tmp_path / "file.jsonl", session, rows, asked)
    assert found.header is not None and found.header.float_sha256
    student = load_model(DEFAULT_MODEL).model
    for index, row in enumerate(rows):
        ids = torch.from_numpy(model.tokenize(row.text).ids)[None]
        with torch.no_grad():
            expected = student(input_ids=ids).logits[0].numpy()
        assert found.texts[index].float_logits == pytest.approx(expected, abs=1e-4)
    with pytest.raises(InputError, match="has 2 labels, its integers 3"):
        float_logits(DEFAULT_MODEL, [], 3)


def test_a_float_student_without_finite_logits_is_refused_before_anything_is_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON has no NaN: the file would hold a line that can't be read."""

    class Overflowing:
        config = SimpleNamespace(num_labels=2, pad_token_id=0)

        def __call__(self, input_ids: torch.Tensor, **_: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=torch.full((len(input_ids), 2), torch.inf))

    monkeypatch.setattr(float_student, "load_model", lambda _: (Overflowing(), None, None))
    out, rows = tmp_path / "file.jsonl", read_tsv(data)
    asked = Asked(data, len(rows), DEFAULT_MODEL, None, 0, False)
    refused = pytest.raises(InputError, match=r"logits \[inf, inf\] .* wanted finite")
    with Session(IntegerModel.load(), "disable") as session, refused:
        evaluate_into(out, session, rows, asked)
    assert not out.exists()


@pytest.mark.fhe
def test_encrypted_texts_are_kept_one_by_one(
    small, data: Path, tmp_path: Path, prepared: None
) -> None:
    out, rows = tmp_path / "file.jsonl", read_tsv(data)
    evaluate(out, small, data, "execute", limit=2)
    out.write_bytes(out.read_bytes()[:-30])
    recorder = Recorder()
    found = evaluate(out, small, data, "execute", timed=True, limit=3, observer=recorder)
    assert recorder.planned("lookups") == recorder.finished("lookups") > 0
    assert found.header is not None and found.header.circuits_hash
    assert [found.texts[index].sitting for index in range(3)] == [0, 1, 1]
    first, second = found.sittings
    assert (first.timed, second.timed, first.lookup_s) == (False, True, {})
    assert second.lookup_s and min(second.lookup_s.values()) > 0
    for index in range(3):
        record = found.texts[index]
        x, padding = small.encode(small.tokenize(rows[index].text))
        bounds = run(small.network, interval(x), interval(padding), interval_lookup)
        assert record.logits is not None
        assert (bounds.low <= record.logits).all() and (record.logits <= bounds.high).all()
        assert {"encrypt", "layer0.project", "classify", "decrypt"} <= set(record.stages)
        assert 0 < sum(record.stages.values()) <= record.seconds + 1e-5
    summary = summarize(found, rows[:3])
    timed = [found.texts[index].seconds for index in (1, 2)]
    assert summary["seconds_per_text"] == pytest.approx(np.mean(timed))
    assert summary["agreement"]["n_texts"] == 3


@pytest.mark.fhe
def test_other_circuits_of_the_same_model_are_refused(
    small, data: Path, tmp_path: Path, prepared: None
) -> None:
    out = tmp_path / "file.jsonl"
    evaluate(out, small, data, "execute", limit=1)
    content = out.read_text()
    circuits = read_evaluation(out)[0].circuits_hash
    assert circuits is not None
    out.write_text(content.replace(circuits, "e" * 64))
    with pytest.raises(InputError, match="circuits_hash eeeeeeeeeeee"):
        evaluate(out, small, data, "execute", limit=2)
    assert out.read_text() == content.replace(circuits, "e" * 64)


@pytest.mark.fhe
def test_simulated_texts_are_kept_too(model, data: Path, tmp_path: Path) -> None:
    found = evaluate(tmp_path / "file.jsonl", model, data, "simulate", limit=2)
    assert found.header is not None
    assert (found.header.mode, found.header.circuits_hash) == ("simulate", None)
    assert all(found.texts[index].logits is not None for index in range(2))
    with pytest.raises(InputError, match="mode simulate, now disable"):
        evaluate(tmp_path / "file.jsonl", model, data)
