"""Stages equal plain loops for any shape; padding and a longer sequence change nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.inhibitor import InhibitorParameters, inhibitor, inhibitor_signed
from circuits.linear import Linear, linear
from circuits.lookups import Table, exact_lookup, table_of
from circuits.network import run
from circuits.pairs import make_pairs
from circuits.stages import attend, feed_forward, project
from tests.circuits import oracles
from tests.networks import NetworkShape, fitting_length, random_inputs, random_network

ATTENTION = ("inhibitor", "inhibitor_signed", "dot_product")


@st.composite
def shapes(draw: st.DrawFn) -> NetworkShape:
    saturating = draw(st.booleans())
    n_layers = draw(st.integers(1, 3))
    causal = draw(st.booleans())
    pooling = tuple(draw(st.integers(1, 3)) for _ in range(n_layers - 1))
    return NetworkShape(
        attention=draw(st.sampled_from(ATTENTION)),
        n_layers=n_layers,
        last_query=draw(st.sampled_from(("constant", "first") + ("all",) * (not causal))),
        window=draw(st.integers(0, 3)),
        max_offset=draw(st.integers(0, 2)),
        dim=draw(st.integers(2, 5)),
        n_heads=draw(st.integers(1, 2)),
        key_dim=draw(st.integers(1, 3)),
        value_dim=draw(st.integers(1, 3)),
        hidden_dim=draw(st.sampled_from((0, 3))),
        plain_logits=draw(st.booleans()),
        keys_per_sum=draw(st.sampled_from((0, 3, 4))),
        bits=draw(st.sampled_from((2, 3))) if saturating else 2,
        saturating=saturating,
        causal=causal,
        pooling=() if causal else pooling,
        max_tokens=9,
    )


@settings(deadline=None, max_examples=60)
@given(shapes(), st.integers(1, 6), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_network_equals_loops(shape: NetworkShape, n: int, n_padded: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = random_network(rng, shape)
    n = fitting_length(network, n)
    x, padding = random_inputs(rng, network, n, min(n_padded, n - 1))
    assert run(network, x, padding).tolist() == oracles.network(network, x, padding)


@settings(deadline=None, max_examples=30)
@given(shapes(), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_padding_and_longer_sequences_change_nothing(
    shape: NetworkShape, n: int, seed: int
) -> None:
    """Empty positions beside the last token, in its group, are 0; those beyond may be anything."""
    rng = np.random.default_rng(seed)
    network = random_network(rng, replace(shape, max_tokens=18, causal=False))
    short = fitting_length(network, n)
    x, padding = random_inputs(rng, network, fitting_length(network, short + 1), 0)
    x[n:], padding[n:] = 0, 1
    logits = run(network, x, padding)
    assert (run(network, x[:short], padding[:short]) == logits).all()
    x[short:] = rng.integers(-8, 8, x[short:].shape)
    assert (run(network, x, padding) == logits).all()


@settings(deadline=None, max_examples=20)
@given(shapes(), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_padding_before_a_causal_text_changes_nothing(
    shape: NetworkShape, n: int, n_padded: int, seed: int
) -> None:
    """Not of one layer with a constant query: it reads all, so its padding comes last."""
    rng = np.random.default_rng(seed)
    several = shape.n_layers > 1
    last_query = "constant" if shape.last_query == "constant" and several else "first"
    causal = replace(shape, causal=True, pooling=(), keys_per_sum=0, last_query=last_query)
    network = random_network(rng, causal)
    x, padding = random_inputs(rng, network, n + n_padded, n_padded)
    alone = run(network, x[n_padded:], padding[n_padded:])
    assert (run(network, x, padding) == alone).all()


@pytest.mark.parametrize("attention", ATTENTION)
def test_a_causal_layer_knows_nothing_of_what_comes_later(attention: str) -> None:
    """The first position is that of a text of one token; another last token moves only the last."""
    shape = NetworkShape(attention, n_layers=3, last_query="first", window=0, causal=True)
    rng = np.random.default_rng(3)
    network = random_network(rng, shape)
    x, padding = random_inputs(rng, network, 6)
    seen: list[dict[str, Any]] = [{}, {}, {}]
    run(network, x, padding, observe=seen[0].__setitem__)
    run(network, x[:1], padding[:1], observe=seen[1].__setitem__)
    changed = x.copy()
    changed[5] = rng.integers(-8, 8, x[5].shape)
    run(network, changed, padding, observe=seen[2].__setitem__)
    for index in (0, 1):
        all_, first, other = (values[f"layer{index}.feed_forward"] for values in seen)
        assert (all_[:1] == first).all() and (all_[:5] == other[:5]).all()
    last = [values["layer0.feed_forward"][5] for values in (seen[0], seen[2])]
    assert (last[0] != last[1]).any()


def test_a_causal_network_is_causal_throughout_and_reads_its_last_position() -> None:
    shape = NetworkShape(last_query="first", causal=True)
    network = random_network(np.random.default_rng(0), shape)
    first, second = network.layers
    assert network.causal
    with pytest.raises(ValueError, match="pools 2 positions: a query would read"):
        replace(network, layers=(first, replace(second, pooled=2)))
    with pytest.raises(ValueError, match="some layers are causal and some aren't"):
        replace(network, layers=(replace(first, causal=False), second))
    with pytest.raises(ValueError, match="asks for all positions, of which the first one"):
        replace(network, layers=(first, replace(second, single_query=False)))
    with pytest.raises(ValueError, match="asks for all positions, of which the first one"):
        replace(network, layers=(first,))


def test_two_positions_are_pooled_by_hand() -> None:
    """The second layer reads sums of two positions, in three rows; all its keys are read."""
    shape = NetworkShape(pooling=(2,), last_query="all")
    network = random_network(np.random.default_rng(0), shape)
    seen: dict[str, Any] = {}
    x, padding = random_inputs(np.random.default_rng(1), network, 6, n_padded=3)
    run(network, x, padding, observe=seen.__setitem__)
    below, (_, key, _) = seen["layer0.feed_forward"], seen["layer1.project.head0"]
    sums = np.array([below[0] + below[1], below[2] + below[3], below[4] + below[5]])
    plain = replace(network.layers[1], pooled=1)
    assert np.array_equal(key, linear(sums, plain.heads[0].key, exact_lookup))
    heads = [seen[f"layer1.attend.head{head}"] for head in (0, 1)]
    triples = project(sums, plain, exact_lookup)
    mask = np.array([0, 0, 1])  # the second group holds the third token and an empty position
    for head, (q, k, v) in enumerate(triples):
        assert np.array_equal(heads[head], attend(q, k, v, mask, plain, head, exact_lookup))
    above = feed_forward(heads, sums, plain, exact_lookup)
    assert np.array_equal(seen["layer1.feed_forward"], above)
    assert (network.stride, network.lengths(6)) == (2, [6, 3])


def test_lengths_that_do_not_fit_the_pooling_are_refused() -> None:
    network = random_network(np.random.default_rng(0), NetworkShape(n_layers=3, pooling=(2, 3)))
    assert network.lengths(12) == [12, 6, 2]
    with pytest.raises(ValueError, match="8 tokens: wanted a multiple of 6"):
        network.lengths(8)
    first = replace(network.layers[0], pooled=2)
    with pytest.raises(ValueError, match="the first layer pools 2"):
        replace(network, layers=(first, *network.layers[1:]))


def random_parameters(shape: NetworkShape) -> InhibitorParameters:
    """Return the parameters of the first head."""
    parameters = random_network(np.random.default_rng(0), shape).layers[0].heads[0].attention
    assert isinstance(parameters, InhibitorParameters)
    return parameters


def test_inhibitor_by_hand() -> None:
    """Two keys at distances 0 and 2 from the one query; Z is the distance, v is 3 and 1."""
    identity = table_of(lambda s: np.minimum(s, 3), 0, 7)
    parameters = replace(
        random_parameters(NetworkShape(key_dim=1, value_dim=1)),
        inhibition=Table(identity.values[None]),
        padding_score=4,
        output=table_of(lambda s: s, 0, 6),
        output_offset=np.zeros(1, dtype=int),
    )
    q, k, v = np.array([[1]]), np.array([[1], [3]]), np.array([[3], [1]])
    pairs = make_pairs(2, 1, window=0, max_offset=0)
    none_padded = inhibitor(q, k, v, np.array([0, 0]), pairs, parameters, exact_lookup)
    first_padded = inhibitor(q, k, v, np.array([1, 0]), pairs, parameters, exact_lookup)
    assert (none_padded.item(), first_padded.item()) == (3, 0)  # (3 - 0)+ + (1 - 2)+


def test_signed_inhibitor_thresholds_both_sides() -> None:
    parameters = replace(
        random_parameters(NetworkShape("inhibitor_signed", key_dim=1, value_dim=1)),
        inhibition=table_of(lambda s: np.minimum(s, 2)[None], 0, 7),
        output=table_of(lambda s: s, -4, 4),
        output_offset=np.zeros(1, dtype=int),
    )
    pairs = make_pairs(1, 1, window=0, max_offset=0)
    for value, distance, expected in ((-2, 1, -1), (-2, 0, -2), (1, 0, 1), (1, 1, 0), (-1, 2, 0)):
        q, k, v = np.array([[0]]), np.array([[distance]]), np.array([[value]])
        got = inhibitor_signed(q, k, v, np.array([0]), pairs, parameters, exact_lookup)
        assert got.item() == expected


def test_linear_adds_the_residual_before_the_table() -> None:
    table = Table(np.array([[0, 1, 2, 3, 4, 5, 6, 7]] * 2), lsbs=1)
    parameters = Linear(np.array([[1, 2]]), np.array([0, 1]), table, residual=np.array([3, 0]))
    out = linear(np.array([[3]]), parameters, exact_lookup, residual=np.array([[1, 1]]))
    assert out.tolist() == [[3, 4]]  # (3 + 3) / 2 and (6 + 1) / 2, halves up
    plain = linear(np.array([[3]]), parameters, exact_lookup)
    assert plain.tolist() == [[2, 4]]


@pytest.mark.parametrize("attention", ATTENTION)
def test_an_accumulator_outside_its_table_is_an_error(attention: str) -> None:
    network = random_network(np.random.default_rng(0), NetworkShape(attention))
    x, padding = random_inputs(np.random.default_rng(1), network, 4)
    with pytest.raises(OverflowError, match="its table covers"):
        run(network, 100 * x, padding)
