"""The recipe of the shipped checkpoint, end to end and seeded.

    teacher -> fine-tuned on the task -> corpus of teacher-labelled texts -> quantized student
                                                                          -> two baselines

The baselines are a linear bag of words, which needs no lookup, and a student of the same size with
dot-product attention. They get the same corpus, kind of embedding, optimizer and number of steps.
All intermediate files lie in one work folder, and a call that was interrupted goes on where it
stopped. Hyperparameters were chosen on the sentences held out from train; the task's validation set
is only reported.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fhe_inhibitor.integer.evaluation import accuracy
from fhe_inhibitor.model.conversion import save_checkpoint
from fhe_inhibitor.model.modeling import (
    InhibiDistilBertConfig,
    InhibiDistilBertForSequenceClassification,
)
from fhe_inhibitor.system.files import write_atomically
from fhe_inhibitor.system.machine import describe_machine
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.text.data import LabelledText
from fhe_inhibitor.training.distillation import TextTable, distil, predict, text_table
from fhe_inhibitor.training.embeddings import BagOfWords, fold_embedding, with_feature_embedding
from fhe_inhibitor.training.full_size import compilable_student
from fhe_inhibitor.training.hyperparameters import Recipe
from fhe_inhibitor.training.material import Material, make_material
from fhe_inhibitor.training.teacher import predict_logits

INHIBITOR, DOT_PRODUCT, BAG_OF_WORDS = "inhibitor", "dot_product", "bag_of_words"
BASELINES = (DOT_PRODUCT, BAG_OF_WORDS)
RESULTS_FILE = "results.json"
NOISE_DRAWS = 16
PACKAGES = ("torch", "transformers")


def train(
    recipe: Recipe,
    out: str | Path,
    work: str | Path,
    baselines: Collection[str] = BASELINES,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Make a checkpoint in `out` and return its measurements, also written there as JSON.

    work: folder of everything in between (teacher, corpus, training state); repeated with the
    same folder, an interrupted call goes on. baselines: which of `BASELINES` to train too; `out`
    gets a sibling for the dot-product student, named `<out>-dot-product`. observer: hears of the
    teacher's fine-tuning, the corpus and each student, and how far they are. Raises InputError for
    data, teachers or folders that can't be used.
    """
    out, work = Path(out), Path(work)
    observer = observer or Observer()
    work.mkdir(parents=True, exist_ok=True)
    material = make_material(recipe, work, bool(baselines), observer)
    results: dict[str, Any] = {
        "recipe": portable(recipe),
        "n_texts": len(material.corpus.texts),
        "teacher": {
            name: _share(predict_logits(material.teacher, [r.text for r in split]), split)
            for name, split in material.rows.items()
        },
        INHIBITOR: train_student(recipe, material, INHIBITOR, out, work, observer),
    }
    if DOT_PRODUCT in baselines:
        sibling = out.with_name(f"{out.name}-dot-product")
        results[DOT_PRODUCT] = train_student(recipe, material, DOT_PRODUCT, sibling, work, observer)
    if BAG_OF_WORDS in baselines:
        results[BAG_OF_WORDS] = train_bag_of_words(recipe, material, work, observer)
    student = InhibiDistilBertConfig.from_pretrained(out)
    shape = {"layers": student.n_layers, "dim": student.dim}
    results["rows"] = _rows(recipe, results, shape)
    results["machine"] = describe_machine(PACKAGES).model_dump()
    write_atomically(out / RESULTS_FILE, json.dumps(results, indent=2) + "\n")
    return results


def make_student(
    recipe: Recipe, attention_kind: str, material: Material
) -> InhibiDistilBertForSequenceClassification:
    """Return an untrained student; for dot products the same shape, bits and options."""
    torch.manual_seed(recipe.seed)
    size, features = recipe.size, torch.from_numpy(material.corpus.features)
    settings = {
        "attention_kind": attention_kind,
        "id2label": dict(enumerate(recipe.labels)),
        "label2id": {label: i for i, label in enumerate(recipe.labels)},
        **size.student,
    }
    if material.reader is not None:
        return compilable_student(
            material.reader,
            features,
            material.sentences,
            width=size.embedding_width,
            free_dim=size.free_dim,
            **settings,
        )
    config = InhibiDistilBertConfig(vocab_size=len(features), **settings)
    student = InhibiDistilBertForSequenceClassification(config)
    return with_feature_embedding(student, features, size.embedding_width, size.free_dim)


def train_student(
    recipe: Recipe,
    material: Material,
    attention_kind: str,
    out: Path,
    work: Path,
    observer: Observer,
) -> dict[str, Any]:
    """Distil one student to the checkpoint `out` and return its accuracies by token count."""
    student = make_student(recipe, attention_kind, material)
    student = _distil(student, recipe, material, work / f"{out.name}.safetensors", observer)
    importance = material.corpus.importance
    listed = np.where(np.isinf(importance), 0, importance)  # the client puts [CLS] first anyway
    save_checkpoint(fold_embedding(student), material.tokenizer, listed, out)
    # In torch, for its speed; the checkpoint's integers are the same ones.
    tables = {name: material.table(split) for name, split in material.rows.items()}
    return {
        str(n): {
            name: asdict(accuracy(_draws(student, table, importance, n), material.rows[name]))
            for name, table in tables.items()
        }
        for n in recipe.size.student["buckets"]
    }


def _draws(
    student: InhibiDistilBertForSequenceClassification,
    table: TextTable,
    importance: np.ndarray,
    n: int,
) -> list[np.ndarray]:
    """Return logits with the noise of encrypted rounding, one array per draw."""
    return [predict(student, table, importance, n, seed) for seed in range(NOISE_DRAWS)]


def train_bag_of_words(
    recipe: Recipe, material: Material, work: Path, observer: Observer
) -> dict[str, Any]:
    """Distil the linear baseline on the same texts and return its accuracies by token count."""
    torch.manual_seed(recipe.seed)
    importance = material.corpus.importance
    model = BagOfWords(torch.from_numpy(material.corpus.features), len(recipe.labels))
    _distil(model, recipe, material, work / "bag_of_words.safetensors", observer)
    tables = {name: material.table(split) for name, split in material.rows.items()}
    return {
        str(n): {
            name: _share(predict(model, table, importance, n), material.rows[name])
            for name, table in tables.items()
        }
        for n in recipe.size.student["buckets"]
    }


def _distil(
    model: torch.nn.Module,
    recipe: Recipe,
    material: Material,
    checkpoint: Path,
    observer: Observer,
) -> torch.nn.Module:
    """Distil on the corpus; goes on from `checkpoint` if it exists."""
    corpus = material.corpus
    return distil(
        model,
        text_table(corpus.texts, corpus.importance),
        corpus.importance,
        replace(recipe.size.distillation, seed=recipe.seed),
        checkpoint,
        None if isinstance(model, BagOfWords) else material.reader,
        observer,
    )


def _rows(recipe: Recipe, results: dict[str, Any], shape: dict[str, int]) -> list[dict[str, Any]]:
    """Return the students' accuracies as `experiments report` reads them."""
    return [
        {
            "recipe": "train",
            "task": recipe.data.replace(":", "/").rstrip("/").rpartition("/")[2],
            "seed": recipe.seed,
            "split": split,
            "metric": "score",
            "value": measured["value"],
            "settings": {**shape, "attention_kind": kind, "tokens": int(n)},
        }
        for kind in (INHIBITOR, DOT_PRODUCT)
        for n, splits in results.get(kind, {}).items()
        for split, measured in splits.items()
    ]


def portable(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as it is published: of a local file or folder only the name."""
    fields = asdict(recipe)
    for name in ("data", "teacher", "sentences"):
        if fields[name] and Path(fields[name]).exists():
            fields[name] = Path(fields[name]).name
    return fields


def _share(logits: np.ndarray, rows: Sequence[LabelledText]) -> float:
    """Return the accuracy of logits `[n, n_labels]`."""
    return float((logits.argmax(axis=-1) == np.array([row.label for row in rows])).mean())
