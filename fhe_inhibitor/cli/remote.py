"""What commands need that talk to a server: options, token, passphrase, keys."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import stamina.instrumentation
import typer

from fhe_inhibitor.cli.options import PASSPHRASE_VARIABLE, TOKEN_VARIABLE, passphrase_in_environment
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.remote.client import RemoteClient, RemoteOptions
from fhe_inhibitor.remote.errors import NotFound
from fhe_inhibitor.runtime.keyring import Keyring, KeysEntry
from fhe_inhibitor.system.files import to_utf8
from fhe_inhibitor.system.progress import Observer


def read_token(file: Path | None) -> str | None:
    """Return the token in a file, else that in the environment. Raises InputError."""
    if file is None:
        return os.environ.get(TOKEN_VARIABLE)
    try:
        return to_utf8(file.read_bytes()).decode().strip()
    except (OSError, ValueError) as error:
        raise InputError(f"the token file {file} can't be read: {error}") from error


def agree(server: str, token: str | None, options: RemoteOptions) -> RemoteOptions:
    """Return options with the hash of the server's model and the passphrase of its keys as well.

    Asks the server for its model and, for keys that are locked, the user for the passphrase.
    """
    silence_retries()
    options = replace(options, passphrase=passphrase_in_environment())
    with RemoteClient(server, token, options) as client:
        digest = client.connect().circuits_hash
        if options.passphrase is None and client.keyring.is_locked(digest):
            options = replace(options, passphrase=ask_passphrase(confirm=False))
    return replace(options, circuits_hash=digest)


def agree_on_new(
    server: str, token: str | None, options: RemoteOptions, locked: bool
) -> RemoteOptions:
    """Return the same to make keys with; asks for a passphrase if they are to be locked.

    Raises InputError if there are keys for the server's model.
    """
    silence_retries()
    options = replace(options, passphrase=passphrase_in_environment())
    with RemoteClient(server, token, options) as client:
        digest = client.connect().circuits_hash
        if client.keyring.path(digest).exists():
            raise InputError(
                f"there are keys for {digest[:12]} already: `fhe-inhibitor keys remove "
                f"{digest[:12]}` first, if you want new ones"
            )
    if locked:
        options = replace(options, passphrase=ask_passphrase(confirm=True))
    return replace(options, circuits_hash=digest)


def silence_retries() -> None:
    """Keep stamina from printing that it repeats a call."""
    stamina.instrumentation.set_on_retry_hooks(())


def ask_passphrase(confirm: bool) -> str:
    """Return the passphrase in the environment, or typed at a terminal. Raises InputError."""
    if passphrase := passphrase_in_environment():
        return passphrase
    if not sys.stdin.isatty():
        raise InputError(f"no terminal to ask for the passphrase: set {PASSPHRASE_VARIABLE}")
    return typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)


@dataclass(frozen=True)
class MakeKeys:
    """Makes keys for a server's model."""

    server: str
    token: str | None = field(repr=False)
    options: RemoteOptions

    def run(self, observer: Observer) -> KeysEntry:
        """Make them, and return what is known of them."""
        silence_retries()
        with RemoteClient(self.server, self.token, self.options, observer) as client:
            client.make_keys()
            return client.keyring.entry(client.connect().circuits_hash)


def list_keys(
    server: str, token: str | None, options: RemoteOptions, keyring: Keyring
) -> list[dict[str, Any]]:
    """Return what a server has of all evaluation keys under a token.

    `here` is whether the secret keys to them are in the keyring.
    """
    silence_retries()
    here = {entry.evaluation_keys for entry in keyring.entries()}
    with RemoteClient(server, token, options) as client:
        states = client.list_keys()
    return [{**state.model_dump(), "here": state.sha256 in here} for state in states]


def delete_keys(server: str, token: str | None, options: RemoteOptions, entry: KeysEntry) -> None:
    """Have a server forget evaluation keys, if it has them."""
    if not entry.evaluation_keys:
        raise InputError(
            f"the description of {entry.circuits_hash[:12]} is missing, so nobody knows which keys "
            "on the server are theirs: remove them here alone, without --server, and those on the "
            "server by the SHA-256 that `fhe-inhibitor keys list --server` shows"
        )
    silence_retries()
    with RemoteClient(server, token, options) as client, suppress(NotFound):
        client.delete_keys(entry.evaluation_keys)


def delete_lost_keys(server: str, token: str | None, options: RemoteOptions, start: str) -> str:
    """Have a server forget the evaluation keys whose SHA-256 begins like this; return all of it.

    For keys that are on the server alone, as after a lost disk. Raises InputError unless the
    beginning names exactly one set of keys there.
    """
    listing = f"`fhe-inhibitor keys list --server {server}`"
    if not re.fullmatch(r"[0-9a-f]{8,64}", start):
        raise InputError(
            f"{start!r} names no keys here, and no SHA-256 of keys on {server}: pass 8 of its "
            f"digits or more, as {listing} shows them"
        )
    silence_retries()
    with RemoteClient(server, token, options) as client:
        found = [state.sha256 for state in client.list_keys() if state.sha256.startswith(start)]
        if len(found) != 1:
            raise InputError(
                f"{start!r} names no keys here and {len(found)} sets of keys on {server}, not one; "
                f"see {listing}"
            )
        client.delete_keys(found[0])
    return found[0]
