"""Long documents encrypted, in this process and on a server: sums of pieces, within rounding."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from circuits.documents import MAX_PIECES, scoring
from circuits.intervals import interval_lookup
from compile.local.prepared import prepare_circuits
from compile.local.session import Session
from fhe_inhibitor.cli.classify import Reading
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.documents import count_lookups_of, cut_documents, encode_pieces
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.runtime.classifier import DocumentClassification
from fhe_inhibitor.runtime.execution import TaskDone
from fhe_inhibitor.runtime.manifest import read_manifest
from fhe_inhibitor.runtime.protocol import folder_hash
from fhe_inhibitor.runtime.server import Server, Value
from tests.execution import decrypt
from tests.fhe_inhibitor.conftest import SEED, SHAPE, Tiny
from tests.fhe_inhibitor.remote.remote_user import remote_user
from tests.fhe_inhibitor.service.serving import Serving
from tests.observers import Recorder
from tests.rounding import assert_within_rounding, piece_bounds
from tests.tiny_model import write_tiny_model

if TYPE_CHECKING:
    from compile.local.backends import Execution

pytestmark = pytest.mark.fhe

TEXT = "the film is very good and bad . " * 5
NEUTRAL = (2.0, -1.0)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny model with neutral logits, and its circuits for long documents."""
    folder = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny", SEED, shape=SHAPE)
    digest = IntegerModel.load(folder).hash
    content = {"model_hash": digest, "neutral_logits": NEUTRAL}
    (folder / "neutral_logits.json").write_text(json.dumps(content))
    model, cache = IntegerModel.load(folder), tmp_path_factory.mktemp("cache")
    return Tiny(folder, cache, prepare_circuits(model, cache, documents=True), model)


@pytest.fixture(scope="module")
def session(long: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    keys = tmp_path_factory.mktemp("keys")
    with Session(long.model, cache_dir=long.cache, keys_dir=keys, observer=Recorder()) as session:
        session.prepare(documents=True)
        session._lookup_s = {3: 1e-6, 4: 1e-6}  # timing them takes longer than all else here
        yield session


def assert_sum_within_rounding(
    model: IntegerModel, result: DocumentClassification, max_tokens: int, max_pieces: int
) -> None:
    """The sum may not lie outside what approximate rounding allows each piece."""
    (document,) = cut_documents(model, [result.text], max_tokens, max_pieces)
    pieces, how = encode_pieces(model, document), scoring(model.network)
    bounds = [interval_lookup(piece_bounds(model, *piece), how.table) for piece in pieces]
    low = np.sum([b.low for b in bounds], axis=0) * how.step
    high = np.sum([b.high for b in bounds], axis=0) * how.step
    assert result.logits is not None
    assert (low <= result.logits).all() and (result.logits <= high).all()
    mean = np.array(result.logits) / len(pieces) - NEUTRAL
    assert result.label == model.labels[mean.argmax()]
    assert (len(result.pieces), result.n_pieces) == (len(pieces), document.n_pieces)
    assert result.neutral_logits == NEUTRAL
    counted = sum((Counter(stage.lookups) for stage in result.stages), Counter())
    assert counted == count_lookups_of(model, document)


@pytest.mark.slow
def test_a_model_that_pools_reads_long_texts(tmp_path: Path) -> None:
    shape = replace(SHAPE, n_layers=2, max_tokens=4, pooling=(2,))
    folder = write_tiny_model(tmp_path / "tiny", SEED, buckets=(2, 4), shape=shape)
    model = replace(IntegerModel.load(folder), neutral_logits=NEUTRAL)
    cache, keys = tmp_path / "cache", tmp_path / "keys"
    with Session(model, cache_dir=cache, keys_dir=keys, observer=Recorder()) as session:
        session.prepare(documents=True)
        session._lookup_s = dict.fromkeys(range(1, 7), 1e-6)
        for max_tokens in (2, 4):
            result = session.classify_document(TEXT, max_tokens, 2)
            assert_sum_within_rounding(model, result, max_tokens, 2)


@pytest.mark.slow
def test_as_many_pieces_as_there_may_be_are_added(
    long: Tiny, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The noise of 16 scores together must not change their sum."""
    backend, go_on = cast("Execution", session.prepare()), Server.go_on
    scores: list[np.ndarray] = []

    def go_on_and_decrypt(server: Server, *arguments: Any) -> Iterator[TaskDone[Value]]:
        for done in go_on(server, *arguments):
            if done.task.function == "score":
                scores.extend(decrypt(backend._client, done))
            yield done

    monkeypatch.setattr(Server, "go_on", go_on_and_decrypt)
    result = session.classify_document("good . bad film . " * 18, 1, MAX_PIECES)
    assert len(result.pieces) == len(scores) == MAX_PIECES
    expected = scoring(long.model.network).step * np.sum(scores, axis=0)
    assert result.logits == tuple(expected.reshape(-1))
    assert_sum_within_rounding(long.model, result, 1, MAX_PIECES)
    observer = session._observer
    assert isinstance(observer, Recorder)
    cost, read = observer.notes
    assert cost == f"16 pieces to classify, {observer.planned('lookups')} lookups, about 0 s"
    assert read == "16 of 36 pieces are read, 16 of 90 tokens"
    assert observer.finished("lookups") == observer.planned("lookups") > 0
    first, last = observer.steps.index("piece 1/16: layer0.project"), observer.steps.index("add16")
    assert "piece 16/16: score" in observer.steps[first:last]
    names = [stage.name for stage in result.stages]
    assert (names[0], names[-3:]) == ("encrypt", ["score", "add16", "decrypt"])
    assert 0 < result.request_bytes < 100_000


def test_circuits_for_long_documents_take_single_texts_too(long: Tiny, session: Session) -> None:
    result = session.classify("good film")
    assert_within_rounding(long.model, result)
    assert session.circuits_hash == folder_hash(long.circuits)


def test_a_document_that_was_stopped_goes_on(long: Tiny, session: Session, tmp_path: Path) -> None:
    class Stops(Recorder):
        def begin(self, step: str) -> None:
            super().begin(step)
            if step == "piece 2/2: score":
                raise KeyboardInterrupt

    observer, folder = session._observer, tmp_path / "run"
    session._observer = Stops()
    with pytest.raises(KeyboardInterrupt):
        session.classify_document(TEXT, 1, 2, folder)
    session._observer = again = Recorder()
    with pytest.raises(InputError, match="another text"):
        session.classify_document(TEXT, 1, 3, folder)
    result = session.classify_document(TEXT, 1, 2, folder)
    session._observer = observer
    assert_sum_within_rounding(long.model, result, 1, 2)
    ran = [step for step in again.steps if step.startswith(("piece", "add"))]
    assert ran == ["piece 2/2: score", "add2"]
    assert not folder.exists()


def test_ordinary_circuits_know_nothing_of_it(long: Tiny, tiny: Tiny) -> None:
    """They are the same with and without neutral logits; keys cost the same, for long ones too."""
    ordinary = read_manifest(tiny.circuits)
    assert ordinary.documents is None
    calibrated = replace(tiny.model, neutral_logits=NEUTRAL)
    assert prepare_circuits(calibrated, tiny.cache) == tiny.circuits
    assert read_manifest(long.circuits).keys_hash == ordinary.keys_hash


def test_a_server_adds_pieces_for_a_client_without_the_model(long: Tiny, tmp_path: Path) -> None:
    serving = Serving(long.folder, long.cache, tmp_path / "data", options=("--long",))
    serving.start()
    try:
        serving.wait_ready()
        user = remote_user(serving, "olga", tmp_path / "olga")
        with user.client() as client:
            reading = Reading([TEXT], 1, strict=False, each_apart=False, max_pieces=2)
            (result,) = reading.classify(client, user.observer)
    finally:
        serving.stop()
    assert isinstance(result, DocumentClassification)
    assert_sum_within_rounding(long.model, result, 1, 2)
    assert result.clear_logits is None
    lookups = user.observer.planned("lookups")
    assert user.observer.notes == [
        "2 of 10 pieces are read, 2 of 40 tokens",
        f"2 pieces to classify, {lookups} lookups",
    ]
    assert user.observer.finished("lookups") == lookups
    assert "piece 2/2: score" in user.observer.steps
