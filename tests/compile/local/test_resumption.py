"""A run that was stopped goes on after its last finished task, and its folder tells nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from circuits.intervals import interval, interval_lookup
from circuits.network import run
from compile.local.resumption import RunOwner, kept_run
from compile.local.session import Session
from fhe_inhibitor.cli.main import main
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.runtime.classifier import Classification
from fhe_inhibitor.runtime.execution import TaskDone, tasks_left, tasks_to_keep
from fhe_inhibitor.runtime.manifest import Task
from fhe_inhibitor.runtime.messages import Message
from fhe_inhibitor.system.folders import CACHE_VARIABLE, KEYS_VARIABLE
from fhe_inhibitor.system.progress import Observer
from tests.observers import Recorder
from tests.tiny_model import SHAPE, SMALL_SHAPE, write_tiny_model

TEXT, OTHER = "a good film", "a bad film"


class Stop(Exception):
    """Stands for whatever ends a process."""


class StopsAfter(Recorder):
    """Ends the run in the place of its `n`-th next task."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self._n = n

    def begin(self, step: str) -> None:
        super().begin(step)
        if step.startswith(("layer", "classify")):
            self._n -= 1
            if self._n < 0:
                raise Stop


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    shape = replace(SHAPE, lookup_bits=4)  # keys and times are half those of 5 bits
    return write_tiny_model(folder, seed=122, buckets=(4,), shape=shape)


@pytest.fixture(scope="module")
def model(model_folder: Path) -> IntegerModel:
    return IntegerModel.load(model_folder)


@pytest.fixture(scope="module", autouse=True)
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in (CACHE_VARIABLE, KEYS_VARIABLE):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        yield


@pytest.fixture(scope="module")
def session(model: IntegerModel) -> Session:
    """One for all runs of this process: loading keys for each takes longer than the run."""
    return Session(model)


@pytest.fixture(scope="module")
def tasks(session: Session) -> tuple[Task, ...]:
    backend = session.prepare()
    assert backend is not None
    return backend.manifest.program(4).tasks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def classify(
    session: Session, folder: Path, text: str = TEXT, observer: Observer | None = None
) -> Classification:
    session._observer = observer or Observer()
    return session.classify(text, resume=folder)


def stop_after(session: Session, folder: Path, n: int) -> Recorder:
    observer = StopsAfter(n)
    with pytest.raises(Stop):
        classify(session, folder, observer=observer)
    return observer


def assert_right(model: IntegerModel, result: Classification) -> None:
    """The encrypted logits lie within what approximate rounding allows."""
    x, padding = model.encode(model.tokenize(result.text))
    bounds = run(model.network, interval(x), interval(padding), interval_lookup)
    assert result.logits is not None
    assert (bounds.low <= result.logits).all() and (result.logits <= bounds.high).all()


def ran(observer: Recorder) -> list[str]:
    return [step for step in observer.steps if step.startswith(("layer", "classify"))]


def task_files(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("task-*")}


@pytest.mark.fhe
def test_a_run_goes_on_after_each_task_in_turn(
    session: Session, folder: Path, tasks: tuple[Task, ...]
) -> None:
    names = [task.stage for task in tasks]
    for n in range(1, len(tasks)):
        observer = stop_after(session, folder, 1)
        assert ran(observer) == names[n - 1 : n + 1]  # one was finished, the next one begun
        assert ("encrypt" in observer.steps) == (n == 1)
        waiting = range(n + 1, len(tasks) + 1)
        assert task_files(folder) == {f"task-{i}" for i in tasks_to_keep(tasks, waiting, n)}
        assert (f"keeps {n - 1} of {len(tasks)} tasks" in "".join(observer.notes)) == (n > 1)
    last = Recorder()
    result = classify(session, folder, observer=last)
    assert ran(last) == names[-1:]
    assert last.planned("lookups") == last.finished("lookups")
    assert_right(session.model, result)
    lookups = [sum(stage.lookups.values()) for stage in result.stages]
    assert sum(lookups) == sum(task.n_lookups for task in tasks)
    assert all(stage.seconds > 0 for stage in result.stages)
    assert not folder.exists()


@pytest.mark.fhe
def test_nothing_but_ciphertexts_for_the_owner_only(
    session: Session, folder: Path, tasks: tuple[Task, ...]
) -> None:
    stop_after(session, folder, 3)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        content = path.read_bytes()
        assert TEXT.encode() not in content
        # No digest that can be found by trying texts.
        for guess in (TEXT.encode(), TEXT.encode() + b"\n"):
            assert hashlib.sha256(guess).hexdigest().encode() not in content
        if path.name not in (".lock", "run.json"):
            Message.from_bytes(content)
    assert (folder / ".lock").read_bytes() == b""
    record = json.loads((folder / "run.json").read_bytes())
    assert set(record) == {"format", "owner", "request", "encrypt_s", "tasks"}
    request = (folder / "request").read_bytes()
    assert record["request"] == hashlib.sha256(request).hexdigest()


@pytest.mark.fhe
@pytest.mark.parametrize(
    "spoil",
    ["flip", *(pytest.param(x, marks=pytest.mark.slow) for x in ("cut", "other", "remove"))],
)
def test_a_damaged_task_runs_again(
    session: Session, folder: Path, tasks: tuple[Task, ...], spoil: str
) -> None:
    stop_after(session, folder, 3)
    path = folder / "task-3"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if spoil == "flip":
        path.write_bytes(content)
    elif spoil == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif spoil == "other":
        shutil.copy(folder / "request", path)
    else:
        path.unlink()
    recorder = Recorder()
    assert_right(session.model, classify(session, folder, observer=recorder))
    assert ran(recorder) == [task.stage for task in tasks[2:]]
    said = [note for note in recorder.notes if "is damaged" in note and "task-3" in note]
    assert len(said) == (spoil != "remove")


@pytest.mark.fhe
def test_a_damaged_request_is_encrypted_anew_and_tasks_stay(
    session: Session, folder: Path, tasks: tuple[Task, ...]
) -> None:
    stop_after(session, folder, 2)
    (folder / "request").write_bytes(b"FHEI")
    recorder = Recorder()
    assert_right(session.model, classify(session, folder, observer=recorder))
    assert ran(recorder) == [task.stage for task in tasks[2:]]
    assert "encrypting anew" in recorder.notes[0]


@pytest.mark.fhe
@pytest.mark.parametrize(
    "name", [pytest.param("request", marks=pytest.mark.slow), "run.json", "task-2"]
)
def test_a_kill_in_the_middle_of_a_write_costs_that_file_at_most(
    session: Session,
    folder: Path,
    tasks: tuple[Task, ...],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """As SIGKILL does, what is written stays under its unfinished name; then the process ends."""
    replace = os.replace

    def killed(source: Any, target: Any) -> None:
        if Path(target).name == name and (name != "run.json" or (folder / "task-2").exists()):
            shutil.copy(source, folder / ".unfinished-killed")
            (folder / ".unfinished-killed").write_bytes(b"FHEI")
            raise Stop
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(Stop):
            classify(session, folder)
    assert list(folder.glob(".unfinished-*"))
    recorder = stop_after(session, folder, 1)
    assert not list(folder.glob(".unfinished-*"))
    assert ran(recorder)[0] == tasks[0 if name == "request" else 1].stage
    assert_right(session.model, classify(session, folder))
    assert not folder.exists()


@pytest.mark.fhe
def test_the_run_of_another_owner_is_refused_and_stays(
    session: Session, model: IntegerModel, folder: Path, tmp_path: Path
) -> None:
    stop_after(session, folder, 1)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = write_tiny_model(tmp_path / "other", buckets=(2,), shape=SMALL_SHAPE)
    another = IntegerModel.load(other)
    with pytest.raises(InputError, match="a run of another text"):
        classify(session, folder, OTHER)
    with pytest.raises(InputError, match="a run of another model"):
        classify(Session(another), folder)
    keys = Session(model, keys_dir=tmp_path / "keys")
    with pytest.raises(InputError, match="a run of other keys"):
        keys.classify(TEXT, resume=folder)
    with FileLock(folder / ".lock"), pytest.raises(InputError, match="another process runs in"):
        classify(session, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.fhe
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "notes.txt").write_text("mine"), r"other files and no run\.json"),
        (lambda folder: folder.chmod(0o755), "mode 0755"),
        (lambda folder: (folder / "run.json").write_text("{"), "can't be read as a run"),
        (lambda folder: (folder.rmdir(), folder.write_text("")), "cannot be written"),
    ],
)
def test_a_folder_that_cannot_be_one_is_refused(
    session: Session, folder: Path, spoil: Callable[[Path], Any], words: str
) -> None:
    folder.mkdir(mode=0o700)
    spoil(folder)
    with pytest.raises(InputError, match=words) as error:
        classify(session, folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.fhe
def test_the_command_goes_on(
    session: Session,
    model_folder: Path,
    folder: Path,
    tasks: tuple[Task, ...],
    capfd: pytest.CaptureFixture[str],
) -> None:
    stop_after(session, folder, 2)
    with pytest.raises(SystemExit) as exit_:
        main(["classify", "--model", str(model_folder), "--resume", str(folder), "--json", TEXT])
    out, err = capfd.readouterr()
    assert exit_.value.code == 0
    assert f"keeps 2 of {len(tasks)} tasks" in err
    (result,) = json.loads(out)["results"]
    assert result["logits"] is not None
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a film", "a good film"], "--resume keeps one text, and 2 came"),
        (["--mode", "simulate", "a film"], "--mode simulate has none"),
        (["--mode", "disable", "a film"], "--mode disable has none"),
        (["--server", "http://127.0.0.1:9", "a film"], "drop --resume"),
    ],
)
def test_what_cannot_be_resumed_is_refused(
    arguments: list[str], words: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["classify", "--resume", str(folder), *arguments])
    out, err = capfd.readouterr()
    assert (exit_.value.code, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert not folder.exists()


def test_a_session_in_the_clear_has_nothing_to_resume(model: IntegerModel, folder: Path) -> None:
    for mode in ("disable", "simulate"):
        with pytest.raises(InputError, match="nothing to resume"):
            Session(model, mode).classify(TEXT, resume=folder)


def task(inputs: str, output: str) -> Task:
    return Task(output, output, tuple(inputs), (output,), {})


def test_tasks_that_are_left_are_those_whose_values_are_needed() -> None:
    """x -> a -> b -> (a, b) c -> d, by hand."""
    program = [task("x", "a"), task("a", "b"), task("ab", "c"), task("c", "d")]
    assert tasks_left(program, {"x"}) == [1, 2, 3, 4]
    assert tasks_left(program, {"x", "a"}) == [2, 3, 4]
    assert tasks_left(program, {"x", "b"}) == [1, 3, 4]
    assert tasks_left(program, {"x", "c"}) == [4]
    assert tasks_left(program, {"x", "d"}) == []
    assert [tasks_to_keep(program, range(n + 1, 5), n) for n in range(1, 5)] == [
        {1},
        {1, 2},
        {1, 2, 3},
        {3, 4},
    ]


class Written:
    """Stands for a ciphertext."""

    def serialize(self) -> bytes:
        return b"ciphertext"


def keep_in_turn(folder: Path, program: list[Task], order: list[int], left: set[int]) -> None:
    """Keep tasks, by index, in the order in which workers are done with them."""
    owner = RunOwner(circuits_hash="a" * 64, evaluation_keys="b" * 64, text="c" * 64)
    with kept_run(folder, owner, Observer()) as run:
        run.keep_request(b"request", 0.0)
        for index in order:
            left.discard(index)
            outputs: Any = {name: Written() for name in program[index - 1].outputs}
            done = TaskDone(program[index - 1], outputs, 1.0, index, len(program))
            run.keep(program, 4, done, left)


@pytest.mark.parametrize(
    ("order", "kept"),
    [
        ([3], {3}),
        ([3, 4], {3, 4}),
        ([4, 2], {2, 4}),
        ([4, 2, 3], {2, 3, 4}),
        ([2, 3, 4, 1], {1, 2, 3, 4}),
    ],
)
def test_tasks_that_are_done_early_stay(folder: Path, order: list[int], kept: set[int]) -> None:
    """Four tasks read x and run at once; a fifth reads what they give, the last one that."""
    program = [*(task("x", name) for name in "abcd"), task("abcd", "e"), task("e", "f")]
    keep_in_turn(folder, program, order, {1, 2, 3, 4, 5, 6})
    assert task_files(folder) == {f"task-{index}" for index in kept}


def test_what_the_next_task_has_read_goes_once_it_is_kept(folder: Path) -> None:
    """a and b are read by c, c by d; when d is there, c is enough to go on with."""
    program = [task("x", "a"), task("x", "b"), task("ab", "c"), task("c", "d"), task("d", "e")]
    keep_in_turn(folder, program, [2, 1, 3, 4], {1, 2, 3, 4, 5})
    assert task_files(folder) == {"task-3", "task-4"}


def test_what_a_damaged_task_is_needed_for_stays(folder: Path) -> None:
    """x -> a -> (x, a) b -> (a, b) c: a was damaged and runs again, b is there and waits for c."""
    program = [task("x", "a"), task("xa", "b"), task("ab", "c"), task("c", "d")]
    keep_in_turn(folder, program, [1, 2], {1, 2, 3, 4})
    (folder / "task-1").unlink()
    keep_in_turn(folder, program, [1], {1, 3, 4})
    assert task_files(folder) == {"task-1", "task-2"}
