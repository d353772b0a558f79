"""The client: makes keys, encrypts, decrypts; the only place that holds secrets.

    client = Client(folder)
    client.generate_keys()
    request = client.encrypt(x, padding)
    logits = client.decrypt(response)

Only requests and `evaluation_keys()` may leave it. The scheme protects against a server that
looks at all it gets; it does not protect a client that tells the server whether a decryption came
out right.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from concrete import fhe

from fhe_inhibitor.errors import InputError, first_line
from fhe_inhibitor.runtime.manifest import (
    DIGESTS_FILE,
    MANIFEST_FILE,
    SPECS_FILE,
    Encryption,
    check_files,
    read_manifest,
)
from fhe_inhibitor.runtime.messages import (
    Request,
    Response,
    pack_keys,
    pack_secret_keys,
    unpack_secret_keys,
    whole_stream,
)
from fhe_inhibitor.runtime.parameters import key_parameters
from fhe_inhibitor.runtime.security import read_specifications
from fhe_inhibitor.system.private_files import is_locked, lock, read_private, unlock, write_private


class Client:
    """Encrypts for, and decrypts from, the circuits of a folder.

    folder: needs `circuits.json` and `client.specs.json` alone, both plain JSON, no code.
    parameters: of the secret keys that it makes.

    Raises InputError if one is missing, damaged or of another version or network, and for
    specifications of keys that aren't secure: no keys are made or loaded with those.
    """

    def __init__(self, folder: str | Path, model_hash: str | None = None) -> None:
        folder = Path(folder)
        self.manifest = read_manifest(folder, model_hash)
        if (folder / DIGESTS_FILE).exists():  # files of a server are compared when they come
            check_files(folder, SPECS_FILE)
        path = folder / SPECS_FILE
        specifications = read_specifications(path)
        self._check_manifest({f.name: len(f.inputs) for f in specifications.circuits}, path)
        self.parameters = key_parameters(specifications)
        try:  # what was checked, not the file: another reader may find something else in it
            specs = fhe.ClientSpecs.deserialize(specifications.to_json().encode())
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{path} can't be read ({error}); compile the model again") from error
        self._specs = specs
        self._client = fhe.Client(specs)

    def __repr__(self) -> str:
        return f"Client({self.manifest.model_hash[:12]}, has_keys={self.has_keys})"

    @property
    def has_keys(self) -> bool:
        """Whether keys were generated or loaded."""
        return bool(self._keys.are_generated)

    def generate_keys(self) -> None:
        """Make new keys from the system's randomness; takes seconds."""
        self._client.keygen(force=True)

    def save_keys(self, path: str | Path, passphrase: str | None = None) -> None:
        """Write all keys, secret ones included, readable by the owner only.

        passphrase: locks the file; without one it is unencrypted. The file appears whole or not
        at all. Its folder is made, for the owner only, if missing.
        """
        self._need_keys()
        data = pack_secret_keys(self.manifest.keys_hash, self._keys.serialize())
        write_private(path, data if passphrase is None else lock(data, passphrase))

    def load_keys(self, path: str | Path, passphrase: str | None = None) -> None:
        """Read what `save_keys` wrote.

        Raises InputError for a file that holds no keys, or keys of other circuits, that is damaged,
        that others can read, or that the passphrase doesn't open.
        """
        data = self._read_keys(path, passphrase)
        try:
            self._keys.load_from_bytes(unpack_secret_keys(self.manifest.keys_hash, data))
        except (RuntimeError, InputError) as error:
            self._client = fhe.Client(self._specs)
            raise InputError(
                f"{path} holds no keys that can be used ({first_line(error)}): restore the file, "
                "or remove it and generate new ones"
            ) from error

    def _read_keys(self, path: str | Path, passphrase: str | None) -> bytes:
        """Return what a file of keys holds, unlocked if it was locked."""
        try:
            data = read_private(path)
        except OSError as error:
            raise InputError(f"{path} holds no keys ({error}); generate new ones") from error
        if not is_locked(data):
            return data
        try:
            return unlock(data, passphrase)
        except InputError as error:
            raise InputError(f"the keys {path} don't open: {error}") from error

    def evaluation_keys(self) -> bytes:
        """Return the public keys that a server needs; they don't decrypt."""
        self._need_keys()
        return pack_keys(self.manifest.keys_hash, self._client.evaluation_keys.serialize())

    def keyed_digest(self, data: bytes) -> str:
        """Return an HMAC-SHA-256 of data in hexadecimal, under a key derived from the secret keys.

        The same keys and data give the same digest. Who lacks the secret keys can't tell by it
        whether they guessed data right. Raises InputError without keys.
        """
        self._need_keys()
        keyset: Any = self._keys._keyset
        secrets = keyset.get_client_keys().get_secret_keys()
        purpose = b"fhe-inhibitor keyed digest"
        key = hashlib.sha256(b"".join([purpose, *(key.serialize() for key in secrets)])).digest()
        return hmac.digest(key, data, "sha256").hex()

    def encrypt(
        self,
        x: np.ndarray,
        padding: np.ndarray,
        projections: Mapping[str, np.ndarray] | None = None,
    ) -> Request:
        """Encrypt one sequence.

        x: int `[n, dim]` in `manifest.input_range`, n one of `manifest.buckets`. padding: int
        `[n]`, 1 for a padded position. projections: `IntegerModel.projections`, for circuits
        that leave the first layer's to the client. Raises InputError for other shapes or values,
        or without keys.
        """
        self._need_keys()
        return Request(len(padding), self._encrypt_piece(x, padding, projections))

    def encrypt_document(
        self,
        pieces: Sequence[tuple[np.ndarray, np.ndarray, Mapping[str, np.ndarray]]],
    ) -> Request:
        """Encrypt the pieces of a document, all of one length: each as `encrypt` takes it.

        Raises InputError as `encrypt` does, for pieces of several lengths, and for more pieces
        than the circuits add up.
        """
        self._need_keys()
        lengths = {len(padding) for _, padding, _ in pieces}
        if len(lengths) != 1:
            raise InputError(f"pieces of {sorted(lengths)} positions; wanted all of one length")
        (n,) = lengths
        self.manifest.program(n, len(pieces))
        ciphertexts = {}
        for number, piece in enumerate(pieces, start=1):
            prefix = f"piece{number}." if len(pieces) > 1 else ""
            for name, data in self._encrypt_piece(*piece).items():
                ciphertexts[f"{prefix}{name}"] = data
        return Request(n, ciphertexts, len(pieces))

    def _encrypt_piece(
        self,
        x: np.ndarray,
        padding: np.ndarray,
        projections: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, bytes]:
        self._check("x", x, (len(padding), self.manifest.dim), self.manifest.input_range)
        self._check("padding", padding, (len(padding),), (0, 1))
        program = self.manifest.program(len(padding))
        values = {"x": np.asarray(x), "padding": np.asarray(padding), **(projections or {})}
        missing = {e.value for e in program.encryptions} - set(values)
        if missing:
            raise InputError(
                f"these circuits want {', '.join(sorted(missing))} too: pass the model's "
                "projections"
            )
        return {e.name: self._encrypt(e.take(values), e) for e in program.encryptions}

    def encrypt_benchmark(self, bit_width: int) -> bytes:
        """Return the encrypted input of the function that measures lookups of `bit_width` bits."""
        self._need_keys()
        zeros = np.zeros(self.manifest.benchmark_size, dtype=np.int64)
        function = self.manifest.benchmarks[bit_width]
        return self._client.encrypt(zeros, function_name=function).serialize()

    def decrypt(self, response: Response) -> np.ndarray:
        """Return the logits of a response, int64 `[n_labels]`; of several pieces the sum of scores.

        Raises InputError for a response that holds none, and for logits that the model can't give:
        then keys or ciphertexts were damaged. Only this side knows of it, and is to keep it so.
        """
        self._need_keys()
        task = self.manifest.program(response.n, response.pieces).tasks[-1]
        ciphertext = response.ciphertexts.get(task.outputs[0], b"")
        try:
            value = fhe.Value.deserialize(whole_stream(ciphertext))
            decrypted = self._client.decrypt(value, function_name=task.function)
        except RuntimeError as error:
            raise InputError("the response holds no logits of these circuits") from error
        logits = np.asarray(decrypted, dtype=np.int64).reshape(-1)
        low, high = self.manifest.output_range(response.pieces)
        if logits.min() < low or logits.max() > high:
            raise InputError(
                f"the decrypted logits {logits.tolist()} leave {low}..{high}, which this model "
                "never does: the keys or the ciphertexts are damaged, or the server ran another "
                "model. Don't tell the server that this happened"
            )
        return logits

    def _check_manifest(self, n_inputs: Mapping[str, int], path: Path) -> None:
        """Refuse a manifest with inputs that the specifications lack; n_inputs: by function."""
        for program in self.manifest.programs.values():
            for encryption in program.encryptions:
                if not 0 <= encryption.position < n_inputs.get(encryption.function, 0):
                    raise InputError(
                        f"{path.with_name(MANIFEST_FILE)} encrypts {encryption.name!r} for input "
                        f"{encryption.position} of {encryption.function!r}, which {path.name} "
                        "lacks: files of different circuits; compile the model again"
                    )

    def _encrypt(self, value: np.ndarray, encryption: Encryption) -> bytes:
        function = encryption.function
        arguments: list[np.ndarray | None] = [None] * self._n_inputs(function)
        arguments[encryption.position] = value
        try:
            encrypted = self._client.encrypt(*arguments, function_name=function)
        except ValueError as error:  # a projection of another shape or range
            raise InputError(f"{encryption.value}: {error}") from error
        if isinstance(encrypted, tuple):
            encrypted = encrypted[encryption.position]
        return encrypted.serialize()

    def _n_inputs(self, function: str) -> int:
        return len(self._client.specs.program_info.get_circuit(function).get_inputs())

    @property
    def _keys(self) -> fhe.Keys:
        return self._client.keys

    def _need_keys(self) -> None:
        if not self.has_keys:
            raise InputError("this client has no keys: generate_keys() or load_keys(path) first")

    @staticmethod
    def _check(
        name: str, value: np.ndarray, shape: tuple[int, ...], allowed: tuple[int, int]
    ) -> None:
        value = np.asarray(value)
        if value.shape != shape or not np.issubdtype(value.dtype, np.integer):
            raise InputError(f"{name} is {value.dtype} {value.shape}, wanted integers {shape}")
        if value.size and (value.min() < allowed[0] or value.max() > allowed[1]):
            raise InputError(
                f"{name} reaches {value.min()}..{value.max()}, wanted {allowed[0]}..{allowed[1]}"
            )
