"""A student from a user's own labelled texts: what `train` does, with sizes that follow the data.

    labelled texts -> two sets without a text in common -> recipe of the nano student -> checkpoint

The shipped student saw half a million texts made from 67,000. Of a few hundred texts there aren't
as many to make, and their user waits for minutes, not hours: `choose_amounts` says how much of what
is done, and every number can be given instead. Texts are written as the augmentation wants them,
with spaces around punctuation, normalized as the teacher's tokenizer does. The validation texts are
also kept as they came: that is what a client reads.
"""

from __future__ import annotations

import json
import math
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.loading import load_config
from fhe_inhibitor.system.files import Record, claim, write_atomically
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.text.augmentation import set_apart
from fhe_inhibitor.text.batches import MAX_TOKENS
from fhe_inhibitor.text.data import LabelledText, read_sentences, read_tsv
from fhe_inhibitor.text.labelled import Columns, Rows, read_labelled
from fhe_inhibitor.text.splitting import OwnSplits, split_texts, without_measured
from fhe_inhibitor.training import recipe as training
from fhe_inhibitor.training.hyperparameters import SIZES, Recipe
from fhe_inhibitor.training.teacher import OFFLINE_TEACHER, Teacher, load_teacher
from fhe_inhibitor.training.vocabulary import extend_wordpiece

CLAIM_FILE, PREPARED_FILE, DATA_FOLDER = "parameters.json", "prepared.json", "data"
VALIDATION_FILE = "validation.tsv"  # as the texts came, for whoever reads them as a client does
SENTENCES_FILE = "sentences.txt"

TEXTS_PER_TEXT, MIN_TEXTS, MAX_TEXTS = 20, 10_000, 500_000
MIN_STEPS, STEPS_UNIT = 2000, 250  # the second: after which a checkpoint is written
TEACHER_BATCH = 32
MIN_TEACHER_STEPS, MAX_TEACHER_STEPS = 300, 7500
MIN_EPOCHS, MAX_EPOCHS = 3, 15


@dataclass(frozen=True)
class Amounts:
    """How much is done. None, in what a user asks for: as `choose_amounts` says.

    n_texts: of the corpus. steps: of the student's training. epochs: of the teacher's fine-tuning.
    """

    n_texts: int | None = None
    steps: int | None = None
    epochs: float | None = None


@dataclass(frozen=True)
class OwnRecipe:
    """What a user asks for.

    data, columns: see `labelled.read_labelled`. teacher, sentences: of `Recipe`. size: one of
    `SIZES`. share: of the texts, to measure on, where the data has no validation set. baseline:
    train the bag of words too. seed: of all that is drawn at random, the split included, so it is
    both seeds of `Recipe`.
    """

    data: str
    columns: Columns = Columns()
    teacher: str = OFFLINE_TEACHER
    size: str = "nano"
    sentences: str | None = None
    share: float = 0.2
    amounts: Amounts = Amounts()
    baseline: bool = True
    seed: int = 0


class Prepared(Record):
    """The texts that a student is made from and measured on.

    labels: of the classes 0, 1, ... train, validation: how many texts each has, in that order.
    left_out: by reason, see `splitting.LeftOut`. n_cut: texts that are trained on without their
    end. left_out_lines: what was wrong with lines that could not be read.
    """

    labels: tuple[str, ...]
    train: tuple[int, ...]
    validation: tuple[int, ...]
    left_out: dict[str, int]
    n_cut: int
    n_texts: int
    steps: int
    epochs: float
    left_out_lines: tuple[str, ...] = ()


def choose_amounts(n_train: int, size: str, given: Amounts) -> tuple[int, int, float]:
    """Return texts of the corpus, training steps and the teacher's epochs for n_train texts.

    20 texts are made of each, at least 10,000 and at most 500,000. Steps fall with the square root
    of that, to 2,000; the teacher sees each text 3 to 15 times, within 300 to 7,500 steps.

    >>> choose_amounts(480, "nano", Amounts(steps=1000))
    (10000, 1000, 15)
    """
    n_texts = given.n_texts or min(MAX_TEXTS, max(MIN_TEXTS, TEXTS_PER_TEXT * n_train))
    most = SIZES[size].distillation.steps
    fewer = STEPS_UNIT * round(most * math.sqrt(n_texts / MAX_TEXTS) / STEPS_UNIT)
    steps = given.steps or min(most, max(MIN_STEPS, fewer))
    per_epoch = n_train / TEACHER_BATCH
    enough = max(MIN_EPOCHS, min(MAX_EPOCHS, math.ceil(MIN_TEACHER_STEPS / per_epoch)))
    epochs = min(enough, MAX_TEACHER_STEPS / per_epoch)
    return n_texts, steps, given.epochs or round(epochs, 2)


def prepare(own: OwnRecipe, work: Path, observer: Observer, skip_invalid: bool = False) -> Prepared:
    """Read and split the texts into the work folder; say what was left out, and what is chosen.

    skip_invalid: leave out lines that can't be read, instead of refusing them. Raises InputError as
    `read_labelled` and `split_texts` do, for a teacher, size or amount that can't be used,
    sentences that can't be read, and if the work folder holds a build from other texts or with
    other options.
    """
    if own.size not in SIZES:
        raise InputError(f"no size {own.size!r}; wanted one of {', '.join(SIZES)}")
    if not 0 < (own.amounts.epochs or 1) < math.inf:
        raise InputError(f"{own.amounts.epochs} epochs; wanted a finite number of more than 0")
    sentences = read_sentences(own.sentences) if own.sentences else []
    observer.begin("read the texts")
    invalid: list[str] = []
    note = (lambda error: invalid.append(str(error))) if skip_invalid else None
    read = read_labelled(own.data, own.columns, note)
    teacher = _tokenizing(own.teacher)
    splits = split_texts(read, _knows(teacher), own.share, own.seed)
    written = _writer(teacher)
    n_texts, steps, epochs = choose_amounts(len(splits.train), own.size, own.amounts)
    prepared = Prepared(
        labels=splits.labels,
        train=_counts(splits.train, splits.labels),
        validation=_counts(splits.validation, splits.labels),
        left_out={name: n for name, n in asdict(splits.left_out).items() if n},
        n_cut=sum(len(written(row.text).split()) > MAX_TOKENS for row in splits.train),
        n_texts=n_texts,
        steps=steps,
        epochs=epochs,
        left_out_lines=tuple(invalid),
    )
    _claim(own, read, work)
    n_sentences = _write(splits, written, sentences, work)
    if n_sentences < len(sentences):
        observer.note(
            f"left out: {len(sentences) - n_sentences:,} of {len(sentences):,} sentences, which "
            "are or hold a text to measure on"
        )
    write_atomically(work / PREPARED_FILE, prepared.model_dump_json(indent=1) + "\n")
    _tell(prepared, splits, observer)
    return prepared


def train_on(
    own: OwnRecipe, prepared: Prepared, out: Path, work: Path, observer: Observer
) -> dict[str, Any]:
    """Make the checkpoint `out` of prepared texts; return its results, as `recipe.train` does.

    A student that was finished before, in the same folders, is not made again. Raises InputError
    for a teacher of other labels, or another tokenizer than a WordPiece, and for a folder `out`
    that holds another student.
    """
    data = work / DATA_FOLDER
    size = SIZES[own.size]
    recipe = Recipe(
        data=str(data),
        teacher=own.teacher,
        sentences=str(data / SENTENCES_FILE) if own.sentences else None,
        labels=prepared.labels,
        teacher_epochs=prepared.epochs,
        held_out=0,
        n_texts=prepared.n_texts,
        size=replace(size, distillation=replace(size.distillation, steps=prepared.steps)),
        seed=own.seed,
        material_seed=own.seed,
    )
    finished = out / training.RESULTS_FILE
    if finished.exists():
        results = json.loads(finished.read_text(encoding="utf-8"))
        if results["recipe"] != json.loads(json.dumps(training.portable(recipe))):
            raise InputError(f"{out} holds another model: name another --out, or remove it")
        return results
    baselines = (training.BAG_OF_WORDS,) if own.baseline else ()
    return training.train(recipe, out, work, baselines, observer)


def _claim(own: OwnRecipe, read: dict[str, Rows], work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    parameters = asdict(own) | {
        "data": zlib.crc32(repr(sorted(read.items())).encode(errors="surrogatepass")),
        "sentences": None if own.sentences is None else Path(own.sentences).name,
    }
    claim(work / CLAIM_FILE, json.loads(json.dumps(parameters)), "a build", "--work")


def _tokenizing(name: str) -> Teacher:
    """Return a teacher of which only the tokenizer is asked, its labels whatever they are.

    Raises InputError for a tokenizer that no student can have: before a teacher is fine-tuned.
    """
    labels = ["0", "1"]
    if name != OFFLINE_TEACHER:
        config = load_config(name)
        labels = [str(config.id2label[index]) for index in range(config.num_labels)]
    teacher = load_teacher(name, labels, may_be_untuned=True)
    extend_wordpiece(teacher.tokenizer, ())
    return teacher


def _knows(teacher: Teacher) -> Callable[[str], bool]:
    tokenizer = teacher.tokenizer

    def knows(text: str) -> bool:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return any(index != tokenizer.unk_token_id for index in ids)

    return knows


def _writer(teacher: Teacher) -> Callable[[str], str]:
    """Return what writes a text as the student is to be trained on it: cut at white space."""
    normalizer = teacher.tokenizer.backend_tokenizer.normalizer

    def write(text: str) -> str:
        return set_apart(normalizer.normalize_str(text) if normalizer else text)

    return write


def _write(
    splits: OwnSplits, written: Callable[[str], str], sentences: Sequence[str], work: Path
) -> int:
    """Write train.tsv and dev.tsv, which `recipe.train` reads, and the texts as they came.

    Return how many sentences were written: without those of which a clause may be a text to
    measure on, which the teacher would label for the student.
    """
    folder = work / DATA_FOLDER
    folder.mkdir(exist_ok=True)
    classes = {label: index for index, label in enumerate(splits.labels)}

    def write_tsv(name: str, rows: Rows, form: Callable[[str], str]) -> None:
        lines = [f"{classes[row.label]}\t{form(row.text)}" for row in rows]
        write_atomically(folder / name, "\n".join(["label\tsentence", *lines]) + "\n")

    def begin_of(text: str) -> str:
        return " ".join(written(text).split()[:MAX_TOKENS])

    write_tsv("train.tsv", splits.train, begin_of)
    write_tsv("dev.tsv", splits.validation, begin_of)
    write_tsv(VALIDATION_FILE, splits.validation, lambda text: text)
    measured = [written(row.text) for row in splits.validation]
    kept = without_measured(map(written, sentences), measured)
    if sentences:
        write_atomically(folder / SENTENCES_FILE, "".join(f"{text}\n" for text in kept))
    return len(kept)


def _counts(rows: Rows, labels: tuple[str, ...]) -> tuple[int, ...]:
    counts = Counter(row.label for row in rows)
    return tuple(counts[label] for label in labels)


def _tell(prepared: Prepared, splits: OwnSplits, observer: Observer) -> None:
    """Say what was left out, of which classes the rest is, and how much is done with it."""
    for line in prepared.left_out_lines:
        observer.note(f"left out: {line}")
    if splits.left_out.total:
        observer.note(f"left out: {splits.left_out.describe()}")
    if prepared.n_cut:
        observer.note(
            f"{prepared.n_cut:,} texts have more than {MAX_TOKENS} words: their beginning is "
            "trained on"
        )
    counts = zip(prepared.labels, prepared.train, prepared.validation, strict=True)
    classes = ", ".join(f"{name} ({n + m:,} texts)" for name, n, m in counts)
    observer.note(f"the classes are {classes}")
    observer.note(
        f"{sum(prepared.train):,} texts to train on, {sum(prepared.validation):,} to measure on; "
        f"chosen for so many: {prepared.epochs:g} epochs of the teacher (--epochs), "
        f"{prepared.n_texts:,} texts made of them (--texts), {prepared.steps:,} training steps "
        "(--steps)"
    )


def read_prepared(work: Path) -> Prepared:
    """Return what `prepare` returned."""
    return Prepared.model_validate_json((work / PREPARED_FILE).read_text(encoding="utf-8"))


def validation_rows(work: Path) -> tuple[Path, list[LabelledText]]:
    """Return the file of validation texts as they came, and what it holds."""
    path = work / DATA_FOLDER / VALIDATION_FILE
    return path, read_tsv(path, len(read_prepared(work).labels))
