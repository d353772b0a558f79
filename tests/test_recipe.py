"""The whole recipe at a tiny size: teacher and texts in; checkpoint, baselines and figures out."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fhe_inhibitor.distillation import DistillationConfig
from fhe_inhibitor.experiments_report import table
from fhe_inhibitor.integer_model import IntegerModel
from fhe_inhibitor.recipe import SIZES, Recipe, Size, make_student, train
from tests.tiny_teacher import save_teacher, tiny_teacher

torch.set_num_threads(1)  # tensors here are too small to share

STUDENT = {
    **SIZES["full-depth"].student,
    "dim": 8,
    "hidden_dim": 8,
    "n_layers": 2,
    "n_heads": 2,
    "max_position_embeddings": 6,
    "n_tokens": 6,
    "default_tokens": 4,
    "buckets": [4, 6],
    "quantization": {**SIZES["full-depth"].student["quantization"], "fan_in": 5},
}
SIZE = Size(
    STUDENT,
    DistillationConfig(steps=8, batch_size=16, token_counts=(4, 6), token_weights=(0.5, 0.5)),
    sparse=True,
    free_dim=3,
)
WORDS = ("a", "fine", "poor", "film", ",", ".", "dull", "not", "very")


def write_texts(folder: Path) -> Path:
    folder.mkdir()
    rng = random.Random(0)
    for name, n_texts in (("train", 150), ("dev", 30)):
        texts = {" ".join(rng.choices(WORDS, k=rng.randrange(3, 12))) for _ in range(n_texts)}
        lines = [f"{rng.randrange(2)}\t{text}" for text in sorted(texts)]
        (folder / f"{name}.tsv").write_text("\n".join(["label\tsentence", *lines]) + "\n")
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("recipe")
    teacher = save_teacher(tiny_teacher(initializer_range=0.3), folder / "teacher")
    data = write_texts(folder / "words")
    return Recipe(str(data), str(teacher), held_out=9, n_texts=120, n_phrases=3, size=SIZE)


def test_a_recipe_makes_a_checkpoint_its_baselines_and_their_figures(
    recipe: Recipe, tmp_path: Path
) -> None:
    results = train(recipe, tmp_path / "student", tmp_path / "work")
    model = IntegerModel.load(tmp_path / "student")
    assert model.network.dim == 8
    assert IntegerModel.load(tmp_path / "student-dot-product").network.layers[0].attention != (
        model.network.layers[0].attention
    )
    measured = results["inhibitor"]["4"]["validation"]
    assert 0 <= measured["value"] <= 1
    assert measured["n_draws"] == 5
    assert set(results["bag_of_words"]) == {"4", "6"}
    page = table(results["rows"])
    assert "| recipe | attention_kind | tokens | words, held_out | words |" in page
    assert f"{100 * measured['value']:.2f}" in page
    assert str(tmp_path) not in (tmp_path / "student" / "results.json").read_text()


def test_the_seed_decides_the_student(recipe: Recipe) -> None:
    def weights(seed: int) -> torch.Tensor:
        return make_student(replace(recipe, seed=seed), "inhibitor", 20).pre_classifier.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_sizes_are_models_that_can_be_compiled() -> None:
    for size in SIZES.values():
        config = make_student(Recipe("data", size=size), "inhibitor", 50).config
        assert config.normalization == "static"
        assert config.quantization["table_bits"] <= 5
        assert config.default_tokens in config.buckets
