"""Sessions encrypted and simulated, on a tiny model: right, cached, private, interruptible."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from circuits.counts import count_lookups
from compile.evaluation.run import evaluate_encrypted
from compile.local.session import Session
from fhe_inhibitor.cli.main import main
from fhe_inhibitor.cluster.options import Cluster
from fhe_inhibitor.cluster.orders import ClusterError
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.runtime.classifier import Classification, Outcome
from fhe_inhibitor.runtime.costs import stage_name
from fhe_inhibitor.runtime.keyring import Keyring
from fhe_inhibitor.system.folders import KEYS_VARIABLE
from fhe_inhibitor.text.data import LabelledText
from tests.fhe_inhibitor.service.serving import wait_until
from tests.observers import Recorder
from tests.rounding import assert_within_rounding, max_difference
from tests.tiny_model import write_tiny_model

TEXTS = ["a good film", "bad", "the film is n't very good"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose labels rounding can't change: every one of TEXTS is negative."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny", seed=122)


@pytest.fixture(scope="module")
def model(folder: Path) -> IntegerModel:
    return IntegerModel.load(folder)


@pytest.fixture(scope="module", autouse=True)
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A keyring of this file alone: the tests count what is in it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("keys")
        patch.setenv(KEYS_VARIABLE, str(folder))
        yield folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, model: IntegerModel, keyring: Path) -> Path:
    """A cache with circuits of the model, whose keys are in the keyring."""
    folder = tmp_path_factory.mktemp("cache")
    Session(model, cache_dir=folder).prepare()
    return folder


@pytest.fixture
def entry(cache: Path, tmp_path: Path) -> Path:
    """A copy of what the cache holds of the model, to be spoilt; its parent is a cache."""
    (cached,) = cache.iterdir()
    return Path(shutil.copytree(cached, tmp_path / "cache" / cached.name))


def assert_right(model: IntegerModel, results: list[Classification]) -> None:
    for result in results:
        assert_within_rounding(model, result)
        x, padding = model.encode(model.tokenize(result.text))
        assert result.clear_logits == tuple(model.integer_logits(x, padding).tolist())


def assert_costs_the_formula(model: IntegerModel, results: list[Classification]) -> None:
    for result in results:
        formula: dict[str, Counter[int]] = {}
        for stage, counts in count_lookups(model.network, result.n_positions).items():
            formula.setdefault(stage_name(stage), Counter()).update(counts)
        counted = {stage.name: Counter(stage.lookups) for stage in result.stages if stage.lookups}
        assert counted == formula


@pytest.mark.fhe
def test_encrypted_logits_are_those_of_the_integer_model(model, cache: Path) -> None:
    recorder = Recorder()
    session = Session(model, cache_dir=cache, observer=recorder)
    results = session.classify_many(TEXTS)
    assert_right(model, results)
    assert_costs_the_formula(model, results)
    assert [result.n_positions for result in results] == [4, 2, 4]
    names = [stage.name for stage in results[0].stages]
    assert (names[0], names[1], names[-2], names[-1]) == (
        "encrypt",
        "layer0.project",
        "classify",
        "decrypt",
    )
    assert all(0 < sum(s.seconds for s in r.stages) <= r.seconds for r in results)
    assert recorder.planned("lookups") == recorder.finished("lookups") > 0
    assert "2 of 6 tokens are cut" in recorder.notes[0]
    cost = session.cost()
    assert [step.name for step in cost.setup] == [
        "load circuits",
        "load keys",
        "send evaluation keys",
    ]
    assert 0 < results[0].request_bytes < 100_000 < cost.evaluation_keys_bytes
    assert cost.peak_memory_bytes > cost.evaluation_keys_bytes


@pytest.mark.fhe
def test_texts_apart_are_told_one_by_one(model, cache: Path) -> None:
    recorder = Recorder()
    told: list[Outcome] = []
    with Session(model, cache_dir=cache, observer=recorder) as session:
        session.classify_apart([TEXTS[1], " ", TEXTS[1]], told.append)
    first, empty, last = told
    assert [outcome.index for outcome in told] == [0, 1, 2]
    assert isinstance(empty.error, InputError) and empty.result is None
    assert first.result is not None and last.result is not None
    assert_right(model, [first.result, last.result])
    assert recorder.planned("lookups") == recorder.finished("lookups") > 0


@pytest.mark.fhe
def test_simulation_takes_the_same_lookups_and_is_compiled_once(
    model: IntegerModel, tmp_path: Path
) -> None:
    for is_first in (True, False):
        recorder = Recorder()
        session = Session(model, "simulate", cache_dir=tmp_path, observer=recorder)
        results = session.classify_many(TEXTS)
        assert_right(model, results)
        assert_costs_the_formula(model, results)
        assert session.cost().evaluation_keys_bytes == 0
        assert any(step.startswith("compile") for step in recorder.steps) == is_first
    (entry,) = tmp_path.iterdir()
    assert {path.name for path in entry.iterdir()} == {".lock", "simulation"}


@pytest.mark.fhe
def test_encrypted_evaluation_agrees_with_the_integer_model(model, cache: Path) -> None:
    rows = [LabelledText(TEXTS[0], 1), LabelledText(TEXTS[1], 0)]
    session = Session(model, cache_dir=cache)
    result = evaluate_encrypted(session, rows)
    assert result.accuracy.n_texts == result.agreement.n_texts == 2
    assert result.agreement.n_equal_labels == 2
    assert result.accuracy.value == result.integer_accuracy.value == 0.5
    assert result.agreement.max_difference <= max(max_difference(model, row.text) for row in rows)
    assert result.seconds_per_text is not None and result.max_seconds is not None
    assert 0 < result.seconds_per_text <= result.max_seconds
    with pytest.raises(InputError, match="disable"):
        evaluate_encrypted(Session(model, "disable"), rows)


@pytest.mark.fhe
def test_circuits_are_private_and_keys_lie_elsewhere(model, cache: Path) -> None:
    (entry,) = cache.iterdir()
    for path in [entry, *entry.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    assert {path.name for path in entry.iterdir()} == {".lock", "circuits"}
    (keys,) = Keyring().entries()
    assert keys.model == model.name


@pytest.mark.fhe
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda entry: change(entry / "circuits", concrete="2.10.0"), "concrete 2.10.0"),
        (lambda entry: truncate(entry / "circuits/module/circuits.json"), "damaged"),
        (lambda entry: truncate(entry / "circuits/module/server/sharedlib.so"), "damaged"),
    ],
)
def test_circuits_that_do_not_fit_are_rebuilt_and_keys_stay(
    model, entry: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(entry)
    recorder, keys = Recorder(), Keyring().entries()
    session = Session(model, cache_dir=entry.parent, observer=recorder)
    session.prepare()
    assert len(recorder.notes) == 1
    assert reason in recorder.notes[0]
    steps = [step.name for step in session.cost().setup]
    assert steps == ["load circuits", "compile", "load keys", "send evaluation keys"]
    assert Keyring().entries() == keys
    again = Recorder()
    Session(model, cache_dir=entry.parent, observer=again).prepare()
    assert not again.notes


@pytest.mark.fhe
def test_a_deleted_cache_deletes_no_key(model, entry: Path, tmp_path: Path) -> None:
    keyring = Keyring(tmp_path / "keys")
    for _ in range(2):
        Session(model, cache_dir=entry.parent, keys_dir=keyring.folder).prepare()
        assert len(keyring.entries()) == 1
        shutil.rmtree(entry)
    assert len(keyring.entries()) == 1


@pytest.mark.fhe
def test_keys_in_the_old_place_are_moved_and_that_is_said(
    model, entry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = entry / "keys" / "secret.keys"
    old.parent.mkdir()
    old.write_bytes(b"FHEK")
    monkeypatch.setenv(KEYS_VARIABLE, str(tmp_path / "keys"))
    recorder = Recorder()
    Session(model, cache_dir=entry.parent, observer=recorder).prepare()
    (aside,) = (tmp_path / "keys" / "aside").glob("*/secret.keys")
    assert aside.read_bytes() == b"FHEK" and not old.exists()
    (note,) = recorder.notes
    assert str(old) in note and f"moved to {aside}" in note
    assert recorder.steps == ["load circuits", "keygen", "send evaluation keys"]
    assert len(Keyring().entries()) == 1


@pytest.mark.fhe
def test_a_closed_session_is_refused(model, cache: Path) -> None:
    with Session(model, cache_dir=cache) as session:
        session.prepare()
    with pytest.raises(InputError, match="closed"):
        session.classify("bad")


def test_a_cache_that_nothing_may_run_in_is_told(
    model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(tmp_path)
    noexec = os.statvfs_result([*real[:8], real.f_flag | os.ST_NOEXEC, *real[9:]])
    monkeypatch.setattr(os, "statvfs", lambda _: noexec)
    with pytest.raises(InputError, match=r"mounted noexec.*FHE_INHIBITOR_CACHE"):
        Session(model, cache_dir=tmp_path).prepare()
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.fhe
def test_a_session_prints_nothing_of_its_own(folder: Path, cache: Path) -> None:
    code = f"""
from compile.local.session import Session
Session({str(folder)!r}, cache_dir={str(cache)!r}).prepare()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


@pytest.mark.parametrize("texts", ["a good film", None])
def test_one_text_in_place_of_a_list_is_refused(model, texts) -> None:
    session = Session(model, "disable")
    with pytest.raises(TypeError, match="classify_many wants a list of texts"):
        session.classify_many(texts)
    with pytest.raises(TypeError, match="classify_documents wants a list of texts"):
        session.classify_documents(texts)
    with pytest.raises(TypeError, match="classify_apart wants a list of texts"):
        session.classify_apart(texts, print)


def test_texts_may_come_one_by_one(model) -> None:
    session, texts = Session(model, "disable"), ["good", "bad"]
    told: list[Outcome] = []
    session.classify_apart(iter(texts), told.append)
    assert [one.text for one in told] == texts
    assert [one.text for one in session.classify_many(iter(texts))] == texts
    assert [one.text for one in session.classify_documents(iter(texts))] == texts


@pytest.mark.parametrize("name", [None, 5])
def test_a_model_that_is_no_name_is_refused(name) -> None:
    with pytest.raises(InputError, match="a model is named by a string or a path"):
        Session(name)


def change(part: Path, **values: object) -> None:
    manifest = json.loads((part / "manifest.json").read_text())
    (part / "manifest.json").write_text(json.dumps({**manifest, **values}))


def has_circuits(process: psutil.Process) -> bool:
    """Tell whether a process has loaded the circuits' native code, after which only keys are."""
    try:
        return any(file.path.endswith("sharedlib.so") for file in process.memory_maps())
    except psutil.NoSuchProcess:
        return False


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def command(folder: Path, cache: Path, *options: str) -> subprocess.Popen[str]:
    arguments = ["classify", "--model", str(folder), *options, "a good film"]
    return subprocess.Popen(
        [sys.executable, "-m", "fhe_inhibitor", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "FHE_INHIBITOR_CACHE": str(cache)},
        start_new_session=True,
    )


@pytest.mark.fhe
@pytest.mark.slow
def test_the_command_prints_everything_that_was_measured(folder: Path, cache: Path) -> None:
    process = command(folder, cache, "--benchmark")
    out, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (0, "")
    for name in ("keys", "encrypt", "layer0.project", "layer0.attend", "layer1.feed_forward"):
        assert name in out
    for name in ("classify", "decrypt", "5-bit", "total", "evaluation keys", "peak memory"):
        assert name in out
    assert "one lookup: 3-bit" in out
    assert "times as long" in out


@pytest.mark.fhe
def test_compile_writes_circuits_and_report(folder: Path, tmp_path: Path, capfd) -> None:
    out = tmp_path / "out"
    arguments = ["compile", "--model", str(folder), "--out", str(out), "--no-measure"]
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 0
    assert capfd.readouterr().out.strip() == (out / "report.md").read_text().strip()
    report = json.loads((out / "report.json").read_text())
    assert [length["n"] for length in report["lengths"]] == [2, 4]
    assert report["widest_lookup"] == 5
    assert {path.name for path in out.iterdir()} == {
        "circuits.json",
        "sha256.json",
        "client.specs.json",
        "report.json",
        "report.md",
        "server",
    }
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "not empty" in capfd.readouterr().err


@pytest.mark.fhe
@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("circuits", signal.SIGINT),
        ("keys", signal.SIGINT),
        ("run", signal.SIGINT),
        ("circuits", signal.SIGTERM),
    ],
)
def test_a_signal_ends_cleanly_and_spoils_nothing(
    folder: Path,
    entry: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    number: signal.Signals,
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    if moment == "circuits":
        shutil.rmtree(entry / "circuits")
    if moment == "keys":
        monkeypatch.setenv(KEYS_VARIABLE, str(tmp_path / "keys"))
    process = command(folder, entry.parent, *["bad"] * 50)
    if moment == "run":
        wait_until(lambda: any(map(has_circuits, psutil.Process(process.pid).children(True))), 60)
    begun = {"circuits": entry.glob, "keys": tmp_path.glob, "run": entry.glob}[moment]
    pattern = {"circuits": ".unfinished-*", "keys": "keys/*/.lock", "run": "circuits"}[moment]
    while not list(begun(pattern)) and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, number)  # as a terminal does: to all processes of the command
    out, err = process.communicate(timeout=200)
    assert process.returncode == 128 + number
    assert out == ""
    assert err.count("\n") == 1
    assert ("interrupted" if number == signal.SIGINT else "SIGTERM") in err
    assert not list(temporary.iterdir())
    parts = {path.name for path in entry.iterdir() if path.is_dir()}
    assert parts == (set() if moment == "circuits" else {"circuits"})
    assert len(Keyring().entries()) == (0 if moment == "keys" else 1)


@pytest.mark.fhe
@pytest.mark.parametrize(("variable", "what"), [("cache", "no space left"), ("keys", "No space")])
def test_a_full_disk_is_an_input_error(model, entry, tmp_path, monkeypatch, variable, what) -> None:
    """As it is when the disk is full before the end of the circuits, or of the keys."""
    if variable == "cache":
        shutil.rmtree(entry / "circuits")
    monkeypatch.setenv(KEYS_VARIABLE, str(tmp_path / "keys"))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=what) as e:
        Session(model, cache_dir=entry.parent).prepare()
    assert str(entry if variable == "cache" else tmp_path / "keys") in str(e.value)
    parts = {path.name for path in entry.iterdir() if path.is_dir()}
    assert parts == (set() if variable == "cache" else {"circuits"})
    assert not list(tmp_path.glob("keys/*/secret.keys"))


def test_an_unwritable_cache_folder_is_an_input_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    process = command(folder, tmp_path / "file")
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (2, "")
    assert err.count("\n") == 1
    assert "cannot be written" in err


def test_a_cluster_that_cannot_be_joined_again_is_told_at_the_next_text_too(
    model: IntegerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Circuits for long documents make a session leave the cluster, and join it with other keys."""
    joined: list[object] = []

    class Executor:
        def __init__(self, *arguments: object) -> None:
            if joined:
                raise ClusterError("no scheduler answers")
            joined.append(self)

        def close(self) -> None:
            pass

    backend: Any = SimpleNamespace(manifest=SimpleNamespace(documents=None))
    client = SimpleNamespace(evaluation_keys=lambda: b"")
    prepared = SimpleNamespace(client=client, folder=Path())
    monkeypatch.setattr("fhe_inhibitor.cluster.executor.ClusterExecutor", Executor)
    monkeypatch.setattr("compile.local.prepared.prepare", lambda *arguments: prepared)
    monkeypatch.setattr("compile.local.backends.Execution", lambda *arguments: backend)
    session = Session(model, cluster=Cluster("tcp://127.0.0.1:9"))
    assert session.prepare() is backend
    for _ in range(2):
        with pytest.raises(ClusterError, match="no scheduler answers"):
            session.classify_document("good . " * 40, 2, 3)
        with pytest.raises(ClusterError, match="no scheduler answers"):
            session.classify("a good film")


def test_an_unknown_mode_is_refused(model: IntegerModel) -> None:
    with pytest.raises(InputError, match="'fast'"):
        Session(model, "fast")
