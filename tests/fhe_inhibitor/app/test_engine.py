"""The classifier of the page: encrypted, one text after the other, and it outlives its process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fhe_inhibitor.app.engine import Engine, Here
from fhe_inhibitor.app.run import Progress, Run
from fhe_inhibitor.system.folders import CACHE_VARIABLE, KEYS_VARIABLE
from fhe_inhibitor.system.progress import FIRST_BYTES
from tests.fhe_inhibitor.conftest import Tiny
from tests.observers import Recorder

pytestmark = pytest.mark.fhe
TEXT = "good film"


@pytest.fixture(scope="module")
def engine(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tiny.cache))
        patch.setenv(KEYS_VARIABLE, str(tmp_path_factory.mktemp("keys")))
        engine = Engine(Here(str(tiny.folder)))
        recorder = Recorder()
        engine.prepare(recorder)
        assert "keygen" in recorder.steps
        yield engine
        engine.close()


def last(run: Run) -> Progress:
    *_, progress = run.follow()
    return progress


def test_a_text_goes_through_and_its_bytes_are_told_of(engine: Engine, tiny: Tiny) -> None:
    done = last(engine.start(TEXT, 4))
    assert done.result is not None, done.error
    encoded = tiny.model.encode(tiny.model.tokenize(TEXT, 4))
    assert done.result.clear_logits == tuple(tiny.model.integer_logits(*encoded).tolist())
    request = done.crossings["request"]
    assert request.n_bytes == done.result.request_bytes
    assert request.first[:4] == b"FHEI" and len(request.first) == FIRST_BYTES
    assert done.crossings["response"].n_bytes == done.result.response_bytes
    assert engine.keys.first[:4] == b"FHEK" and engine.keys.n_bytes > 1_000_000
    lookups = sum(step.lookups for step in done.steps.values())
    assert lookups == sum(sum(stage.lookups.values()) for stage in done.result.stages)


def test_what_is_stopped_or_crashes_makes_room_for_the_next(engine: Engine) -> None:
    first, second = engine.start(TEXT, 4), engine.start("", 4)
    for progress in first.follow():
        if progress.has_begun:
            engine.stop(first)
    assert progress.error is not None and progress.result is None
    assert "the text is empty" in (last(second).error or "")
    assert last(engine.start("bad", 2)).result is not None
