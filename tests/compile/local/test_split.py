"""Sessions whose circuits are split into tasks: simulated and encrypted, a text and two pieces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import compile.cost.blocks
from circuits.counts import count_lookups
from compile.local.session import Session
from fhe_inhibitor.integer.documents import document_logits, document_step
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.system.progress import Observer
from tests.rounding import assert_within_rounding
from tests.tiny_model import SHAPE, write_tiny_model

N = 4


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> IntegerModel:
    """A tiny model, of which tasks of a twentieth of a second are worth sending."""
    monkeypatch.setattr(compile.cost.blocks, "MIN_TASK_S", 0.05)
    folder = write_tiny_model(tmp_path / "tiny", buckets=(N,), shape=replace(SHAPE, hidden_dim=4))
    return IntegerModel.load(folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["simulate", "execute"])
def test_a_split_session_classifies_texts_and_documents(
    model: IntegerModel, tmp_path: Path, mode: str
) -> None:
    cache, keys = tmp_path / "cache", tmp_path / "keys"
    with Session(model, mode, split=3, cache_dir=cache, keys_dir=keys) as session:
        backend = session.prepare(documents=True)
        assert backend is not None
        (blocks,) = backend.manifest.blocks.values()
        assert (blocks[0].project, blocks[0].attend, blocks[0].feed_forward) == (2, 3, 3)
        assert len(backend.manifest.program(N).tasks) == 13
        result = session.classify("a good film very bad")
        assert_within_rounding(model, result)
        looked_up = {cost.name: sum(cost.lookups.values()) for cost in result.stages}
        whole = {
            stage.partition(".head")[0]: of.total()
            for stage, of in count_lookups(model.network, N).items()
        }
        assert {name: n for name, n in looked_up.items() if n} == whole
        texts = "a good film very", "the film is bad"
        pieces = [model.encode(model.tokenize(text), N) for text in texts]
        answer = backend.answer(pieces, Observer())
    step = document_step(model, 2)
    difference = answer.logits * step - document_logits(model, pieces)
    assert np.abs(difference).max() <= 4 * step
