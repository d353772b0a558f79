"""An entry of the plan makes language models, a result and a checkpoint that can be compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from demos import next_character
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.experiments.language import (
    LanguageExperiment,
    LanguageResult,
    run_language,
)
from fhe_inhibitor.experiments.plan import read_plan, run_plan
from fhe_inhibitor.experiments.report import write_report
from fhe_inhibitor.integer.model import IntegerModel
from tests.observers import Recording

TINY = {
    "generated": 60,
    "held_out": 20,
    "context": 8,
    "small_context": 4,
    "steps": 3,
    "small_steps": 4,
    "batch_size": 2,
    "small_batch_size": 2,
    "n_layers": 1,
    "dim": 8,
    "small": {"dim": 8, "hidden_dim": 0, "value_head_dim": [2, 2]},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Work and results of a plan with one entry."""
    root = tmp_path_factory.mktemp("language")
    entry = {"name": "language", "kind": "language", "keep": True, "settings": TINY}
    (root / "plan.yaml").write_text(yaml.safe_dump({"experiments": [entry]}))
    observer = Recording()
    paths = run_plan(read_plan(root / "plan.yaml"), root / "work", root / "results", None, observer)
    assert [path.stem for path in paths] == ["only"]
    names = ("teacher", "continued", "distilled", "labels", "integers", "twin")
    assert observer.steps == [f"train {name}" for name in names]
    return root / "work" / "language" / "only", root / "results"


def test_the_result_has_the_perplexity_of_each_model_at_its_contexts(
    folders: tuple[Path, Path],
) -> None:
    path = folders[1] / "language" / "only.json"
    result = LanguageResult.model_validate_json(path.read_text())
    found = {
        (row.recipe, row.settings["context"], row.settings["integers"])
        for row in result.rows
        if row.metric == "perplexity" and 1 < row.value < 1000
    }
    assert found == {
        *(
            (name, n, False)
            for name in ("teacher", "continued", "distilled", "labels")
            for n in (4, 8)
        ),
        *((name, 4, True) for name in ("integers", "twin")),
    }
    kinds = {row.recipe: row.settings["attention_kind"] for row in result.rows}
    assert kinds["teacher"] == kinds["continued"] == kinds["twin"] == "dot_product"
    assert kinds["distilled"] == kinds["labels"] == "inhibitor_signed"


def test_the_page_has_a_row_for_each(folders: tuple[Path, Path], tmp_path: Path) -> None:
    page = write_report(folders[1], tmp_path)
    section = page[page.index("Causal language models") :]
    assert "characters of sentences of a small grammar to learn from" in section
    assert section.count("| dot product | 1 |") == 2
    assert "| small inhibitor, integers with noise | 2 | 4 |" in section


def test_the_checkpoint_predicts_the_next_character(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folders[0] / "integers"
    model = IntegerModel.load(folder)
    assert model.causal and model.network.causal and len(model.labels) == 30
    next_character.main("the film", folder, mode="disable", characters=2)
    out = capsys.readouterr().out
    logits = model.integer_logits(*model.encode(model.tokenize("film")))
    best = model.labels[int(logits.argmax())]
    assert f"predicted: {best}; exact integers: {best}; logits differ by 0" in out
    assert f"context: {'the film' + best.replace('space', ' ')!r}" in out


def test_a_finished_folder_is_read_and_another_experiment_s_refused(
    folders: tuple[Path, Path],
) -> None:
    again = Recording()
    run_language(LanguageExperiment(**TINY), folders[0], again)
    assert not again.steps
    with pytest.raises(InputError, match="is the folder of another experiment"):
        run_language(LanguageExperiment(**{**TINY, "seed": 1}), folders[0])


def test_a_stopped_run_keeps_the_models_that_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fhe_inhibitor.experiments import language

    experiment, train = LanguageExperiment(**TINY), language.train_language

    def stopping(*arguments: Any) -> None:
        if arguments[4].stem == "labels":
            raise KeyboardInterrupt
        train(*arguments)

    monkeypatch.setattr(language, "train_language", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_language(experiment, tmp_path / "out")
    monkeypatch.setattr(language, "train_language", train)
    observer = Recording()
    result = run_language(experiment, tmp_path / "out", observer)
    assert observer.steps == ["train labels", "train integers", "train twin"]
    whole = run_language(experiment, tmp_path / "whole")
    assert result.rows == whole.rows and set(result.phase_s) == set(whole.phase_s)


def test_text_without_sentences_to_learn_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="20 sentences, of which 20 are held out"):
        run_language(LanguageExperiment(**{**TINY, "generated": 20}), tmp_path / "out")
    assert not (tmp_path / "out").exists()
