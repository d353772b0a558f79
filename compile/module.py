"""From a network of integer parameters to one composed Concrete module, in visible steps.

verify    prove every range, for each sequence length             compile/verifier.py
trace     one function per stage, shared where lengths agree      compile/functions.py
wire      outputs that feed inputs, as Concrete's composition rules
compile   Concrete's optimizer and compiler, one set of keys
check     widths and counts of what came out, against formula     compile/lookup_counts.py
describe  the manifest: ciphertexts to send and tasks to run      compile/manifests.py
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from concrete import fhe
from concrete.fhe.compilation.configuration import SecurityLevel
from concrete.fhe.compilation.module import FheModule
from concrete.fhe.compilation.module_compiler import ModuleCompiler
from concrete.fhe.compilation.wiring import Input, Output
from concrete.fhe.compilation.wiring import Wire as CompositionWire

from circuits.blocks import LayerBlocks
from circuits.counts import count_document_lookups, count_lookups
from circuits.documents import scoring
from circuits.network import Network
from circuits.plan import network_wires
from compile.folders import compile_tidily
from compile.functions import DeclaredFunction, StageCall, trace_documents, trace_functions
from compile.lookup_counts import check_lookups, compiled_lookups
from compile.lookup_times import benchmark_name, trace_benchmark
from compile.manifests import documents, keys_digest, network_digest, program
from compile.options import BENCHMARK_SIZE, DEFAULT_P_ERROR, refusal
from compile.verifier import (
    MAX_LOOKUP_BITS,
    StageRange,
    check_lengths,
    verify,
    verify_documents,
)
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.manifest import (
    BLOCKS_FORMAT,
    DOCUMENTS_FORMAT,
    FORMAT_VERSION,
    SERVER_FOLDER,
    SPECS_FILE,
    Manifest,
)
from fhe_inhibitor.system.progress import Observer

SECURITY = SecurityLevel.SECURITY_128_BITS


@dataclass(frozen=True)
class CompileOptions:
    """How to compile.

    p_error: probability that the noise of one lookup passes half a step of its table.
    exact_rounding: round exactly, at one more lookup per bit removed; for tests. max_bits:
    widest lookup that is allowed. documents: whether long documents are to be classified too.
    blocks: by number of tokens, into how many blocks of rows the stages of each layer are cut
    (`compile.cost.blocks` chooses them); nothing is cut for a number that isn't there.
    """

    p_error: float = DEFAULT_P_ERROR
    exact_rounding: bool = False
    max_bits: int = MAX_LOOKUP_BITS
    documents: bool = False
    blocks: Mapping[int, Sequence[LayerBlocks]] = field(default_factory=dict)


@dataclass(frozen=True)
class CompiledNetwork:
    """Circuits of a network, and all that is known about them before they run.

    ranges: by number of tokens, what was proved. compile_s: wall time of all steps.
    """

    network: Network
    module: FheModule
    manifest: Manifest
    ranges: Mapping[int, list[StageRange]]
    compile_s: float

    def save(self, folder: str | Path, simulated: bool = False) -> None:
        """Write what `Server` and `Client` load: the folder appears whole or not at all.

        simulated: write the circuits that simulate encryption instead, which Concrete compiles
        when they are first asked for. Raises InputError as `check_new` does.
        """
        folder = Path(folder)
        check_new(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".circuits-", dir=folder.parent) as unfinished:
            write_circuits(self.module, self.manifest, Path(unfinished) / "new", simulated)
            os.replace(Path(unfinished) / "new", folder)


def check_new(folder: Path) -> None:
    """Raise InputError for the place of a folder to be written where there is something else."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is no folder: name a new one or remove it")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty: name a new folder or remove it")


def build_module(
    network: Network,
    buckets: Iterable[int],
    options: CompileOptions | None = None,
    model_hash: str | None = None,
    observer: Observer | None = None,
) -> CompiledNetwork:
    """Compile a network for sequences of `buckets` tokens each.

    model_hash: names the network in the manifest; SHA-256 of its parameters if None. observer:
    is told of each step. Raises VerificationError if a value could leave its bits or a
    lookup comes out wider than its table, and InputError for buckets that `check_lengths` refuses
    or if no parameters reach p_error.
    """
    start = time.perf_counter()
    observer = observer or Observer()
    options = options or CompileOptions()
    lengths = check_lengths(network, buckets)
    observer.begin("compile: verify")
    blocks = {n: tuple(options.blocks.get(n, ())) for n in lengths}
    ranges = {n: verify(network, n, options.max_bits, blocks[n]) for n in lengths}
    proved = verify_documents(network, options.max_bits) if options.documents else []
    observer.begin("compile: trace")
    calls = trace_functions(network, ranges, options.exact_rounding, blocks)
    added = trace_documents(network, proved, options.exact_rounding)
    widths = {width for n in lengths for width in _widths(network, n)}
    if added:
        widths.add(scoring(network).table.bit_width)
    benchmarks = [trace_benchmark(width) for width in sorted(widths)]
    observer.begin("compile: compile")
    functions = {call.function.name: call.function for n in lengths for call in calls[n]}
    traced = [*functions.values(), *(call.function for call in added), *benchmarks]
    wires = _wires({n: [*calls[n], *added] for n in lengths})
    module = compile_functions(traced, wires, options.p_error)
    observer.begin("compile: check")
    lookups = compiled_lookups(module)
    if not options.exact_rounding:
        for n in lengths:
            formula = count_lookups(network, n, blocks[n])
            for call in calls[n]:
                name = call.function.name
                check_lookups(module, name, lookups[name], formula[call.stage.name])
        formula = count_document_lookups(network) if added else {}
        for call in added:
            name = call.function.name
            check_lookups(module, name, lookups[name], formula.get(call.stage.name, Counter()))
    cut_into = {n: cuts for n, cuts in blocks.items() if any(c != LayerBlocks() for c in cuts)}
    manifest = Manifest(
        model_hash=model_hash or network_digest(network),
        keys_hash=keys_digest(module),
        p_error=options.p_error,
        exact_rounding=options.exact_rounding,
        dim=network.dim,
        n_labels=network.classifier.weight.shape[1],
        input_range=network.input_range,
        logit_range=_logit_range(ranges),
        programs={
            n: program(module, calls[n], lookups, network_wires(network, n, blocks[n]))
            for n in lengths
        },
        benchmarks={width: benchmark_name(width) for width in sorted(widths)},
        benchmark_size=BENCHMARK_SIZE,
        documents=documents(network, added, lookups) if added else None,
        blocks=cut_into,
        format_version=(
            BLOCKS_FORMAT if cut_into else DOCUMENTS_FORMAT if added else FORMAT_VERSION
        ),
    )
    return CompiledNetwork(network, module, manifest, ranges, time.perf_counter() - start)


def write_circuits(
    module: FheModule, manifest: Manifest, folder: Path, simulated: bool = False
) -> None:
    """Write what `Server` and `Client` load to a new folder."""
    runtime = (module.simulation_runtime if simulated else module.execution_runtime).val
    server = folder / SERVER_FOLDER
    server.mkdir(parents=True)
    # Concrete saves a zip, which each load would unpack into a folder that nobody removes.
    archive = folder / "server.zip"
    runtime.server.save(archive)
    shutil.unpack_archive(archive, server)
    archive.unlink()
    (server / "staticlib.a").unlink(missing_ok=True)
    (folder / SPECS_FILE).write_bytes(runtime.client.specs.serialize())
    manifest.write(folder)


def configuration(p_error: float) -> fhe.Configuration:
    """Return how Concrete is to compile: small messages, rounding without extra lookups."""
    return fhe.Configuration(
        p_error=p_error,
        security_level=SECURITY,
        compress_evaluation_keys=True,
        compress_input_ciphertexts=True,
        # Clipping would cost a lookup; the tables leave room for the noise at both ends.
        approximate_rounding_config=fhe.ApproximateRoundingConfig(
            logical_clipping=False, approximate_clipping_start_precision=33
        ),
    )


def _logit_range(ranges: Mapping[int, list[StageRange]]) -> tuple[int, int]:
    """Return what the logits of no length can leave; they are the only output of the last stage."""
    bounds = [bound for proved in ranges.values() for bound in proved[-1].outputs.values()]
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _widths(network: Network, n: int) -> Counter[int]:
    return sum(count_lookups(network, n).values(), Counter())


def _wires(calls: Mapping[int, Sequence[StageCall]]) -> list[CompositionWire]:
    """Return which output feeds which input, in an order that is the same in every run.

    The optimizer's choice of keys depends on the order.
    """
    wires: dict[tuple[str, int, str, int], CompositionWire] = {}
    for listed in calls.values():
        sources: dict[str, tuple[DeclaredFunction, int]] = {}
        for call in listed:
            for position, value in enumerate(call.stage.inputs):
                if value in sources:
                    function, output = sources[value]
                    key = (function.name, output, call.function.name, position)
                    wires[key] = CompositionWire(
                        Output(function, output), Input(call.function, position)
                    )
            for position, value in enumerate(call.stage.outputs):
                sources[value] = (call.function, position)
    return [wires[key] for key in sorted(wires)]


def compile_functions(
    functions: Sequence[DeclaredFunction], wires: list[CompositionWire], p_error: float
) -> FheModule:
    """Return functions compiled for one set of keys.

    Raises InputError if no parameters reach p_error.
    """
    compiler = ModuleCompiler(list(functions), fhe.Wired(wires))
    try:
        return compile_tidily(lambda: compiler.compile(None, configuration(p_error)))
    except RuntimeError as error:
        raise refusal(error, p_error) from error
