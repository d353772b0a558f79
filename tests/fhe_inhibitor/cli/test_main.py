"""The command line without encryption: what it prints, and one clear line for each bad input."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from fhe_inhibitor.cli.main import main
from fhe_inhibitor.integer.model import CONFIG_FILE, INTEGER_FILE, IntegerModel
from fhe_inhibitor.runtime.manifest import TOKENIZER_FILE
from tests.tiny_model import write_tiny_model

TSV = "sentence\tlabel\na good film\t1\nit 's dull\t0\n"


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that finds some texts positive and others negative."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny", seed=175)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    def run(*arguments: str | Path) -> Outcome:
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        return Outcome(int(exit_.value.code or 0), *capsys.readouterr())

    return run


def assert_refused(outcome: Outcome, *words: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr that holds all the words."""
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("fhe-inhibitor: ")
    for word in words:
        assert word in outcome.err


def test_classify_prints_label_and_logits(run, model: Path) -> None:
    outcome = run("classify", "--mode", "disable", "--model", model, "a good film")
    integer_model = IntegerModel.load(model)
    x, padding = integer_model.encode(integer_model.tokenize("a good film"))
    logits = integer_model.integer_logits(x, padding)
    assert outcome.code == 0
    assert integer_model.labels[logits.argmax()] in outcome.out
    assert all(str(logit) in outcome.out for logit in logits)


def test_classify_takes_texts_and_a_file_and_gives_json(run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("it 's dull .\r\n\nthe [bad] film\n")
    arguments = ("--mode", "disable", "--model", model, "--file", tmp_path / "texts", "--json")
    answer = json.loads(run("classify", *arguments, "a good film").out)
    texts = [result["text"] for result in answer["results"]]
    assert texts == ["a good film", "it 's dull .", "the [bad] film"]
    assert [result["clear_logits"] for result in answer["results"]] == [[4, 1], [0, 6], [4, 4]]
    labels = [result["label"] for result in answer["results"]]
    assert labels == ["negative", "positive", "negative"]
    # 1 / (1 + exp(-0.01 d)) for logits d steps of 0.01 apart: 3, 6 and 0.
    probabilities = [result["probability"] for result in answer["results"]]
    assert probabilities == pytest.approx([0.50750, 0.51500, 0.5], abs=1e-5)
    plain = run("classify", *arguments[:-1])
    assert "the [bad] film" in plain.out


def test_a_long_text_is_cut_and_that_is_said_or_refused(run, model: Path) -> None:
    arguments = (
        "classify",
        "--mode",
        "disable",
        "--model",
        model,
        "a film and the good , bad film",
    )
    outcome = run(*arguments)
    assert outcome.code == 0
    assert "note: 4 of 8 tokens are cut" in outcome.err
    assert_refused(run(*arguments, "--strict"), "8 tokens", "4 would be read")
    assert run(*arguments[:-1], "a good film", "--strict").code == 0
    assert "6 of 8 tokens are cut" in run(*arguments, "--tokens", "2").err


@pytest.mark.parametrize("texts", [("-", "--file", "x"), ("-", "-"), ("good", "-")])
@pytest.mark.parametrize("options", [(), ("--long",)])
def test_a_dash_among_other_texts_is_refused(run, texts: tuple, options: tuple) -> None:
    assert_refused(run("classify", *options, *texts), "- is stdin, and the only text then")


INVALID = "sentence\tlabel\na good film\t1\n\t0\nfine\t9\nfine\nit 's dull\t0\n"


@pytest.mark.parametrize("mode", ["disable", "task"])
def test_lines_that_cannot_be_read_are_left_out_if_wished(
    run, model: Path, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, one of 3,770 lines stopped everything."""
    path = tmp_path / "dev.tsv"
    path.write_text(INVALID)
    arguments = ["evaluate", "--data", path, "--json"]
    if mode == "task":
        arguments += ["--task", "sst2"]
        monkeypatch.setattr("fhe_inhibitor.training.rows.load_classifier", lambda *_: (None, None))
        monkeypatch.setattr("fhe_inhibitor.training.rows.encode_examples", lambda _, rows: rows)
        monkeypatch.setattr(
            "fhe_inhibitor.training.rows.measure_rows", lambda *a: {"accuracy": float(len(a[2]))}
        )
    else:
        arguments += ["--model", model]
    assert_refused(
        run(*arguments), "dev.tsv, line 5: 1 tab-separated cells" if mode == "task" else "line 3"
    )
    done = run(*arguments, "--skip-invalid")
    assert done.code == 0
    result = json.loads(done.out)
    n_read = result["rows"][0]["value"] if mode == "task" else result["accuracy"]["n_texts"]
    assert n_read == 2
    lines = sorted(reason.partition(": ")[0].rpartition(" ")[2] for reason in result["left_out"])
    assert lines == ["3", "4", "5"]
    assert all(reason in done.err for reason in result["left_out"])
    assert "3 lines were left out" in done.err
    path.write_text("sentence\tlabel\n\t0\n")
    assert_refused(run(*arguments, "--skip-invalid"), "no line can be read", "line 2")


def test_evaluate_gives_the_accuracy_of_the_integer_model(run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "dev.tsv").write_text(TSV)
    arguments = ("evaluate", "--data", tmp_path / "dev.tsv", "--model", model)
    exact = json.loads(run(*arguments, "--no-rounding-noise", "--json").out)
    assert exact["accuracy"]["n_texts"] == 2
    assert exact["accuracy"]["n_draws"] == 1
    assert json.loads(run(*arguments, "--json").out)["accuracy"]["n_draws"] == 3
    assert json.loads(run(*arguments, "--limit", "1", "--json").out)["accuracy"]["n_texts"] == 1
    assert "standard error" in run(*arguments).out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["classify"], ["no text"]),
        (["classify", ""], ["the text is empty"]),
        (["classify", "a film", " \t\n"], ["the text is empty"]),
        (["classify", "a film", "--mode", "fast"], ["'fast'", "disable, simulate, execute"]),
        (["classify", "a film", "--tokens", "9"], ["9 tokens asked for", "1 to 4"]),
        (["classify", "a film", "--tokens", "0"], ["0 tokens asked for"]),
        (["classify", "a film", "--tokens", "few"], ["--tokens", "valid integer"]),
        (["classify", "a film", "--colour"], ["--colour"]),
        (["clasify", "a film"], ["clasify"]),
        (["classify", "--file", "nowhere.txt"], ["nowhere.txt is not a file"]),
        (["classify", "a film \udcff"], ["not UTF-8"]),
        (["classify", "a", "--shared", "d"], ["add --scheduler"]),
        (["classify", "a", "--split", "2"], ["--split are of circuits", "drop them"]),
        (["classify", "a", "--p-error", "2^-40"], ["--p-error and", "drop them"]),
        (["classify", "a", "--insecure"], ["--insecure are of a server: add --server"]),
        (["classify", "a", "--token-file", "t"], ["--token-file", "add --server"]),
        (["classify", "a", "--long", "--max-pieces", "0"], ["0 pieces asked for; wanted 1 to 16"]),
        (["doctor", "--accept-new-model"], ["--accept-new-model", "add --server"]),
        (["keys", "remove", "a", "--ca", "c"], ["--ca", "add --server"]),
        (
            ["evaluate", "--data", "d", "--draws", "2", "--no-rounding-noise"],
            ["--draws is of rounding noise: drop it"],
        ),
        (["classify", "a", "--scheduler", "tcp://127.0.0.1:1"], ["drop --server and --mode"]),
        (["classify", "a", "--scheduler", "tcp://10.0.0.1:1"], ["any code", "tls://"]),
        (["evaluate", "--scheduler", "tcp://127.0.0.1:1"], ["add --mode execute"]),
        (["cluster", "worker", "tcp://10.0.0.1:1"], ["any code", "tls://"]),
        (["cluster", "worker", "tcp://127.0.0.1:1", "--cores", "1", "--tasks", "2"], ["2 tasks"]),
        (["cluster", "scheduler", "--host", "0.0.0.0"], ["any code", "tls://"]),
        (["evaluate"], ["--data"]),
        (["evaluate", "--data", "nowhere.tsv"], ["nowhere.tsv is not a file"]),
        (["evaluate", "--data", "nowhere.tsv", "--limit", "0"], ["--limit"]),
        (
            ["evaluate", "--task", "sst2", "--tokens", "8"],
            ["float model", "drop --mode, --tokens, --long, --out and --scheduler"],
        ),
        (
            ["train", "--data", "d", "--out", "o", "--size", "big"],
            ["'big'", "small, full-depth, full-size"],
        ),
        (["train", "--data", "d", "--out", "o", "--labels", "good"], ["'good'", "two or more"]),
        (["train", "--data", "d", "--out", "o", "--labels", "a,a"], ["'a,a'", "each once"]),
    ],
)
def test_bad_arguments_are_refused(run, model: Path, arguments: list[str], words) -> None:
    if arguments[0] in ("classify", "evaluate"):
        arguments = [arguments[0], "--model", str(model), *arguments[1:]]
        if "--mode" not in arguments:
            arguments[1:1] = ["--mode", "disable"]
    assert_refused(run(*arguments), *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["is empty"]),
        (b"sentence\tlabel\n", ["no texts"]),
        (b"sentence\tclass\na\t1\n", ["line 1", "no column 'label'"]),
        (b"text\tlabel\na\t1\n", ["line 1", "no column 'sentence'"]),
        (b"sentence\tlabel\na\t1\nb\t2\n", ["line 3", "label '2'", "0 to 1"]),
        (b"sentence\tlabel\na\tgood\n", ["line 2", "label 'good'"]),
        (b"sentence\tlabel\na\t1\nb\n", ["line 3", "1 tab-separated cells"]),
        (b"sentence\tlabel\n \t1\n", ["line 2", "empty"]),
        (b"sentence\tlabel\na\t1\n\xff\xfe\t0\n", ["line 3", "not UTF-8"]),
    ],
)
def test_a_bad_tsv_is_refused_with_file_and_line(
    run, model: Path, tmp_path: Path, content: bytes, words: list[str]
) -> None:
    path = tmp_path / "bad.tsv"
    path.write_bytes(content)
    assert_refused(run("evaluate", "--model", model, "--data", path), "bad.tsv", *words)


def test_a_file_that_is_not_utf_8_is_refused(run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "latin1.txt").write_bytes("a good film\nfianc\xe9e\n".encode("latin-1"))
    arguments = ("classify", "--mode", "disable", "--model", model, "--file")
    assert_refused(run(*arguments, tmp_path / "latin1.txt"), "latin1.txt, line 2", "not UTF-8")
    (tmp_path / "blank.txt").write_text("\n \n")
    assert_refused(run(*arguments, tmp_path / "blank.txt"), "blank.txt", "no text")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def edit_config(folder: Path, **changes: int) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps({**config, **changes}))


def change_a_weight(folder: Path) -> None:
    with safe_open(folder / INTEGER_FILE, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    tensors["embedding"][3, 0] ^= 1
    save_file(tensors, folder / INTEGER_FILE, metadata)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / INTEGER_FILE).unlink(), [INTEGER_FILE]),
        (lambda folder: (folder / TOKENIZER_FILE).unlink(), [TOKENIZER_FILE]),
        (lambda folder: (folder / CONFIG_FILE).unlink(), [CONFIG_FILE]),
        (lambda folder: cut(folder / INTEGER_FILE), [INTEGER_FILE]),
        (lambda folder: cut(folder / TOKENIZER_FILE), [TOKENIZER_FILE]),
        (lambda folder: (folder / CONFIG_FILE).write_bytes(b"\xff{"), [CONFIG_FILE]),
        (change_a_weight, [INTEGER_FILE, "hash"]),
        (lambda folder: edit_config(folder, dim=5), ["dim = 5"]),
        (lambda folder: edit_config(folder, n_tokens=7), ["n_tokens = 7"]),
        (shutil.rmtree, ["no model"]),
    ],
)
def test_a_spoilt_model_folder_is_refused(
    run, tmp_path: Path, spoil: Callable[[Path], None], words: list[str]
) -> None:
    folder = write_tiny_model(tmp_path / "model")
    spoil(folder)
    assert_refused(run("classify", "--mode", "disable", "--model", folder, "a film"), *words)


def test_an_unknown_model_is_refused_with_the_known_ones(run) -> None:
    assert_refused(run("classify", "--model", "bert", "a film"), "no model 'bert'")


def test_a_failure_at_run_time_is_one_line_and_code_1(run, model: Path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the machine\nis on fire")

    monkeypatch.setattr(IntegerModel, "integer_logits", fail)
    arguments = ("classify", "--mode", "disable", "--model", model, "a film")
    outcome = run(*arguments)
    assert outcome.code == 1
    assert outcome.err == "fhe-inhibitor: RuntimeError: the machine is on fire\n"
    monkeypatch.setenv("FHE_INHIBITOR_TRACEBACK", "1")
    assert "Traceback" in run(*arguments).err


def test_ctrl_c_is_one_line_and_code_130(run, model: Path, monkeypatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(IntegerModel, "integer_logits", interrupt)
    outcome = run("classify", "--mode", "disable", "--model", model, "a film")
    assert outcome.code == 130
    assert outcome.err.count("\n") == 1
    assert "interrupted" in outcome.err


def test_version_and_help(run) -> None:
    assert "concrete 2.11.0" in run("--version").out
    assert "classify" in run("--help").out
    assert run().code == 2


def test_the_process_itself_takes_bytes_and_closed_pipes(model: Path) -> None:
    """Only a true process has arguments that are no text, and an output that may close."""
    command = [sys.executable, "-m", "fhe_inhibitor", "classify", "--mode", "disable"]
    command += ["--model", str(model)]
    refused = subprocess.run([*command, b"caf\xe9"], capture_output=True, check=False)
    assert_refused(Outcome(refused.returncode, refused.stdout.decode(), refused.stderr.decode()))
    closed = subprocess.Popen(
        [*command, *["a good film"] * 200],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert closed.stdout is not None
    assert closed.stderr is not None
    closed.stdout.close()
    assert closed.stderr.read() == b"fhe-inhibitor: nobody reads the output any more\n"
    closed.stderr.close()
    assert closed.wait(30) == 128 + signal.SIGPIPE


@pytest.mark.parametrize("arguments", [["--version"], ["keys", "list", "--json"]])
@pytest.mark.parametrize("place", ["nobody", "a full disk"])
def test_a_result_that_cannot_be_written_is_said(arguments: list[str], place: str) -> None:
    """Before, the interpreter's own last flush failed for some commands: two lines, code 120."""
    reader, out = os.pipe()
    os.close(reader)
    if place == "a full disk":
        if not Path("/dev/full").exists():
            pytest.skip("only Linux has /dev/full")
        os.close(out)
        out = os.open("/dev/full", os.O_WRONLY)
    command = [sys.executable, "-m", "fhe_inhibitor", *arguments]
    done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    os.close(out)
    words, code = "nobody reads the output any more", 128 + signal.SIGPIPE
    if place == "a full disk":
        words, code = "OSError: [Errno 28] No space left on device", 1
    assert (done.returncode, done.stderr) == (code, f"fhe-inhibitor: {words}\n")


def test_commands_print_results_at_once() -> None:
    """What a bare `print` leaves in a buffer is written when the command has ended.

    Beyond a buffer's length typer would end the process without a word, where nobody reads.
    """
    bare = [
        f"{path.name}, line {node.lineno}"
        for path in Path(inspect.getfile(main)).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
        if not any(keyword.arg == "file" for keyword in node.keywords)
    ]
    assert bare == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_with_one_line(model: Path, tmp_path: Path, number: int) -> None:
    texts = tmp_path / "texts"
    texts.write_text("a good film\n" * 200_000)
    command = [sys.executable, "-m", "fhe_inhibitor", "classify", "--mode", "disable"]
    process = subprocess.Popen(
        [*command, "--model", str(model), "--file", str(texts)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while not catches(process.pid, number):
        time.sleep(0.02)
    time.sleep(0.5)  # it reads texts by then
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    name = signal.Signals(number).name
    assert err.decode() == f"fhe-inhibitor: ended by {name}; what was finished is kept\n"
    assert (process.returncode, out) == (128 + number, b"")


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler of a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    (caught,) = re.findall(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)
    return bool(int(caught, 16) >> number - 1 & 1)
