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
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.evaluation import accuracy
from fhe_inhibitor.model.conversion import save_checkpoint
from fhe_inhibitor.model.modeling import (
    InhibiDistilBertConfig,
    InhibiDistilBertForSequenceClassification,
)
from fhe_inhibitor.system.files import write_atomically
from fhe_inhibitor.system.machine import describe_machine
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.text.data import (
    LabelledText,
    full_sentences,
    hold_out,
    load_splits,
    read_sentences,
)
from fhe_inhibitor.training.corpus import (
    Corpus,
    TokenizedTexts,
    begin_all_with,
    begin_with,
    build_corpus,
)
from fhe_inhibitor.training.distillation import (
    DistillationConfig,
    TextTable,
    distil,
    predict,
    text_table,
)
from fhe_inhibitor.training.embeddings import BagOfWords, fold_embedding, with_feature_embedding
from fhe_inhibitor.training.finetuning import finetune
from fhe_inhibitor.training.full_depth import compilable_student
from fhe_inhibitor.training.phrase_teacher import PhraseTeacher
from fhe_inhibitor.training.teacher import OFFLINE_TEACHER, Teacher, load_teacher, predict_logits
from fhe_inhibitor.training.vocabulary import tokenize

INHIBITOR, DOT_PRODUCT = "inhibitor", "dot_product"
NOISE_DRAWS = 16
N_SENTENCES = 128
PACKAGES = ("torch", "transformers")

NANO: dict[str, Any] = {
    "max_position_embeddings": 0,
    "dim": 24,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dim": 0,
    "key_head_dim": [2, 4],
    "value_head_dim": [4, 8],
    "attention_window": [2, 0],
    "threshold": "head_offset",
    "max_relative_offset": 2,
    "classifier_query": "constant",
    "normalization": "static",
    "dropout": 0.0,
    "initializer_range": 0.2,
    "n_tokens": 24,
    "default_tokens": 12,
    "buckets": [8, 10, 12, 16, 24],
    "token_importance": "public",
    "quantization": {"key_bits": 3, "value_bits": 4, "weight_bits": 5, "keys_per_sum": [0, 4]},
}

# Sizes and activation are the teacher's.
FULL_DEPTH: dict[str, Any] = {
    "threshold": "head",
    "classifier_query": "cls",
    "normalization": "static",
    "dropout": 0.0,
    "n_tokens": 16,  # [CLS] is one of them
    "default_tokens": 13,
    "buckets": [9, 13, 16],
    "token_importance": "public",
    "quantization": {
        "key_bits": 3,
        "value_bits": 4,
        "feature_bits": 3,
        "weight_bits": 6,
        "weight_norm": 22.0,
        "table_bits": 6,
        "zero_points": True,
        "logit_bits": 8,
        "fan_in": 64,
        "classifier_fan_in": 24,
    },
}


@dataclass(frozen=True)
class Size:
    """A student's shape, and what it takes to train it.

    student: arguments of `InhibiDistilBertConfig`. from_teacher: the student has the teacher's
    sizes, starts from its weights and learns from its hidden states (`full_depth`); else it starts
    at random and learns from logits. embedding_width, free_dim: of `FeatureEmbedding`.
    """

    student: dict[str, Any]
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    from_teacher: bool = False
    embedding_width: int = 256
    free_dim: int | None = None


SIZES = {
    "nano": Size(NANO),
    "full-depth": Size(
        FULL_DEPTH,
        DistillationConfig(
            steps=5000,
            batch_size=64,
            learning_rate=3e-4,
            embedding_rate=1e-3,
            free_learning_rate=3e-4,
            float_fraction=0.6,
            hard_weight=0.0,
            token_counts=(9, 13, 16),
            token_weights=(0.2, 0.5, 0.3),
            ema_decay=0.995,
            bfloat16=True,
            hidden_weight=5.0,
            pruned_between=(0.3, 0.8),
            centre_keys=True,
        ),
        from_teacher=True,
        embedding_width=512,
        free_dim=24,
    ),
}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what `train` makes.

    data: a folder with train.tsv and dev.tsv, or a hub name such as `nyu-mll/glue:sst2`.
    teacher: `minilm`, which is fine-tuned first; or a folder or hub name of a classifier of
    this task, used as it is. sentences: a file of unlabelled texts, one per line, or None.
    held_out: sentences kept out of train, to choose by. n_texts: size of the corpus.
    n_phrases: how many phrases the vocabulary holds. size: of the student, one of `SIZES` or
    of your own.
    """

    data: str
    teacher: str = OFFLINE_TEACHER
    sentences: str | None = None
    labels: tuple[str, ...] = ("negative", "positive")
    teacher_epochs: float = 3
    held_out: int = 1000
    n_texts: int = 500_000
    n_phrases: int = 35_000
    size: Size = SIZES["nano"]
    seed: int = 0


def train(
    recipe: Recipe,
    out: str | Path,
    work: str | Path,
    baselines: bool = True,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Make a checkpoint in `out` and return its measurements, also written there as JSON.

    work: folder of everything in between (teacher, corpus, training state); repeated with the
    same folder, an interrupted call goes on. With baselines, `out` gets a sibling for the
    dot-product student, named `<out>-dot-product`. observer: hears of the teacher's fine-tuning,
    the corpus and each student, and how far they are. Raises InputError for data, teachers or
    folders that can't be used.
    """
    out, work = Path(out), Path(work)
    observer = observer or Observer()
    work.mkdir(parents=True, exist_ok=True)
    material = make_material(recipe, work, baselines, observer)
    results: dict[str, Any] = {
        "recipe": _portable(recipe),
        "n_texts": len(material.corpus.texts),
        "teacher": {
            name: _share(predict_logits(material.teacher, [r.text for r in split]), split)
            for name, split in material.rows.items()
        },
        INHIBITOR: train_student(recipe, material, INHIBITOR, out, work, observer),
    }
    if baselines:
        sibling = out.with_name(f"{out.name}-dot-product")
        results[DOT_PRODUCT] = train_student(recipe, material, DOT_PRODUCT, sibling, work, observer)
        results["bag_of_words"] = train_bag_of_words(recipe, material, work, observer)
    student = InhibiDistilBertConfig.from_pretrained(out)
    shape = {"layers": student.n_layers, "dim": student.dim}
    results["rows"] = _rows(recipe, results, shape)
    results["machine"] = describe_machine(PACKAGES).model_dump()
    write_atomically(out / "results.json", json.dumps(results, indent=2) + "\n")
    return results


def make_teacher(
    recipe: Recipe, kept: list[LabelledText], work: Path, observer: Observer
) -> Teacher:
    """Return the teacher: `minilm` fine-tuned on the task in the work folder, others as given."""
    if recipe.teacher != OFFLINE_TEACHER:
        return load_teacher(recipe.teacher, len(recipe.labels))
    folder = work / "teacher"
    if folder.exists():
        return load_teacher(folder, len(recipe.labels))
    return finetune(
        load_teacher(OFFLINE_TEACHER, len(recipe.labels)),
        kept,
        epochs=recipe.teacher_epochs,
        out_dir=folder,
        seed=recipe.seed,
        observer=observer,
    )


@dataclass(frozen=True)
class Material:
    """What the students of a recipe are made from.

    rows: the labelled texts of the splits held_out and validation. first: the id of [CLS], with
    which all texts of the corpus begin if the students classify by it; else None. Only for
    students that start from the teacher: reader, the teacher reading phrases, and sentences,
    whole ones to derive from.
    """

    rows: dict[str, list[LabelledText]]
    teacher: Teacher
    corpus: Corpus
    tokenizer: Tokenizer
    first: int | None = None
    reader: PhraseTeacher | None = None
    sentences: tuple[str, ...] = ()

    def table(self, rows: Sequence[LabelledText]) -> TextTable:
        """Return labelled texts as students read them, without teacher logits."""
        ids, offsets = tokenize(self.tokenizer, [row.text for row in rows])
        texts = TokenizedTexts(
            ids,
            offsets,
            logits=np.zeros((len(rows), self.corpus.texts.logits.shape[1]), np.float32),
            labels=np.array([row.label for row in rows]),
        )
        if self.first is not None:
            texts = begin_with(texts, self.first)
        return text_table(texts, self.corpus.importance)


def make_material(
    recipe: Recipe, work: Path, baselines: bool = True, observer: Observer | None = None
) -> Material:
    """Load or make teacher and corpus in the work folder.

    Students that learn from the teacher's hidden states need no logits of whole texts, but the bag
    of words does.
    """
    splits = load_splits(recipe.data, len(recipe.labels))
    kept, held_out = hold_out(splits["train"], recipe.held_out, seed=recipe.seed)
    observer = observer or Observer()
    teacher = make_teacher(recipe, kept, work, observer)
    corpus = build_corpus(
        teacher,
        kept,
        held_out,
        read_sentences(recipe.sentences) if recipe.sentences else [],
        n_texts=recipe.n_texts,
        n_phrases=recipe.n_phrases,
        seed=recipe.seed,
        cache_dir=work / "corpus",
        labelled=baselines or not recipe.size.from_teacher,
        observer=observer,
    )
    tokenizer = Tokenizer.from_file(str(corpus.tokenizer_path))
    rows = {"held_out": held_out, "validation": splits["validation"]}
    material = Material(rows, teacher, corpus, tokenizer)
    if recipe.size.student["classifier_query"] == "cls":
        first = tokenizer.token_to_id("[CLS]")
        if first is None:
            raise InputError(
                "the teacher's tokenizer has no [CLS], which students of this size classify by; "
                "wanted one like DistilBERT's"
            )
        material = replace(material, corpus=begin_all_with(corpus, first), first=first)
    if recipe.size.from_teacher:
        texts = [row.text for row in kept]
        whole = [texts[index] for index in full_sentences(texts)]
        sentences = tuple(random.Random(recipe.seed).sample(whole, min(len(whole), N_SENTENCES)))
        reader = PhraseTeacher(teacher, tokenizer)
        material = replace(material, reader=reader, sentences=sentences)
    return material


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


def _portable(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as it is published: of a local file or folder only the name."""
    fields = asdict(recipe)
    for name in ("data", "teacher", "sentences"):
        if fields[name] and Path(fields[name]).exists():
            fields[name] = Path(fields[name]).name
    return fields


def _share(logits: np.ndarray, rows: Sequence[LabelledText]) -> float:
    """Return the accuracy of logits `[n, n_labels]`."""
    return float((logits.argmax(axis=-1) == np.array([row.label for row in rows])).mean())
