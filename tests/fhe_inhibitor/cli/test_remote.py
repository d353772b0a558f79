"""`classify --server` and `keys`: the outputs of a local run, and one clear line for each error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from fhe_inhibitor.cli.main import main
from fhe_inhibitor.runtime.keyring import Keyring
from fhe_inhibitor.runtime.protocol import Status
from tests.conftest import REPOSITORY
from tests.fhe_inhibitor.conftest import TEXT
from tests.fhe_inhibitor.remote.remote_user import RemoteUser, heeding_ctrl_c, remote_user
from tests.fhe_inhibitor.remote.test_client import client_jobs, jobs, new_job, stopped_workers
from tests.fhe_inhibitor.service.serving import Serving

pytestmark = pytest.mark.fhe


@pytest.fixture(scope="module")
def heidi(server: Serving, tmp_path_factory: pytest.TempPathFactory) -> RemoteUser:
    return remote_user(server, "heidi", tmp_path_factory.mktemp("heidi"))


def names(user: RemoteUser) -> dict[str, str]:
    """Return the environment of a user."""
    return {
        "FHE_INHIBITOR_KEYS": str(user.folder / "keys"),
        "FHE_INHIBITOR_CACHE": str(user.folder / "cache"),
        "FHE_INHIBITOR_TOKEN": user.token,
    }


def start(
    user: RemoteUser,
    *arguments: str,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    **environment: str,
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fhe_inhibitor", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **names(user), **environment},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def run(
    heidi: RemoteUser, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process, which is enough where nothing is encrypted."""

    def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
        for name, value in {**names(heidi), **environment}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        return int(exit_.value.code or 0), *capsys.readouterr()

    return run


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_from_keys_to_labels_and_back_to_nothing(run, heidi: RemoteUser, tmp_path: Path) -> None:
    """One walk through all commands, with locked keys: each costs a process."""
    on_server, secret = ("--server", heidi.server.url), {"FHE_INHIBITOR_PASSPHRASE": "a b c"}
    code, out, err = outcome(start(heidi, "keys", "new", *on_server, "--passphrase", **secret))
    assert (code, err) == (0, "")
    (entry,) = Keyring(heidi.folder / "keys").entries()
    assert out == f"made {entry.circuits_hash[:12]} for tiny\n"

    (tmp_path / "texts").write_text("bad\nthe film is n't very good\n")
    options = ("--json", "--file", str(tmp_path / "texts"))
    code, out, err = outcome(start(heidi, "classify", *on_server, *options, TEXT, **secret))
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith("note: 2 of 6 tokens are cut")
    answer = json.loads(out)
    assert (answer["model"], answer["mode"]) == ("tiny", "execute")
    texts = [result["text"] for result in answer["results"]]
    assert texts == [TEXT, "bad", "the film is n't very good"]
    first = answer["results"][0]
    assert first["clear_logits"] is None and len(first["logits"]) == 2
    assert 0 < first["request_bytes"] < 100_000 < answer["cost"]["evaluation_keys_bytes"]
    assert sum(stage["seconds"] for stage in first["stages"]) < first["seconds"]

    (tmp_path / "lines").write_bytes(b"bad\n\xff\n" + TEXT.encode())
    with (tmp_path / "lines").open("rb") as stdin:
        process = start(heidi, "classify", *on_server, "--jsonl", "-", stdin=stdin, **secret)
    code, out, err = outcome(process)
    assert (code, err) == (2, "note: 1 of 3 texts have no label; their lines say why\n")
    lines = sorted((json.loads(line) for line in out.splitlines()), key=lambda line: line["index"])
    assert [line["text"] for line in lines] == ["bad", "\udcff", TEXT]
    assert "not UTF-8" in lines[1]["error"] and lines[1]["exit_code"] == 2
    assert all(len(line["logits"]) == 2 for line in (lines[0], lines[2]))

    (tmp_path / "token").write_text(f"{heidi.token}\n")
    token = ("--token-file", str(tmp_path / "token"))
    process = start(heidi, "classify", *on_server, *token, TEXT, FHE_INHIBITOR_TOKEN="", **secret)
    code, out, err = outcome(process)
    assert (code, err) == (0, "")
    for word in ("probability", "encrypted steps", "load keys", "layer0.attend", "evaluation keys"):
        assert word in out
    assert "clear" not in out

    known = client_jobs(heidi)
    with heeding_ctrl_c(), stopped_workers(heidi.server):
        process = start(heidi, "classify", *on_server, TEXT, **secret)
        new_job(heidi, known)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        code, out, err = outcome(process)
    assert (code, out, err.count("\n")) == (130, "", 1)
    assert "interrupted" in err
    (job,) = [job for job in jobs(heidi) if job.id not in known]
    assert job.status is Status.CANCELLED

    assert_refused(run("classify", *on_server, TEXT), 2, "set FHE_INHIBITOR_PASSPHRASE")
    assert_refused(run("keys", "new", *on_server), 2, "there are keys", "already")
    wrong = {"FHE_INHIBITOR_PASSPHRASE": "wrong"}
    assert_refused(run("classify", *on_server, TEXT, **wrong), 2, "wrong passphrase")

    (row,) = json.loads(run("keys", "list", "--json")[1])
    assert (row["model"], row["locked"]) == ("tiny", True)
    assert row["parameters"][0]["margin"] == pytest.approx(0, abs=1e-6)
    shown = " ".join(run("keys", "list", "--parameters")[1].split())
    for words in ("polynomial size", "128 bits +0.00", "bootstrap keys 0", "no proof"):
        assert words in shown
    assert entry.circuits_hash[:12] in run("keys", "list")[1]
    code, out, err = run("keys", "remove", "tiny", *on_server)
    assert (code, err, Keyring(heidi.folder / "keys").entries()) == (0, "", [])
    assert "no keys in" in run("keys", "list")[1]
    assert_refused(run("keys", "remove", "tiny"), 2, "names 0 sets of keys")


def assert_refused(outcome: tuple[int, str, str], code: int, *words: str) -> None:
    """One line on stderr that holds all the words, and nothing else."""
    found, out, err = outcome
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert err.startswith("fhe-inhibitor: ")
    assert all(word in err for word in words)


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "words"),
    [
        ((), {"FHE_INHIBITOR_TOKEN": "wrong"}, 2, ["401", "pass a token"]),
        (("--token-file", "nowhere"), {}, 2, ["nowhere can't be read"]),
        (("--mode", "disable"), {}, 2, ["--server", "drop --mode"]),
        (("--model", "other"), {}, 2, ["no model 'other'", "it has tiny"]),
        (("--server", "http://127.0.0.1:9"), {}, 1, ["can't be reached"]),
        (("--server", "nowhere"), {}, 2, ["is no address"]),
        (("--ca", "nowhere.pem"), {}, 2, ["nowhere.pem holds no certificates"]),
    ],
)
def test_what_is_wrong_is_one_line(
    run,
    heidi: RemoteUser,
    arguments: tuple[str, ...],
    environment: dict[str, str],
    code: int,
    words: list[str],
) -> None:
    command = ("classify", "--server", heidi.server.url, *arguments, TEXT)
    assert_refused(run(*command, **environment), code, *words)
