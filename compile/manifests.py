"""What the manifest says about compiled functions: requests, tasks, and the network's hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from concrete.fhe.compilation.module import FheModule

from circuits.blocks import plain_name
from circuits.documents import scoring
from circuits.network import Network
from circuits.plan import Wire
from compile.functions import StageCall
from fhe_inhibitor.runtime.manifest import Documents, Encryption, Program, Task

# Later fields: without effect on the hash of a network where they have their default, so that
# circuits and keys of older networks are still found.
LATER = ("causal",)


def program(
    module: FheModule,
    calls: Sequence[StageCall],
    lookups: Mapping[str, Mapping[int, int]],
    wires: Mapping[str, Wire],
) -> Program:
    """Return ciphertexts and tasks of one sequence length.

    lookups: of each function by bit width. wires: of what the functions read.

    Two functions that take the same value share a ciphertext if key, width and sign of their
    inputs agree; else the request holds one for each.
    """
    circuits = json.loads(module.client.specs.serialize())["circuits"]
    inputs = {circuit["name"]: circuit["inputs"] for circuit in circuits}
    encryptions: dict[tuple[str, str], Encryption] = {}
    computed = {name for call in calls for name in call.stage.outputs}
    tasks = []
    for call in calls:
        function, names = call.function.name, []
        for position, value in enumerate(call.stage.inputs):
            if value not in computed:
                encoding = json.dumps(inputs[function][position], sort_keys=True)
                same = sum(sent == value for sent, _ in encryptions)
                rows, plain = wires[value].rows, plain_name(value)
                added = Encryption(f"{value}.{same}", plain, function, position, rows)
                value = encryptions.setdefault((value, encoding), added).name
            names.append(value)
        counted = dict(lookups[function])
        tasks.append(Task(call.stage.name, function, tuple(names), call.stage.outputs, counted))
    return Program(tuple(encryptions.values()), tuple(tasks))


def documents(
    network: Network, calls: Sequence[StageCall], lookups: Mapping[str, Mapping[int, int]]
) -> Documents:
    """Return what the manifest says of long documents; calls: of `trace_documents`."""
    score, *adds = calls
    how = scoring(network)
    (read,) = score.stage.inputs
    return Documents(
        score=Task(
            score.stage.name,
            score.function.name,
            (read,),
            score.stage.outputs,
            dict(lookups[score.function.name]),
        ),
        adds={len(call.stage.inputs): call.function.name for call in adds},
        step=how.step,
        level=how.level,
    )


def keys_digest(module: FheModule) -> str:
    """Return the SHA-256 of the parameters of all keys."""
    keys = json.loads(module.client.specs.serialize())["keyset"]
    return hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()


def network_digest(network: object) -> str:
    """Return the SHA-256 of all parameters of a network, or of any other dataclass of these."""
    digest = hashlib.sha256()
    _update(digest, network)
    return digest.hexdigest()


def _update(digest: Any, value: Any) -> None:
    if is_dataclass(value):
        digest.update(type(value).__name__.encode())
        value = [
            getattr(value, field.name)
            for field in fields(value)
            if field.name not in LATER or getattr(value, field.name) != field.default
        ]
    if isinstance(value, (tuple, list)):
        digest.update(f"({len(value)}".encode())
        for item in value:
            _update(digest, item)
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.shape}".encode() + value.astype("<i8").tobytes())
    else:
        digest.update(repr(value).encode())
    digest.update(b";")  # or 1, 12 would be 11, 2
