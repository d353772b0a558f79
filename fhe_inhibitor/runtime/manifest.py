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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from circuits.blocks import LayerBlocks
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import file_sha256

FORMAT_VERSION, DOCUMENTS_FORMAT = 2, 3  # without and with long documents
BLOCKS_FORMAT = 4  # with or without them, cut into blocks of rows
CONCRETE_VERSION = "2.11.0"
MANIFEST_FILE = "circuits.json"
DIGESTS_FILE = "sha256.json"  # where circuits were compiled; clients elsewhere have none
SPECS_FILE = "client.specs.json"
EMBEDDING_FILE, TOKENIZER_FILE = "embedding.safetensors", "tokenizer.json"
SERVER_FOLDER = "server"
NEUTRAL_FILE = "neutral_logits.json"  # beside a checkpoint


@dataclass(frozen=True)
class Encryption:
    """One ciphertext of a request: `value`, encoded for an input of a function.

    value: "x", "padding" or, where the client looks up the first layer's projections, one of those,
    such as "layer0.head0.k". rows: the first, and the one after the last, that the ciphertext
    holds; None for all of them.

    Functions that read the same value in the same encoding share one ciphertext.
    """

    name: str
    value: str
    function: str
    position: int
    rows: tuple[int, int] | None = None

    def take(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return what is to be encrypted, of the values by name."""
        value = np.asarray(values[self.value])
        return value if self.rows is None else value[self.rows[0] : self.rows[1]]


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
class Documents:
    """How long documents are classified: each piece ends in a score, and the scores are added.

    score: the task that ends a piece instead of the last one of its program. adds: by number of
    pieces, the function that adds their scores. step: how many logit steps a score is worth. level:
    the largest score.
    """

    score: Task
    adds: Mapping[int, str]
    step: int
    level: int

    def program(self, piece: Program, pieces: int) -> Program:
        """Return the program of so many pieces, each with a program of its own.

        Names of values and stages begin with the piece's number, from 1.
        """
        encryptions: list[Encryption] = []
        tasks: list[Task] = []
        for number in range(1, pieces + 1):
            name = f"piece{number}.{{}}".format
            encryptions += [replace(e, name=name(e.name)) for e in piece.encryptions]
            for task in (*piece.tasks[:-1], self.score):
                inputs, outputs = tuple(map(name, task.inputs)), tuple(map(name, task.outputs))
                stage = f"piece {number}/{pieces}: {task.stage}"
                tasks.append(replace(task, stage=stage, inputs=inputs, outputs=outputs))
        scores = tuple(f"piece{number}.{self.score.outputs[0]}" for number in range(1, pieces + 1))
        last = Task(f"add{pieces}", self.adds[pieces], scores, piece.tasks[-1].outputs, {})
        return Program(tuple(encryptions), (*tasks, last))


@dataclass(frozen=True)
class Manifest:
    """What a folder of circuits holds.

    model_hash: SHA-256 of all integer parameters, `IntegerModel.hash`. keys_hash: of the keys'
    parameters. input_range: of x, ends included. dim: its channels. logit_range: what the logits
    were proved never to leave, ends included. programs: by number of tokens. benchmarks: by bit
    width, a function of `benchmark_size` lookups that measures the time of one. documents: how long
    documents are classified, None if they can't be. blocks: by number of tokens, into how many
    blocks of rows the stages of each layer were cut; a number that isn't there was not cut.
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
    documents: Documents | None = None
    blocks: Mapping[int, tuple[LayerBlocks, ...]] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    concrete_version: str = CONCRETE_VERSION

    @property
    def buckets(self) -> tuple[int, ...]:
        """Sequence lengths, ascending."""
        return tuple(sorted(self.programs))

    @property
    def max_pieces(self) -> int:
        """Most pieces of a long document; 1 where only single texts can be classified."""
        return max(self.documents.adds) if self.documents else 1

    def program(self, n: int, pieces: int = 1) -> Program:
        """Return the program for n tokens, or for several pieces of n tokens each.

        Raises InputError if there is none.
        """
        if n not in self.programs:
            raise InputError(f"{n} tokens: these circuits take {_listed(self.buckets)}")
        if pieces == 1:
            return self.programs[n]
        if self.documents is None or pieces not in self.documents.adds:
            raise InputError(
                f"{pieces} pieces: these circuits take {self.max_pieces} at most. Circuits for "
                "long documents are compiled with `serve --long`, or by a session when asked for"
            )
        return self.documents.program(self.programs[n], pieces)

    def step(self, pieces: int = 1) -> int:
        """Return how many logit steps 1 is worth in the last task's outputs."""
        return self.documents.step if self.documents and pieces > 1 else 1

    def output_range(self, pieces: int = 1) -> tuple[int, int]:
        """Return what the last task's outputs were proved never to leave, ends included."""
        if pieces == 1 or self.documents is None:
            return self.logit_range
        return -pieces * self.documents.level, pieces * self.documents.level

    def write(self, folder: Path) -> None:
        """Write the manifest into a folder of circuits, and the digest of each file there.

        The digests are no part of the manifest: native code differs from compile to compile, and
        what client and server agree on must not.
        """
        content = asdict(self)
        if self.documents is None:
            del content["documents"]
        if not self.blocks:
            del content["blocks"]
        for program in content["programs"].values():
            for encryption in program["encryptions"]:
                if encryption["rows"] is None:
                    del encryption["rows"]
        text = json.dumps(content, indent=1)
        (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")
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
        wanted = DOCUMENTS_FORMAT if "documents" in content else FORMAT_VERSION
        if "blocks" in content:
            wanted = BLOCKS_FORMAT
        versions = (content["format_version"], content["concrete_version"])
        if versions != (wanted, CONCRETE_VERSION):
            raise InputError(
                f"{path} has format {versions[0]} for Concrete {versions[1]}, this version reads "
                f"{wanted} for {CONCRETE_VERSION}: compile the model again"
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
    documents = _documents(content["documents"]) if "documents" in content else None
    blocks = {
        int(n): tuple(LayerBlocks(**layer) for layer in layers)
        for n, layers in content.get("blocks", {}).items()
    }
    read = {"programs": programs, "benchmarks": benchmarks, "documents": documents, **ranges}
    return Manifest(**{**content, **read, "blocks": blocks})


def _documents(content: dict[str, Any]) -> Documents:
    adds = {int(pieces): str(name) for pieces, name in content["adds"].items()}
    return Documents(_task(content["score"]), adds, int(content["step"]), int(content["level"]))


def _program(content: dict[str, Any]) -> Program:
    return Program(
        tuple(_encryption(item) for item in content["encryptions"]),
        tuple(_task(item) for item in content["tasks"]),
    )


def _encryption(content: dict[str, Any]) -> Encryption:
    rows = content.get("rows")
    return Encryption(**{**content, "rows": rows and (int(rows[0]), int(rows[1]))})


def _task(content: dict[str, Any]) -> Task:
    return Task(
        content["stage"],
        content["function"],
        tuple(content["inputs"]),
        tuple(content["outputs"]),
        {int(width): count for width, count in content["lookups"].items()},
    )


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
