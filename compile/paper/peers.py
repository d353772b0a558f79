"""What others published, read from peers.json: a row each, with where its numbers stand."""

from __future__ import annotations

from importlib.resources import files

from fhe_inhibitor.system.files import Record

FILE = "peers.json"


class Peer(Record):
    """Encrypted inference of others.

    tokens: of the input, None where the source doesn't say. seconds: of one input. accuracy: of
    encrypted inference, in percent, None where none was published. stands: where in the source the
    numbers are. not_comparable: why the seconds can't be set against ours without more words; each
    has such a reason.
    """

    name: str
    paper: str
    year: int
    url: str
    scheme: str
    task: str
    model: str
    tokens: int | None
    hardware: str
    seconds: float
    accuracy: float | None
    stands: str
    not_comparable: str


class _Peers(Record):
    """The file."""

    peers: tuple[Peer, ...]


def read_peers() -> tuple[Peer, ...]:
    """Return the peers, in the order of the file."""
    content = files("compile.paper").joinpath(FILE).read_text(encoding="utf-8")
    return _Peers.model_validate_json(content).peers
