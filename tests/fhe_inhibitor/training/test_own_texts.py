"""A user's texts as the recipe wants them, amounts that follow their number, kinds of teachers."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import DistilBertModel

from compile.verifier import verify
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.text.data import read_tsv
from fhe_inhibitor.text.labelled import Columns
from fhe_inhibitor.training import own_texts
from fhe_inhibitor.training.hyperparameters import SIZES
from fhe_inhibitor.training.own_texts import (
    Amounts,
    OwnRecipe,
    choose_amounts,
    prepare,
    train_on,
    validation_rows,
)
from tests.observers import Recorder
from tests.own_texts import KINDS, TINY, words_of, write_jsonl
from tests.tiny_teacher import save_teacher, tiny_teacher

torch.set_num_threads(1)  # tensors here are too small to share

ANY = st.characters(exclude_categories=())  # halves of characters, too
AMOUNTS = Amounts(n_texts=150, steps=6, epochs=0.2)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(SIZES, "nano", TINY)
    yield


def encoder(folder: Path, texts: list[tuple[str, str]], lowercase: bool = True) -> str:
    """Write a teacher without a classifier, which knows the words of the texts."""
    teacher = tiny_teacher(more_words=words_of(texts, lowercase))
    teacher.tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    model = DistilBertModel(teacher.model.config)
    return str(save_teacher(replace(teacher, model=model), folder))


@pytest.mark.parametrize(
    ("n_train", "chosen"),
    [(100, (10_000, 2000, 15)), (3000, (60_000, 2000, 4)), (67_000, (500_000, 6000, 3))],
)
def test_amounts_follow_the_number_of_texts(
    monkeypatch: pytest.MonkeyPatch, n_train: int, chosen: tuple[int, int, float]
) -> None:
    size = replace(TINY, distillation=replace(TINY.distillation, steps=6000))
    monkeypatch.setitem(SIZES, "nano", size)
    assert choose_amounts(n_train, "nano", Amounts()) == chosen
    assert choose_amounts(10**6, "nano", Amounts())[2] < 1
    assert choose_amounts(n_train, "nano", AMOUNTS) == (150, 6, 0.2)


@pytest.mark.parametrize(("kind", "n_classes"), [("questions", 4), ("sentiments", 3)])
def test_each_kind_of_texts_gives_a_student_that_can_be_proved(
    tmp_path: Path, kind: str, n_classes: int
) -> None:
    texts = KINDS[kind](80, 0)
    data = write_jsonl(tmp_path / "texts.jsonl", texts)
    teacher = encoder(tmp_path / "encoder", texts)
    own = OwnRecipe(str(data), teacher=teacher, amounts=AMOUNTS)
    recorder = Recorder()
    prepared = prepare(own, tmp_path / "work", recorder)
    assert sum(prepared.train) + sum(prepared.validation) + sum(prepared.left_out.values()) == 80
    assert "6 training steps (--steps)" in recorder.notes[-1]
    out = tmp_path / "student"
    results = train_on(own, prepared, out, tmp_path / "work", recorder)
    assert "fine-tune the teacher" in recorder.steps
    model = IntegerModel.load(out)
    assert model.labels == tuple(sorted({label for _, label in texts}))
    _, rows = validation_rows(tmp_path / "work")
    assert {row.text for row in rows} <= {text for text, _ in texts}
    x, padding = model.encode(model.tokenize(rows[0].text))
    assert model.integer_logits(x, padding).shape == (n_classes,)
    verify(model.network, len(x))  # raises unless all ranges are proved
    assert set(results["bag_of_words"]) == set(results["inhibitor"]) == {"4"}

    before = (out / "results.json").stat().st_mtime_ns
    again = Recorder()
    found = train_on(own, prepared, out, tmp_path / "work", again)
    assert found == json.loads(json.dumps(results))
    assert (out / "results.json").stat().st_mtime_ns == before and not again.told
    with pytest.raises(InputError, match="holds a build with other amounts; remove it"):
        prepare(replace(own, amounts=Amounts(steps=7)), tmp_path / "work", Observer())
    other = prepared.model_copy(update={"steps": 9})
    with pytest.raises(InputError, match="holds another model"):
        train_on(own, other, out, tmp_path / "work", Observer())


def test_a_folder_may_have_a_set_to_measure_on(tmp_path: Path) -> None:
    texts, data = KINDS["topics"](60, 0), tmp_path / "data"
    data.mkdir()
    write_jsonl(data / "train.jsonl", texts[:50])
    (data / "dev.csv").write_text(
        "".join(f'{label};"{text}"\n' for text, label in [("text", "topic"), *texts[50:]])
    )
    own = OwnRecipe(str(data), teacher=encoder(tmp_path / "encoder", texts), amounts=AMOUNTS)
    prepared = prepare(own, tmp_path / "work", Observer())
    _, rows = validation_rows(tmp_path / "work")
    assert {(row.text, prepared.labels[row.label]) for row in rows} == set(texts[50:])


def test_a_cased_teacher_s_texts_keep_their_case(tmp_path: Path) -> None:
    texts = KINDS["topics"](60, 0)
    data = write_jsonl(tmp_path / "texts.jsonl", texts)
    cased = encoder(tmp_path / "cased", texts, lowercase=False)
    uncased = encoder(tmp_path / "uncased", texts)
    read = {}
    for teacher in (cased, uncased):
        work = tmp_path / Path(teacher).name / "work"
        prepare(OwnRecipe(str(data), teacher=teacher, amounts=AMOUNTS), work, Observer())
        read[teacher] = [row.text for row in read_tsv(work / "data" / "train.tsv", 4)]
    assert [text.lower() for text in read[cased]] == read[uncased]
    assert any(text != text.lower() for text in read[cased])
    assert any(" did n't " in text for text in read[uncased])


def test_numbers_are_names_of_classes_in_their_order(tmp_path: Path) -> None:
    """A model calls its classes "1" to "3" then, which are not their places."""
    names = {"negative": 1, "neutral": 2, "positive": 10}
    texts = [(text, str(names[label])) for text, label in KINDS["sentiments"](60, 0)]
    data = write_jsonl(tmp_path / "texts.jsonl", texts)
    own = OwnRecipe(str(data), teacher=encoder(tmp_path / "encoder", texts), amounts=AMOUNTS)
    own, recorder = replace(own, baseline=False), Recorder()
    prepared = prepare(own, tmp_path / "work", recorder)
    assert prepared.labels == ("1", "2", "10")
    counts = Counter(label for _, label in texts)
    told = ", ".join(f"{name} ({counts[name]} texts)" for name in prepared.labels)
    assert f"the classes are {told}" in recorder.notes
    results = train_on(own, prepared, tmp_path / "student", tmp_path / "work", Observer())
    assert "bag_of_words" not in results
    # The fine-tuned teacher is read again, by the names of its outputs.
    (tmp_path / "student" / "results.json").unlink()
    train_on(own, prepared, tmp_path / "student", tmp_path / "work", Observer())
    assert IntegerModel.load(tmp_path / "student").labels == ("1", "2", "10")


def test_what_cannot_be_used_is_left_out_with_a_count(tmp_path: Path) -> None:
    texts = KINDS["topics"](60, 0)
    odd = [("\u2603\u2603", "cooking"), (" ", "cooking"), (texts[0][0], texts[0][1])]
    data = write_jsonl(tmp_path / "texts.jsonl", [*texts, *odd])
    with data.open("ab") as file:
        file.write(b'{"text": "caf\xe9", "label": "cooking"}\n')
    own = OwnRecipe(str(data), teacher=encoder(tmp_path / "encoder", texts), amounts=AMOUNTS)
    with pytest.raises(InputError, match="line 64: not UTF-8"):
        prepare(own, tmp_path / "work", Observer())
    recorder = Recorder()
    prepared = prepare(own, tmp_path / "work", recorder, skip_invalid=True)
    assert prepared.left_out == {"empty": 1, "unknown": 1, "repeated": 1}
    assert "line 64" in prepared.left_out_lines[0]
    assert [note for note in recorder.notes if "1 without a word that the tokenizer knows" in note]


def test_any_characters_can_be_read(tmp_path: Path) -> None:
    """What is no word is no error: signs, halves of characters, ends of lines, other scripts."""
    texts = KINDS["topics"](60, 0)
    teacher = encoder(tmp_path / "encoder", texts)
    numbers = itertools.count()

    @settings(max_examples=8, deadline=None)
    @given(st.lists(st.text(ANY, max_size=12), min_size=60, max_size=60))
    def check(noise: list[str]) -> None:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        rows = [
            (odd if n % 3 == 0 else f"{odd} {text} {odd}", label)
            for n, ((text, label), odd) in enumerate(zip(texts, noise, strict=True))
        ]
        data = write_jsonl(folder / "texts.jsonl", rows)
        own = OwnRecipe(str(data), teacher=teacher, amounts=AMOUNTS)
        prepared = prepare(own, folder / "work", Observer())
        n_train, n_measured = sum(prepared.train), sum(prepared.validation)
        assert n_train + n_measured + sum(prepared.left_out.values()) == 60
        _, measured = validation_rows(folder / "work")
        trained = read_tsv(folder / "work" / "data" / "train.tsv", len(prepared.labels))
        assert (len(trained), len(measured)) == (n_train, n_measured)

    check()


def test_sentences_that_are_measured_on_are_not_learned_from(tmp_path: Path) -> None:
    texts = KINDS["questions"](60, 0)
    data = write_jsonl(tmp_path / "texts.jsonl", texts)
    sentences = tmp_path / "sentences.txt"
    longer = "".join(f"they ask : {text.rstrip('?. ')} , or not\n" for text, _ in texts)
    sentences.write_text("".join(f"{text}\n" for text, _ in texts) + longer + "a new one\n")
    teacher = encoder(tmp_path / "encoder", texts)
    own = OwnRecipe(str(data), teacher=teacher, sentences=str(sentences), amounts=AMOUNTS)
    recorder = Recorder()
    prepared = prepare(own, tmp_path / "work", recorder)
    kept = (tmp_path / "work" / "data" / "sentences.txt").read_text().splitlines()
    n_measured = sum(prepared.validation)
    assert len(kept) == 121 - 2 * n_measured
    assert "a new one" in kept
    _, rows = validation_rows(tmp_path / "work")
    assert not [row for row in rows if row.text.lower().rstrip("?. ") in "\n".join(kept)]
    said = f"left out: {2 * n_measured} of 121 sentences, which are or hold a text to measure on"
    assert said in recorder.notes


def test_long_texts_are_cut_and_that_is_said(tmp_path: Path) -> None:
    texts = [(f"{text} {'very ' * 150}", label) for text, label in KINDS["topics"](60, 0)]
    data = write_jsonl(tmp_path / "texts.jsonl", texts)
    own = OwnRecipe(str(data), teacher=encoder(tmp_path / "encoder", texts), amounts=AMOUNTS)
    recorder = Recorder()
    prepared = prepare(own, tmp_path / "work", recorder)
    assert prepared.n_cut == sum(prepared.train)
    rows = read_tsv(tmp_path / "work" / "data" / "train.tsv", 4)
    assert {len(row.text.split()) for row in rows} == {128}
    assert [note for note in recorder.notes if "their beginning is trained on" in note]


def test_unusable_sizes_teachers_and_columns_are_refused(tmp_path: Path) -> None:
    texts = KINDS["topics"](60, 0)
    own = OwnRecipe(str(write_jsonl(tmp_path / "texts.jsonl", texts)), amounts=AMOUNTS)
    with pytest.raises(InputError, match="no size 'huge'"):
        prepare(replace(own, size="huge"), tmp_path / "work", Observer())
    for epochs in (np.inf, np.nan):
        amounts = replace(AMOUNTS, epochs=epochs)
        with pytest.raises(InputError, match=f"{epochs} epochs; wanted a finite number"):
            prepare(replace(own, amounts=amounts), tmp_path / "work", Observer())
    with pytest.raises(InputError, match="none.txt is not a file"):
        prepare(replace(own, sentences="none.txt"), tmp_path / "work", Observer())
    assert not (tmp_path / "work").exists()  # nothing to remove before the corrected call
    with pytest.raises(InputError, match="--label-column"):
        prepare(replace(own, columns=Columns(label="kind")), tmp_path / "work", Observer())
    two = save_teacher(tiny_teacher(more_words=words_of(texts)), tmp_path / "two")
    own = replace(own, teacher=str(two))
    prepared = prepare(own, tmp_path / "work", Observer())
    with pytest.raises(InputError, match="has 2 outputs; wanted 4: astronomy, cooking"):
        train_on(own, prepared, tmp_path / "out", tmp_path / "work", Observer())


def test_the_claim_holds_no_path_of_this_machine(tmp_path: Path) -> None:
    texts = KINDS["topics"](60, 0)
    data = write_jsonl(tmp_path / "texts.jsonl", texts)
    teacher = encoder(tmp_path / "encoder", texts)
    prepare(OwnRecipe(str(data), teacher=teacher, amounts=AMOUNTS), tmp_path / "work", Observer())
    claimed = json.loads((tmp_path / "work" / own_texts.CLAIM_FILE).read_text())
    assert str(data) not in json.dumps(claimed)
    assert np.isfinite(claimed["data"])
