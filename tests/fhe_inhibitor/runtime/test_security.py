"""No keys are made with parameters that aren't secure, whatever the specifications say."""

from __future__ import annotations

import copy
import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from concrete import fhe
from concrete.fhe.compilation import keys as concrete_keys
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlir._mlir_libs import _concretelang

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime import security
from fhe_inhibitor.runtime.client import Client
from fhe_inhibitor.runtime.keyring import Keyring
from fhe_inhibitor.runtime.manifest import DIGESTS_FILE, SPECS_FILE
from tests.fhe_inhibitor.conftest import Tiny

Specs = dict[str, Any]
Path_ = tuple[str | int, ...]
LIBRARIES = Path(_concretelang.__file__).parents[2] / "concrete_python.libs"
FORGED_EXAMPLES = 1500
NOT_NUMBERS: list[Any] = [
    math.nan,
    math.inf,
    -math.inf,
    None,
    "8e-31",
    "Infinity",
    True,
    [],
    {},
    10**400,
]
HUGE = [2**17 + 1, 2**31, 2**32, 2**63, 10**30, 10**400]
OTHER_TYPES: list[Any] = [None, "x", 0.5, [], {}, -1]
NO_NOISE = [0, 0.0, -0.0, -1, -1e-30, 1e-60, 1e-300, 5e-324, 1, 1.0, 2, 1e20, 1e40, 1e200]


@pytest.fixture(scope="module")
def specs(tiny: Tiny) -> Specs:
    """What Concrete wrote for a tiny model."""
    return json.loads((tiny.circuits / SPECS_FILE).read_bytes())


@pytest.fixture(scope="module")
def forge(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Client]:
    """Return what makes a client, and would make its keys, of a file with the given content."""
    folder = tmp_path_factory.mktemp("forged") / "circuits"
    shutil.copytree(tiny.circuits, folder)
    (folder / DIGESTS_FILE).unlink()  # what a server sends has none

    def make(content: str) -> Client:
        (folder / SPECS_FILE).write_text(content)
        return Client(folder)

    return make


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where anything gets as far as Concrete's keys."""

    def made(*_: object, **__: object) -> None:
        pytest.fail("keys were made or read")

    monkeypatch.setattr(concrete_keys, "Keyset", made)
    monkeypatch.setattr(fhe.Client, "keygen", made)
    monkeypatch.setattr(fhe.Keys, "load_from_bytes", made)


def encryptions(specs: Specs) -> list[tuple[Specs, int]]:
    """All that has a variance, and its dimension."""
    keyset = specs["keyset"]
    bootstrap = [key["params"] for key in keyset["lweBootstrapKeys"]]
    keyswitch = [key["params"] for key in keyset["lweKeyswitchKeys"]]
    values = [v for f in specs["circuits"] for v in (*f["inputs"], *f["outputs"])]
    inner = [value["typeInfo"]["lweCiphertext"]["encryption"] for value in values]
    return [
        *((params, params["glweDimension"] * params["polynomialSize"]) for params in bootstrap),
        *((params, params["outputLweDimension"]) for params in keyswitch),
        *((encryption, encryption["lweDimension"]) for encryption in inner),
    ]


def paths(node: Any, at: Path_ = ()) -> list[Path_]:
    """The place of everything in the file but its root; of lists, all entries."""
    children = node.items() if isinstance(node, dict) else enumerate(node)
    return [
        path
        for key, child in children
        for path in [
            (*at, key),
            *(paths(child, (*at, key)) if isinstance(child, dict | list) else []),
        ]
    ]


def reach(specs: Specs, path: Path_) -> Any:
    for key in path:
        specs = specs[key]  # type: ignore[index]
    return specs


@st.composite
def forgeries(draw: st.DrawFn, specs: Specs) -> str:
    """Specifications that differ from Concrete's in one respect that matters."""
    forged = copy.deepcopy(specs)
    del forged["tfhers_specs"]  # of which parts may be missing
    kind = draw(st.sampled_from(sorted(FORGERS)))
    FORGERS[kind](draw, forged)
    return json.dumps(forged)


def forge_variance(draw: st.DrawFn, specs: Specs) -> None:
    params, dimension = draw(st.sampled_from(encryptions(specs)))
    least = 2 * security.required_log2_std(dimension)
    less = draw(st.floats(1e-4, 1000)) if draw(st.booleans()) else draw(st.floats(1e-4, 1))
    params["variance"] = draw(
        st.sampled_from([*NO_NOISE, *NOT_NUMBERS, 2 ** max(least - less, -1074)])
        | st.floats(max_value=2 ** (least - 1e-4))
        | st.floats(min_value=2.0**-3)
    )


def forge_all_variances(draw: st.DrawFn, specs: Specs) -> None:
    variance = draw(st.sampled_from(NO_NOISE))
    for params, _ in encryptions(specs):
        params["variance"] = variance


def forge_dimension(draw: st.DrawFn, specs: Specs) -> None:
    """Another dimension at one place alone, or a smaller one wherever the key is spoken of."""
    keyset = specs["keyset"]
    key = draw(st.sampled_from(keyset["lweSecretKeys"]))
    n = key["params"]["lweDimension"]
    if draw(st.booleans()):
        other = st.integers(-5, 2**33).filter(lambda x: x != n)
        key["params"]["lweDimension"] = draw(other | st.sampled_from([*HUGE, *OTHER_TYPES, 449]))
        return
    smaller = draw(st.integers(1, n - 1))
    places = [path for path in paths(specs) if "imension" in str(path[-1])]
    for path in places:
        if reach(specs, path) == n:
            reach(specs, path[:-1])[path[-1]] = smaller


def forge_missing(draw: st.DrawFn, specs: Specs) -> None:
    named = [path for path in paths(specs) if isinstance(path[-1], str)]
    path = draw(st.sampled_from(named))
    del reach(specs, path[:-1])[path[-1]]


def forge_missing_key(draw: st.DrawFn, specs: Specs) -> None:
    """One entry of a list of keys less, that isn't the last one of those that nobody speaks of."""
    keys = specs["keyset"]["lweSecretKeys"]
    del keys[draw(st.integers(0, len(keys) - 1))]


def forge_type(draw: st.DrawFn, specs: Specs) -> None:
    path = draw(st.sampled_from(paths(specs)))
    before = reach(specs, path)
    other = draw(st.sampled_from([x for x in OTHER_TYPES if not isinstance(x, type(before))]))
    reach(specs, path[:-1])[path[-1]] = other


def forge_addition(draw: st.DrawFn, specs: Specs) -> None:
    objects = [(), *(path for path in paths(specs) if isinstance(reach(specs, path), dict))]
    target = reach(specs, draw(st.sampled_from(objects)))
    target[draw(st.sampled_from(["chunked", "crt", "plaintext", "seed", "x\x1b[2J\n"]))] = draw(
        st.sampled_from([{}, 1, "x", None])
    )


def forge_distribution(draw: st.DrawFn, specs: Specs) -> None:
    places = [path for path in paths(specs) if path[-1] == "keyType"]
    path = draw(st.sampled_from(places))
    reach(specs, path[:-1])["keyType"] = draw(
        st.sampled_from(["ternary", "gaussian", "uniform", "zero", "Binary", "", 0, 1, None])
        | st.text().filter(lambda text: text != "binary")
    )


def forge_clear_value(draw: st.DrawFn, specs: Specs) -> None:
    """An input that Concrete's client would send as it is, or in another encoding."""
    values = [v for f in specs["circuits"] for v in (*f["inputs"], *f["outputs"])]
    value = draw(st.sampled_from(values))
    ciphertext = value["typeInfo"]["lweCiphertext"]
    clear = {"shape": ciphertext["abstractShape"], "integerPrecision": 64, "isSigned": True}
    change = draw(st.integers(0, 3))
    if change == 0:
        value["typeInfo"] = {draw(st.sampled_from(["plaintext", "index"])): clear}
    elif change == 1:
        value["typeInfo"]["plaintext"] = clear
    elif change == 2:
        ciphertext["encoding"] = {"boolean": {}}
    else:
        ciphertext["encryption"]["modulus"] = {"modulus": {"powerOfTwo": {"power": 1}}}


def forge_size(draw: st.DrawFn, specs: Specs) -> None:
    keyset = specs["keyset"]
    change = draw(st.integers(0, 4))
    if change == 0:
        params = draw(st.sampled_from(keyset["lweBootstrapKeys"] + keyset["lweKeyswitchKeys"]))
        name = draw(st.sampled_from(["levelCount", "baseLog"]))
        params["params"][name] = draw(st.sampled_from([*HUGE, 0, -1, 65]))
    elif change == 1:
        kind = draw(st.sampled_from(["lweSecretKeys", "lweBootstrapKeys", "lweKeyswitchKeys"]))
        first = keyset[kind][0]
        keyset[kind] = [{**first, "id": i} for i in range(draw(st.sampled_from([600, 5000])))]
    elif change == 2:
        params = draw(st.sampled_from(keyset["lweBootstrapKeys"]))["params"]
        odd = st.integers(1, 2**18).filter(lambda size: size != params["polynomialSize"])
        params["polynomialSize"] = draw(odd | st.sampled_from(HUGE))
    elif change == 3:
        key = draw(st.sampled_from(keyset["lweKeyswitchKeys"] + keyset["lweBootstrapKeys"]))
        name = draw(st.sampled_from(["id", "inputId", "outputId"]))
        key[name] = draw(st.sampled_from([len(keyset["lweSecretKeys"]) + 9, 511, 512, *HUGE, -1]))
    else:
        value = draw(st.sampled_from(specs["circuits"]))["inputs"][0]
        ciphertext = value["typeInfo"]["lweCiphertext"]
        shapes = ciphertext["abstractShape"], ciphertext["concreteShape"], value["rawInfo"]["shape"]
        huge = draw(st.sampled_from([2**27, 2**31, 2**32, 2**64, 10**400]))
        for shape in shapes[draw(st.integers(0, 2)) :]:
            shape["dimensions"].insert(0, huge)


FORGERS: dict[str, Callable[[st.DrawFn, Specs], None]] = {
    name.removeprefix("forge_"): function
    for name, function in list(globals().items())
    if name.startswith("forge_")
}


def test_no_forgery_gets_as_far_as_keys(specs: Specs, forge: Callable[[str], Client]) -> None:
    tried = 0

    @settings(
        max_examples=FORGED_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(data: st.DataObject) -> None:
        nonlocal tried
        with pytest.raises(InputError) as refused:
            forge(data.draw(forgeries(specs))).generate_keys()
        message = str(refused.value)
        assert message.isprintable() and len(message) < 1000, message
        tried += 1

    run()
    assert tried >= 1000


def test_what_concrete_wrote_is_read_as_it_is(tiny: Tiny, specs: Specs) -> None:
    read = security.read_specifications(tiny.circuits / SPECS_FILE)
    by_concrete = fhe.ClientSpecs.deserialize(json.dumps(specs).encode())
    by_us = fhe.ClientSpecs.deserialize(read.to_json().encode())
    assert by_us.program_info.serialize() == by_concrete.program_info.serialize()
    client = Client(tiny.circuits)
    assert [key.dimension for key in client.parameters] == [
        key["params"]["lweDimension"] for key in specs["keyset"]["lweSecretKeys"]
    ]
    assert all(key.margin is not None and abs(key.margin) < 1e-9 for key in client.parameters)


def test_the_line_is_the_one_in_concretes_library() -> None:
    """There it is four words: bits of security, slope, bias, least dimension."""
    row = struct.pack(
        "<QddQ",
        security.SECURITY_BITS,
        security.SLOPE,
        security.BIAS,
        security.MIN_DIMENSION,
    )
    (library,) = LIBRARIES.glob("libConcretelangRuntime-*.so")
    assert row in library.read_bytes()


def test_a_server_cannot_take_all_noise_away(
    specs: Specs, forge: Callable[[str], Client], tmp_path: Path
) -> None:
    forged = copy.deepcopy(specs)
    for params, _ in encryptions(forged):
        params["variance"] = 1e-60
    keyring = Keyring(tmp_path / "keys")
    with pytest.raises(InputError, match="variance of bootstrap key 0 is 1e-60, log2 std -99.66"):
        keyring.load_or_make(forge(json.dumps(forged)), "ab" * 32, "forged")
    assert not keyring.folder.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variance": 1e40}, "wanted log2 std from -.* to -2 in dimension .*, as 128 bits"),
        ({"variance": -1.0}, "is -1.0, wanted more than 0"),
        ({"keyType": "ternary"}, "keyType is 'ternary', wanted 'binary'"),
        ({"integerPrecision": 32}, "integerPrecision is 32, wanted 64"),
        ({"polynomialSize": 128}, "128, wanted a power of two from 256 on"),
        ({"glweDimension": 9}, "the dimension of bootstrap key 0 is .*, that of secret key"),
        ({"levelCount": 9, "baseLog": 9}, "base log of bootstrap key 0 is 81, wanted 64 bits at"),
    ],
)
def test_what_is_refused_is_named(
    specs: Specs, forge: Callable[[str], Client], change: Specs, message: str
) -> None:
    forged = copy.deepcopy(specs)
    forged["keyset"]["lweBootstrapKeys"][0]["params"].update(change)
    with pytest.raises(InputError, match=message):
        forge(json.dumps(forged))


def test_the_size_of_keys_is_known_before_they_are_made(
    specs: Specs, forge: Callable[[str], Client]
) -> None:
    forged = copy.deepcopy(specs)
    keys = forged["keyset"]["lweKeyswitchKeys"]
    keys[0]["params"].update(levelCount=64, baseLog=1)
    forged["keyset"]["lweKeyswitchKeys"] = [{**keys[0], "id": index} for index in range(500)]
    with pytest.raises(InputError, match="the size of all keys is .* bytes, wanted 8,589,934,592"):
        forge(json.dumps(forged))


def test_a_second_value_of_one_name_does_not_hide(
    specs: Specs, forge: Callable[[str], Client]
) -> None:
    """Readers of JSON differ in which of two they take: Concrete gets what was checked."""
    content = json.dumps(specs)
    variance = json.dumps(specs["keyset"]["lweBootstrapKeys"][0]["params"]["variance"])
    doubled = content.replace(
        f'"variance": {variance}', f'"variance": 1e-60, "variance": {variance}'
    )
    assert doubled != content
    checked = forge(doubled)._client.specs.serialize()
    assert b"1e-60" not in checked and json.loads(checked)["keyset"] == specs["keyset"]


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", "{", "\0", "[" * 100_000])
def test_another_file_is_refused(forge: Callable[[str], Client], content: str) -> None:
    with pytest.raises(InputError, match="compile the model again"):
        forge(content)


def test_a_missing_file_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "circuits"
    shutil.copytree(tiny.circuits, folder)
    (folder / SPECS_FILE).unlink()
    with pytest.raises(InputError, match="can't be read .*; compile the model again"):
        Client(folder)
    (folder / SPECS_FILE).mkdir()
    with pytest.raises(InputError, match="can't be read"):
        Client(folder)


def test_a_file_without_end_is_refused(
    forge: Callable[[str], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(security, "MAX_FILE_BYTES", 1000)
    with pytest.raises(InputError, match="too large, wanted 1,000 bytes at most"):
        forge(" " * 1001)


def test_keys_are_not_loaded_either(
    specs: Specs, forge: Callable[[str], Client], tmp_path: Path
) -> None:
    """A keyring may hold keys that an older version made for such a server."""
    forged = copy.deepcopy(specs)
    for params, _ in encryptions(forged):
        params["variance"] = 1e-60
    (tmp_path / "keys").write_bytes(b"keys")
    (tmp_path / "keys").chmod(0o600)
    with pytest.raises(InputError, match="no keys are made or used with that"):
        forge(json.dumps(forged)).load_keys(tmp_path / "keys")
