"""A head alone: what it computes, and how far its hidden sums can reach."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits.lookups import exact_lookup
from circuits.sentence_head import SentenceHead
from tests.networks import random_sentence_head


@pytest.mark.parametrize("n_units", [0, 3])
def test_a_head_equals_a_plain_loop(n_units: int) -> None:
    head = random_sentence_head(n_inputs=5, n_units=n_units)
    x = np.array([[3, -1, 0, 2, -3]])
    expected = int(head.offset[0])
    given_ = [int(value) for value in x[0]]
    if head.hidden is not None:
        table, units = head.hidden.table, []
        for unit in range(n_units):
            total = sum(
                a * int(w) for a, w in zip(given_, head.hidden.weight[:, unit], strict=True)
            )
            index = (total + (1 << table.lsbs >> 1)) // (1 << table.lsbs)
            units.append(int(table.values[unit, index - table.first]))
        given_ = units
    expected += sum(a * int(w) for a, w in zip(given_, head.weight[:, 0], strict=True))
    assert head.evaluate(x, exact_lookup).tolist() == [[expected]]


@given(st.lists(st.integers(-3, 3), min_size=5, max_size=5))
def test_no_input_of_its_norm_leaves_what_is_proved(x: list[int]) -> None:
    head = random_sentence_head(n_inputs=5, n_units=3)
    assert head.hidden is not None and head.max_norm is not None
    if np.linalg.norm(x) <= head.max_norm:
        sums = np.array(x) @ head.hidden.weight
        assert np.abs(sums).max() <= head.reach(head.max_norm)
        proved = head.prove()
        score = head.evaluate(np.array([x]), exact_lookup)
        assert (proved.low <= score).all() and (score <= proved.high).all()


def test_a_table_that_is_too_short_is_found() -> None:
    head = random_sentence_head(n_inputs=5, n_units=3)
    longer = SentenceHead(head.weight, head.offset, head.input_range, head.hidden, max_norm=40.0)
    with pytest.raises(OverflowError, match="the table covers"):
        longer.prove()


def test_lookups_are_those_of_the_units() -> None:
    assert random_sentence_head(n_inputs=5, n_units=0).count_lookups() == {}
    assert random_sentence_head(n_inputs=5, n_units=3).count_lookups() == {3: 3}
