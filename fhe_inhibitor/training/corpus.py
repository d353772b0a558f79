"""The distillation corpus: everything a student learns from, in one folder of arrays.

These are the tokenizer, features and importance of its entries, augmented texts, and the teacher's
logits of every text. What is already in the folder is not made again. Logits come in shards of
20,000 texts, so that an interruption loses a minute, and training can start on the first shards.
The folder holds:

    parameters.json    what it was made from; another call must agree
    words.json         the tokenizer before phrases
    words.npz          features: float32 [words, F], importance: float32 [words]
    tokenizer.json     the student's tokenizer
    vocabulary.npz     features: float32 [vocab, F], importance: float32 [vocab]
    texts.txt          the texts, one a line
    texts.npz          ids: int32 [tokens], offsets: int64 [n_texts + 1], labels: int64 [n_texts]
    held_out.npz       ids, offsets, labels, logits of the held-out sentences
    logits/*.npz       logits: float32 [20000, n_labels], by shard; only of a labelled corpus
"""

from __future__ import annotations

import io
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import claim, write_atomically
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.text.augmentation import augment, word_neighbours
from fhe_inhibitor.text.data import LabelledText, full_sentences, without_leaks
from fhe_inhibitor.training.phrases import add_phrases, find_phrases, phrase_importance
from fhe_inhibitor.training.teacher import Teacher, predict_logits
from fhe_inhibitor.training.vocabulary import (
    extend_wordpiece,
    token_features,
    token_importance,
    tokenize,
)

SHARD_TEXTS = 20_000
IMPORTANCE_SENTENCES = 3_000
# The teacher reads a text of n words n times to find which of them matter, n (n - 1) words in all.
# SST-2's 3,000 sentences are 1.3 million.
IMPORTANCE_WORDS = 4_000_000
NO_LABEL = -1

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class TokenizedTexts:
    """Texts of different lengths, one after the other: text i is ids[offsets[i]:offsets[i + 1]].

    ids: int32 [tokens]. offsets: int64 [n + 1]. logits: float32 [n, n_labels], the teacher's, NaN
    where it was not asked. labels: int64 [n], the true ones, -1 where none is known.
    """

    ids: np.ndarray
    offsets: np.ndarray
    logits: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.ids[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True)
class Corpus:
    """What a student is distilled from.

    features: float32 [vocab, F], and importance: float32 [vocab], see `vocabulary`. complete: False
    while the teacher has not read all texts; then `texts` holds those that it has read.
    """

    tokenizer_path: Path
    features: np.ndarray
    importance: np.ndarray
    texts: TokenizedTexts
    held_out: TokenizedTexts
    complete: bool


def build_corpus(
    teacher: Teacher,
    train: Sequence[LabelledText],
    held_out_texts: Sequence[LabelledText],
    sentences: Sequence[str],
    *,
    n_texts: int,
    n_phrases: int,
    seed: int,
    cache_dir: str | Path,
    labelled: bool = True,
    observer: Observer | None = None,
) -> Corpus:
    """Make the missing parts of the corpus in `cache_dir`, and load it.

    train, held_out_texts: what `hold_out` returns. sentences: unlabelled texts. A text is left
    out if it is a phrase of a held-out sentence (three words or more) or shares a run of eight
    words with one, so a few fewer than `n_texts` remain. labelled: ask the teacher for the logits
    of each text, which takes the longest; else they are NaN. observer: hears of the parts, then of
    the texts that the teacher has read.

    Raises InputError if the folder was made from other data, parameters or another teacher.
    """
    folder = Path(cache_dir)
    (folder / "logits").mkdir(parents=True, exist_ok=True)
    parameters = {
        "n_texts": n_texts,
        "n_phrases": n_phrases,
        "seed": seed,
        "teacher": _checksum_teacher(teacher),
        "train": _checksum(f"{row.label}\t{row.text}" for row in train),
        "held_out": _checksum(f"{row.label}\t{row.text}" for row in held_out_texts),
        "sentences": _checksum(sentences),
    }
    claim(folder / "parameters.json", parameters, "a corpus", "cache_dir")
    observer = observer or Observer()
    observer.begin("corpus")
    observer.plan(4, "parts")
    texts = [row.text for row in train]
    own_texts = [*texts, *sentences]
    words = _load_or_make_tokenizer(
        folder / "words.json", lambda: extend_wordpiece(teacher.tokenizer, own_texts)
    )
    of_words = _load_or_make(folder / "words.npz", lambda: _words(teacher, words, texts))
    observer.finish(1)
    if not (folder / "texts.txt").exists():
        neighbours = word_neighbours(words, of_words["features"], _frequent_words(texts))
        varied = augment(texts, sentences, n_texts, seed, neighbours)
        varied = without_leaks(varied, [row.text for row in held_out_texts])
        write_atomically(folder / "texts.txt", "".join(f"{text}\n" for text in varied))
    observer.finish(1)
    phrases = find_phrases(words, own_texts, of_words["importance"], n_phrases)
    importance = phrase_importance(of_words["importance"], phrases)
    tokenizer = _load_or_make_tokenizer(
        folder / "tokenizer.json", lambda: add_phrases(words, phrases, importance)
    )
    _load_or_make(
        folder / "vocabulary.npz",
        lambda: {"features": token_features(teacher, tokenizer), "importance": importance},
    )
    observer.finish(1)
    varied = (folder / "texts.txt").read_bytes().decode().split("\n")[:-1]  # a text may hold \r
    _load_or_make(folder / "texts.npz", lambda: _tokenized(tokenizer, train, varied))
    _load_or_make(folder / "held_out.npz", lambda: _label(teacher, tokenizer, held_out_texts))
    observer.finish(1)
    if labelled:
        _label_shards(teacher, varied, folder, observer)
    return load_corpus(folder, labelled)


def load_corpus(cache_dir: str | Path, labelled: bool = True) -> Corpus:
    """Load a corpus; of one that is still being made, the texts that the teacher has read by now.

    labelled: if False, load all texts, with logits NaN. Raises InputError for a folder without a
    corpus, and if labelled for a corpus of which the teacher has read nothing.
    """
    folder = Path(cache_dir)
    files = ["tokenizer.json", "vocabulary.npz", "texts.npz", "held_out.npz"]
    missing = [name for name in files if not (folder / name).exists()]
    if missing or (labelled and not _shard(folder, 0).exists()):
        raise InputError(
            f"{folder} holds no corpus yet: {', '.join(missing) or 'logits'} missing; "
            f"run build_corpus with cache_dir={str(folder)!r}, or wait for it"
        )
    texts, held_out = _load(folder / "texts.npz"), _load(folder / "held_out.npz")
    if labelled:
        logits = _logits_so_far(folder)
    else:
        logits = np.full((len(texts["labels"]), held_out["logits"].shape[1]), np.nan, np.float32)
    n_texts = len(logits)
    offsets = texts["offsets"][: n_texts + 1]
    return Corpus(
        tokenizer_path=folder / "tokenizer.json",
        **_load(folder / "vocabulary.npz"),
        texts=TokenizedTexts(
            ids=texts["ids"][: offsets[-1]],
            offsets=offsets,
            logits=logits,
            labels=texts["labels"][:n_texts],
        ),
        held_out=TokenizedTexts(**held_out),
        complete=n_texts == len(texts["labels"]),
    )


def begin_all_with(corpus: Corpus, token: int) -> Corpus:
    """Return a corpus whose texts all begin with `token`, the most important of all tokens."""
    importance = corpus.importance.copy()
    importance[token] = np.inf
    texts, held_out = (begin_with(t, token) for t in (corpus.texts, corpus.held_out))
    return replace(corpus, importance=importance, texts=texts, held_out=held_out)


def begin_with(texts: TokenizedTexts, token: int) -> TokenizedTexts:
    """Return the texts with `token` before each."""
    ids = np.insert(texts.ids, texts.offsets[:-1], token)
    return replace(texts, ids=ids, offsets=texts.offsets + np.arange(len(texts) + 1))


def _load_or_make_tokenizer(path: Path, make: Callable[[], Tokenizer]) -> Tokenizer:
    """Load a tokenizer; make and save it, whole or not at all, if it is not there."""
    if not path.exists():
        write_atomically(path, make().to_str(pretty=False))
    return Tokenizer.from_file(str(path))


def _words(teacher: Teacher, tokenizer: Tokenizer, texts: Sequence[str]) -> Arrays:
    features = token_features(teacher, tokenizer)
    importance = token_importance(teacher, tokenizer, _to_weigh(texts), features)
    return {"features": features, "importance": importance}


def _to_weigh(texts: Sequence[str]) -> list[str]:
    """Return the texts whose words are left out in turn: full sentences first, then the others."""
    full = full_sentences(texts)
    others = sorted(set(range(len(texts))) - set(full))
    chosen, n_words = list[str](), 0
    for text in dict.fromkeys(texts[index] for index in (*full, *others)):
        n_words += len(text.split()) * (len(text.split()) - 1)
        if len(chosen) == IMPORTANCE_SENTENCES or (chosen and n_words > IMPORTANCE_WORDS):
            break
        chosen.append(text)
    return chosen


def _tokenized(tokenizer: Tokenizer, train: Sequence[LabelledText], texts: Sequence[str]) -> Arrays:
    gold = {row.text: row.label for row in train}
    ids, offsets = tokenize(tokenizer, texts)
    labels = np.array([gold.get(text, NO_LABEL) for text in texts], np.int64)
    return {"ids": ids, "offsets": offsets, "labels": labels}


def _label(teacher: Teacher, tokenizer: Tokenizer, rows: Sequence[LabelledText]) -> Arrays:
    texts = [row.text for row in rows]
    ids, offsets = tokenize(tokenizer, texts)
    labels = np.array([row.label for row in rows], np.int64)
    logits = predict_logits(teacher, texts)
    return {"ids": ids, "offsets": offsets, "logits": logits, "labels": labels}


def _label_shards(teacher: Teacher, texts: Sequence[str], folder: Path, observer: Observer) -> None:
    """Ask the teacher for the logits of all texts, a shard at a time."""
    observer.begin("ask the teacher")
    observer.plan(len(texts), "texts")
    for start in range(0, len(texts), SHARD_TEXTS):
        rows = texts[start : start + SHARD_TEXTS]
        path = _shard(folder, start // SHARD_TEXTS)
        _load_or_make(path, partial(_logits, teacher, rows))
        observer.finish(len(rows))


def _logits(teacher: Teacher, texts: Sequence[str]) -> Arrays:
    return {"logits": predict_logits(teacher, texts)}


def _frequent_words(texts: Sequence[str], min_count: int = 2) -> list[str]:
    counts = Counter(word for text in texts for word in text.split())
    return sorted(word for word, count in counts.items() if count >= min_count)


def _load_or_make(path: Path, make: Callable[[], Arrays]) -> Arrays:
    """Load the arrays of a file; make and save them, whole or not at all, if it is not there."""
    if not path.exists():
        content = io.BytesIO()
        np.savez(content, **make())
        write_atomically(path, content.getvalue())
    return _load(path)


def _load(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _logits_so_far(folder: Path) -> np.ndarray:
    """Return the logits of the first shards, as far as they go."""
    shards: list[np.ndarray] = []
    while (path := _shard(folder, len(shards))).exists():
        shards.append(_load(path)["logits"])
    return np.concatenate(shards)


def _shard(folder: Path, number: int) -> Path:
    return folder / "logits" / f"{number:05d}.npz"


def _checksum(lines: Any) -> int:
    checksum = 0
    for line in lines:
        checksum = zlib.crc32(f"{line}\n".encode(), checksum)
    return checksum


def _checksum_teacher(teacher: Teacher) -> int:
    checksum = 0
    for weight in teacher.model.state_dict().values():
        checksum = zlib.crc32(weight.cpu().contiguous().numpy().tobytes(), checksum)
    return checksum
