"""Scores of pieces: their table by hand, their ranges, and their sum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from circuits.documents import MAX_PIECES, add_stage, run_document, scoring
from circuits.lookups import exact_lookup
from circuits.network import Network, run
from circuits.plan import network_wires
from compile.functions import trace_documents
from compile.verifier import VerificationError, verify_documents
from tests.networks import NetworkShape, random_inputs, random_network


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_rounded_logits_that_saturate(seed: int) -> None:
    network = random_network(np.random.default_rng(seed), NetworkShape())
    how = scoring(network)
    low, high = how.table.first << how.table.lsbs, (how.table.last - 1) << how.table.lsbs
    steps = range(low, high + 1, 1 << how.table.lsbs)
    found = exact_lookup(np.array(steps), how.table)
    by_hand = [max(-how.level, min(how.level, (2 * x + how.step) // (2 * how.step))) for x in steps]
    assert found.tolist() == by_hand
    assert {-how.level, how.level} <= set(by_hand)


def test_the_verifier_bounds_the_sums_as_stated() -> None:
    network = random_network(np.random.default_rng(1), NetworkShape())
    how = scoring(network)
    score, *adds = verify_documents(network)
    assert score.outputs["score"] == (-how.level, how.level)
    assert [stage.outputs["logits"] for stage in adds] == [
        how.reach(pieces) for pieces in range(2, MAX_PIECES + 1)
    ]
    assert how.reach(MAX_PIECES) == (-MAX_PIECES * how.level, MAX_PIECES * how.level)
    assert (how.level, how.reach(MAX_PIECES)[1]) == (3, 48)


def test_a_document_is_the_sum_of_its_pieces() -> None:
    rng = np.random.default_rng(2)
    network = random_network(rng, NetworkShape())
    pieces = [random_inputs(rng, network, 4) for _ in range(3)]
    table = scoring(network).table
    expected = sum(exact_lookup(run(network, *piece), table) for piece in pieces)
    assert run_document(network, pieces).tolist() == list(expected)
    (added,) = add_stage(3).evaluate([np.array([[1, 2]])] * 3, exact_lookup)
    assert added.tolist() == [[3, 6]]


def with_features(bits: int) -> Network:
    """A network whose classifier reads features of so many bits."""
    network = random_network(np.random.default_rng(0), NetworkShape())
    features = network.classifier.pre_classifier
    values = np.tile(np.arange(1 << bits), (len(features.offset), 1))
    narrow = replace(features, table=replace(features.table, values=values))
    return replace(network, classifier=replace(network.classifier, pre_classifier=narrow))


def test_features_of_one_bit_have_no_scores() -> None:
    """Three scores, -1, 0 and 1, are the fewest: two bits tell them apart."""
    assert scoring(with_features(2)).table.bit_width == 2
    with pytest.raises(ValueError, match="a lookup of 1 bit can't tell scores"):
        scoring(with_features(1))
    with pytest.raises(VerificationError, match="score: a lookup of 1 bit"):
        verify_documents(with_features(1))


@pytest.mark.parametrize("last_query", ["constant", "first"])
def test_documents_of_a_network_that_pools_are_proved_and_traced(last_query: str) -> None:
    """A score reads the one row that is left of any length, of which 6 tokens are the least."""
    shape = NetworkShape(n_layers=3, pooling=(2, 3), last_query=last_query, max_tokens=12)
    network = random_network(np.random.default_rng(3), shape)
    proved = verify_documents(network)
    read = network_wires(network, 12)["layer2.x"]
    (sample, *_) = trace_documents(network, proved, False)[0].function.inputset
    assert sample[0].shape == read.shape == (1, shape.dim)
    how, rng = scoring(network), np.random.default_rng(4)
    assert proved[0].outputs["score"] == (-how.level, how.level)
    pieces = [random_inputs(rng, network, 12) for _ in range(3)]
    scores = [exact_lookup(run(network, *piece), how.table) for piece in pieces]
    assert run_document(network, pieces).tolist() == np.sum(scores, axis=0).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_a_score_costs_no_wider_lookup_than_the_features(seed: int) -> None:
    network = random_network(np.random.default_rng(seed), NetworkShape(lookup_bits=4))
    how = scoring(network)
    assert how.table.bit_width <= network.classifier.pre_classifier.table.bit_width
    assert how.step & (how.step - 1) == 0 and how.table.lsbs == how.step.bit_length() - 1
