"""The integer model's folder: round trip, token choice, and everything that doesn't fit."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file

from circuits.lookups import AntiperiodicTable, SaturatingTable
from circuits.network import run
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer import format as integer_format
from fhe_inhibitor.integer.model import (
    CHECKPOINTS,
    CONFIG_FILE,
    DEFAULT_MODEL,
    INTEGER_FILE,
    REPOSITORY_ONLY,
    IntegerModel,
)
from fhe_inhibitor.integer.public import most_important
from fhe_inhibitor.runtime.manifest import NEUTRAL_FILE, TOKENIZER_FILE
from tests.networks import NetworkShape, random_inputs, random_network
from tests.tiny_model import SHAPE, write_tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny")


@pytest.mark.parametrize("path", [".", "../tiny", "../tiny/../tiny/.", "inner/.."])
def test_a_model_has_its_folder_s_name_whatever_the_path(
    folder: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "inner").mkdir()
    monkeypatch.chdir(folder)
    assert IntegerModel.load(path).name == "tiny"


def test_written_parameters_come_back(folder: Path, tmp_path: Path) -> None:
    parameters, digest = integer_format.read(folder / INTEGER_FILE)
    assert integer_format.write(tmp_path / "copy", parameters) == digest
    again, _ = integer_format.read(tmp_path / "copy")
    network, copy = parameters["network"], again["network"]
    assert np.array_equal(network.layers[0].heads[0].key.weight, copy.layers[0].heads[0].key.weight)
    assert network.layers[0].heads[0].key.weight.dtype == np.int64


@pytest.mark.parametrize("attention", ["inhibitor", "inhibitor_signed", "dot_product"])
def test_tables_that_saturate_come_back(attention: str, tmp_path: Path) -> None:
    network = random_network(
        np.random.default_rng(0), NetworkShape(attention, saturating=True, keys_per_sum=3)
    )
    integer_format.write(tmp_path / "model", {"network": network})
    copy = integer_format.read(tmp_path / "model")[0]["network"]
    head, own = copy.layers[0].heads[0], network.layers[0].heads[0]
    assert type(head.value.table) is SaturatingTable
    assert head.value.table.domain == own.value.table.domain
    if attention != "dot_product":
        assert type(head.attention.threshold) is AntiperiodicTable
    x, padding = random_inputs(np.random.default_rng(1), network, 5, n_padded=1)
    assert run(copy, x, padding).tolist() == run(network, x, padding).tolist()


POOLED = NetworkShape(
    n_layers=3, dim=4, n_heads=1, key_dim=1, value_dim=2, last_key_dim=2, pooling=(1, 2)
)


def test_pooling_comes_back(tmp_path: Path) -> None:
    network = random_network(np.random.default_rng(0), POOLED)
    integer_format.write(tmp_path / "model", {"network": network})
    copy = integer_format.read(tmp_path / "model")[0]["network"]
    assert [layer.pooled for layer in copy.layers] == [1, 1, 2]
    x, padding = random_inputs(np.random.default_rng(1), network, 6, n_padded=1)
    assert run(copy, x, padding).tolist() == run(network, x, padding).tolist()


def test_files_of_models_without_later_fields_are_what_they_were(tmp_path: Path) -> None:
    """So are their hashes, by which circuits and keys are found again."""
    causal = NetworkShape(causal=True)  # but for the last layer, with its constant query
    for shape, mentioned in ((NetworkShape(), (0, 0)), (POOLED, (1, 0)), (causal, (0, 1))):
        network = random_network(np.random.default_rng(0), shape)
        tree = json.dumps(integer_format.flatten(network, "", {}))
        assert (tree.count("pooled"), tree.count("causal")) == mentioned
        integer_format.write(tmp_path / "model", {"network": network})
        assert integer_format.read(tmp_path / "model")[0]["network"].causal == network.causal


def test_a_first_layer_that_pools_is_refused(tmp_path: Path) -> None:
    layer = random_network(np.random.default_rng(0), POOLED).layers[2]
    network = random_network(np.random.default_rng(0), POOLED)
    object.__setattr__(network, "layers", (layer,))  # as in a file that someone else wrote
    integer_format.write(tmp_path / "model", {"network": network})
    with pytest.raises(InputError, match="doesn't describe an integer model.*first layer pools 2"):
        integer_format.read(tmp_path / "model")


def test_texts_of_a_pooled_model_give_the_same_logits_in_every_bucket(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny", buckets=(2, 4, 8), shape=POOLED)
    model = IntegerModel.load(folder)
    longest = replace(model, buckets=(8,))
    words = ["good", "film", "and", "a", "bad", "dull", "film"]
    for n in range(1, 8):
        tokens = model.tokenize(" ".join(words[:n]))
        assert len(tokens.ids) == n
        logits = model.integer_logits(*model.encode(tokens))
        assert np.array_equal(logits, longest.integer_logits(*longest.encode(tokens)))


def test_buckets_that_do_not_fit_the_pooling_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny", buckets=(2, 3), shape=POOLED)
    with pytest.raises(InputError, match=r"buckets \(2, 3\), and layers that pool 2 tokens"):
        IntegerModel.load(folder)


def test_saturating_tables_without_flat_ends_are_refused(tmp_path: Path) -> None:
    table = SaturatingTable(np.array([-2, -1, 1, 2]))
    table.values[-1] = 1  # as in a file that someone else wrote
    integer_format.write(tmp_path / "model", {"table": table})
    with pytest.raises(InputError, match="doesn't describe an integer model.*from -c to c"):
        integer_format.read(tmp_path / "model")


def test_a_text_becomes_its_most_important_tokens_in_order(folder: Path) -> None:
    model = IntegerModel.load(folder)
    text = "the film is very good and great"
    tokens = model.tokenize(text, max_tokens=3)
    ids = model.tokenizer.encode(text).ids
    best = sorted(np.argsort(-model.importance[ids], kind="stable")[:3])
    assert tokens.ids.tolist() == [ids[i] for i in best]
    assert (tokens.n_total, tokens.n_cut) == (7, 4)
    x, padding = model.encode(tokens)
    assert x.shape == (4, model.network.dim) and padding.tolist() == [0, 0, 0, 1]
    assert np.array_equal(x[:3], model.embedding[tokens.ids])


def test_the_bucket_s_padding_changes_nothing(folder: Path) -> None:
    model = IntegerModel.load(folder)
    x, padding = model.encode(model.tokenize("good film"))
    assert len(x) == 2
    longer = np.concatenate([x, np.full_like(x, model.network.input_range[1])])
    assert np.array_equal(
        model.integer_logits(x, padding), model.integer_logits(longer, np.array([0, 0, 1, 1]))
    )


def test_probabilities_are_the_softmax_of_scaled_logits(folder: Path) -> None:
    model = IntegerModel.load(folder)
    assert model.probabilities(np.array([5, 5])).tolist() == [0.5, 0.5]
    expected = 1 / (1 + np.exp(-model.logit_scale * 40))
    assert model.probabilities(np.array([-20, 20]))[1] == pytest.approx(expected)


def test_a_causal_model_reads_the_last_tokens_after_its_padding(tmp_path: Path) -> None:
    shape = replace(SHAPE, causal=True, last_query="first", window=0)
    model = IntegerModel.load(write_tiny_model(tmp_path / "causal", shape=shape))
    assert model.causal and not model.network.layers[1].constant_query
    model = replace(model, importance=np.zeros_like(model.importance))
    tokens = model.tokenize("the film is very good and great", max_tokens=3)
    assert tokens.tokens == ("good", "and", "great")
    x, padding = model.encode(tokens)
    assert padding.tolist() == [1, 0, 0, 0] and not x[0].any()
    assert np.array_equal(x[1:], model.embedding[tokens.ids])
    logits = model.integer_logits(x, padding)
    assert np.array_equal(model.integer_logits(x[1:], padding[1:]), logits)
    placed = replace(model, positions=np.eye(4, model.network.dim, dtype=np.int8))
    low, high = model.input_range
    moved = (x[1:] + placed.positions[:3]).clip(low, high)
    assert np.array_equal(placed.encode(tokens)[0][1:], moved)


def test_equally_important_tokens_are_taken_from_the_front() -> None:
    assert most_important([1.0] * 6, 3).tolist() == [0, 1, 2]
    assert most_important([1.0, 2.0], 5).tolist() == [0, 1]


@pytest.mark.parametrize("name", [CONFIG_FILE, INTEGER_FILE, TOKENIZER_FILE])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        IntegerModel.load(folder)


@pytest.mark.parametrize("name", [CONFIG_FILE, INTEGER_FILE, TOKENIZER_FILE])
def test_a_damaged_file_is_named(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=name):
        IntegerModel.load(folder)


def test_integers_may_be_gzipped(folder: Path) -> None:
    plain = folder / INTEGER_FILE
    model, content = IntegerModel.load(folder), plain.read_bytes()
    gzipped = plain.with_name(f"{INTEGER_FILE}.gz")
    gzipped.write_bytes(gzip.compress(content))
    plain.unlink()
    assert IntegerModel.load(folder).hash == model.hash
    for damaged in (content, gzipped.read_bytes()[:-100]):
        gzipped.write_bytes(damaged)
        with pytest.raises(InputError, match=gzipped.name):
            IntegerModel.load(folder)


def test_a_changed_weight_is_found_by_the_hash(folder: Path) -> None:
    path = folder / INTEGER_FILE
    parameters, _ = integer_format.read(path)
    integer_format.write(path, parameters)
    tensors = load_file(path)
    tensors["embedding"][3, 0] += 1
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    save_file(tensors, path, metadata)
    with pytest.raises(InputError, match="hash"):
        IntegerModel.load(folder)


@pytest.mark.parametrize(
    "tree",
    [
        "[" * 100_000 + "]" * 100_000,
        '{"class": "AntiperiodicTable", "values": 1, "first": 0, "lsbs": 0}',
        '{"class": "Network", "dim": 2, "input_range": [0, 1], "layers": [], "classifier": null}',
    ],
    ids=["too deep", "a number for a table", "no layers"],
)
def test_a_tree_that_describes_nothing_is_refused(tmp_path: Path, tree: str) -> None:
    """Whoever writes a file chooses its hash too."""
    digest = integer_format.parameters_hash(tree, {})
    metadata = {"format_version": "1", "tree": tree, "sha256": digest}
    (tmp_path / "model").write_bytes(save({}, metadata))
    with pytest.raises(InputError, match="model doesn't describe an integer model"):
        integer_format.read(tmp_path / "model")


def test_a_file_whose_metadata_is_null_is_refused(tmp_path: Path) -> None:
    header = b'{"__metadata__":null}   '
    (tmp_path / "model").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match="has integer format none"):
        integer_format.read(tmp_path / "model")


def test_another_version_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer_format, "FORMAT_VERSION", 2)
    with pytest.raises(InputError, match="integer format 1"):
        IntegerModel.load(folder)


def test_files_of_different_models_are_refused(folder: Path) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps({**config, "dim": 99}))
    with pytest.raises(InputError, match="dim = 99"):
        IntegerModel.load(folder)


def test_a_tokenizer_of_as_many_other_tokens_is_refused(folder: Path) -> None:
    """It would give other labels without a word. Folders without its SHA-256 are older."""
    path = folder / TOKENIZER_FILE
    tokenizer, config = path.read_bytes(), json.loads((folder / CONFIG_FILE).read_text())
    config["tokenizer_sha256"] = hashlib.sha256(tokenizer).hexdigest()
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    expected = IntegerModel.load(folder).tokenize("good").ids
    content = json.loads(tokenizer)
    vocab = content["model"]["vocab"]
    content["model"]["vocab"] = dict(zip(vocab, reversed(vocab.values()), strict=True))
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"{TOKENIZER_FILE} has the SHA-256"):
        IntegerModel.load(folder)
    del config["tokenizer_sha256"]
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    assert IntegerModel.load(folder).tokenize("good").ids != expected


@pytest.mark.parametrize(
    "name", [name for name in (DEFAULT_MODEL, *REPOSITORY_ONLY) if not name.endswith("int8")]
)
def test_shipped_checkpoints_name_their_tokenizer(name: str) -> None:
    config = json.loads((CHECKPOINTS / name / CONFIG_FILE).read_text())
    tokenizer = (CHECKPOINTS / name / TOKENIZER_FILE).read_bytes()
    assert config["tokenizer_sha256"] == hashlib.sha256(tokenizer).hexdigest()


@pytest.mark.parametrize("content", ["[]", "null", "3"])
def test_a_config_that_is_no_object_is_refused(folder: Path, content: str) -> None:
    (folder / CONFIG_FILE).write_text(content)
    with pytest.raises(InputError, match=f"{CONFIG_FILE} holds"):
        IntegerModel.load(folder)


@pytest.mark.parametrize(
    "logits",
    ["[1, NaN]", "[1, Infinity]", "[1, 1e999]", '["1", "2"]', "[true, 2]", "[1]", "[1, 2, 3]", "1"],
)
def test_neutral_logits_that_are_no_finite_numbers_are_refused(folder: Path, logits: str) -> None:
    model = IntegerModel.load(folder)
    path = folder / NEUTRAL_FILE
    path.write_text(f'{{"model_hash": "{model.hash}", "neutral_logits": {logits}}}')
    with pytest.raises(InputError, match=rf"{NEUTRAL_FILE} can't be read .* wanted 2 finite"):
        IntegerModel.load(folder)
    assert IntegerModel.load(folder, calibrated=False).neutral_logits == ()


@pytest.mark.parametrize("content", ["null", "[]", "{}", '{"model_hash": 1}', "not"])
def test_a_damaged_file_of_neutral_logits_is_the_one_that_is_blamed(
    folder: Path, content: str
) -> None:
    (folder / NEUTRAL_FILE).write_text(content)
    with pytest.raises(InputError, match=f"{NEUTRAL_FILE} can't be read .* calibrate again"):
        IntegerModel.load(folder)


@pytest.mark.parametrize("name", ["nonsense", "x" * 300, f"folder/{'x' * 300}"])
def test_an_unknown_model_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"no model '{name}'"):
        IntegerModel.load(name)


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_an_empty_text_is_refused(folder: Path, text: str) -> None:
    with pytest.raises(InputError, match="empty"):
        IntegerModel.load(folder).tokenize(text)


@pytest.mark.parametrize("limit", [0, 5])
def test_a_length_that_the_model_lacks_is_refused(folder: Path, limit: int) -> None:
    with pytest.raises(InputError, match="reads 1 to 4"):
        IntegerModel.load(folder).tokenize("good", max_tokens=limit)
