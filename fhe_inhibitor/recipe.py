"""The recipe of the shipped checkpoint, end to end and seeded.

    teacher -> fine-tuned on the task -> corpus of teacher-labelled texts -> quantized student
                                                                          -> two baselines

The baselines get the same corpus, embedding recipe, optimizer and steps: a linear bag of words,
which needs no lookup, and a student of the same size with dot-product attention. Everything
lies in one work folder, and a call that was interrupted goes on where it stopped. Choices are
made on the sentences held out from train; the task's validation set is only reported.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from tokenizers import Tokenizer

from fhe_inhibitor.conversion import save_checkpoint
from fhe_inhibitor.corpus import Corpus, build_corpus
from fhe_inhibitor.data import LabelledText, hold_out, load_splits, read_sentences
from fhe_inhibitor.distillation import (
    DistillationConfig,
    TextTable,
    distil,
    predict,
    text_table,
)
from fhe_inhibitor.evaluation import accuracy
from fhe_inhibitor.finetuning import finetune
from fhe_inhibitor.measurements import describe_machine
from fhe_inhibitor.modeling import (
    InhibiDistilBertConfig,
    InhibiDistilBertForSequenceClassification,
)
from fhe_inhibitor.student import (
    BagOfWords,
    fold_embedding,
    make_sparse,
    with_feature_embedding,
)
from fhe_inhibitor.teacher import OFFLINE_TEACHER, Teacher, load_teacher, predict_logits

INHIBITOR, DOT_PRODUCT = "inhibitor", "dot_product"
NOISE_DRAWS = 5
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

FULL_DEPTH: dict[str, Any] = {
    "max_position_embeddings": 24,
    "dim": 384,
    "n_layers": 6,
    "n_heads": 12,
    "hidden_dim": 1536,
    "threshold": "head_offset",
    "max_relative_offset": 2,
    "classifier_query": "constant",
    "normalization": "static",
    "activation": "relu",
    "shift": 1.0,
    "dropout": 0.0,
    "n_tokens": 24,
    "default_tokens": 12,
    "buckets": [8, 12, 16, 24],
    "token_importance": "public",
    "quantization": {
        "key_bits": 3,
        "value_bits": 4,
        "feature_bits": 2,
        "weight_bits": 5,
        "logit_bits": 8,
        "fan_in": 16,
        "keys_per_sum": 4,
    },
}


@dataclass(frozen=True)
class Size:
    """A student's shape, and what it takes to train it.

    student: arguments of `InhibiDistilBertConfig`. sparse: its `fan_in` inputs an output are
    drawn at the start, see `student.make_sparse`; else all may grow. embedding_width, free_dim:
    of `student.FeatureEmbedding`.
    """

    student: dict[str, Any]
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    sparse: bool = False
    embedding_width: int = 256
    free_dim: int | None = None


SIZES = {
    "nano": Size(NANO),
    "full-depth": Size(
        FULL_DEPTH,
        DistillationConfig(
            steps=3000,
            batch_size=128,
            learning_rate=1e-3,
            free_learning_rate=3e-4,
            float_fraction=11 / 15,
            token_counts=(8, 12, 16),
            token_weights=(0.2, 0.5, 0.3),
            ema_decay=0.998,
            bfloat16=True,
        ),
        sparse=True,
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


def train(recipe: Recipe, out: str | Path, work: str | Path, baselines: bool = True) -> dict:
    """Make a checkpoint in `out` and return its measurements, also written there as JSON.

    work: folder of everything in between (teacher, corpus, training state); repeated with the
    same folder, an interrupted call goes on. With baselines, `out` gets a sibling for the
    dot-product student, named `<out>-dot-product`. Raises InputError for data, teachers or
    folders that can't be used.
    """
    out, work = Path(out), Path(work)
    work.mkdir(parents=True, exist_ok=True)
    splits = load_splits(recipe.data, len(recipe.labels))
    kept, held_out = hold_out(splits["train"], recipe.held_out, seed=recipe.seed)
    teacher = make_teacher(recipe, kept, work)
    sentences = read_sentences(recipe.sentences) if recipe.sentences else []
    corpus = build_corpus(
        teacher,
        kept,
        held_out,
        sentences,
        n_texts=recipe.n_texts,
        n_phrases=recipe.n_phrases,
        seed=recipe.seed,
        cache_dir=work / "corpus",
    )
    rows = {"held_out": held_out, "validation": splits["validation"]}
    results: dict[str, Any] = {
        "recipe": _portable(recipe),
        "n_texts": len(corpus.texts),
        "teacher": {
            name: _share(predict_logits(teacher, [r.text for r in split]), split)
            for name, split in rows.items()
        },
        INHIBITOR: train_student(recipe, corpus, INHIBITOR, out, work, rows),
    }
    if baselines:
        sibling = out.with_name(f"{out.name}-dot-product")
        results[DOT_PRODUCT] = train_student(recipe, corpus, DOT_PRODUCT, sibling, work, rows)
        results["bag_of_words"] = train_bag_of_words(recipe, corpus, work, rows)
    results["rows"] = _rows(recipe, results)
    results["machine"] = describe_machine(PACKAGES).model_dump()
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return results


def make_teacher(recipe: Recipe, kept: list[LabelledText], work: Path) -> Teacher:
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
    )


def make_student(
    recipe: Recipe, attention_kind: str, vocab_size: int
) -> InhibiDistilBertForSequenceClassification:
    """Return an untrained student; for dot products the same shape, bits and options."""
    torch.manual_seed(recipe.seed)
    config = InhibiDistilBertConfig(
        vocab_size=vocab_size,
        attention_kind=attention_kind,
        id2label=dict(enumerate(recipe.labels)),
        label2id={label: i for i, label in enumerate(recipe.labels)},
        **recipe.size.student,
    )
    student = InhibiDistilBertForSequenceClassification(config)
    if recipe.size.sparse:
        make_sparse(student)
    return student


def train_student(
    recipe: Recipe,
    corpus: Corpus,
    attention_kind: str,
    out: Path,
    work: Path,
    rows: dict[str, list[LabelledText]],
) -> dict[str, Any]:
    """Distil one student to the checkpoint `out` and return its accuracies by token count."""
    student = make_student(recipe, attention_kind, len(corpus.features))
    features, size = torch.from_numpy(corpus.features), recipe.size
    student = with_feature_embedding(student, features, size.embedding_width, size.free_dim)
    student = _distil(student, recipe, corpus, work / f"{out.name}.safetensors")
    tokenizer = Tokenizer.from_file(str(corpus.tokenizer_path))
    save_checkpoint(fold_embedding(student), tokenizer, corpus.importance, out)
    # In torch, for its speed; the checkpoint's integers are the same ones.
    tables = {name: tokenized(tokenizer, split, corpus) for name, split in rows.items()}
    return {
        str(n): {
            name: asdict(accuracy(_draws(student, table, corpus, n), rows[name]))
            for name, table in tables.items()
        }
        for n in size.student["buckets"]
    }


def _draws(
    student: InhibiDistilBertForSequenceClassification, table: TextTable, corpus: Corpus, n: int
) -> list[np.ndarray]:
    """Return logits with the noise of encrypted rounding, one array per draw."""
    return [predict(student, table, corpus.importance, n, seed) for seed in range(NOISE_DRAWS)]


def train_bag_of_words(
    recipe: Recipe, corpus: Corpus, work: Path, rows: dict[str, list[LabelledText]]
) -> dict[str, Any]:
    """Distil the linear baseline on the same texts and return its accuracies by token count."""
    torch.manual_seed(recipe.seed)
    model = BagOfWords(torch.from_numpy(corpus.features), len(recipe.labels))
    counts = recipe.size.student["buckets"]
    _distil(model, recipe, corpus, work / "bag_of_words.safetensors")
    tokenizer = Tokenizer.from_file(str(corpus.tokenizer_path))
    tables = {name: tokenized(tokenizer, split, corpus) for name, split in rows.items()}
    return {
        str(n): {
            name: _share(predict(model, table, corpus.importance, n), rows[name])
            for name, table in tables.items()
        }
        for n in counts
    }


def tokenized(tokenizer: Tokenizer, rows: Sequence[LabelledText], corpus: Corpus) -> TextTable:
    """Return labelled texts as a table, without teacher logits."""
    encodings = [encoding.ids for encoding in tokenizer.encode_batch([r.text for r in rows])]
    texts = replace(
        corpus.held_out,
        ids=np.array([i for ids in encodings for i in ids], np.int32),
        offsets=np.cumsum([0, *map(len, encodings)]),
        logits=np.zeros((len(rows), corpus.texts.logits.shape[1]), np.float32),
        labels=np.array([row.label for row in rows]),
    )
    return text_table(texts, corpus.importance)


def _distil(
    model: torch.nn.Module, recipe: Recipe, corpus: Corpus, checkpoint: Path
) -> torch.nn.Module:
    """Distil with a progress bar, resumably."""
    config = replace(recipe.size.distillation, seed=recipe.seed)
    table = text_table(corpus.texts, corpus.importance)
    with Progress() as progress:
        task = progress.add_task(f"distil {checkpoint.stem}", total=config.steps)
        return distil(
            model,
            table,
            corpus.importance,
            config,
            checkpoint,
            lambda step, loss: progress.update(task, completed=step),
        )


def _rows(recipe: Recipe, results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the students' accuracies as `experiments report` reads them."""
    shape = {"layers": recipe.size.student["n_layers"], "dim": recipe.size.student["dim"]}
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
