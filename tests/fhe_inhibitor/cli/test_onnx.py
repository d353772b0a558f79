"""`export` and `compile --from-onnx`: what they print, and one clear line for each bad input."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import TOKENIZER_FILE, IntegerModel
from fhe_inhibitor.onnx.export import export_onnx
from fhe_inhibitor.onnx.reader import read_exported
from fhe_inhibitor.onnx.runtime import OnnxClassifier
from tests.fhe_inhibitor.cli.test_main import TSV, assert_refused, run
from tests.fhe_inhibitor.model.test_modeling import make
from tests.tiny_model import write_tiny_model

__all__ = ["run"]  # a fixture


@pytest.fixture(scope="module")
def integer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def float_folder(tmp_path_factory: pytest.TempPathFactory, integer_folder: Path) -> Path:
    """A float student with the words of the tiny model."""
    folder = tmp_path_factory.mktemp("float")
    make(attention_kind="inhibitor_signed", shift=0.1).save_pretrained(folder)
    words = Tokenizer.from_file(str(integer_folder / TOKENIZER_FILE))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]").save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "dev.tsv").write_text(TSV)
    return tmp_path / "dev.tsv"


def test_a_float_model_is_exported(run, float_folder: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "float.onnx"
    outcome = run("export", "--model", float_folder, "--out", out, "--data", data)
    answer = json.loads(outcome.out)
    assert outcome.code == 0
    assert (answer["form"], answer["opset"], answer["n_texts"]) == ("float", 21, 2)
    assert answer["n_equal_labels"] == 2 and answer["max_difference"] < 1e-4
    assert answer["inputs"]["input_ids"] == ["batch", "tokens"]
    assert answer["size_bytes"] == out.stat().st_size
    onnx.checker.check_model(out, full_check=True)


def test_labels_of_the_texts_are_none_of_the_export_s_business(
    run, float_folder: Path, data: Path, tmp_path: Path
) -> None:
    data.write_text("sentence\tlabel\na good film\t2\n")
    outcome = run("export", "--model", float_folder, "--out", tmp_path / "x.onnx", "--data", data)
    assert json.loads(outcome.out)["n_texts"] == 1


def test_an_integer_model_is_exported(run, integer_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "integer.onnx"
    outcome = run("export", "--quantized", "--model", integer_folder, "--out", out)
    answer = json.loads(outcome.out)
    assert (answer["form"], answer["max_difference"]) == ("integer", 0.0)
    assert read_exported(out).hash == IntegerModel.load(integer_folder).hash


def test_a_float_model_is_quantized_by_texts(run, float_folder: Path, data: Path, tmp_path) -> None:
    (tmp_path / "texts").write_text("a good film\nit 's very dull and bad\n")
    out = tmp_path / "calibrated.onnx"
    arguments = ("--quantized", "--calibration", tmp_path / "texts", "--data", data)
    answer = json.loads(run("export", "--model", float_folder, "--out", out, *arguments).out)
    assert answer["form"] == "calibrated" and answer["n_texts"] == 2
    graph = onnx.load(out).graph
    weights = [t for t in graph.initializer if t.data_type == onnx.TensorProto.INT8 and t.dims]
    assert len(weights) > 2 and any(node.op_type == "QuantizeLinear" for node in graph.node)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "gguf", "--out", "x.onnx"], ["No such option", "--format"]),
        (["--out", "x.onnx", "--model", "nonsense"], ["no model 'nonsense'"]),
        (["--out", "x.onnx", "--model", "x" * 300], ["no model 'xxx"]),
        (["--out", "nowhere/x.onnx"], ["can't write nowhere/x.onnx"]),
        (["--out", "."], ["can't write ."]),
        ([], ["--out"]),
        (["--out", "x.onnx", "--data", "nowhere.tsv"], ["nowhere.tsv is not a file"]),
        (["--out", "x.onnx", "--calibration", "nowhere"], ["nowhere is not a file"]),
    ],
)
def test_bad_arguments_are_refused(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(run("export", *arguments), *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [(), ("--quantized",)])
def test_an_empty_sentence_to_compare_on_is_refused(
    run, integer_folder: Path, float_folder: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Without one that can be read it compared on random tokens, and said nothing."""
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\n \t1\n")
    folder = integer_folder if options else float_folder
    arguments = ("--model", folder, "--data", tmp_path / "dev.tsv", *options)
    outcome = run("export", "--out", tmp_path / "x.onnx", *arguments)
    assert_refused(outcome, "dev.tsv, line 2: the sentence is empty")
    with pytest.raises(InputError, match="text 2 of 2.* is empty"):
        export_onnx(folder, tmp_path / "x.onnx", bool(options), texts=["good", " "])
    assert not (tmp_path / "x.onnx").exists()


def test_a_pipe_is_no_place_for_a_graph(run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert_refused(run("export", "--out", tmp_path / "pipe"), "can't write", "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_integers_of_a_float_model_need_calibration(run, float_folder: Path, tmp_path) -> None:
    outcome = run("export", "--quantized", "--model", float_folder, "--out", tmp_path / "x.onnx")
    assert_refused(outcome, "is a float model", "--calibration")


def test_a_folder_with_a_damaged_model_is_refused(run, float_folder: Path, tmp_path: Path) -> None:
    for path in float_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    outcome = run("export", "--model", tmp_path, "--out", tmp_path / "x.onnx")
    assert_refused(outcome, "no model could be loaded")


def test_compile_refuses_what_is_no_quantized_graph(run, float_folder: Path, tmp_path) -> None:
    assert run("export", "--model", float_folder, "--out", tmp_path / "float.onnx").code == 0
    arguments = ("compile", "--out", tmp_path / "circuits", "--from-onnx", tmp_path / "float.onnx")
    assert_refused(run(*arguments), "is a float graph")
    assert not (tmp_path / "circuits").exists()


def test_a_graph_whose_logits_are_no_numbers_is_not_written(
    run, float_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN is neither above the tolerance nor below it."""
    monkeypatch.setattr(OnnxClassifier, "logits", lambda _, ids: np.full((len(ids), 2), np.nan))
    outcome = run("export", "--model", float_folder, "--out", tmp_path / "x.onnx")
    assert outcome.code == 1 and "off by nan; nothing written" in outcome.err
    assert not list(tmp_path.iterdir())
