"""Words are rendered the same for a seed; IAM's list is read as its authors describe it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.images.words import HEIGHT, WIDTH, load_iam, render_words


def test_rendered_words_depend_on_the_seed_alone() -> None:
    splits, again, other = (render_words(6, 3, seed) for seed in (0, 0, 1))
    assert splits.train.images.shape == (6, HEIGHT, WIDTH)
    assert (splits.train.images == again.train.images).all()
    assert splits.train.words == again.train.words != other.train.words
    assert set("".join(splits.train.words)) <= set(splits.alphabet)
    assert not set(splits.train.words) & set(splits.test.words)
    assert (splits.train.images.max(axis=(1, 2)) > 100).all()  # there is ink on each


def test_iam_is_read_and_split_by_forms(tmp_path: Path) -> None:
    lines = ["# a comment"]
    for form in ("a01-000u", "a01-003", "b02-010"):
        (tmp_path / "words" / form[:3] / form).mkdir(parents=True)
        for number, word in enumerate(("A", "move,", "to")):
            name = f"{form}-00-0{number}"
            state = "err" if word == "to" else "ok"
            lines.append(f"{name} {state} 154 408 768 27 51 AT {word}")
            page = np.full((20, 40), 255, np.uint8)
            page[5:15, 10 + number] = 0  # a stroke of ink
            Image.fromarray(page).save(tmp_path / "words" / form[:3] / form / f"{name}.png")
    (tmp_path / "words.txt").write_text("\n".join(lines))
    splits = load_iam(tmp_path)
    assert (len(splits.train), len(splits.test)) == (4, 2)
    assert splits.train.words == ("A", "move,", "A", "move,")
    assert splits.alphabet == ",Aemov"
    assert splits.train.images[0].max() > 100 and splits.train.images[0].min() == 0  # ink is bright


def test_a_folder_without_words_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no words\.txt"):
        load_iam(tmp_path)
    (tmp_path / "words.txt").write_text("a01-000u-00-00 ok 154 408 768 27 51 AT A\n")
    with pytest.raises(InputError, match="words of 1 forms"):
        load_iam(tmp_path)
    (tmp_path / "words.txt").write_text(
        "a01-000u-00-00 ok 1 4 7 2 5 AT A\nb01-000u-00-00 ok 1 4 7 2 5 AT A\n"
    )
    with pytest.raises(InputError, match="can't be read as an image"):
        load_iam(tmp_path)
