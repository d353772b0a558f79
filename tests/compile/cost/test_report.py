"""What is predicted of a network is what its compiled circuits have."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuits.lookups import SaturatingTable
from circuits.network import Network
from compile.complexity import bootstrap_units, keyswitch_units
from compile.cost.classes import classify_lookups
from compile.cost.report import CostReport, estimate
from compile.cost.sketch import squares
from compile.cost.speed import read_speed
from compile.cost.trace import Port, TracedFunction, TracedLookup
from compile.module import CompileOptions, build_module
from compile.report import Report, describe
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import CHECKPOINTS, DEFAULT_MODEL, REPOSITORY_ONLY, IntegerModel
from fhe_inhibitor.model.configuration import InhibiDistilBertConfig
from fhe_inhibitor.model.untrained import read_config, untrained_network
from fhe_inhibitor.runtime.client import Client
from fhe_inhibitor.runtime.specifications import BootstrapParams, KeyswitchParams
from tests.networks import NetworkShape, random_network

P_ERROR = 2.0**-20
TOLERANCE = 0.01  # a tenth of what is promised; where heads are alike, nothing differs
QUICK = {
    "inhibitor": (NetworkShape(), (4, 6)),
    "dot product": (NetworkShape("dot_product", last_query="first"), (4,)),
    "signed, feed-forward, pooling": (
        NetworkShape(
            "inhibitor_signed",
            n_layers=3,
            window=1,
            hidden_dim=8,
            last_query="first",
            pooling=(1, 2),
        ),
        (4,),
    ),
}
BROAD = {
    "signed, feed-forward": (
        NetworkShape("inhibitor_signed", n_layers=3, window=1, hidden_dim=8, last_query="first"),
        (5,),
    ),
    "saturating": (NetworkShape(saturating=True, hidden_dim=8, last_query="first"), (4, 6)),
    "saturating dot product": (
        NetworkShape("dot_product", saturating=True, bits=3, lookup_bits=4, keys_per_sum=2), (4,)
    ),
    "saturating, signed, partial sums": (
        NetworkShape("inhibitor_signed", saturating=True, lookup_bits=4, keys_per_sum=3, dim=16),
        (6,),
    ),
    "3 bits": (NetworkShape(lookup_bits=3, bits=1, last_key_dim=2), (4,)),
    "4 bits": (NetworkShape(lookup_bits=4, key_dim=1, last_key_dim=2), (4,)),
    "4 bits, heavy": (
        NetworkShape(
            lookup_bits=4, key_dim=1, last_key_dim=2, dim=24, weight_limit=20, hidden_dim=16
        ),
        (4,),
    ),
    "5 bits, wide": (NetworkShape(dim=32, last_key_dim=8, max_tokens=24, keys_per_sum=4), (8, 12)),
    "6 bits, heavy, no window": (
        NetworkShape(
            lookup_bits=6, bits=3, dim=32, weight_limit=9, hidden_dim=24, last_query="first",
            window=0,
        ),
        (6, 8),
    ),
    "all queries, logits without lookup": (
        NetworkShape(hidden_dim=16, last_query="all", plain_logits=True), (4,)
    ),
    "partial sums": (NetworkShape("inhibitor_signed", keys_per_sum=3, last_query="first"), (8,)),
    "pooling twice, feed-forward, all queries": (
        NetworkShape(n_layers=3, pooling=(2, 2), hidden_dim=8, last_query="all", weight_limit=6),
        (4, 8),
    ),
    "pooling, saturating dot product": (
        NetworkShape(
            "dot_product", saturating=True, bits=3, lookup_bits=4, pooling=(2,), last_query="first"
        ),
        (8,),
    ),
    "causal": (NetworkShape(causal=True, window=0, hidden_dim=8, last_query="first"), (4, 6)),
    "dot product, 6 bits": (
        NetworkShape("dot_product", bits=3, lookup_bits=6, keys_per_sum=4), (8,)
    ),
}  # fmt: skip
FULL_SHAPE: dict[str, Any] = {
    "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "n_tokens": 8,
    "normalization": "static", "vocab_size": 10,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "full attention": {"quantization": {"table_bits": 6, "weight_norm": 22.0, "weight_bits": 6}},
    "saturating": {
        "attention_window": [2, 2, 0],
        "quantization": {"sum_reach": 1.9, "key_bits": 3, "value_bits": [3, 3, 4]},
    },
    "saturating, 4 bits": {"quantization": {"sum_reach": 1.9, "table_bits": 4, "fan_in": 16}},
    "signed": {
        "attention_kind": "inhibitor_signed",
        "key_head_dim": 4,
        "quantization": {"value_bits": 3, "key_bits": 2},
    },
    "dot product": {"attention_kind": "dot_product", "quantization": {"table_bits": 6}},
    "pooling": {
        "pooling": [1, 2, 1],
        "attention_window": [2, 0, 0],
        "buckets": [4, 8],
        "key_head_dim": 4,
        "quantization": {"value_bits": 3, "sum_reach": 1.5},
    },
}


def check_agreement(network: Network, lengths: tuple[int, ...]) -> tuple[CostReport, Report]:
    predicted = estimate(network, lengths, P_ERROR)
    compiled = describe(build_module(network, lengths, CompileOptions(P_ERROR, max_bits=8)))
    for expected, length in zip(predicted.lengths, compiled.lengths, strict=True):
        assert expected.lookups == dict(sorted(length.lookups.items()))
        by_stage: dict[str, Counter[int]] = {}
        for stage in length.stages:
            name = stage.stage.partition(".head")[0]
            by_stage.setdefault(name, Counter()).update(stage.lookups)
        assert {stage.stage: stage.lookups for stage in expected.stages} == by_stage
        assert expected.request_bytes == length.request_bytes
        assert expected.response_bytes == length.response_bytes
    assert predicted.complexity == pytest.approx(compiled.complexity, rel=TOLERANCE)
    for size in ("bootstrap_keys_bytes", "keyswitch_keys_bytes"):
        assert getattr(predicted, size) == pytest.approx(getattr(compiled, size), rel=0.1)
    return predicted, compiled


@pytest.mark.parametrize("name", QUICK)
def test_predicted_is_compiled(name: str) -> None:
    shape, lengths = QUICK[name]
    check_agreement(random_network(np.random.default_rng(0), shape), lengths)


@pytest.mark.slow
@pytest.mark.parametrize("name", BROAD)
def test_predicted_is_compiled_for_other_widths_and_norms(name: str) -> None:
    shape, lengths = BROAD[name]
    check_agreement(random_network(np.random.default_rng(0), shape), lengths)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_predicted_is_compiled_for_configurations(name: str) -> None:
    network = untrained_network(InhibiDistilBertConfig(**FULL_SHAPE, **CONFIGS[name]))
    check_agreement(network, (4 if network.stride > 1 else 5, 8))


@pytest.mark.slow
def test_predicted_is_compiled_for_the_shipped_model() -> None:
    model = IntegerModel.load(DEFAULT_MODEL)
    check_agreement(model.network, (8, model.default_tokens))


@pytest.mark.slow
@pytest.mark.timeout(1800)  # two minutes on a quiet machine
def test_predicted_is_compiled_at_full_depth() -> None:
    check_agreement(IntegerModel.load(REPOSITORY_ONLY[0]).network, (12,))


@pytest.mark.parametrize("name", [DEFAULT_MODEL, REPOSITORY_ONLY[0]])
def test_an_untrained_model_costs_what_the_trained_one_does(name: str) -> None:
    if not (CHECKPOINTS / name).is_dir():
        pytest.skip(f"{name} is in the repository only")
    trained = IntegerModel.load(name)
    untrained = untrained_network(read_config(CHECKPOINTS / name))
    reports = [
        estimate(n, (trained.buckets[0],), trained.p_error) for n in (trained.network, untrained)
    ]
    assert reports[0].lengths[0].lookups == reports[1].lengths[0].lookups
    assert reports[1].complexity == pytest.approx(reports[0].complexity, rel=TOLERANCE)


def test_layers_of_one_shape_are_made_once() -> None:
    network = untrained_network(InhibiDistilBertConfig(**FULL_SHAPE, **CONFIGS["saturating"]))
    assert len(network.layers) == 3
    assert network.layers[0] is network.layers[1] and network.layers[1] is not network.layers[2]
    assert (network.layers[1].window, network.layers[2].window) == (2, 0)
    tables = [network.layers[0].attention_output.table, network.layers[2].heads[0].value.table]
    assert all(isinstance(table, SaturatingTable) for table in tables)
    assert tables[1].range == (-7, 7)  # of the last layer's value_bits


@pytest.mark.fhe
def test_keys_have_the_predicted_size(tmp_path: Path) -> None:
    network = random_network(np.random.default_rng(0), NetworkShape(n_layers=1))
    build_module(network, (4,)).save(tmp_path / "circuits")
    client = Client(tmp_path / "circuits")
    client.generate_keys()
    predicted = estimate(network, (4,), P_ERROR).evaluation_keys_bytes
    assert len(client.evaluation_keys()) == pytest.approx(predicted, rel=0.01)


def test_seconds_are_complexity_times_the_measured_time_of_a_unit(tmp_path: Path) -> None:
    network = random_network(np.random.default_rng(0), NetworkShape(n_layers=1))
    path = tmp_path / "report.json"
    measured = {
        "lookup_s": {"3": 0.001, "5": 0.004},
        "lookup_units": {"3": 1e7, "5": 2e7},
        "lengths": [{"lookups": {"3": 10, "5": 10}}, {"lookups": {"5": 20}}],
    }
    path.write_text(json.dumps(measured))
    speed = read_speed(path)
    assert speed.unit_s == pytest.approx((10 * 0.001 + 30 * 0.004) / (10 * 1e7 + 30 * 2e7))
    (length,) = estimate(network, (4,), P_ERROR, speed).lengths
    assert length.seconds == pytest.approx(length.units * speed.unit_s)
    assert length.units == pytest.approx(sum(stage.units for stage in length.stages))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[]", "isn't a report.json"),
        ("{", "can't be read as JSON"),
        pytest.param(100_000 * "[", "can't be read as JSON", id="deep"),
        ('{"lookup_s": null, "lookup_units": {}, "lengths": []}', "no measured lookups"),
        ('{"lookup_s": {}, "lookup_units": {}, "lengths": []}', "isn't a report.json"),
        *(
            (
                f'{{"lookup_s": {{"4": {seconds}}}, "lookup_units": {{"4": 1e8}}, '
                '"lengths": [{"lookups": {"4": 9}}]}',
                "lookup_s of lookups measured in .* at width 4, wanted a number above 0",
            )
            for seconds in ("NaN", "-1", "0", "Infinity")
        ),
    ],
)
def test_a_report_without_times_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(InputError, match=reason):
        read_speed(path)


def test_the_compile_report_has_the_complexity_of_a_lookup(tmp_path: Path) -> None:
    network = random_network(np.random.default_rng(0), NetworkShape(n_layers=1))
    predicted, compiled = check_agreement(network, (4,))
    for width, units in compiled.lookup_units.items():
        assert units == pytest.approx(predicted.lookup_units[width], rel=0.05)


def test_bad_lengths_are_refused() -> None:
    network = random_network(np.random.default_rng(0), NetworkShape(n_layers=1))
    with pytest.raises(InputError, match="at least one"):
        estimate(network, (), P_ERROR)
    with pytest.raises(InputError, match="all positive"):
        estimate(network, (0, 4), P_ERROR)


@pytest.mark.fhe
def test_an_unreachable_p_error_is_refused() -> None:
    shape = NetworkShape(n_layers=1, dim=4, last_key_dim=2, lookup_bits=11, weight_limit=100)
    network = random_network(np.random.default_rng(0), shape)
    with pytest.raises(InputError, match="no parameters reach p_error"):
        estimate(network, (2,), P_ERROR)


def test_complexity_by_hand() -> None:
    """Nano's lookup of 5 bits: polynomials of 2048, 852 bits, a keyswitch of 5 levels."""
    common = {"variance": 0.0, "integer_precision": 64, "key_type": "binary"}
    common["modulus"] = {"modulus": {"native": {}}}
    bootstrap = BootstrapParams.model_validate(
        {
            **common, "level_count": 1, "base_log": 23, "input_lwe_dimension": 852,
            "glwe_dimension": 1, "polynomial_size": 2048,
        },
        by_name=True,
    )  # fmt: skip
    keyswitch = KeyswitchParams.model_validate(
        {
            **common, "level_count": 5, "base_log": 3, "input_lwe_dimension": 2048,
            "output_lwe_dimension": 852,
        },
        by_name=True,
    )  # fmt: skip
    assert bootstrap_units(bootstrap) == 852 * (2 * 2 * 2048 * 12 + 4 * 2048)
    assert keyswitch_units(keyswitch) == 10240 + 10240 * 853 + 10239 * 853 + 1


@pytest.mark.parametrize(("total", "largest"), [(1, 1), (7, 3), (484, 31), (485, 31), (4096, 15)])
def test_squares_add_up(total: int, largest: int) -> None:
    weights = list(squares(total, largest))
    assert sum(weight**2 for weight in weights) == total
    assert all(1 <= weight <= largest for weight in weights)


def test_like_heads_share_a_class_and_a_narrow_sum_is_moved_up() -> None:
    """Two heads read x, of 4 bits in an encoding of 9; one more lookup reads both and x itself."""
    x = Port("x", (2,), 4, [])
    heads = [TracedLookup(5, 2, 9, 4, {x: norm}) for norm in (90, 100)]
    narrow = TracedLookup(4, 2, 4, 3, {x: 1})
    last = TracedLookup(5, 2, 7, 4, {heads[0]: 3, heads[1]: 4})
    function = TracedFunction("f", [x], [*heads, narrow, last], {"y": last})
    classes = classify_lookups([function])
    of_heads, of_narrow, of_last = classes.listed
    assert [classes.index[read] for read in (*heads, narrow, last)] == [0, 0, 1, 2]
    assert (of_heads.count, of_heads.encoding, of_heads.arguments[0].norm) == (4, 9, 100)
    assert (of_narrow.encoding, of_narrow.arguments[0].norm) == (9, 4**5)
    assert [(a.norm, a.sources) for a in of_last.arguments] == [(7, (0,))]
    assert (of_heads.output_encoding, of_last.output_encoding) == (None, 4)
