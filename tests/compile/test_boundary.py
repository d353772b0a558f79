"""The client's boundary: circuits that start after the first layer's projections."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from circuits.lookups import exact_lookup
from circuits.plan import network_stages
from compile.module import CompileOptions, build_module
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.runtime.client import Client
from fhe_inhibitor.runtime.server import Server
from tests.tiny_model import write_tiny_model


@pytest.fixture
def model(tmp_path: Path) -> IntegerModel:
    model = IntegerModel.load(write_tiny_model(tmp_path / "tiny"))
    return replace(model, network=replace(model.network, client_boundary="projection"))


def test_projections_are_the_first_stage_s_outputs(model: IntegerModel) -> None:
    whole = replace(model.network, client_boundary="embedding")
    first = network_stages(whole, 4)[0]
    assert [stage.name for stage in network_stages(model.network, 4)] == [
        stage.name for stage in network_stages(whole, 4)[1:]
    ]
    x, _ = model.encode(model.tokenize("the film is good"))
    projections = model.projections(x)
    expected = first.evaluate([x], exact_lookup)
    assert tuple(projections) == first.outputs
    for value, output in zip(projections.values(), expected, strict=True):
        assert np.array_equal(value, output)


@pytest.mark.fhe
@pytest.mark.slow
def test_the_server_starts_after_the_projections(model: IntegerModel, tmp_path: Path) -> None:
    options = CompileOptions(exact_rounding=True)
    build_module(model.network, model.buckets[:1], options).save(tmp_path / "circuits")
    client, server = Client(tmp_path / "circuits"), Server(tmp_path / "circuits")
    client.generate_keys()
    keys = server.read_evaluation_keys(client.evaluation_keys())
    x, padding = model.encode(model.tokenize("good film"))
    with pytest.raises(InputError, match="projections"):
        client.encrypt(x, padding)
    with pytest.raises(InputError, match=r"layer0\.head0"):
        client.encrypt(x, padding, {k: v + 100 for k, v in model.projections(x).items()})
    response = server.run(client.encrypt(x, padding, model.projections(x)), keys)
    assert np.array_equal(client.decrypt(response), model.integer_logits(x, padding))
