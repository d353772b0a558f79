"""The page of evaluations: its figures, its plots, and every logit as JSON."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from compile.evaluation.page import write_page
from compile.evaluation.records import TextRecord
from fhe_inhibitor.errors import InputError
from tests.compile.evaluation.records import header, sitting, text, write

PLOTS = ("accuracy", "margins", "differences", "calibration")


def random_texts(n: int, n_labels: int = 2, **changes: object) -> list[TextRecord]:
    rng = np.random.default_rng(0)
    clear = rng.integers(-20, 21, (n, n_labels))
    noise = rng.integers(-15, 16, (3, n, n_labels))
    return [
        text(
            index,
            int(rng.integers(n_labels)),
            (clear[index] + noise[0, index]).tolist(),
            clear_logits=clear[index].tolist(),
            drawn_logits=(clear[index] + noise[1:, index]).tolist(),
            **changes,
        )
        for index in range(n)
    ]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Ten texts of ten; the machine was quiet for the last four."""
    texts = [
        record.model_copy(update={"sitting": int(record.index > 5)}) for record in random_texts(10)
    ]
    second = sitting(timed=True, lookup_s={4: 0.006, 5: 0.012})
    return write(tmp_path / "file.jsonl", header(), texts, sitting(), second)


def assert_is_image(folder: Path, name: str) -> None:
    picture = imread(folder / f"{name}.png")
    assert picture.shape[0] > 300 and len(np.unique(picture)) > 10
    assert ET.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")


def test_page_plots_and_json_are_there(file: Path, tmp_path: Path) -> None:
    page = write_page([file], tmp_path / "docs")
    assert page == tmp_path / "docs" / "decrypted_accuracy.md"
    content = page.read_text()
    figures = tmp_path / "docs" / "decrypted_accuracy" / "tiny-dev-4"
    for name in (*PLOTS, "stages"):
        assert f"](decrypted_accuracy/tiny-dev-4/{name}.png)" in content
        assert_is_image(figures, name)
    assert len(list(figures.iterdir())) == 10
    for words in (
        "| tiny | 4 | all 10 |",
        "--mode execute --model tiny --data dev.tsv --tokens 4 --draws 2 --out FILE.jsonl --timed",
        "a processor, 2 cores, 8 GB; python 3.11.7; commit abc1234; 2026-01-01 | 2 | 10 | 4 |",
        " of 10 | 1,800 |",
        "**1,800 texts an hour**",
        "Load average when they began: 0.1. One",
        "4 bits 6.00 ms, 5 bits 12.00 ms",
        "| layer0.project | 1 (50%) |",
        "| rest | 0.5 (25%) |",
    ):
        assert words in content
    (run,) = json.loads((tmp_path / "docs" / "decrypted_accuracy.json").read_text())["runs"]
    assert [row["index"] for row in run["texts"]] == list(range(10))
    for row, record in zip(run["texts"], random_texts(10), strict=True):
        assert tuple(row["logits"]) == record.logits
        assert tuple(row["clear_logits"]) == record.clear_logits
        assert ("seconds" in row) == ("stages" in row) == (record.index > 5)
    assert run["analysis"]["accuracy"]["decrypted"]["n"] == 10


def test_times_are_left_out_unless_the_machine_was_quiet(tmp_path: Path) -> None:
    file = write(tmp_path / "file.jsonl", header(n_texts=12), random_texts(10))
    page = write_page([file], tmp_path).read_text()
    assert "No times are told" in page and "texts an hour**" not in page
    assert "10 of 12" in page and "--timed" in page.split("### Time")[1]
    assert "--timed" not in page.split("### Accuracy")[0]
    assert not list(tmp_path.rglob("stages.*"))
    assert '"seconds"' not in (tmp_path / "decrypted_accuracy.json").read_text()


def test_nothing_of_the_figures_is_typed(file: Path, tmp_path: Path) -> None:
    """The table's accuracies are those that the logits give."""
    page = write_page([file], tmp_path).read_text()
    right = {
        "decrypted": [np.argmax(r.logits) == r.label for r in random_texts(10)],
        "integers": [np.argmax(r.clear_logits) == r.label for r in random_texts(10)],
    }
    for name, values in right.items():
        (shown,) = re.findall(rf"^\| {name} \| ([\d.]+)% \|", page.split("### Labels")[0], re.M)
        assert float(shown) == pytest.approx(100 * np.mean(values), abs=0.05)
    changed = sum(np.argmax(r.logits) != np.argmax(r.clear_logits) for r in random_texts(10))
    assert changed > 0 and f"{changed} of 10 labels are others" in page


def test_pages_of_the_same_files_are_equal(file: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_page([file], tmp_path / name)
    written = sorted(p for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(written) == 12
    for path in written:
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_each_file_has_a_section(file: Path, tmp_path: Path) -> None:
    """Also one without noise and float student, and one that was simulated, with three labels."""
    plain = [
        record.model_copy(update={"drawn_logits": (), "float_logits": None})
        for record in random_texts(6, 3)
    ]
    of = header(
        mode="simulate", circuits_hash=None, labels=("a", "b", "c"), n_draws=0, float_sha256=None
    )
    other = write(tmp_path / "simulated.jsonl", of, plain)
    page = write_page([file, other], tmp_path).read_text()
    assert page.count("\n## tiny, 4 tokens\n") == 2
    assert page.count("**Simulated**") == 1 and "--no-rounding-noise" in page
    folder = tmp_path / "decrypted_accuracy" / "tiny-dev-4-simulated"
    for name in PLOTS:
        assert_is_image(folder, name)


def test_data_whose_names_have_no_letters_of_ascii_are_told_apart(tmp_path: Path) -> None:
    files = [
        write(
            tmp_path / f"{digit}.jsonl",
            header(data=f"{name}.tsv", data_sha256=digit * 64),
            random_texts(10),
        )
        for digit, name in (("a", "\u6587"), ("b", "\u672c"))
    ]
    write_page(files, tmp_path / "docs")
    folders = sorted(path.name for path in (tmp_path / "docs" / "decrypted_accuracy").iterdir())
    assert folders == ["tiny---4-aaaaaaaa", "tiny---4-bbbbbbbb"]
    with pytest.raises(InputError, match="second evaluation"):
        write_page([files[0], files[0]], tmp_path / "docs")


def test_files_without_decrypted_logits_are_refused(file: Path, tmp_path: Path) -> None:
    clear = [r.model_copy(update={"logits": None}) for r in random_texts(3)]
    other = write(tmp_path / "clear.jsonl", header(mode="disable", circuits_hash=None), clear)
    out = tmp_path / "docs"
    with pytest.raises(InputError, match="nothing was decrypted"):
        write_page([file, other], out)
    with pytest.raises(InputError, match="second evaluation of tiny on 4 tokens"):
        write_page([file, file], out)
    assert not out.exists()
