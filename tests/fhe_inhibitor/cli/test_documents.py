"""`--long`, `calibrate` and `long-documents` without encryption: what they print and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compile.evaluation.records import read_evaluation
from fhe_inhibitor.integer.documents import (
    cut_documents,
    document_logits,
    encode_pieces,
    mean_logits,
    measure_neutral,
)
from fhe_inhibitor.integer.evaluation import evaluate
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.runtime.manifest import NEUTRAL_FILE
from fhe_inhibitor.text.data import read_tsv
from tests.fhe_inhibitor.cli.test_main import assert_refused, run
from tests.tiny_model import write_tiny_model

__all__ = ["run"]  # fixtures

LONG = "the film is very good and it 's great , a good film . bad and dull it is n't . " * 3
TSV = f"sentence\tlabel\n{LONG}\t1\nit 's dull\t0\n{'bad , dull . ' * 20}\t0\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder of the test's own, since `calibrate` writes to it."""
    return write_tiny_model(tmp_path / "tiny", seed=175)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "dev.tsv"
    path.write_text(TSV)
    return path


def test_classify_long_gives_the_label_of_the_mean(run, model: Path) -> None:
    options = ("--mode", "disable", "--model", model, "--tokens", "2", "--max-pieces", "3")
    outcome = run("classify", "--long", *options, "--json", LONG)
    assert (outcome.code, outcome.err.count("\n")) == (0, 2)
    assert "calibrate" in outcome.err and "3 of 9 pieces are read, 6 of 63 tokens" in outcome.err
    (result,) = json.loads(outcome.out)["results"]
    loaded = IntegerModel.load(model)
    (document,) = cut_documents(loaded, [LONG], 2, 3)
    logits = document_logits(loaded, encode_pieces(loaded, document))
    mean = mean_logits(loaded, logits, document)
    assert (result["clear_logits"], result["logits"]) == (logits.tolist(), None)
    assert result["label"] == loaded.labels[mean.argmax()]
    assert result["probability"] == pytest.approx(loaded.label(mean)[1])
    assert (result["n_pieces"], len(result["pieces"]), result["n_tokens"]) == (9, 3, 63)
    shown = run("classify", "--long", *options, LONG).out
    assert f"{result['label']}, probability {result['probability']:.3f}" in shown
    negative, positive = mean * loaded.logit_scale
    assert f"less neutral logits: negative {negative:+.3f}, positive {positive:+.3f}" in shown
    assert "read 6 of 63 tokens, 3 of 9 pieces" in shown
    assert shown.splitlines()[0].startswith("the film is very good") and "..." in shown


def test_a_file_is_one_text(run, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "review.txt"
    path.write_text("a good film .\n\nit 's bad .\n")
    options = ("--mode", "disable", "--model", model, "--json", "--file")
    results = json.loads(run("classify", "--long", *options, path, "good").out)["results"]
    assert [result["text"] for result in results] == ["good", "a good film .\n\nit 's bad ."]
    path.write_text(" \n")
    assert_refused(run("classify", "--long", *options, path), "holds no text")


def test_options_that_do_not_go_together_are_refused(run, model: Path, data: Path) -> None:
    classify = ("classify", "--mode", "disable", "--model", model, "good")
    assert_refused(run(*classify, "--max-pieces", "3"), "--long")
    assert_refused(run(*classify, "--long", "--max-pieces", "17"), "17 pieces", "1 to 16")
    assert_refused(run(*classify, "--long", "--strict"), "--strict", "--jsonl")
    assert_refused(run(*classify, "--long", "--jsonl"), "--strict", "--jsonl")
    assert_refused(run("evaluate", "--task", "sst2", "--long"), "--long")
    assert_refused(run("calibrate", "--model", "none", "--data", data), "no model 'none'")


def test_evaluate_long_is_the_integer_model_piece_by_piece(run, model: Path, data: Path) -> None:
    options = ("--data", data, "--model", model, "--tokens", "2", "--max-pieces", "4")
    answer = json.loads(run("evaluate", "--long", *options, "--draws", "2", "--json").out)
    expected = evaluate(IntegerModel.load(model), read_tsv(data), 2, 2, max_pieces=4)
    assert (answer["accuracy"]["value"], answer["accuracy"]["n_texts"]) == (expected.value, 3)


def test_evaluate_long_keeps_each_text_and_goes_on(
    run, model: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "long.jsonl"
    assert run("calibrate", "--data", data, "--model", model, "--tokens", "2").code == 0
    options = ("--data", data, "--model", model, "--tokens", "2", "--out", out, "--draws", "3")
    arguments = ("evaluate", "--long", "--max-pieces", "4", *options)
    assert run(*arguments, "--limit", "1").code == 0
    before = out.read_text()
    answer = json.loads(run(*arguments, "--json").out)
    assert out.read_text().startswith(before)
    header, found = read_evaluation(out)
    loaded = IntegerModel.load(model)
    assert (header.max_pieces, header.neutral_logits) == (4, loaded.neutral_logits)
    documents = cut_documents(loaded, [row.text for row in read_tsv(data)], 2, 4)
    for index, document in enumerate(documents):
        record, n = found.texts[index], len(document.pieces)
        logits = document_logits(loaded, encode_pieces(loaded, document))
        assert (record.clear_logits, record.n_pieces) == (tuple(logits), n)
        neutral = [n * x for x in loaded.neutral_logits] if document.n_pieces > 1 else []
        assert list(record.offset) == neutral
    drawn = [
        max(range(2), key=lambda label: row[label] - (record.offset or (0, 0))[label])
        == record.label
        for record in found.texts.values()
        for row in record.drawn_logits
    ]
    assert answer["accuracy"]["value"] == pytest.approx(sum(drawn) / 9)
    assert_refused(run("evaluate", *options), "max_pieces 4, now None")
    assert_refused(run("evaluate-report", out, "--out", tmp_path), "long texts")


def test_calibrate_writes_what_the_model_is_loaded_with(run, model: Path, data: Path) -> None:
    loaded = IntegerModel.load(model)
    expected = measure_neutral(loaded, [row.text for row in read_tsv(data)][:1], 2)
    arguments = ("--data", data, "--model", model, "--tokens", "2", "--limit", "1")
    outcome = run("calibrate", *arguments)
    assert (outcome.code, outcome.err) == (0, "")
    assert f"negative {expected[0]:+.2f}, positive {expected[1]:+.2f}" in outcome.out
    assert IntegerModel.load(model).neutral_logits == expected
    (model / NEUTRAL_FILE).write_text("damaged")
    assert_refused(run("evaluate", "--data", data, "--model", model), "calibrate again")
    assert run("calibrate", *arguments).code == 0
    assert IntegerModel.load(model).neutral_logits == expected


def test_the_table_of_limits_is_printed_and_written(
    run, model: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "docs"
    arguments = ("--data", data, "--model", model, "--tokens", "2", "--draws", "2")
    outcome = run("long-documents", *arguments, "--out", out)
    assert outcome.out == (out / "piece_limits.md").read_text()
    done = json.loads((out / "piece_limits.json").read_text())
    assert [row["max_pieces"] for row in done["rows"]] == [1, 2, 4, 8, 12, 16]
    assert [row["seconds"] for row in done["rows"]] == [None] * 6
    loaded, rows = IntegerModel.load(model), read_tsv(data)
    documents = cut_documents(loaded, [row.text for row in rows], 2, 2)
    assert done["rows"][1]["pieces"] == sum(len(document.pieces) for document in documents) / 3
    expected = evaluate(loaded, rows, 2, 2, max_pieces=2)
    assert done["rows"][1]["accuracy"]["value"] == expected.value
    assert f"| 2 | 1.7 | {100 * expected.value:.1f} |" in outcome.out
    done["rows"][1]["accuracy"]["value"] = 0.125
    (out / "piece_limits.json").write_text(json.dumps(done))
    assert "| 2 | 1.7 | 12.5 |" in run("long-documents", *arguments, "--out", out).out
    other = ("--data", data, "--model", model, "--tokens", "2", "--draws", "1", "--out", out)
    assert "| 12.5 |" not in run("long-documents", *other).out
    written = (out / "piece_limits.json").read_text()
    changed = json.loads(written)
    changed["rows"][1]["accuracy"]["value"] = 7.5
    for content in (written[:-9], "[1]", "null", json.dumps(changed)):
        (out / "piece_limits.json").write_text(content)
        assert_refused(run("long-documents", *other), "piece_limits.json can't be read", "--out")
    assert_refused(run("long-documents", *arguments, "--out", data), "can't write to the folder")
