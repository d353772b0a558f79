"""Digits under encryption: what is kept, what the page says, and the command without keys."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from demos.digits import __main__ as command
from demos.digits.page import to_markdown
from demos.digits.results import (
    DOT_PRODUCT,
    INHIBITOR,
    Decrypted,
    Encrypted,
    KeptResults,
    Results,
    Student,
)
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.images.data import ImageSplits
from fhe_inhibitor.system.machine import Machine
from fhe_inhibitor.system.statistics import share
from tests.fhe_inhibitor.training.test_images import TINY, splits

MACHINE = Machine(
    processor="a processor", cores=2, memory_gb=8, load_average=0.0, versions={"python": "3.11"},
    commit="abc", date="2026-11-29",
)  # fmt: skip
EMPTY = Results(source="made here", n_train=9, n_test=8, image_size=(8, 8), patch=(4, 2))


def image(index: int, label: int, logits: tuple[int, ...], seconds: float) -> Decrypted:
    return Decrypted(
        index=index, label=label, logits=logits, clear_logits=(0, 5, 1), seconds=seconds,
        load_average=0.2, request_bytes=2000, response_bytes=33_000,
    )  # fmt: skip


def student(seconds: float) -> Student:
    images = (image(0, 1, (0, 4, 1), seconds), image(1, 2, (6, 5, 1), 9 * seconds))
    return Student(
        machine=MACHINE, model_hash="m", in_float=share(8, 8), exact=share(7, 8),
        noisy=share(6.8, 8), draws=5, training_s=60.0, lookups={4: 100, 5: 10},
        stages={"layer0.project": 60, "layer0.attend.head0": 20, "layer0.attend.head1": 30},
        complexity=1e9,
        encrypted=Encrypted(
            machine=MACHINE, keygen_s=1.0, evaluation_keys_bytes=32_000_000,
            lookup_s={4: 0.01, 5: 0.02}, images=images,
        ),
    )  # fmt: skip


def test_the_page_counts_what_was_decrypted() -> None:
    students = {INHIBITOR: student(2.0), DOT_PRODUCT: student(3.0)}
    page = to_markdown(EMPTY.model_copy(update={"students": students}))
    assert "| inhibitor | 2 | 1 | 1 | 10.0 (2.0 to 18.0) | 0.2 to 0.2 | 1.2 | 1.0 | 32 MB |" in page
    assert "| inhibitor | 60 | 50 | 0 | 0 | 100 of 4 bits, 10 of 5 bits | 1.00e+09 |" in page
    assert "into 8 patches of 4 x 2 pixels" in page
    assert "The dot product takes 1.50 times as long." in page
    assert "None yet." in to_markdown(EMPTY)


def test_results_are_kept_and_those_of_other_images_refused(tmp_path: Path) -> None:
    kept = KeptResults(tmp_path, EMPTY)
    kept.add(INHIBITOR, student(2.0))
    kept.add_image(INHIBITOR, image(2, 0, (1, 0, 0), 2.0))
    found = KeptResults(tmp_path, EMPTY).found.students[INHIBITOR].encrypted
    assert found is not None and [x.index for x in found.images] == [0, 1, 2]
    other = EMPTY.model_copy(update={"patch": (4, 4)})
    with pytest.raises(InputError, match="other images or patches"):
        KeptResults(tmp_path, other)


def test_a_second_call_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> ImageSplits:
        return splits(10)

    monkeypatch.setattr(command, "load_digits", load)
    training = replace(TINY, float_steps=1, quantized_steps=1)
    command.run(tmp_path / "out", tmp_path / "work", 0, training)
    page = (tmp_path / "out" / "digits.md").read_text()
    assert "| dot product |" in page and "None yet." in page
    before = (tmp_path / "out" / "digits.json").read_bytes()
    monkeypatch.setattr("demos.digits.measure.train_images", None)
    command.run(tmp_path / "out", tmp_path / "work", 0, training)
    assert (tmp_path / "out" / "digits.json").read_bytes() == before
