"""What is compiled has the widths and counts of the formula; a golden report pins them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from concrete.fhe.compilation.configuration import SecurityLevel

import compile.module
from circuits.blocks import LayerBlocks
from circuits.counts import count_lookups
from circuits.network import Network, run
from circuits.plan import network_stages
from compile.manifests import network_digest
from compile.module import CompiledNetwork, CompileOptions, build_module, configuration
from compile.report import describe
from compile.verifier import VerificationError, verify
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.runtime.manifest import read_manifest
from fhe_inhibitor.runtime.security import parse
from tests.execution import check_simulated
from tests.networks import NetworkShape, evaluate_stages, random_inputs, random_network

GOLDEN = {
    "layer0.project": {5: 64},
    "layer0.attend.head0": {3: 84, 4: 30},
    "layer0.attend.head1": {3: 84, 4: 30},
    "layer0.feed_forward": {5: 32},
    "layer1.project": {5: 64},
    "layer1.attend.head0": {3: 16, 5: 8},
    "layer1.attend.head1": {3: 16, 5: 8},
    "layer1.feed_forward": {5: 8},
    "classify": {5: 10},
}


@pytest.fixture(scope="module")
def network() -> Network:
    return random_network(np.random.default_rng(0))


@pytest.fixture(scope="module")
def compiled(network: Network) -> CompiledNetwork:
    return build_module(network, (4, 6))


def test_concrete_is_told_the_security_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own default is 128 bits as well, until it is another."""
    stronger = SecurityLevel.SECURITY_132_BITS
    monkeypatch.setattr("compile.module.SECURITY", stronger)
    assert configuration(2.0**-20).security_level is stronger


def test_golden_report(compiled: CompiledNetwork) -> None:
    report = describe(compiled)
    length = report.lengths[0]
    assert {stage.stage: dict(sorted(stage.lookups.items())) for stage in length.stages} == GOLDEN
    assert all(stage.lookups == stage.formula for stage in length.stages)
    assert (length.n, length.n_lookups, report.widest_lookup) == (4, 454, 5)
    assert length.failure_probability == pytest.approx(454 * 2**-20, rel=1e-3)
    assert (report.security_bits, report.n_functions) == (128, 2 * 7 + 2 + 3)
    assert length.request_bytes < 3000 and length.response_bytes < 40_000


def test_the_report_can_be_read(compiled: CompiledNetwork) -> None:
    report = replace(describe(compiled), evaluation_keys_bytes=86_000_000, lookup_s={5: 0.0077})
    assert json.loads(report.to_json())["lengths"][1]["n"] == 6
    markdown = report.to_markdown()
    for part in ("128 bit", "86.0 MB as sent", "5 bits 7.7 ms", "layer1.feed_forward", "0.04%"):
        assert part in markdown


def test_the_report_shows_the_parameters_of_the_keys(compiled: CompiledNetwork) -> None:
    report = describe(compiled)
    specs = json.loads(compiled.module.client.specs.serialize())["keyset"]
    keys, bootstrap = specs["lweSecretKeys"], specs["lweBootstrapKeys"][0]
    assert [key.dimension for key in report.parameters] == [
        key["params"]["lweDimension"] for key in keys
    ]
    first = report.parameters[bootstrap["outputId"]]
    assert first.polynomial_size == bootstrap["params"]["polynomialSize"]
    assert first.log2_std == pytest.approx(math.log2(bootstrap["params"]["variance"]) / 2)
    assert first.encrypts.startswith("bootstrap keys 0")
    assert json.loads(report.to_json())["parameters"][0]["dimension"] == first.dimension
    rows = [line for line in report.to_markdown().splitlines() if " | 128 bits +0.00 | " in line]
    assert len(rows) == len(keys)


def test_the_size_of_keys_is_known_from_the_specifications(compiled: CompiledNetwork) -> None:
    """For bootstrap keys Concrete's figure counts the GLWE dimension once too often."""
    module = compiled.module
    keyset = parse(module.client.specs.serialize()).keyset
    bootstrap = [k.n_bytes * k.params.glwe_dimension for k in keyset.lwe_bootstrap_keys]
    assert sum(bootstrap) == module.size_of_bootstrap_keys
    assert sum(k.n_bytes for k in keyset.lwe_keyswitch_keys) == module.size_of_keyswitch_keys


def test_the_simulated_module_agrees(compiled: CompiledNetwork) -> None:
    rng = np.random.default_rng(1)
    for n in (4, 6):
        check_simulated(compiled, *random_inputs(rng, compiled.network, n, n_padded=1))


def test_lengths_share_functions_that_do_not_depend_on_them(compiled: CompiledNetwork) -> None:
    functions = [
        {task.stage: task.function for task in compiled.manifest.program(n).tasks} for n in (4, 6)
    ]
    shared = {stage for stage in functions[0] if functions[0][stage] == functions[1][stage]}
    assert shared == {"layer1.feed_forward", "classify"}


def test_a_saved_folder_is_whole_and_never_overwritten(
    compiled: CompiledNetwork, tmp_path: Path
) -> None:
    folder = tmp_path / "some" / "circuits"
    compiled.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "circuits.json",
        "client.specs.json",
        "server",
        "sha256.json",
    ]
    assert read_manifest(folder, network_digest(compiled.network)) == compiled.manifest
    with pytest.raises(InputError, match="is not empty"):
        compiled.save(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["circuits"]


def test_the_stages_are_the_network(network: Network) -> None:
    x, padding = random_inputs(np.random.default_rng(2), network, 5, n_padded=2)
    values = evaluate_stages(network_stages(network, len(x)), {"x": x, "padding": padding})
    assert (values["logits"][0] == run(network, x, padding)).all()


def test_a_digest_tells_networks_apart(network: Network) -> None:
    digest = network_digest(network)
    assert digest == network_digest(random_network(np.random.default_rng(0)))
    assert digest != network_digest(random_network(np.random.default_rng(1)))
    assert digest != network_digest(replace(network, input_range=(-8, 8)))
    causal = tuple(replace(layer, causal=True) for layer in network.layers)
    assert digest != network_digest(replace(network, layers=causal))
    near, far = (
        network_digest(replace(network.layers[0], window=window, max_offset=max_offset))
        for window, max_offset in ((1, 12), (11, 2))
    )
    assert near != far


def test_the_digest_of_the_shipped_network_is_what_it_was() -> None:
    """Circuits that were compiled of a bare network are known by it."""
    digest = network_digest(IntegerModel.load().network)
    assert digest == "1be45d54ce8fa8f7cd1cf24f8e0664286362487c993052faccc1f3660f91a418"


def test_lengths_that_do_not_fit_the_pooling_are_refused() -> None:
    network = random_network(np.random.default_rng(0), NetworkShape(n_layers=3, pooling=(1, 2)))
    with pytest.raises(InputError, match=r"lengths \[3, 4\]: wanted multiples of 2, since"):
        build_module(network, (4, 3))
    with pytest.raises(InputError, match="multiples of 2"):
        verify(network, 5)


@pytest.mark.parametrize("buckets", [(), (0, 4), (-1,)])
def test_wrong_lengths_are_refused(network: Network, buckets: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="sequence lengths"):
        build_module(network, buckets)


def test_a_count_that_differs_is_refused(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(network: Network, n: int, blocks: Sequence[LayerBlocks] = ()) -> dict:
        counts = count_lookups(network, n, blocks)
        counts["classify"][5] += 1
        return counts

    monkeypatch.setattr(compile.module, "count_lookups", wrong)
    with pytest.raises(VerificationError, match="classify: Concrete has 10 lookups"):
        build_module(network, (2,))


@pytest.mark.fhe
@pytest.mark.parametrize(("last_query", "window"), [("constant", 2), ("first", 0), ("all", 1)])
@pytest.mark.parametrize("attention", ["inhibitor", "inhibitor_signed", "dot_product"])
def test_counts_agree_for_every_kind(attention: str, last_query: str, window: int) -> None:
    """`build_module` compares Concrete's counts with the formula itself."""
    shape = NetworkShape(
        attention, window=window, last_query=last_query, hidden_dim=5, dim=6, keys_per_sum=2
    )
    compiled = build_module(random_network(np.random.default_rng(7), shape), (5,))
    assert describe(compiled).lengths[0].n_lookups > 0


@pytest.mark.fhe
@pytest.mark.parametrize("attention", ["inhibitor_signed", "dot_product"])
def test_a_causal_network_is_simulated_as_it_is_computed(attention: str) -> None:
    """Padding comes first; counts of what was compiled are compared with the formula."""
    shape = NetworkShape(
        attention, n_heads=1, dim=4, window=0, last_query="first", last_key_dim=2, causal=True
    )
    rng = np.random.default_rng(3)
    compiled = build_module(random_network(rng, shape), (3,))
    for n_padded in (0, 2):
        check_simulated(compiled, *random_inputs(rng, compiled.network, 3, n_padded))


def test_an_exact_table_beside_a_wide_sum_is_refused() -> None:
    """Some sums of x need 9 bits, others 10, and none is rounded."""
    shape = NetworkShape(
        n_layers=1, n_heads=1, dim=4, last_key_dim=2, lookup_bits=11, weight_limit=12
    )
    network = random_network(np.random.default_rng(0), shape)
    with pytest.raises(VerificationError, match=r"\{10: 12\} by width.* round what this"):
        build_module(network, (2,), CompileOptions(max_bits=10))


@pytest.mark.fhe
def test_an_unreachable_p_error_is_refused() -> None:
    shape = NetworkShape(n_layers=1, dim=4, last_key_dim=2, lookup_bits=11, weight_limit=100)
    network = random_network(np.random.default_rng(0), shape)
    with pytest.raises(InputError, match="no parameters reach p_error"):
        build_module(network, (2,), CompileOptions(p_error=2.0**-200, max_bits=11))


@pytest.mark.fhe
def test_wide_lookups_compile_where_they_are_allowed() -> None:
    shape = NetworkShape(n_layers=1, n_heads=1, dim=4, lookup_bits=7, last_key_dim=2)
    network = random_network(np.random.default_rng(0), shape)
    assert describe(build_module(network, (2,), CompileOptions(max_bits=8))).widest_lookup == 7
