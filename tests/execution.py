"""`check_execution`: clear, simulated and encrypted evaluation of a network agree.

With exact rounding the three are equal. With approximate rounding each stage, given the very
inputs that it got, stays within the bounds of interval arithmetic on that one point.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from concrete import fhe

from circuits.intervals import interval, interval_lookup
from circuits.lookups import Table, exact_lookup
from circuits.network import Network
from circuits.plan import Stage, network_stages
from compile.module import CompiledNetwork, CompileOptions, build_module
from fhe_inhibitor.runtime.client import Client
from fhe_inhibitor.runtime.execution import TaskDone
from fhe_inhibitor.runtime.manifest import Program
from fhe_inhibitor.runtime.messages import Request, Response
from fhe_inhibitor.runtime.server import EvaluationKeys, Server, Value, to_response
from tests.networks import n_beyond, random_inputs


@dataclass
class Execution:
    """A compiled network, saved and loaded again, with a client's keys."""

    compiled: CompiledNetwork
    folder: Path
    client: Client
    server: Server
    evaluation_keys: EvaluationKeys

    @property
    def network(self) -> Network:
        return self.compiled.network


def prepare(
    network: Network, buckets: Iterable[int], folder: Path, options: CompileOptions | None = None
) -> Execution:
    """Compile, save, load, and make keys."""
    compiled = build_module(network, buckets, options)
    compiled.save(folder)
    client, server = Client(folder), Server(folder)
    client.generate_keys()
    keys = server.read_evaluation_keys(client.evaluation_keys())
    return Execution(compiled, folder, client, server, keys)


def check_execution(execution: Execution, n: int, n_random: int = 1, n_corners: int = 1) -> None:
    """Check random and corner inputs of n tokens, stage by stage, simulated and encrypted."""
    rng = np.random.default_rng(n)
    low, high = execution.network.input_range
    inputs = [random_inputs(rng, execution.network, n, n_padded=i) for i in range(n_random)]
    shape = (n, execution.network.dim)
    corners = [np.full(shape, low), np.full(shape, high), rng.choice([low, high], shape)]
    inputs += [(x, (np.arange(n) >= n - 1).astype(int)) for x in corners[:n_corners]]
    for x, padding in inputs:
        check_simulated(execution.compiled, x, padding)
        check_encrypted(execution, x, padding)


def check_simulated(compiled: CompiledNetwork, x: np.ndarray, padding: np.ndarray) -> None:
    """Check each stage as Concrete simulates it."""
    program = compiled.manifest.program(len(x))
    values = encoded(program, x, padding)
    for stage, task in zip(stages_of(compiled, len(x)), program.tasks, strict=True):
        inputs = [values[name] for name in stage.inputs]
        outputs = compiled.module.functions()[task.function].simulate(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        check_stage(stage, inputs, outputs, compiled.manifest.exact_rounding)
        values.update(zip(stage.outputs, outputs, strict=True))


def check_encrypted(execution: Execution, x: np.ndarray, padding: np.ndarray) -> int:
    """Check each stage of one encrypted run, all through bytes.

    Returns how many of its sums lay beyond the entries of their tables.
    """
    request = Request.from_bytes(execution.client.encrypt(x, padding).to_bytes())
    stages = {stage.name: stage for stage in stages_of(execution.compiled, len(x))}
    values = encoded(execution.compiled.manifest.program(len(x)), x, padding)
    server, n_done, beyond = Server(execution.folder), 0, 0
    for n_done, done in enumerate(server.start(request, execution.evaluation_keys), start=1):
        stage = stages[done.task.stage]
        outputs = decrypt(execution.client, done)
        inputs = [values[name] for name in stage.inputs]
        exact = execution.compiled.manifest.exact_rounding
        beyond += check_stage(stage, inputs, outputs, exact)
        values.update(zip(stage.outputs, outputs, strict=True))
        assert done.index == n_done
    assert n_done == done.total
    response = to_response(request.n, done)
    logits = execution.client.decrypt(Response.from_bytes(response.to_bytes()))
    assert logits.tolist() == values["logits"][0].tolist()
    return beyond


def stages_of(compiled: CompiledNetwork, n: int) -> list[Stage]:
    """The stages that were compiled, in blocks of rows if they are."""
    return network_stages(compiled.network, n, compiled.manifest.blocks.get(n, ()))


def encoded(program: Program, x: np.ndarray, padding: np.ndarray) -> dict[str, Any]:
    """What a client encrypts, by the names that stages read."""
    given = {"x": x, "padding": padding}
    return {
        encryption.name.rpartition(".")[0]: encryption.take(given)
        for encryption in program.encryptions
    }


def decrypt(client: Client, done: TaskDone[Value]) -> tuple[np.ndarray, ...]:
    """Decrypt what a task gave, which only tests do before the last one."""
    ciphertexts = [fhe.Value(value) for value in done.outputs.values()]
    decrypted = client._client.decrypt(*ciphertexts, function_name=done.task.function)
    return decrypted if isinstance(decrypted, tuple) else (decrypted,)


def check_stage(
    stage: Stage, inputs: list[Any], outputs: tuple[np.ndarray, ...], exact: bool
) -> int:
    """Check that outputs are those of the integer stage, or within its rounding bounds.

    Returns how many sums lie beyond the entries of their tables.
    """
    beyond = 0

    def counting_lookup(accumulator: np.ndarray, table: Table) -> np.ndarray:
        nonlocal beyond
        beyond += n_beyond(accumulator, table)
        return exact_lookup(accumulator, table)

    expected = stage.evaluate(inputs, counting_lookup)
    bounds = stage.evaluate([interval(value) for value in inputs], interval_lookup)
    for name, got, clear, bound in zip(stage.outputs, outputs, expected, bounds, strict=True):
        assert got.shape == clear.shape
        if exact:
            assert (got == clear).all(), f"{stage.name}: {name} differs"
        inside = (bound.low <= got) & (got <= bound.high)
        assert inside.all(), f"{stage.name}: {name} leaves its bounds"
    return beyond
