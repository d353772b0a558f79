"""What a page is collected from: other commands' files, a price, the peers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compile.benchmark.report import PUBLISHED
from compile.evaluation.records import Header
from compile.paper.inputs import CorePrice, parse_price, read_compiled, read_decrypted
from compile.paper.peers import read_peers
from compile.paper.prices import predict
from fhe_inhibitor.errors import InputError
from tests.compile.evaluation.records import header, text, write
from tests.compile.paper.stored import MODEL_HASH, compiled_json, evaluation, predictions


@pytest.mark.parametrize(
    ("given", "price"),
    [("0.05 EUR", CorePrice(0.05, "EUR")), (" 3 Swiss francs ", CorePrice(3.0, "Swiss francs"))],
)
def test_a_price_is_a_number_and_a_currency(given: str, price: CorePrice) -> None:
    assert parse_price(given) == price


@pytest.mark.parametrize("given", ["", "0.05", "EUR", "-1 EUR", "nan EUR", "1e3 EUR", "1 \x1b[2J"])
def test_anything_else_is_no_price(given: str) -> None:
    with pytest.raises(InputError, match="such as '0.05 EUR'"):
        parse_price(given)


def test_an_evaluation_of_another_model_is_refused(tmp_path: Path) -> None:
    found = read_decrypted(evaluation(tmp_path), "tiny", MODEL_HASH)
    assert found.analysis.n_texts == 10 and found.file == "nano.jsonl"
    with pytest.raises(InputError, match="wanted one of other bbbbbbbbbbbb"):
        read_decrypted(tmp_path / "nano.jsonl", "other", "b" * 64)


def test_what_was_not_decrypted_is_refused(tmp_path: Path) -> None:
    simulated: Header = header(mode="simulate", circuits_hash=None)
    file = write(tmp_path / "file.jsonl", simulated, [text(0, 1, [0, 3])])
    with pytest.raises(InputError, match="mode simulate: wanted decrypted logits"):
        read_decrypted(file, "tiny", MODEL_HASH)


def test_another_report_of_compile_is_refused() -> None:
    content = json.loads(compiled_json())
    assert read_compiled(compiled_json()).length(4).lookups == {3: 20, 4: 1480}
    del content["lengths"]
    with pytest.raises(InputError, match="this version's `compile`"):
        read_compiled(json.dumps(content))


def test_seconds_are_predicted_of_the_lookups_that_were_timed() -> None:
    errors = predictions().errors
    found = predict(errors, 4, compiled_json(), {3: 0.006, 4: 0.008})
    seconds = 20 * 0.006 + 1480 * 0.008
    assert found.sentence_s == pytest.approx(seconds)
    units = 20 * 5e7 + 1480 * 1e8
    assert found.unit_s == pytest.approx(seconds / units)
    unknown = predict(errors, 4, compiled_json(), {})
    assert unknown.sentence_s is None and "two quiet cores" in unknown.machine


def test_peers_are_what_the_benchmarks_page_has_too() -> None:
    """The published seconds of one head are in the code of that page as well."""
    seconds = {peer.name: peer.seconds for peer in read_peers() if "2310.02041" in peer.url}
    assert seconds == {
        "Inhibitor attention, one head": PUBLISHED["inhibitor_exact"][16],
        "Dot-product attention, one head": PUBLISHED["dot_product_exact"][16],
    }


def test_every_peer_says_where_its_numbers_stand_and_what_differs() -> None:
    peers = read_peers()
    assert len({peer.name for peer in peers}) == len(peers) >= 5
    for peer in peers:
        assert peer.url.startswith("https://") and 2017 <= peer.year <= 2026
        assert len(peer.stands) > 20 and len(peer.not_comparable) > 10
        assert peer.seconds > 0
