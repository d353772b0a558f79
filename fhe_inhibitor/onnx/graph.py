"""Writing ONNX graphs node by node: names, constants, subgraphs, and the checks on what comes out.
Float and integer graphs begin alike: `INPUTS`, `find_pairs`, which key each query reads, and the
three operations of a model that pools positions.

    graph = Graph()
    x = graph.add("Relu", graph.add("Add", "x", 1.0))
    model = graph.to_model({"x": (FLOAT, ["batch"])}, {"y": (x, FLOAT, ["batch"])}, {})

`load` reads a file that someone else may have written: nothing of it runs, and no other file is
read because of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data

from fhe_inhibitor.errors import InputError

OPSET = 21  # the first with 4-bit integers
IR_VERSION = 10
PRODUCER = "fhe-inhibitor"
FORMAT_VERSION = "1"
LARGEST_FILE_BYTES = 1 << 30
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL

TO_THE_END = np.iinfo(np.int64).max

INPUTS = {name: (INT64, ["batch", "tokens"]) for name in ("input_ids", "attention_mask")}

Operand = str | float | Sequence[int] | np.ndarray


class Graph:
    """Nodes and initializers in the order in which they are added.

    An operand is the name of a value, or a constant: a float32 for a float, int64 for integers,
    an array as it is. Equal constants are stored once.
    """

    def __init__(self, outer: Graph | None = None) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, TensorProto] = outer.initializers if outer else {}
        self._constants: dict[tuple, str] = outer._constants if outer else {}
        self._count: list[int] = outer._count if outer else [0]
        self._scope: str = outer._scope if outer else ""

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Put `name.` before the names of what is added in the block."""
        before, self._scope = self._scope, f"{self._scope}{name}."
        yield
        self._scope = before

    def add(self, op: str, *operands: Operand, **attributes: Any) -> str:
        """Append a node with one output; return the output's name."""
        return self._append(op, operands, 1, attributes)[0]

    def _append(
        self, op: str, operands: Sequence[Operand], n_outputs: int, attributes: Mapping[str, Any]
    ) -> list[str]:
        self._count[0] += 1
        name = f"{self._scope}{op}_{self._count[0]}"
        inputs = [x if isinstance(x, str) else self.constant(x) for x in operands]
        outputs = [name, *(f"{name}.{i}" for i in range(1, n_outputs))]
        self.nodes.append(helper.make_node(op, inputs, outputs, name, **attributes))
        return outputs

    def constant(self, value: Operand, name: str | None = None) -> str:
        """Return the name of an initializer with this value; `name` in the scope, if given."""
        if not isinstance(value, np.ndarray):
            value = np.array(value, np.float32 if isinstance(value, float) else np.int64)
        if name is None:
            key = (str(value.dtype), value.shape, value.tobytes())
            name = self._constants.setdefault(key, f"constant_{len(self._constants)}")
        else:
            name = f"{self._scope}{name}"
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def scan(
        self, body: Callable[..., tuple[str, ...]], state: str, scanned: Sequence[str], axis: int
    ) -> str:
        """Append a Scan of `body` over one axis of float values; return its last output's name.

        body(graph, state, *slices) returns the next state, and a slice of the output if the
        output isn't the last state. What it reads comes as state or slice: few tools sort nodes
        by what a body reads beside those.
        """
        inner = Graph(self)
        inputs = [f"{self._scope}slice_{self._count[0]}.{i}" for i in range(1 + len(scanned))]
        outputs = body(inner, *inputs)
        n_slices = len(outputs) - 1
        attributes = {
            "body": helper.make_graph(
                inner.nodes,
                "body",
                [helper.make_tensor_value_info(name, FLOAT, None) for name in inputs],
                [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
            ),
            "num_scan_inputs": len(scanned),
            "scan_input_axes": [axis] * len(scanned),
        }
        if n_slices:
            attributes["scan_output_axes"] = [axis] * n_slices
        return self._append("Scan", [state, *scanned], len(outputs), attributes)[-1]

    def to_model(
        self,
        inputs: Mapping[str, tuple[int, list]],
        outputs: Mapping[str, tuple[str, int, list]],
        metadata: Mapping[str, str],
    ) -> onnx.ModelProto:
        """Return the checked model; inputs: type, axes; outputs: value, type, axes."""
        nodes = [
            *self.nodes,
            *(
                helper.make_node("Identity", [value], [name], name)
                for name, (value, _, _) in outputs.items()
            ),
        ]
        graph = helper.make_graph(
            nodes,
            PRODUCER,
            [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
            [helper.make_tensor_value_info(name, *kind[1:]) for name, kind in outputs.items()],
            list(self.initializers.values()),
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name=PRODUCER,
            producer_version=FORMAT_VERSION,
        )
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model


@dataclass(frozen=True)
class Pairs:
    """Names of int64 `[n_q, n]`, j - i, and bool `[B, 1, n_q or 1, n]`, which keys are read."""

    offset: str
    mask: str


def empty_padding(graph: Graph, x: str, stride: int) -> tuple[str, str]:
    """Add x `[B, n, dim]` with padding that is 0, up to a multiple of `stride`, and its mask."""
    if stride == 1:
        return x, "attention_mask"
    missing = graph.add("Mod", graph.add("Neg", graph.add("Shape", x, start=1, end=2)), [stride])
    x = graph.add(
        "Mul", x, graph.add("Unsqueeze", graph.add("Cast", "attention_mask", to=FLOAT), [2])
    )
    ends = graph.add("Concat", [0, 0, 0], missing, axis=0)
    mask = graph.add("Pad", "attention_mask", ends)
    return graph.add("Pad", x, graph.add("Concat", [0, 0, 0, 0], missing, [0], axis=0)), mask


def pool(graph: Graph, x: str, pooled: int, channels: int, how: str) -> str:
    """Add ReduceSum or ReduceMean of each `pooled` neighbours in x `[B, n, channels]`."""
    groups = graph.add("Reshape", x, [0, -1, pooled, channels])
    return graph.add(how, groups, [2], keepdims=0)


def pooled_mask(graph: Graph, mask: str, pooled: int) -> str:
    """Add which pooled positions hold a token: those whose first one is one; or are padding."""
    return graph.add("Slice", mask, [0], [TO_THE_END], [1], [pooled])


def find_pairs(
    graph: Graph,
    single_query: bool,
    window: int,
    mask: str = "attention_mask",
    causal: bool = False,
) -> Pairs:
    """Add the positions of queries and keys; mask: int64 `[B, n]`, of the keys.

    In a causal layer all positions ask, whatever `single_query` says: see `last_tokens`.
    """
    positions = "input_ids" if mask == "attention_mask" else mask
    n = graph.add("Shape", positions, start=1, end=2)
    keys = graph.add("Range", 0, graph.add("Squeeze", n), 1)
    if single_query and not causal:
        offset = graph.add("Unsqueeze", keys, [0])
    else:
        offset = graph.add("Sub", keys, graph.add("Unsqueeze", keys, [1]))
    read = graph.add("Unsqueeze", graph.add("Cast", mask, to=BOOL), [1, 2])
    if window:
        near = graph.add("LessOrEqual", graph.add("Abs", offset), window)
        read = graph.add("And", read, near)
    if causal:
        read = graph.add("And", read, graph.add("LessOrEqual", offset, 0))
    return Pairs(offset, read)


def last_tokens(graph: Graph, x: str) -> str:
    """Add the position of each row that a causal model reads, of x `[B, n, dim]`: `[B, dim]`.

    Padding comes after the tokens, so that it is another position in each row of a batch.
    """
    n_tokens = graph.add("ReduceSum", "attention_mask", [1], keepdims=1)
    last = graph.add("Max", graph.add("Sub", n_tokens, 1), 0)
    return graph.add("GatherND", x, last, batch_dims=1)


def table_rows(graph: Graph, offset: str, max_offset: int) -> str:
    """Add the row of each pair in a table per relative offset."""
    clipped = graph.add("Clip", offset, -max_offset, max_offset)
    return graph.add("Add", clipped, max_offset)


def load(path: Path) -> onnx.ModelProto:
    """Read an ONNX file that this version of the toolkit wrote.

    Raises InputError for a file that is missing, too large, damaged, refers to other files, or
    was written by anything else.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file")
    size = path.stat().st_size
    if size > LARGEST_FILE_BYTES:
        raise InputError(f"{path} has {size} bytes, an ONNX file may have {LARGEST_FILE_BYTES}")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, ValueError, OSError) as error:
        raise InputError(f"{path} can't be read as ONNX: {error}") from error
    if any(uses_external_data(tensor) for tensor in model.graph.initializer):
        raise InputError(f"{path} keeps data in other files; wanted one file with all of it")
    written = (model.producer_name, model.producer_version)
    if written != (PRODUCER, FORMAT_VERSION):
        raise InputError(
            f"{path} was written by {' '.join(written).strip() or 'an unknown producer'}, this "
            f"version reads {PRODUCER} {FORMAT_VERSION}: export the model again"
        )
    return model
