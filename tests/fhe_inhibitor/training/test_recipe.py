"""The whole recipe at a tiny size: teacher and texts in; checkpoint, baselines and figures out."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from compile.verifier import MAX_LOOKUP_BITS, verify
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.experiments.report import table
from fhe_inhibitor.integer.evaluation import evaluate
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.text.data import LabelledText, load_splits
from fhe_inhibitor.training.distillation import DistillationConfig
from fhe_inhibitor.training.hyperparameters import SIZES, Recipe, Size
from fhe_inhibitor.training.material import Material, make_material
from fhe_inhibitor.training.recipe import make_student, train
from fhe_inhibitor.training.teacher import OFFLINE_TEACHER, Teacher, load_teacher
from tests.fhe_inhibitor.cli.test_main import run  # noqa: F401  (a fixture)
from tests.observers import Recording
from tests.tiny_teacher import save_teacher, tiny_teacher

torch.set_num_threads(1)  # tensors here are too small to share

STUDENT = {
    **SIZES["full-size"].student,
    "n_tokens": 6,
    "default_tokens": 4,
    "buckets": [4, 6],
    "quantization": {**SIZES["full-size"].student["quantization"], "fan_in": 5},
}
SIZE = Size(
    STUDENT,
    DistillationConfig(
        steps=8,
        batch_size=16,
        token_counts=(4, 6),
        token_weights=(0.5, 0.5),
        hidden_weight=1.0,
        pruned_between=(0.0, 0.5),
    ),
    from_teacher=True,
    free_dim=3,
)
WORDS = ("a", "fine", "poor", "film", ",", ".", "dull", "not", "very")


def write_texts(folder: Path, n_labels: int = 2) -> Path:
    folder.mkdir()
    rng = random.Random(0)
    for name, n_texts in (("train", 150), ("dev", 30)):
        texts = {" ".join(rng.choices(WORDS, k=rng.randrange(3, 12))) for _ in range(n_texts)}
        lines = [f"{rng.randrange(n_labels)}\t{text}" for text in sorted(texts)]
        (folder / f"{name}.tsv").write_text("\n".join(["label\tsentence", *lines]) + "\n")
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("recipe")
    teacher = save_teacher(tiny_teacher(initializer_range=0.3), folder / "teacher")
    data = write_texts(folder / "words")
    return Recipe(str(data), str(teacher), held_out=9, n_texts=120, n_phrases=3, size=SIZE)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def material(recipe: Recipe, work: Path) -> Material:
    return make_material(recipe, work)


def test_a_recipe_makes_a_checkpoint_its_baselines_and_their_figures(
    recipe: Recipe, work: Path, material: Material, tmp_path: Path
) -> None:
    results = train(recipe, tmp_path / "student", work)
    model = IntegerModel.load(tmp_path / "student")
    assert model.network.dim == 32  # the teacher's
    tokens = model.tokenize("not a fine film , very dull", 4)
    assert model.tokenizer.id_to_token(int(tokens.ids[0])) == "[CLS]"
    assert len(tokens.ids) == 4
    assert not np.isinf(model.importance).any()
    verify(model.network, 4)  # raises unless all ranges are proved
    assert IntegerModel.load(tmp_path / "student-dot-product").network.layers[0].attention != (
        model.network.layers[0].attention
    )
    measured = results["inhibitor"]["4"]["validation"]
    # The checkpoint's integers draw other noise, which may tip one of the texts.
    validation = load_splits(recipe.data)["validation"]
    integers = evaluate(model, validation, max_tokens=4, n_draws=16)
    assert measured["value"] == pytest.approx(integers.value, abs=1 / len(validation))
    assert (measured["n_draws"], measured["n_texts"]) == (16, len(validation))
    assert set(results["bag_of_words"]) == {"4", "6"}
    page = table(results["rows"])
    assert "| recipe | attention_kind | tokens | words, held_out | words |" in page
    assert f"{100 * measured['value']:.2f}" in page
    assert str(tmp_path) not in (tmp_path / "student" / "results.json").read_text()

    train(recipe, tmp_path / "alone", tmp_path / "work", baselines=())
    alone = IntegerModel.load(tmp_path / "alone")
    assert alone.hash == model.hash
    assert not list((tmp_path / "work" / "corpus" / "logits").iterdir())


def test_train_prints_json_and_nothing_else(
    run,  # noqa: F811
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a teacher to fine-tune, a corpus and both baselines: every part that has progress."""

    def load(name: str | Path, labels: tuple[str, ...], may_be_untuned: bool = False) -> Teacher:
        if name == OFFLINE_TEACHER:
            return replace(tiny_teacher(), is_tuned=False)
        return load_teacher(name, labels, may_be_untuned)

    room = "fhe_inhibitor.training"
    monkeypatch.setattr(f"{room}.material.load_teacher", load)
    small = partial(Recipe, n_texts=120, n_phrases=3)
    monkeypatch.setattr(f"{room}.hyperparameters.Recipe", small)
    monkeypatch.setitem(SIZES, "nano", SIZE)
    folders = ("--data", recipe.data, "--out", tmp_path / "student", "--work", tmp_path / "work")
    outcome = run("train", *folders, "--held-out", "9")
    assert outcome.code == 0
    results = json.loads(outcome.out)
    assert results == json.loads((tmp_path / "student" / "results.json").read_text())
    assert {"inhibitor", "dot_product", "bag_of_words"} <= set(results)


def test_own_labels_give_a_student_of_as_many(recipe: Recipe, tmp_path: Path) -> None:
    labels = ("negative", "neutral", "positive")
    teacher = save_teacher(tiny_teacher(num_labels=3), tmp_path / "teacher")
    data = write_texts(tmp_path / "data", n_labels=3)
    changed = replace(recipe, data=str(data), teacher=str(teacher), labels=labels)
    results = train(changed, tmp_path / "student", tmp_path / "work")
    model = IntegerModel.load(tmp_path / "student")
    assert model.labels == labels
    assert len(model.integer_logits(*model.encode(model.tokenize("a fine film")))) == 3
    assert {"inhibitor", "dot_product", "bag_of_words"} <= set(results)
    with pytest.raises(InputError, match="label '2'; wanted an integer from 0 to 1"):
        train(replace(changed, labels=labels[1:]), tmp_path / "two", tmp_path / "work-of-two")


def test_progress_tells_of_each_step(recipe: Recipe, tmp_path: Path) -> None:
    observer = Recording()
    train(recipe, tmp_path / "student", tmp_path / "work", observer=observer)
    students = ("student", "student-dot-product", "bag_of_words")
    assert observer.steps == ["corpus", "ask the teacher", *(f"distil {name}" for name in students)]
    assert observer.planned == observer.finished
    assert observer.planned["distil student"] == SIZE.distillation.steps


def test_the_seed_decides_the_student(recipe: Recipe, material: Material) -> None:
    def weights(seed: int) -> torch.Tensor:
        student = make_student(replace(recipe, seed=seed), "inhibitor", material)
        return student.get_input_embeddings().mlp[0].weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_texts_begin_with_cls(material: Material) -> None:
    corpus = material.corpus
    first = material.tokenizer.token_to_id("[CLS]")
    assert {int(corpus.texts[i][0]) for i in range(len(corpus.texts))} == {first}
    assert np.isinf(corpus.importance[first])
    table = material.table([LabelledText("a fine film", 1)])
    assert table.ids[0, :4].tolist() == [first, *material.tokenizer.encode("a fine film").ids]


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_models_that_can_be_compiled(name: str, recipe: Recipe, work: Path) -> None:
    chosen = replace(recipe, size=SIZES[name])
    config = make_student(chosen, "inhibitor", make_material(chosen, work)).config
    assert config.normalization == "static"
    assert config.quantization["table_bits"] <= MAX_LOOKUP_BITS
    assert config.default_tokens in config.buckets


def test_students_of_several_seeds_share_the_material(recipe: Recipe, work: Path) -> None:
    first, second = (make_material(replace(recipe, seed=seed), work) for seed in (0, 1))
    assert first.rows == second.rows
    assert np.array_equal(first.corpus.texts.logits, second.corpus.texts.logits)
    with pytest.raises(InputError, match="holds a corpus with other"):
        make_material(replace(recipe, material_seed=1), work)
