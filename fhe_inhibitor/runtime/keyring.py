"""A client's keys, one set for each model of a server, in files that only their owner can read.

    keyring = Keyring()
    keyring.make(circuits, model_hash, "inhibidistilbert-nano-sst2", passphrase)   # takes seconds
    client = Client(circuits)
    keyring.load(model_hash, client, passphrase)

Keys belong to the hash over all that client and server agree on: another model, other keys.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from filelock import FileLock
from pydantic import BaseModel, ValidationError

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.folders import KEYS_VARIABLE, keys_root
from fhe_inhibitor.system.private_files import is_locked, make_private, write_private

if TYPE_CHECKING:
    from fhe_inhibitor.runtime.client import Client

KEYS_FILE, ABOUT_FILE, LOCK_FILE = "secret.keys", "about.json", ".lock"


class KeysEntry(BaseModel):
    """What is known of keys without opening them.

    evaluation_keys: SHA-256 of those, by which a server knows them.
    """

    model_hash: str
    model: str
    evaluation_keys: str
    created: datetime


class Keyring:
    """The keys in a folder, by model hash; see `folders.keys_root` for the default one."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = keys_root(folder)

    def path(self, model_hash: str) -> Path:
        """Return the file of a model's keys; there may be none."""
        return self.folder / model_hash / KEYS_FILE

    def entries(self) -> list[KeysEntry]:
        """Return what the folder holds, the oldest first. Raises InputError for what it can't."""
        found = []
        for path in self.folder.glob(f"*/{KEYS_FILE}"):
            try:
                found.append(KeysEntry.model_validate_json(_about(path).read_bytes()))
            except (OSError, ValidationError) as error:
                raise InputError(
                    f"{_about(path)} can't be read ({type(error).__name__}); remove the folder "
                    f"{path.parent}, and make new keys"
                ) from error
        return sorted(found, key=lambda entry: entry.created)

    def find(self, start: str) -> KeysEntry:
        """Return the keys whose model's hash begins like this, or whose model is named so.

        Raises InputError if there are none, or several.
        """
        found = [e for e in self.entries() if e.model_hash.startswith(start) or e.model == start]
        if len(found) != 1 or not start:
            raise InputError(
                f"{start!r} names {len(found)} sets of keys in {self.folder}, not one; see "
                "`fhe-inhibitor keys list`"
            )
        return found[0]

    def is_locked(self, model_hash: str) -> bool:
        """Return whether a model's keys are there and want a passphrase."""
        try:
            with self.path(model_hash).open("rb") as file:
                return is_locked(file.read(16))
        except FileNotFoundError:
            return False

    def make(
        self, circuits: str | Path, model_hash: str, model: str, passphrase: str | None = None
    ) -> None:
        """Make keys for the circuits in a folder, unless there are keys for that hash.

        Takes seconds and holds Python's interpreter lock meanwhile.
        """
        # Here, because Concrete takes seconds to load that listing keys can spare.
        from fhe_inhibitor.runtime.client import Client

        path = self.path(model_hash)
        try:
            make_private(path.parent)
            with FileLock(path.parent / LOCK_FILE, mode=0o600):
                if not path.exists():
                    client = Client(circuits)
                    client.generate_keys()
                    digest = hashlib.sha256(client.evaluation_keys()).hexdigest()
                    entry = KeysEntry(
                        model_hash=model_hash,
                        model=model,
                        evaluation_keys=digest,
                        created=datetime.now(UTC),
                    )
                    write_private(_about(path), entry.model_dump_json(indent=1).encode())
                    client.save_keys(path, passphrase)
        except OSError as error:
            raise InputError(
                f"the keys folder {self.folder} can't be written ({error.strerror}): make it "
                f"writable, or name another one in {KEYS_VARIABLE}"
            ) from error

    def load(self, model_hash: str, client: Client, passphrase: str | None = None) -> None:
        """Give a client its keys. Raises InputError as `Client.load_keys` does."""
        client.load_keys(self.path(model_hash), passphrase)

    def remove(self, entry: KeysEntry) -> None:
        """Remove keys for good: what was encrypted for them can't be decrypted any more."""
        shutil.rmtree(self.path(entry.model_hash).parent)


async def make_keys_elsewhere(
    keyring: Keyring, circuits: Path, model_hash: str, model: str, passphrase: str | None
) -> None:
    """Do `keyring.make(...)` in another process, which ends if this is cancelled.

    Raises what that raises.
    """
    arguments = [str(keyring.folder), str(circuits), model_hash, model, passphrase]
    command = [sys.executable, "-m", "fhe_inhibitor.runtime.keyring"]
    done = await anyio.run_process(command, input=json.dumps(arguments).encode(), check=False)
    if done.stdout:
        raise InputError(done.stdout.decode())
    if not keyring.path(model_hash).exists():
        last = (done.stderr.decode().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(f"making keys failed: {last}")


def _main() -> None:
    """Make keys as stdin says; the passphrase mustn't be an argument, which others can see."""
    folder, circuits, model_hash, model, passphrase = json.load(sys.stdin)
    try:
        Keyring(folder).make(circuits, model_hash, model, passphrase)
    except InputError as error:
        print(error, end="")


def _about(path: Path) -> Path:
    return path.with_name(ABOUT_FILE)


if __name__ == "__main__":
    _main()
