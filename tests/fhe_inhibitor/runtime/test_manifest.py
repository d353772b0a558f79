"""A manifest comes back as it was; another version, network or content is one clear error."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuits.blocks import LayerBlocks
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.manifest import (
    BLOCKS_FORMAT,
    CONCRETE_VERSION,
    DOCUMENTS_FORMAT,
    FORMAT_VERSION,
    MANIFEST_FILE,
    Documents,
    Encryption,
    Manifest,
    Program,
    Task,
    check_files,
    read_manifest,
)
from tests.conftest import REPOSITORY

MANIFEST = Manifest(
    model_hash="ab" * 32,
    keys_hash="cd" * 32,
    p_error=2**-20,
    exact_rounding=False,
    dim=4,
    n_labels=2,
    input_range=(-8, 7),
    logit_range=(-48, 48),
    programs={
        8: Program(
            (Encryption("x.0", "x", "project_n8", 0),),
            (Task("project", "project_n8", ("x.0",), ("logits",), {3: 7, 5: 9}),),
        )
    },
    benchmarks={5: "benchmark_5_bits"},
    benchmark_size=64,
)

LONG = replace(
    MANIFEST,
    format_version=DOCUMENTS_FORMAT,
    documents=Documents(
        Task("score", "score", ("features",), ("score",), {4: 3}), {2: "add2", 3: "add3"}, 8, 3
    ),
)


def test_the_version_of_concrete_is_the_one_that_is_installed_and_pinned() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    pins = [
        line for line in project["project"]["dependencies"] if line.startswith("concrete-python")
    ]
    assert pins == [f"concrete-python=={CONCRETE_VERSION}"]
    assert version("concrete-python") == CONCRETE_VERSION


def test_a_manifest_comes_back(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path)
    assert read_manifest(tmp_path, MANIFEST.model_hash) == MANIFEST
    assert MANIFEST.program(8).tasks[0].n_lookups == 16


def test_a_manifest_with_long_documents_comes_back(tmp_path: Path) -> None:
    LONG.write(tmp_path)
    assert read_manifest(tmp_path) == LONG
    content = json.loads((tmp_path / MANIFEST_FILE).read_text())
    assert content.pop("documents")["adds"] == {"2": "add2", "3": "add3"}
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(content))
    with pytest.raises(InputError, match="has format 3"):
        read_manifest(tmp_path)
    MANIFEST.write(tmp_path)
    content = json.loads((tmp_path / MANIFEST_FILE).read_text())
    assert "documents" not in content  # which would change the hash of all circuits
    assert content["format_version"] == FORMAT_VERSION


def test_a_manifest_of_blocks_comes_back_and_others_have_none(tmp_path: Path) -> None:
    program = replace(
        MANIFEST.program(8),
        encryptions=tuple(
            Encryption(f"x.rows{i}.0", "x", "project_n8", 0, rows)
            for i, rows in enumerate([(0, 5), (5, 8)])
        ),
    )
    cut = replace(
        MANIFEST,
        format_version=BLOCKS_FORMAT,
        programs={8: program},
        blocks={8: (LayerBlocks(2, 1, 1),)},
    )
    cut.write(tmp_path)
    assert read_manifest(tmp_path) == cut
    x = np.arange(8)
    taken = [encryption.take({"x": x}).tolist() for encryption in cut.program(8).encryptions]
    assert taken == [[0, 1, 2, 3, 4], [5, 6, 7]]
    MANIFEST.write(tmp_path)
    content = (tmp_path / MANIFEST_FILE).read_text()
    assert "rows" not in content and "blocks" not in content  # which would change the hash
    (tmp_path / MANIFEST_FILE).write_text(json.dumps({**json.loads(content), "blocks": {}}))
    with pytest.raises(InputError, match="has format 2 .* reads 4"):
        read_manifest(tmp_path)


def test_a_document_runs_the_tasks_of_each_piece_and_adds_the_scores() -> None:
    program = LONG.program(8, 2)
    assert [e.name for e in program.encryptions] == ["piece1.x.0", "piece2.x.0"]
    score1, score2, add = program.tasks
    assert (score1.stage, score1.function) == ("piece 1/2: score", "score")
    assert (score2.inputs, score2.outputs) == (("piece2.features",), ("piece2.score",))
    assert (add.function, add.inputs) == ("add2", ("piece1.score", "piece2.score"))
    assert (add.outputs, add.n_lookups) == (("logits",), 0)
    assert (LONG.max_pieces, LONG.step(2), LONG.step(1)) == (3, 8, 1)
    assert (LONG.output_range(3), LONG.output_range()) == ((-9, 9), (-48, 48))
    assert LONG.program(8, 1) == MANIFEST.program(8)
    with pytest.raises(InputError, match="4 pieces: these circuits take 3 at most"):
        LONG.program(8, 4)
    with pytest.raises(InputError, match=r"2 pieces: these circuits take 1 at most.*serve --long"):
        MANIFEST.program(8, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 0}, "has format 0.*compile the model again"),
        ({"concrete_version": "2.10.0"}, "for Concrete 2.10.0"),
        ({"model_hash": "00" * 32}, "belongs to the model 000000000000, wanted abababababab"),
        ({"programs": {"8": {"tasks": []}}}, "can't be read as circuits"),
        ({"surplus": 1}, "can't be read as circuits"),
        ({"input_range": 3}, "can't be read as circuits"),
        ({"logit_range": []}, "can't be read as circuits"),
    ],
)
def test_another_manifest_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    MANIFEST.write(tmp_path)
    path = tmp_path / MANIFEST_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path, MANIFEST.model_hash)


@pytest.mark.parametrize("content", ["", "[]", "null", "{", '{"format_version": 1}'])
def test_damage_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST_FILE).write_text(content)
    with pytest.raises(InputError, match="compile the model again"):
        read_manifest(tmp_path)


def test_a_missing_manifest_and_length_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=str(tmp_path)):
        read_manifest(tmp_path)
    with pytest.raises(InputError, match="9 tokens: these circuits take 8, 16"):
        replace(MANIFEST, programs={16: MANIFEST.program(8), **MANIFEST.programs}).program(9)


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    library = tmp_path / "server" / "library"
    library.parent.mkdir()
    library.write_bytes(b"native code")
    MANIFEST.write(tmp_path)
    check_files(tmp_path, "server/")
    for spoil in (lambda: library.write_bytes(b"native"), library.unlink):
        spoil()
        with pytest.raises(InputError, match=f"{library} (is damaged|can't be read)"):
            check_files(tmp_path, "server/")
    with pytest.raises(InputError, match="client.specs.json can't be read"):
        check_files(tmp_path, "client.specs.json")
    for content in ("[]", "{", ""):
        (tmp_path / "sha256.json").write_text(content)
        with pytest.raises(InputError, match=r"sha256\.json can't be read"):
            check_files(tmp_path, "server/")
