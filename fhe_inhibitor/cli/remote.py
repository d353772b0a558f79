"""What commands need that talk to a server: options, token, passphrase, and the work itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import stamina.instrumentation
import typer

from compile.local.session import Classification
from fhe_inhibitor.cli.options import PASSPHRASE_VARIABLE, TOKEN_VARIABLE
from fhe_inhibitor.cli.work import Classified
from fhe_inhibitor.cli.worker import ends_on_request
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.remote.client import Progress, RemoteClassification, RemoteClient, RemoteOptions
from fhe_inhibitor.remote.errors import NotFound
from fhe_inhibitor.runtime.costs import SessionCost, StageCost, stage_name, total_by_name
from fhe_inhibitor.runtime.keyring import KeysEntry
from fhe_inhibitor.system.machine import peak_memory_bytes
from fhe_inhibitor.system.progress import Observer


def read_token(file: Path | None) -> str | None:
    """Return the token in a file, else that in the environment. Raises InputError."""
    if file is None:
        return os.environ.get(TOKEN_VARIABLE)
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise InputError(f"the token file {file} can't be read: {error}") from error


def agree(server: str, token: str | None, model: str | None, ca: Path | None) -> RemoteOptions:
    """Return options with the hash of the server's model and the passphrase of its keys.

    Asks the server for its model and, for keys that are locked, the user for the passphrase.
    """
    silence_retries()
    options = RemoteOptions(model=model, ca=ca, passphrase=os.environ.get(PASSPHRASE_VARIABLE))
    with RemoteClient(server, token, options) as client:
        digest = client.connect().model_hash
        if options.passphrase is None and client.keyring.is_locked(digest):
            options = replace(options, passphrase=ask_passphrase(confirm=False))
    return replace(options, model_hash=digest)


def agree_on_new(
    server: str, token: str | None, model: str | None, ca: Path | None, locked: bool
) -> RemoteOptions:
    """Return options to make keys with; asks for a passphrase if they are to be locked.

    Raises InputError if there are keys for the server's model.
    """
    silence_retries()
    options = RemoteOptions(model=model, ca=ca, passphrase=os.environ.get(PASSPHRASE_VARIABLE))
    with RemoteClient(server, token, options) as client:
        digest = client.connect().model_hash
        if client.keyring.path(digest).exists():
            raise InputError(
                f"there are keys for {digest[:12]} already: `fhe-inhibitor keys remove "
                f"{digest[:12]}` first, if you want new ones"
            )
    if locked:
        options = replace(options, passphrase=ask_passphrase(confirm=True))
    return replace(options, model_hash=digest)


def silence_retries() -> None:
    """Keep stamina from printing that it repeats a call."""
    stamina.instrumentation.set_on_retry_hooks(())


def ask_passphrase(confirm: bool) -> str:
    """Return the passphrase in the environment, or typed at a terminal. Raises InputError."""
    if passphrase := os.environ.get(PASSPHRASE_VARIABLE):
        return passphrase
    if not sys.stdin.isatty():
        raise InputError(f"no terminal to ask for the passphrase: set {PASSPHRASE_VARIABLE}")
    return typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)


def classify(
    observer: Observer,
    texts: Sequence[str],
    server: str,
    token: str | None,
    options: RemoteOptions,
    max_tokens: int | None,
    strict: bool,
) -> Classified:
    """Classify texts on a server; Ctrl-C cancels what it has there."""
    ends_on_request()
    silence_retries()
    with RemoteClient(server, token, options, shown_by(observer)) as client:
        if not client.is_private:
            observer.note(f"without https, the token crosses the network in the clear to {server}")
        public = client.public_model()
        for text in texts:
            tokens = public.tokenize(text, max_tokens, strict)
            if tokens.n_cut:
                observer.note(tokens.describe_cut())
        results = client.classify_many(texts, max_tokens, strict)
        setup = tuple(StageCost(step, seconds) for step, seconds in client.setup_s.items())
        cost = SessionCost(setup, client.evaluation_keys_bytes, peak_memory_bytes())
    return Classified(public.name, "execute", public.labels, [*map(_classification, results)], cost)


def make_keys(
    observer: Observer, server: str, token: str | None, options: RemoteOptions
) -> KeysEntry:
    """Make keys for a server's model."""
    silence_retries()
    with RemoteClient(server, token, options, shown_by(observer)) as client:
        client.make_keys()
        return client.keyring.find(client.connect().model_hash)


def delete_keys(server: str, token: str | None, ca: Path | None, entry: KeysEntry) -> None:
    """Have a server forget evaluation keys, if it has them."""
    silence_retries()
    with RemoteClient(server, token, RemoteOptions(ca=ca)) as client, suppress(NotFound):
        client.delete_keys(entry.evaluation_keys)


def shown_by(observer: Observer) -> Callable[[Progress], None]:
    """Return what passes a client's progress on to an observer."""
    before = Progress("", 0, 0, "")

    def show(now: Progress) -> None:
        nonlocal before
        if now.unit and (now.unit, now.total) != (before.unit, before.total):
            observer.plan(now.total, now.unit)
            before = replace(now, step=before.step, done=0)
        if now.step != before.step:
            observer.begin(now.step)
        if now.done > before.done:
            observer.finish(now.done - before.done)
        before = now

    return show


def _classification(result: RemoteClassification) -> Classification:
    """Return a result as a local session gives it; only who has the network has clear logits."""
    stages = [StageCost("encrypt", result.encrypt_s)]
    for task, seconds in zip(result.tasks, result.task_s, strict=True):
        stages.append(StageCost(stage_name(task.stage), seconds or 0.0, task.lookups))
    stages.append(StageCost("decrypt", result.decrypt_s))
    return Classification(
        text=result.text,
        label=result.label,
        probability=result.probability,
        tokens=result.tokens,
        n_tokens=result.n_tokens,
        n_positions=result.n_positions,
        logits=result.logits,
        clear_logits=None,
        logit_scale=result.logit_scale,
        stages=total_by_name(stages),
        seconds=result.seconds,
        request_bytes=result.request_bytes,
        response_bytes=result.response_bytes,
    )
