"""The cache of circuits: what lies in it is of the very model that asks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, normalizers

from compile.local import prepared
from compile.local.prepared import prepare_circuits
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.runtime.manifest import TOKENIZER_FILE
from tests.tiny_model import write_tiny_model


class NoCircuits:
    """Stands for circuits, which take seconds to compile: saves a folder without any."""

    def save(self, folder: Path, simulated: bool) -> None:
        folder.mkdir()


def test_models_that_differ_in_their_tokenizer_alone_share_no_public_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "compile_model", lambda *arguments: NoCircuits())
    model = IntegerModel.load(write_tiny_model(tmp_path / "tiny"))
    tokenizer = Tokenizer.from_str(model.tokenizer.to_str())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    other = replace(model, tokenizer=tokenizer)
    assert other.hash == model.hash
    for one in (model, other):
        folder = prepare_circuits(one, tmp_path / "cache")
        assert (folder / TOKENIZER_FILE).read_text() == one.tokenizer.to_str()
