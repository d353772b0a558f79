"""What the students of a recipe are made from: teacher, corpus and labelled texts to measure on."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from filelock import FileLock
from tokenizers import Tokenizer

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import claim
from fhe_inhibitor.system.processor import fastest_device
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
from fhe_inhibitor.training.distillation import TextTable, text_table
from fhe_inhibitor.training.finetuning import CLAIM_FILE, finetune, origin
from fhe_inhibitor.training.hyperparameters import Recipe
from fhe_inhibitor.training.phrase_teacher import PhraseTeacher
from fhe_inhibitor.training.teacher import OFFLINE_TEACHER, Teacher, load_teacher
from fhe_inhibitor.training.vocabulary import tokenize

LOCK_FILE = ".material.lock"
N_SENTENCES = 128  # that gamma, eta and delta are derived from


def make_teacher(
    recipe: Recipe, kept: list[LabelledText], work: Path, observer: Observer
) -> Teacher:
    """Return the teacher: a classifier as given, all else fine-tuned in the work folder.

    It is on the GPU if there is one, where it also answers.

    Raises InputError for a folder with a teacher of other epochs, texts, seed or base. One of an
    older version doesn't say what it is made of, and is taken.
    """
    given = _load(recipe.teacher, recipe, may_be_untuned=True)
    if given.is_tuned:
        return given
    folder = work / "teacher"
    if recipe.teacher != OFFLINE_TEACHER:
        folder = work / f"teacher-{zlib.crc32(recipe.teacher.encode()):08x}"
    if folder.exists():
        if (folder / CLAIM_FILE).exists():
            made_of = origin(given, kept, recipe.teacher_epochs, recipe.material_seed)
            claim(folder / CLAIM_FILE, made_of, "a teacher", "--work")
        return _load(folder, recipe)
    return finetune(
        given,
        kept,
        epochs=recipe.teacher_epochs,
        out_dir=folder,
        seed=recipe.material_seed,
        observer=observer,
    )


def _load(name_or_path: str | Path, recipe: Recipe, may_be_untuned: bool = False) -> Teacher:
    teacher = load_teacher(name_or_path, recipe.labels, may_be_untuned)
    teacher.model.to(fastest_device())
    return teacher


@dataclass(frozen=True)
class Material:
    """What the students of a recipe are made from.

    rows: the labelled texts of the splits held_out, if any are, and validation. first: the id of
    [CLS], with which all texts of the corpus begin if the students classify by it; else None. Only
    for students that start from the teacher: reader, the teacher reading phrases, and sentences,
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
    of words does. One process at a time makes them; others wait, and find them.
    """
    splits = load_splits(recipe.data, len(recipe.labels))
    kept, held_out = splits["train"], list[LabelledText]()
    if recipe.held_out:
        kept, held_out = hold_out(kept, recipe.held_out, seed=recipe.material_seed)
    observer = observer or Observer()
    with FileLock(work / LOCK_FILE):
        teacher = make_teacher(recipe, kept, work, observer)
        corpus = build_corpus(
            teacher,
            kept,
            held_out,
            read_sentences(recipe.sentences) if recipe.sentences else [],
            n_texts=recipe.n_texts,
            n_phrases=recipe.n_phrases,
            seed=recipe.material_seed,
            cache_dir=work / "corpus",
            labelled=baselines or not recipe.size.from_teacher,
            observer=observer,
        )
    tokenizer = Tokenizer.from_file(str(corpus.tokenizer_path))
    rows = {"held_out": held_out} if held_out else {}
    rows["validation"] = splits["validation"]
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
        sentences = tuple(
            random.Random(recipe.material_seed).sample(whole, min(len(whole), N_SENTENCES))
        )
        reader = PhraseTeacher(teacher, tokenizer)
        material = replace(material, reader=reader, sentences=sentences)
    return material
