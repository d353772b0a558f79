"""Settings come from options, environment and file; tokens are kept as hashes alone."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from fhe_inhibitor.cli.main import main
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.service.access import Rates, Tokens, list_tokens, new_token, revoke
from fhe_inhibitor.service.refusals import Refused
from fhe_inhibitor.service.settings import ENVIRONMENT, load_settings


def test_options_go_before_environment_before_file(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("port = 1\nworkers = 2\nmax_keys = 3\n")
    monkeypatch.setenv(f"{ENVIRONMENT}PORT", "4")
    monkeypatch.setenv(f"{ENVIRONMENT}WORKERS", "5")
    settings = load_settings(file, port=6, workers=None)
    assert (settings.port, settings.workers, settings.max_keys) == (6, 5, 3)
    assert settings.limits.max_keys == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ports = 1", "setting ports"),
        ("port = 'x'", "setting port"),
        ("workers = 0", "setting workers"),
        ("port = ", "can't be read as TOML"),
        pytest.param("port = " + 9999 * "[", "can't be read as TOML", id="deep"),
        ("port = true", "setting port: wanted a value, not true or false"),
        ('host = ""', "setting host: it is empty"),
        ('data_dir = ""', "setting data_dir: it is empty"),
        ('data_dir = "~nosuchuser/x"', "setting data_dir: '~nosuchuser/x' begins with the home"),
        ("port = 99\nmetrics_port = 99", "setting metrics_port: the server itself listens there"),
        ('metrics_path = "/v1/models"', "setting metrics_path: the server has something else"),
        ('metrics_path = "/ready"', "setting metrics_path: the server has something else"),
        ('metrics_path = "metrics"', "setting metrics_path: String should match"),
    ],
)
def test_a_wrong_file_is_one_clear_error(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(content)
    with pytest.raises(InputError, match=message):
        load_settings(file)
    with pytest.raises(InputError, match="no settings file"):
        load_settings(tmp_path / "missing")


def test_a_variable_that_sets_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{ENVIRONMENT}CERTIFICAT", "cert.pem")
    with pytest.raises(InputError, match=f"{ENVIRONMENT}CERTIFICAT names no setting.*CERTIFICATE,"):
        load_settings()
    monkeypatch.delenv(f"{ENVIRONMENT}CERTIFICAT")
    monkeypatch.setenv(f"{ENVIRONMENT.lower()}max_keys", "3")
    assert load_settings().max_keys == 3


@pytest.mark.parametrize(
    ("container", "workers", "n_bytes"),
    [("max", 2, 24 << 30), (str(8 << 30), 2, 3 << 30), (str(80 << 30), 1, 48 << 30)],
)
def test_workers_share_what_a_container_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: str, workers: int, n_bytes: int
) -> None:
    """Of a machine with 64 GiB; beyond its limit the system ends the whole container."""
    (tmp_path / "memory.max").write_text(f"{container}\n")
    monkeypatch.setattr("fhe_inhibitor.system.machine.CGROUPS", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64 << 30))
    assert load_settings(data_dir=tmp_path, workers=workers).memory_bytes == n_bytes


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("port = 1\nopen_status = true\n", encoding="utf-8-sig")
    settings = load_settings(file, metrics_port=0, metrics_path="/metrics")
    assert (settings.port, settings.open_status) == (1, True)


def test_a_token_opens_one_users_things_and_is_stored_as_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    tokens = Tokens(path)
    with pytest.raises(Refused):
        tokens.user("Bearer x")
    alice, bob = new_token(path, "alice"), new_token(path, "bob")
    assert tokens.user(f"Bearer {alice}") == "alice"
    assert tokens.user(f"bearer {bob}") == "bob"
    assert alice not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for wrong in (None, "", alice, f"Basic {alice}", f"Bearer {alice}x", "Bearer "):
        with pytest.raises(Refused):
            tokens.user(wrong)
    for name in ("../alice", "", "Alice", "a" * 65):
        with pytest.raises(InputError):
            new_token(path, name)
    with path.open("a") as file:
        file.write("broken\n")
    assert tokens.user(f"Bearer {alice}") == "alice", "a broken file locks nobody out"
    with pytest.raises(InputError, match="line 3"):
        Tokens(path)


def test_a_token_is_added_after_a_line_that_was_not_ended(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    alice = new_token(path, "alice")
    path.write_text(path.read_text() + "# edited by hand")
    bob = new_token(path, "bob")
    carol = new_token(path, "carol")
    tokens = Tokens(path)
    for user, token in (("alice", alice), ("bob", bob), ("carol", carol)):
        assert tokens.user(f"Bearer {token}") == user
    assert "\n\n" not in path.read_text()


def test_tokens_are_listed_and_revoked_and_all_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    assert list_tokens(path) == []
    alice, bob, again = (new_token(path, user) for user in ("alice", "bob", "alice"))
    path.write_text(f"# alice's and others'\n  {path.read_text()}")
    path.chmod(0o640)
    assert [user for user, _ in list_tokens(path)] == ["alice", "bob", "alice"]
    tokens = Tokens(path)
    assert tokens.user(f"Bearer {alice}") == "alice"
    assert revoke(path, "alice") == 2
    for token in (alice, again):
        with pytest.raises(Refused):
            tokens.user(f"Bearer {token}")
    assert tokens.user(f"Bearer {bob}") == "bob"
    assert path.read_text().startswith("# alice's and others'\nbob ")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with pytest.raises(InputError, match="'alice' has no token"):
        revoke(path, "alice")


def test_a_token_is_revoked_in_the_file_that_a_link_leads_to(tmp_path: Path) -> None:
    path, link = tmp_path / "tokens", tmp_path / "link"
    link.symlink_to(path)
    alice = new_token(link, "alice")
    assert revoke(link, "alice") == 1
    assert link.is_symlink() and path.read_text() == ""
    with pytest.raises(Refused):
        Tokens(path).user(f"Bearer {alice}")


def test_a_tokens_file_that_cannot_be_used_is_one_clear_error(tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    folder.mkdir()
    for call in (list_tokens, Tokens):
        with pytest.raises(InputError, match="can't be read"):
            call(folder)
    with pytest.raises(InputError, match="can't be written"):
        new_token(folder, "alice")
    with pytest.raises(InputError, match="can't be written"):
        new_token(Path("/proc/tokens/file"), "alice")


@pytest.mark.parametrize("content", ["alice\n".encode("utf-16"), b"broken\n"])
def test_no_token_is_added_to_a_file_that_no_server_reads(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(content)
    with pytest.raises(InputError, match="can't be read|line 1"):
        new_token(path, "bob")
    assert path.read_bytes() == content


def test_the_commands_of_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ("--data", str(tmp_path))

    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as exit_:
            main([*arguments, *data])
        return int(exit_.value.code or 0), capsys.readouterr().out

    tokens = [run("tokens", "new", "alice"), run("tokens", "new", "bob")]
    users = Tokens(tmp_path / "tokens")
    assert [users.user(f"Bearer {token.strip()}") for _, token in tokens] == ["alice", "bob"]
    digests = [digest for _, digest in list_tokens(tmp_path / "tokens")]
    listed = f"{digests[0][:12]}  alice\n{digests[1][:12]}  bob\n"
    assert run("tokens", "list") == (0, listed)
    rows = json.loads(run("tokens", "list", "--json")[1])
    assert rows == [
        {"user": "alice", "sha256": digests[0]},
        {"user": "bob", "sha256": digests[1]},
    ]
    assert run("tokens", "revoke", "alice") == (0, "revoked 1 token of alice\n")
    assert run("tokens", "revoke", "alice")[0] == 2
    assert run("tokens", "list") == (0, f"{digests[1][:12]}  bob\n")


def test_the_older_name_of_a_command_leads_to_the_new_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["token", "alice"])
    assert exit_.value.code == 2
    assert "Did you mean 'tokens'?" in capsys.readouterr().err


def test_a_rate_is_each_users_own(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    rates = Rates(per_s=1, burst=2)
    for _ in range(2):
        rates.count("alice")
    with pytest.raises(Refused) as refused:
        rates.count("alice")
    assert refused.value.headers == {"Retry-After": "1"}
    rates.count("bob")
    now[0] = 1.0
    rates.count("alice")


def test_a_scheduler_of_another_machine_needs_tls_or_a_word(tmp_path: Path) -> None:
    open_to_all = {"data_dir": tmp_path, "scheduler": "tcp://10.0.0.1:8786"}
    with pytest.raises(InputError, match="any code"):
        load_settings(**open_to_all)
    assert load_settings(**open_to_all, insecure_cluster=True).scheduler


def test_threads_are_the_cores_shared_out_on_every_system(monkeypatch) -> None:
    n_cores = len(psutil.Process().cpu_affinity())
    assert load_settings(workers=1).threads == n_cores
    monkeypatch.delattr("os.sched_getaffinity")
    assert load_settings(workers=2).threads == max(1, psutil.cpu_count() // 2)


def test_keys_kept_ready_leave_a_worker_memory_to_work_in() -> None:
    settings = load_settings(worker_memory_bytes=3 << 30)
    assert 20 * settings.ready_keys_bytes <= 3 << 30
    plenty = load_settings(worker_memory_bytes=1 << 40)
    assert plenty.ready_keys_bytes == plenty.worker_keys_bytes


def test_a_tilde_in_a_file_or_a_variable_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "settings.toml").write_text('data_dir = "~/x"\n')
    monkeypatch.setenv(f"{ENVIRONMENT}TOKENS_FILE", "~/tokens")
    settings = load_settings(tmp_path / "settings.toml")
    assert settings.data_dir == tmp_path / "x"
    assert settings.tokens == tmp_path / "tokens"
