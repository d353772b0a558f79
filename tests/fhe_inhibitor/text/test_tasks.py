"""Tasks: files of sentences and pairs, classes and values, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.text.tasks import (
    TASKS,
    Example,
    find_task,
    hold_out_examples,
    load_task,
    read_examples,
)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_sentences_pairs_and_values_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "sentence\tid\tlabel", 'it " rains\t7\t1')
    assert read_examples(find_task("cola"), path) == [Example(('it " rains',), 1)]
    path = write(tmp_path / "b.tsv", "label\tsentence1\tsentence2", "0\tit rains\tit is wet")
    assert read_examples(find_task("rte"), path) == [Example(("it rains", "it is wet"), 0)]
    path = write(tmp_path / "c.tsv", "label\tsentence1\tsentence2", "2.75\tit rains\tit is wet")
    assert read_examples(find_task("stsb"), path) == [Example(("it rains", "it is wet"), 2.75)]


def test_mnli_has_two_development_sets(tmp_path: Path) -> None:
    for file in ("train.tsv", "dev_matched.tsv", "dev_mismatched.tsv"):
        write(tmp_path / file, "label\tpremise\thypothesis", f"2\t{file}\tno")
    splits = load_task(find_task("mnli"), tmp_path)
    assert list(splits) == ["train", "validation_matched", "validation_mismatched"]
    assert splits["validation_mismatched"] == [Example(("dev_mismatched.tsv", "no"), 2)]


@pytest.mark.parametrize(
    ("task", "lines", "said"),
    [
        ("rte", ("label\tsentence", "1\tfine"), "not a TSV of the task rte.*'sentence1'"),
        ("qqp", ("label\tsentence1\tsentence2", "1\ta\tb"), "task qqp.*'question1'"),
        ("sst2", ("label\tsentence", "2\tfine"), "line 2: label '2'"),
        ("stsb", ("label\tsentence1\tsentence2", "5.1\ta\tb"), "label '5.1'; wanted a number"),
        ("stsb", ("label\tsentence1\tsentence2", "nan\ta\tb"), "label 'nan'"),
        ("rte", ("label\tsentence1\tsentence2", "1\ta\t "), "line 2: a text is empty"),
    ],
)
def test_a_file_of_another_task_is_refused(
    tmp_path: Path, task: str, lines: tuple[str, ...], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        read_examples(find_task(task), write(tmp_path / "train.tsv", *lines))


def test_unknown_tasks_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no task 'sst3'; wanted one of sst2, cola"):
        find_task("sst3")
    with pytest.raises(InputError, match="is no folder; wanted one that holds train.tsv"):
        load_task(find_task("sst2"), tmp_path / "none")
    with pytest.raises(InputError, match="dev_matched.tsv is not a file"):
        write(tmp_path / "train.tsv", "label\tpremise\thypothesis", "2\ta\tno")
        load_task(find_task("mnli"), tmp_path)


def test_without_network_a_folder_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def unreachable(*_: object) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(InputError, match="pass a folder that holds train.tsv and dev.tsv"):
        load_task(find_task("rte"))


def test_every_task_has_a_metric_for_its_labels() -> None:
    assert set(TASKS) == {
        "sst2", "cola", "rte", "wnli", "mrpc", "stsb", "qnli", "qqp", "mnli", "imdb",
    }  # fmt: skip
    for task in TASKS.values():
        assert ("pearson" in task.metrics) == task.is_regression


def test_held_out_examples_are_apart() -> None:
    train = [Example((f"sentence {i}",), i % 2) for i in range(20)]
    kept, held_out = hold_out_examples(TASKS["cola"], train, 5, seed=1)
    assert (len(kept), len(held_out)) == (15, 5)
    assert not set(kept) & set(held_out)
    sentence = "a slow tale of two very patient gardeners ."
    train = [Example((sentence,), 1), Example(("two very patient gardeners",), 1)]
    kept, held_out = hold_out_examples(TASKS["sst2"], [*train, Example(("slow",), 0)], 1)
    assert kept == [Example(("slow",), 0)] and held_out == train[:1]
    with pytest.raises(InputError, match="hold out 20 of 20"):
        hold_out_examples(TASKS["cola"], train * 10, 20)
