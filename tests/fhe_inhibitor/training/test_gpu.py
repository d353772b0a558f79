"""With a GPU the teacher is tuned and asked there, and students learn there; all ends the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fhe_inhibitor.model import fused_attention
from fhe_inhibitor.model.quantized import functions
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.text.data import LabelledText
from fhe_inhibitor.training import (
    distillation,
    finetuning,
    material,
    phrase_teacher,
    teacher,
    vocabulary,
)
from fhe_inhibitor.training.distillation import distil, text_table
from fhe_inhibitor.training.finetuning import finetune
from fhe_inhibitor.training.hyperparameters import Recipe
from fhe_inhibitor.training.losses import Observed
from fhe_inhibitor.training.material import Material, make_material
from fhe_inhibitor.training.recipe import DOT_PRODUCT, INHIBITOR, make_student
from tests.fhe_inhibitor.training.test_recipe import SIZE, write_texts
from tests.pretend_gpu import GPU, OnGpu, pretended_gpu
from tests.tiny_teacher import save_teacher, tiny_teacher

MODULES = (distillation, finetuning, material, phrase_teacher, teacher, vocabulary)
TEXTS = [LabelledText("a fine film", 1), LabelledText("not very fine", 0)] * 8


class Interrupted(Exception):
    """Stands for whatever ends a process."""


class StopsAfter(Observer):
    """Ends fine-tuning after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def finish(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise Interrupted


@pytest.fixture
def on_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiply in float32 there, too, so that both can be compared bit by bit."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)


def recipe(folder: Path) -> Recipe:
    data = write_texts(folder / "words")
    tuned = save_teacher(tiny_teacher(initializer_range=0.3), folder / "teacher")
    return Recipe(str(data), str(tuned), held_out=9, n_texts=60, n_phrases=3, size=SIZE)


def arrays(asked: Recipe, made: Material) -> list[np.ndarray]:
    """Return what training reads of the teacher, and a student before its first step."""
    corpus, student = made.corpus, make_student(asked, "inhibitor", made)
    assert made.reader is not None
    ids = torch.tensor([[0, 1, 2], [0, 3, 0]])
    read = made.reader(ids, torch.tensor([[1, 1, 1], [1, 1, 0]]))
    tensors = [*student.state_dict().values(), read.logits, *read.states]
    assert not any(isinstance(x, OnGpu) for x in tensors)
    of_corpus = (corpus.features, corpus.importance, corpus.texts.logits, corpus.held_out.logits)
    return [*of_corpus, *(x.numpy() for x in tensors)]


def test_teacher_corpus_and_student_are_those_of_the_processor(
    on_processor: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the last bits: a GPU reads more texts at once."""
    asked = recipe(tmp_path)
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    expected = arrays(asked, make_material(asked, tmp_path / "here"))
    with pretended_gpu(monkeypatch, *MODULES):
        made = make_material(asked, tmp_path / "there")
        assert made.teacher.model.device == GPU
        found = arrays(asked, made)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "interrupted"),
    [(INHIBITOR, True), (INHIBITOR, False), (DOT_PRODUCT, None)],
)
def test_students_learn_there(
    on_processor: None,
    kind: str,
    interrupted: bool | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As floats and as integers, whose operations are those of a GPU on both; `test_functions`
    compares them with the kernels. interrupted: whether that was on the GPU.
    """
    for module in (functions, fused_attention):
        monkeypatch.setattr(module, "_has_kernels", lambda x: False)
    monkeypatch.setattr(distillation, "CHECKPOINT_STEPS", 1)
    asked = recipe(tmp_path)
    (tmp_path / "work").mkdir()
    made = make_material(asked, tmp_path / "work")
    texts = text_table(made.corpus.texts, made.corpus.importance)
    places = []

    def reader(ids: torch.Tensor, mask: torch.Tensor) -> Observed:
        assert made.reader is not None
        places.append(ids.device)
        return made.reader(ids, mask)

    def learn(folder: str, observer: Observer | None = None) -> dict[str, torch.Tensor]:
        student = distil(
            make_student(asked, kind, made),
            texts,
            made.corpus.importance,
            SIZE.distillation,
            tmp_path / folder,
            reader,
            observer,
        )
        assert student.quantized
        return student.state_dict()

    def learn_there(folder: str, observer: Observer | None = None) -> dict[str, torch.Tensor]:
        with monkeypatch.context() as patch, pretended_gpu(patch, *MODULES):
            return learn(folder, observer)

    expected = learn("here")
    if interrupted is not None:
        with pytest.raises(Interrupted):
            (learn_there if interrupted else learn)("there", StopsAfter(5))
    found = (learn if interrupted else learn_there)("there")
    assert GPU in places
    for name, wanted in expected.items():
        assert not isinstance(found[name], OnGpu)
        torch.testing.assert_close(found[name], wanted, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("first", [True, False])
def test_fine_tuning_goes_on_on_either(
    on_processor: None, first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """first: whether it begins on the GPU."""

    def tune(folder: str, on_gpu: bool, observer: Observer | None = None) -> list[np.ndarray]:
        with monkeypatch.context() as patch:
            own = tiny_teacher()
            if not on_gpu:
                return run(own, folder, observer)
            with pretended_gpu(patch, *MODULES):
                own.model.to(GPU)
                return run(own, folder, observer)

    def run(own: teacher.Teacher, folder: str, observer: Observer | None) -> list[np.ndarray]:
        out = tmp_path / folder
        options = {"epochs": 3, "batch_size": 4, "checkpoint_every": 2, "observer": observer}
        made = finetune(own, TEXTS, out_dir=out, **options)
        return [x.cpu().numpy() for x in made.model.state_dict().values()]

    expected = tune("whole", False)
    with pytest.raises(Interrupted):
        tune("parts", first, StopsAfter(5))
    for ours, theirs in zip(tune("parts", not first), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_tensor_left_behind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the others go by."""
    with pretended_gpu(monkeypatch):
        there = torch.ones(2).to(GPU)
        assert (there * 2).device == GPU
        with pytest.raises(RuntimeError, match="of a GPU and of the processor"):
            there + torch.ones(2)
        with pytest.raises(TypeError, match="numpy"):
            (there + 1).numpy()
        assert (there + 1).cpu().numpy().tolist() == [2, 2]
