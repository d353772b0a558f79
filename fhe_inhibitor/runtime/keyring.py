"""A user's keys, one set for each model, in files that only their owner can read.

    client = Client(circuits)
    Keyring().load_or_make(client, folder_hash(circuits), "inhibidistilbert-nano-sst2")

Keys belong to the hash over all that client and server agree on, whether the server is this process
or one elsewhere: another model, other keys. They lie outside any cache.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from filelock import FileLock
from pydantic import AliasChoices, AwareDatetime, BaseModel, ConfigDict, Field

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.parameters import KeyParameters
from fhe_inhibitor.runtime.protocol import Sha256
from fhe_inhibitor.system.folders import KEYS_VARIABLE, keys_root
from fhe_inhibitor.system.private_files import is_locked, make_private, write_private
from fhe_inhibitor.system.programs import program
from fhe_inhibitor.system.progress import Observer

if TYPE_CHECKING:
    from fhe_inhibitor.runtime.client import Client

KEYS_FILE, ABOUT_FILE, LOCK_FILE = "secret.keys", "about.json", ".lock"
ASIDE = "aside"  # for keys of older versions, which have no digest
UNKNOWN = "unknown"  # the model of keys whose description is missing or damaged
OLD_NAME = "model_hash"  # of the circuits' hash, in files that versions before 0.2 wrote


class KeysEntry(BaseModel):
    """What is known of keys without opening them.

    evaluation_keys: SHA-256 of those, by which a server knows them. parameters: of the secret keys;
    None in files that versions before 0.2 wrote.
    """

    model_config = ConfigDict(populate_by_name=True)

    circuits_hash: Sha256 = Field(validation_alias=AliasChoices("circuits_hash", OLD_NAME))
    model: str
    evaluation_keys: Sha256
    created: AwareDatetime
    parameters: tuple[KeyParameters, ...] | None = None


class Keyring:
    """The keys in a folder, by circuits hash; see `folders.keys_root` for the default one."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = keys_root(folder)

    def path(self, circuits_hash: str) -> Path:
        """Return the file of a model's keys; there may be none."""
        return self.folder / circuits_hash / KEYS_FILE

    def entries(self) -> list[KeysEntry]:
        """Return what the folder holds, the oldest first, keys that nobody described included."""
        paths = self.folder.glob(f"*/{KEYS_FILE}")
        entries = [self._listed(path) for path in paths if path.is_file()]
        return sorted(entries, key=lambda entry: entry.created)

    def entry(self, circuits_hash: str) -> KeysEntry:
        """Return what is known of a model's keys. Raises InputError if that can't be read."""
        path = _about(self.path(circuits_hash))
        try:
            entry = KeysEntry.model_validate_json(path.read_bytes())
            if entry.circuits_hash != circuits_hash:
                raise ValueError("of another folder's keys")
            return entry
        except (OSError, ValueError) as error:  # a ValidationError is one
            raise InputError(
                f"{path} can't be read ({type(error).__name__}); remove the folder "
                f"{path.parent}, and make new keys"
            ) from error

    def _listed(self, path: Path) -> KeysEntry:
        try:
            return self.entry(path.parent.name)
        except InputError:
            return KeysEntry.model_construct(  # as it is: the folder may have any name
                circuits_hash=path.parent.name,
                model=UNKNOWN,
                evaluation_keys="",
                created=_written(path),
            )

    def matching(self, start: str) -> list[KeysEntry]:
        """Return all keys whose model's hash begins like this, or whose model is named so."""
        entries = self.entries() if start else []
        return [e for e in entries if e.circuits_hash.startswith(start) or e.model == start]

    def find(self, start: str) -> KeysEntry:
        """Return the keys whose model's hash begins like this, or whose model is named so.

        Raises InputError if there are none, or several.
        """
        entries = self.matching(start)
        if len(entries) != 1:
            raise InputError(
                f"{start!r} names {len(entries)} sets of keys in {self.folder}, not one; see "
                "`fhe-inhibitor keys list`"
            )
        return entries[0]

    def is_locked(self, circuits_hash: str) -> bool:
        """Return whether a model's keys are there and want a passphrase."""
        try:
            with self.path(circuits_hash).open("rb") as file:
                return is_locked(file.read(16))
        except (FileNotFoundError, IsADirectoryError):
            return False

    def load_or_make(
        self,
        client: Client,
        circuits_hash: str,
        model: str,
        passphrase: str | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Give a client the keys for that hash, made first if there are none.

        Making them takes seconds and holds Python's interpreter lock meanwhile. Raises InputError
        for a folder that can't be written, and as `Client.load_keys` does: keys that can't be read
        are never replaced by new ones.
        """
        observer, path = observer or Observer(), self.path(circuits_hash)
        with self._entry(circuits_hash):
            if path.exists():
                observer.begin("load keys")
                client.load_keys(path, passphrase)
            else:
                observer.begin("keygen")
                client.generate_keys()
                digest = hashlib.sha256(client.evaluation_keys()).hexdigest()
                self._describe(client, circuits_hash, model, digest, datetime.now(UTC))
                client.save_keys(path, passphrase)

    def load(
        self, client: Client, circuits_hash: str, model: str, passphrase: str | None = None
    ) -> bytes:
        """Give a client a model's keys; return those for evaluation.

        A description of other keys, or none, is replaced by that of these: whoever puts a backup of
        `secret.keys` in the place of later keys leaves the later ones' description, by which a
        server would take the wrong evaluation keys and compute a wrong label. Raises as
        `Client.load_keys` does, and InputError for a folder that can't be written.
        """
        path = self.path(circuits_hash)
        client.load_keys(path, passphrase)
        keys = client.evaluation_keys()
        digest = hashlib.sha256(keys).hexdigest()
        if self._listed(path).evaluation_keys != digest:
            with self._entry(circuits_hash):
                self._describe(client, circuits_hash, model, digest, _written(path))
        return keys

    def set_aside(self, keys: Path) -> Path:
        """Move a file of keys that nothing vouches for to a folder that nothing reads.

        Returns where it lies now. Raises InputError for a folder that can't be written.
        """
        digest = hashlib.sha256(keys.read_bytes()).hexdigest()
        path = self.folder / ASIDE / digest / KEYS_FILE
        with self._readable_errors():
            make_private(path.parent)
            shutil.move(keys, path)
        return path

    def remove(self, entry: KeysEntry) -> None:
        """Remove keys for good: what was encrypted for them can't be decrypted any more.

        Raises InputError for a folder that is a link: what it leads to may be in use elsewhere.
        """
        folder = self.path(entry.circuits_hash).parent
        if folder.is_symlink():
            raise InputError(
                f"{folder} is a link to {folder.readlink()}, whose keys stay: remove the link, "
                "and the keys there if nothing else uses them"
            )
        shutil.rmtree(folder)

    @contextmanager
    def _entry(self, circuits_hash: str) -> Iterator[None]:
        """Hold a model's keys for this process alone, in a folder made where it is missing."""
        folder = self.path(circuits_hash).parent
        with self._readable_errors():
            make_private(folder)
            with FileLock(folder / LOCK_FILE, mode=0o600):
                yield

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        """Turn what the file system refuses into an error that says what to do."""
        try:
            yield
        except OSError as error:
            raise InputError(
                f"the keys folder {self.folder} can't be written ({error.strerror}): make it "
                f"writable, or name another one in {KEYS_VARIABLE}"
            ) from error

    def _describe(
        self, client: Client, circuits_hash: str, model: str, digest: str, created: datetime
    ) -> None:
        """Write what is to be known of a client's keys without opening them.

        digest: SHA-256 of its evaluation keys.
        """
        entry = KeysEntry(
            circuits_hash=circuits_hash,
            model=model,
            evaluation_keys=digest,
            created=created,
            parameters=client.parameters,
        )
        write_private(_about(self.path(circuits_hash)), entry.model_dump_json(indent=1).encode())


async def make_keys_elsewhere(
    keyring: Keyring, circuits: Path, circuits_hash: str, model: str, passphrase: str | None
) -> None:
    """Make a model's keys in another process, which ends if this is cancelled.

    It is started as a program of its own, not by `multiprocessing`, which would run a caller's main
    module again. Raises what `load_or_make` raises.
    """
    arguments = [str(keyring.folder), str(circuits), circuits_hash, model, passphrase]
    command = program("fhe_inhibitor.runtime.keyring")
    done = await anyio.run_process(command, input=json.dumps(arguments).encode(), check=False)
    if done.stdout:
        raise InputError(done.stdout.decode())
    if not keyring.path(circuits_hash).exists():
        last = (done.stderr.decode().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(f"making keys failed: {last}")


def _main() -> None:
    """Make keys as stdin says; the passphrase mustn't be an argument, which others can see."""
    from fhe_inhibitor.runtime.client import Client

    folder, circuits, circuits_hash, model, passphrase = json.load(sys.stdin)
    try:
        Keyring(folder).load_or_make(Client(circuits), circuits_hash, model, passphrase)
    except InputError as error:
        print(error, end="")


def _about(path: Path) -> Path:
    return path.with_name(ABOUT_FILE)


def _written(path: Path) -> datetime:
    """Return when a file was written last."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


if __name__ == "__main__":
    _main()
