"""What client and server must agree on about compiled circuits: `circuits.json`.

It lists, for each sequence length, the ciphertexts of a request and the tasks that turn them
into the encrypted logits. The file is public and plain JSON; with it lie the server's native
library (`server/`), the client's specifications (`client.specs.json`) and, for clients elsewhere,
the model's public part (`fhe_inhibitor.integer.public`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import file_sha256

FORMAT_VERSION = 2
CONCRETE_VERSION = "2.11.0"
MANIFEST_FILE = "circuits.json"
DIGESTS_FILE = "sha256.json"  # where circuits were compiled; clients elsewhere have none
SPECS_FILE = "client.specs.json"
EMBEDDING_FILE, TOKENIZER_FILE = "embedding.safetensors", "tokenizer.json"
SERVER_FOLDER = "server"


@dataclass(frozen=True)
class Encryption:
    """One ciphertext of a request: `value`, encoded for an input of a function.

    value: "x", "padding" or, where the client looks up the first layer's projections, one of those,
    such as "layer0.head0.k".

    Functions that read the same value in the same encoding share one ciphertext.
    """

    name: str
    value: str
    function: str
    position: int


@dataclass(frozen=True)
class Task:
    """One call of an encrypted function; ciphertexts have names.

    lookups: number of lookups by bit width.
    """

    stage: str
    function: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    lookups: Mapping[int, int]

    @property
    def n_lookups(self) -> int:
        """Lookups of all widths."""
        return sum(self.lookups.values())


@dataclass(frozen=True)
class Program:
    """All that one sequence length needs: ciphertexts to send, tasks in an order that can run."""

    encryptions: tuple[Encryption, ...]
    tasks: tuple[Task, ...]

    @property
    def lookups(self) -> dict[int, int]:
        """Lookups of all tasks by bit width, the narrowest first."""
        count = sum((Counter(task.lookups) for task in self.tasks), Counter[int]())
        return dict(sorted(count.items()))


@dataclass(frozen=True)
class Manifest:
    """What a folder of circuits holds.

    model_hash: SHA-256 of all integer parameters, `IntegerModel.hash`. keys_hash: of the keys'
    parameters. input_range: of x, ends included. dim: its channels. logit_range: what the logits
    were proved never to leave, ends included. programs: by number of tokens. benchmarks: by bit
    width, a function of `benchmark_size` lookups that measures the time of one.
    """

    model_hash: str
    keys_hash: str
    p_error: float
    exact_rounding: bool
    dim: int
    n_labels: int
    input_range: tuple[int, int]
    logit_range: tuple[int, int]
    programs: Mapping[int, Program]
    benchmarks: Mapping[int, str]
    benchmark_size: int
    format_version: int = FORMAT_VERSION
    concrete_version: str = CONCRETE_VERSION

    @property
    def buckets(self) -> tuple[int, ...]:
        """Sequence lengths, ascending."""
        return tuple(sorted(self.programs))

    def program(self, n: int) -> Program:
        """Return the program for n tokens. Raises InputError if there is none."""
        if n not in self.programs:
            raise InputError(f"{n} tokens: these circuits take {_listed(self.buckets)}")
        return self.programs[n]

    def write(self, folder: Path) -> None:
        """Write the manifest into a folder of circuits, and the digest of each file there.

        The digests are no part of the manifest: native code differs from compile to compile, and
        what client and server agree on must not.
        """
        content = json.dumps(asdict(self), indent=1)
        (folder / MANIFEST_FILE).write_text(content, encoding="utf-8")
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        digests = {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}
        (folder / DIGESTS_FILE).write_text(json.dumps(digests, indent=1), encoding="utf-8")


def check_files(folder: Path, start: str) -> None:
    """Check the files whose path begins so: damaged native code ends the process that loads it.

    Raises InputError, naming the file, if one is missing or damaged, or if there is none.
    """
    path = folder / DIGESTS_FILE
    try:
        digests = json.loads(path.read_text(encoding="utf-8"))
        for name in [name for name, _ in digests.items() if name.startswith(start)] or [start]:
            path = folder / name
            damaged = file_sha256(path) != digests.get(name)
            if damaged:
                break
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} can't be read ({error}); compile the model again") from error
    if damaged:
        raise InputError(
            f"{path} is damaged: its SHA-256 is not the one in {DIGESTS_FILE}; compile the model "
            "again"
        )


def read_manifest(folder: Path, model_hash: str | None = None) -> Manifest:
    """Read the manifest of a folder of circuits.

    Raises InputError for a missing or damaged file, for one of another version, and, given
    model_hash, for circuits of another network.
    """
    path = folder / MANIFEST_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        versions = (content["format_version"], content["concrete_version"])
        if versions != (FORMAT_VERSION, CONCRETE_VERSION):
            raise InputError(
                f"{path} has format {versions[0]} for Concrete {versions[1]}, this version reads "
                f"{FORMAT_VERSION} for {CONCRETE_VERSION}: compile the model again"
            )
        manifest = _manifest(content)
    except InputError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} can't be read as circuits ({type(error).__name__}: {error}); "
            "compile the model again"
        ) from error
    if model_hash is not None and manifest.model_hash != model_hash:
        raise InputError(
            f"{path} belongs to the model {manifest.model_hash[:12]}, wanted "
            f"{model_hash[:12]}: compile the model again"
        )
    return manifest


def _manifest(content: dict[str, Any]) -> Manifest:
    programs = {int(n): _program(program) for n, program in content["programs"].items()}
    benchmarks = {int(width): name for width, name in content["benchmarks"].items()}
    ranges = {
        name: (int(content[name][0]), int(content[name][1]))
        for name in ("input_range", "logit_range")
    }
    return Manifest(**{**content, "programs": programs, "benchmarks": benchmarks, **ranges})


def _program(content: dict[str, Any]) -> Program:
    return Program(
        tuple(Encryption(**item) for item in content["encryptions"]),
        tuple(
            Task(
                item["stage"],
                item["function"],
                tuple(item["inputs"]),
                tuple(item["outputs"]),
                {int(width): count for width, count in item["lookups"].items()},
            )
            for item in content["tasks"]
        ),
    )


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
