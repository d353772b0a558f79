"""Quantized graphs: the integer model's logits exactly, and its parameters back to the last bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from circuits.network import run
from compile.local.prepared import compile_model
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer import format as integer_format
from fhe_inhibitor.integer.model import DEFAULT_MODEL, IntegerModel
from fhe_inhibitor.model.configuration import ATTENTION_KINDS
from fhe_inhibitor.model.quantized.network import QuantizedNetwork
from fhe_inhibitor.onnx.export import export_onnx
from fhe_inhibitor.onnx.integer_graph import quantized_graph
from fhe_inhibitor.onnx.reader import read_exported, read_parameters
from fhe_inhibitor.onnx.runtime import OnnxClassifier
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.text.data import read_tsv
from tests.fhe_inhibitor.integer.test_checkpoint import TEXTS
from tests.fhe_inhibitor.model.quantized.test_steps import SATURATING, make
from tests.networks import SHIPPED, NetworkShape, fitting_length, random_network
from tests.tiny_model import write_tiny_model

SHAPES = {
    "inhibitor": NetworkShape(),
    "inhibitor_signed": NetworkShape(attention="inhibitor_signed"),
    "dot product": NetworkShape(attention="dot_product"),
    "dot product, wide": NetworkShape(
        attention="dot_product", bits=3, lookup_bits=6, last_query="first", key_dim=1
    ),
    "partial sums": SHIPPED,
    "partial sums of dot products": NetworkShape(
        attention="dot_product", keys_per_sum=3, last_query="first", last_key_dim=2
    ),
    "all queries, feed-forward, sums as logits": NetworkShape(
        window=0, max_offset=0, last_query="all", hidden_dim=6, plain_logits=True, last_key_dim=2
    ),
    "saturating": NetworkShape(
        saturating=True, bits=3, last_query="all", hidden_dim=6, keys_per_sum=3
    ),
    "saturating, signed": NetworkShape(
        attention="inhibitor_signed", saturating=True, bits=3, keys_per_sum=3
    ),
    "saturating dot product": NetworkShape(attention="dot_product", saturating=True, hidden_dim=6),
    "pooling": NetworkShape(n_layers=3, pooling=(2, 2), keys_per_sum=3, hidden_dim=6),
    "pooling, dot product": NetworkShape("dot_product", pooling=(4,), last_query="first"),
    "causal": NetworkShape(causal=True, last_query="first", hidden_dim=6, last_key_dim=2),
    "causal, constant query": NetworkShape("inhibitor_signed", causal=True, window=0),
    "causal dot product": NetworkShape("dot_product", causal=True, window=0, last_query="first"),
}


def parameters_of(shape: NetworkShape, positions: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "labels": ["no", "yes"],
        "network": random_network(rng, shape),
        "embedding": rng.integers(-9, 9, (50, shape.dim)),
        "positions": rng.integers(-3, 3, (positions, shape.dim)).astype(np.int8),
        "importance": rng.random(50).astype(np.float32),
        "cls_token_id": None,
        "logit_scale": 0.01,
        "buckets": [4, shape.max_tokens],
        "default_tokens": 4,
        "noise_std": 0.04,
        "p_error": 2.0**-20,
    }


def integers(parameters: dict[str, Any], ids: np.ndarray, n_padded: int) -> np.ndarray:
    """Integer logits of ids `[n]`, the last ones padded, by the circuits' stages.

    Where they pool, padding is 0, up to a length that they take. Causal ones take padding before
    the text, or none.
    """
    network = parameters["network"]
    x = parameters["embedding"][ids].astype(np.int64)
    if len(parameters["positions"]):
        x = x + parameters["positions"][: len(ids)]
    padding = (np.arange(len(ids)) >= len(ids) - n_padded).astype(np.int64)
    x = x.clip(*network.input_range)
    if network.causal:
        n_tokens = len(ids) - n_padded
        x, padding = x[:n_tokens], padding[:n_tokens]
    if network.stride > 1:
        missing = fitting_length(network, len(ids)) - len(ids)
        x = np.pad(x * (1 - padding)[:, None], ((0, missing), (0, 0)))
        padding = np.pad(padding, (0, missing), constant_values=1)
    return run(network, x, padding)


@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_the_integer_stages_exactly(name: str) -> None:
    parameters = parameters_of(SHAPES[name], positions=8 if name == "inhibitor" else 0)
    classifier = OnnxClassifier(quantized_graph(parameters))
    rng = np.random.default_rng(1)
    for n in (1, 3, 8):
        ids = rng.integers(50, size=(16, n))
        padded = np.arange(16) % n
        mask = (np.arange(n)[None, :] < n - padded[:, None]).astype(np.int64)
        expected = [integers(parameters, *row) for row in zip(ids, padded, strict=True)]
        found = classifier.logits(ids, mask)
        assert np.array_equal(found, np.float32(0.01) * np.array(expected, np.float32))


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_a_trained_model_whose_tables_saturate_is_its_graph(kind: str) -> None:
    model, ids, mask = make(kind, "cls", 10, {**SATURATING, "keys_per_sum": [0, 3]})
    quantized = QuantizedNetwork(model)
    network, scale = quantized.to_circuit()
    embeddings = model.distilbert.embeddings
    table, positions = (
        (module.weight / embeddings.step.size + 0.5).floor().int().detach().numpy()
        for module in (embeddings.word_embeddings, embeddings.position_embeddings)
    )
    parameters = {
        **parameters_of(NetworkShape()),
        "network": network,
        "embedding": table,
        "positions": positions.astype(np.int8),
        "importance": np.ones(len(table), np.float32),
        "logit_scale": scale,
        "buckets": [ids.shape[1]],
    }
    found = OnnxClassifier(quantized_graph(parameters)).logits(ids.numpy(), mask.numpy())
    np.testing.assert_allclose(found, model(ids, mask).logits.detach().numpy(), atol=1e-5)
    assert len(np.unique(found)) > 4


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_come_back_to_the_last_bit(name: str, tmp_path: Path) -> None:
    parameters = parameters_of(SHAPES[name])
    digest = integer_format.write(tmp_path / "integers", parameters)
    onnx.save(quantized_graph(parameters), tmp_path / "graph.onnx")
    found, found_digest = read_parameters(tmp_path / "graph.onnx")
    assert found_digest == digest
    assert integer_format.write(tmp_path / "again", found) == digest


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("onnx") / "shipped.onnx"
    done = export_onnx(DEFAULT_MODEL, out, quantized=True, texts=list(TEXTS))
    assert (done.form, done.n_equal_labels, done.max_difference) == ("integer", len(TEXTS), 0.0)
    return out


def test_the_shipped_graph_has_the_checkpoint_s_hash(shipped: Path) -> None:
    model, exported = IntegerModel.load(), read_exported(shipped)
    assert exported.hash == model.hash
    assert (exported.buckets, exported.p_error) == (model.buckets, model.p_error)
    digests = []
    for network in (model.network, exported.network):
        tensors: dict[str, np.ndarray] = {}
        tree = str(integer_format.flatten(network, "", tensors))
        digests.append(integer_format.parameters_hash(tree, tensors))
    assert digests[0] == digests[1]


def test_the_shipped_graph_is_quantized_in_standard_types(shipped: Path) -> None:
    graph = onnx.load(shipped).graph
    assert all(node.domain == "" for node in graph.node)
    names = {name for node in graph.node for name in node.input}
    kinds = {t.name: helper.tensor_dtype_to_np_dtype(t.data_type).name for t in graph.initializer}
    assert set(kinds) <= names  # nothing is carried along that isn't computed with
    for name, kind in kinds.items():
        if name.endswith((".weight", ".values", "embedding")):
            assert kind in ("int4", "int8", "uint8"), name
    matrices = [node.input[1] for node in graph.node if node.op_type == "MatMul"]
    dequantized = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    assert matrices and set(matrices) <= dequantized


@pytest.mark.slow
def test_labels_on_the_validation_set_are_the_integer_model_s(
    data_dir: Path, tmp_path: Path
) -> None:
    texts = [row.text for row in read_tsv(data_dir / "glue" / "sst2" / "dev.tsv")]
    done = export_onnx(DEFAULT_MODEL, tmp_path / "shipped.onnx", quantized=True, texts=texts)
    assert (done.n_texts, done.n_equal_labels, done.max_difference) == (872, 872, 0.0)


@pytest.mark.fhe
def test_circuits_compile_from_the_graph(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny", buckets=(2,))
    export_onnx(folder, tmp_path / "tiny.onnx", quantized=True)
    compiled = compile_model(read_exported(tmp_path / "tiny.onnx"), Observer())
    assert compiled.manifest.model_hash == IntegerModel.load(folder).hash


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("partial sums", {"window": 2}, "partial sums in a window"),
        ("partial sums of dot products", {"window": 2}, "partial sums in a window"),
        ("inhibitor", {"attention_output": {"first": 1}}, "a table of 1 to"),
        ("inhibitor", {"attention_output": {"lsbs": 15}}, "with 15 bits rounded away"),
    ],
)
def test_what_the_operators_can_not_hold_is_refused(name: str, changes: dict, said: str) -> None:
    parameters = parameters_of(SHAPES[name])
    network = parameters["network"]
    last = network.layers[-1]
    if table := changes.get("attention_output"):
        output = last.attention_output
        changes = {
            "attention_output": replace(output, table=replace(output.table, **table)),
        }
    layers = (*network.layers[:-1], replace(last, **changes))
    with pytest.raises(InputError, match=said):
        quantized_graph({**parameters, "network": replace(network, layers=layers)})


def set_tensor(graph: onnx.GraphProto, suffix: str, change: int) -> None:
    tensor = next(t for t in graph.initializer if t.name.endswith(suffix))
    values = numpy_helper.to_array(tensor).copy()
    values.reshape(-1)[0] += change
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def add_node(model: onnx.ModelProto) -> None:
    model.graph.node.add().CopyFrom(helper.make_node("Identity", ["logits"], ["copy"]))


def refer_elsewhere(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def set_metadata(model: onnx.ModelProto, key: str, value: str) -> None:
    next(entry for entry in model.metadata_props if entry.key == key).value = value


def replace_in_tree(model: onnx.ModelProto, old: str, new: str) -> None:
    entry = next(entry for entry in model.metadata_props if entry.key == "tree")
    assert old in entry.value
    entry.value = entry.value.replace(old, new, 1)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda m: setattr(m, "producer_name", "pytorch"), "was written by pytorch"),
        (lambda m: setattr(m, "producer_version", "0"), "fhe-inhibitor 0, this version reads"),
        (refer_elsewhere, "other files"),
        (lambda m: set_metadata(m, "form", "float"), "is a float graph"),
        (lambda m: set_metadata(m, "tree", "{"), "doesn't describe an integer model"),
        (lambda m: set_metadata(m, "tree", "[" * 100_000), "doesn't describe an integer model"),
        (lambda m: set_metadata(m, "tensors", "[]"), "doesn't describe an integer model"),
        (lambda m: replace_in_tree(m, '"p_error": 9', '"p_error": 1e9, "x": 9'), "p_error"),
        (lambda m: replace_in_tree(m, '"buckets": [', '"buckets": ["a", '), "buckets"),
        (lambda m: replace_in_tree(m, '"padding_score": ', '"padding_score": 1'), "differs"),
        (lambda m: replace_in_tree(m, '"window": ', '"window": 1'), "differs"),
        (lambda m: m.graph.node.pop(), "differs"),
        (add_node, "the number of nodes differs"),
        (lambda m: setattr(m.graph.node[5], "op_type", "Relu"), "differs"),
        (lambda m: set_tensor(m.graph, ".scale", 1), "differs"),
        (lambda m: m.graph.initializer.pop(), "doesn't describe an integer model|differs"),
        (lambda m: m.graph.ClearField("initializer"), "doesn't describe an integer model"),
        (lambda m: setattr(m.opset_import[0], "version", 20), "the operator set differs"),
    ],
)
def test_a_graph_of_another_form_is_refused(spoil: Any, said: str, tmp_path: Path) -> None:
    model = quantized_graph(parameters_of(NetworkShape()))
    spoil(model)
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=said):
        read_exported(tmp_path / "bad.onnx")


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x0a" * 50])
def test_a_file_that_is_no_graph_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.onnx"):
        read_exported(tmp_path / "bad.onnx")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.onnx is not a file"):
        read_exported(tmp_path / "nothing.onnx")


def test_a_changed_weight_is_another_model(tmp_path: Path) -> None:
    """The graph is the model: its hash follows its initializers."""
    parameters = parameters_of(NetworkShape())
    model = quantized_graph(parameters)
    set_tensor(model.graph, "heads.0.key.weight", 1)
    onnx.save(model, tmp_path / "changed.onnx")
    found, digest = read_parameters(tmp_path / "changed.onnx")
    assert digest != integer_format.write(tmp_path / "integers", parameters)
    changes = [
        given["network"].layers[0].heads[0].key.weight.flat[0] for given in (found, parameters)
    ]
    assert changes[0] == changes[1] + 1


def test_a_large_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fhe_inhibitor.onnx.graph.LARGEST_FILE_BYTES", 3)
    (tmp_path / "large.onnx").write_bytes(b"1234")
    with pytest.raises(InputError, match="4 bytes"):
        read_exported(tmp_path / "large.onnx")
