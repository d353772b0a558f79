"""Heads alone, encrypted: right scores, and what a response without lookups gives away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from concrete import fhe

from circuits.intervals import interval, interval_lookup
from circuits.lookups import exact_lookup
from circuits.sentence_head import SentenceHead
from compile import module
from compile.sentence_head import FUNCTION, SentenceHeadCircuit, sample_inputs, trace_head
from compile.verifier import VerificationError
from tests.networks import random_sentence_head

WORD = 1 << 64


def test_samples_show_the_range_and_keep_the_norm() -> None:
    head = random_sentence_head(n_inputs=20, n_units=3)
    samples = sample_inputs(head)
    assert min(x.min() for x in samples) == -3 and max(x.max() for x in samples) == 3
    assert head.max_norm and max(np.linalg.norm(x) for x in samples) <= head.max_norm
    assert {x.shape for x in samples} == {(1, 20)}


@pytest.mark.parametrize("input_range", [(-3, 3), (0, 3), (-3, 1)])
def test_a_norm_that_reaches_no_end_of_the_range_is_refused(input_range: tuple[int, int]) -> None:
    """Before, all samples were 0, and Concrete took inputs of one bit."""
    head = replace(random_sentence_head(n_inputs=5, n_units=3), input_range=input_range)
    with pytest.raises(VerificationError, match=r"max_norm of 2\.9 reaches no end of the inputs'"):
        sample_inputs(replace(head, max_norm=2.9))
    samples = sample_inputs(replace(head, max_norm=3.0))
    assert (min(x.min() for x in samples), max(x.max() for x in samples)) == input_range


def test_a_sum_that_can_leave_its_table_is_refused() -> None:
    head = random_sentence_head(n_inputs=5, n_units=3)
    longer = SentenceHead(head.weight, head.offset, head.input_range, head.hidden, max_norm=40.0)
    with pytest.raises(VerificationError, match="longer table"):
        trace_head(longer)


@pytest.mark.fhe
def test_a_head_without_lookups_is_exact_and_needs_no_keys() -> None:
    head = random_sentence_head(n_inputs=40, n_units=0)
    circuit = SentenceHeadCircuit(head)
    circuit.generate_keys()
    assert circuit.lookups == {} and circuit.evaluation_keys_bytes() < 100
    rng = np.random.default_rng(1)
    corners = [np.full((1, 40), -3), np.where(head.weight.T > 0, 3, -3)]
    for x in (*corners, rng.integers(-3, 4, (1, 40))):
        called = circuit.call_encrypted(x)
        assert called.output.tolist() == head.evaluate(x, exact_lookup).tolist()
        assert called.seconds > 0 and called.request_bytes > 40 and called.response_bytes > 1000


@pytest.mark.fhe
def test_a_head_with_hidden_units_stays_in_its_bounds() -> None:
    head = random_sentence_head(n_inputs=20, n_units=3)
    circuit = SentenceHeadCircuit(head)
    circuit.generate_keys()
    assert circuit.lookups == {3: 3} and circuit.evaluation_keys_bytes() > 1e5
    for x in sample_inputs(head)[:4]:
        bounds = head.evaluate(interval(x), interval_lookup)
        score = circuit.call_encrypted(x).output
        assert ((bounds.low <= score) & (score <= bounds.high)).all()


@pytest.mark.fhe
def test_one_response_gives_away_the_weights_of_a_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask of the response is the weighted sum of masks, all of which the client has."""
    usual = module.configuration

    def uncompressed(p_error: float) -> fhe.Configuration:
        chosen = usual(p_error)
        chosen.compress_input_ciphertexts = False  # a seed stands for the same masks
        return chosen

    monkeypatch.setattr(module, "configuration", uncompressed)
    head = random_sentence_head(n_inputs=6, n_units=0)
    circuit = SentenceHeadCircuit(head)
    circuit.generate_keys()
    client = circuit.module.client
    sent = client.encrypt(np.zeros((1, 6), np.int64), function_name=FUNCTION)
    received, _ = circuit.run(FUNCTION, (sent,))
    found = find_weights(sent.serialize(), received.serialize(), 6)
    assert found == head.weight[:, 0].tolist()


def find_weights(sent: bytes, received: bytes, n_inputs: int) -> list[int]:
    """The weights of a response, by linear algebra modulo 2^64 on what the client has.

    Both messages are a header of some hundred bytes and words; where they begin is tried out: only
    in the right place all equations hold, of which there are more than weights.
    """
    n_words = (len(received) - 512) // 8
    for header in range(0, 512, 8):
        masks = np.frombuffer(sent, "<u8", offset=header)
        response = np.frombuffer(received, "<u8", n_words, offset=header)
        size = (len(received) - header) // 8
        for words in range(size, size - 40, -1):  # of a ciphertext, its body included
            if len(masks) >= words * n_inputs:
                rows = masks[: words * n_inputs].reshape(n_inputs, words)[:, : 2 * n_inputs + 8]
                if weights := solve(rows.T.tolist(), response[: 2 * n_inputs + 8].tolist()):
                    return weights
    return []


def solve(rows: list[list[Any]], sums: list[int]) -> list[int] | None:
    """Integers w with rows @ w = sums modulo 2^64, all equations; None if there are none."""
    n = len(rows[0])
    left = [[*row, total] for row, total in zip(rows, sums, strict=True)]
    done: list[list[int]] = []
    for column in range(n):
        pivot = next((row for row in left if row[column] % 2), None)
        if pivot is None:
            return None
        left.remove(pivot)
        inverse = pow(pivot[column], -1, WORD)
        pivot = [value * inverse % WORD for value in pivot]
        for others in (left, done):
            for row in others:
                factor = row[column]
                row[:] = [(a - factor * b) % WORD for a, b in zip(row, pivot, strict=True)]
        done.append(pivot)
    if any(any(row) for row in left):
        return None
    return [(row[n] + WORD // 2) % WORD - WORD // 2 for row in done]
