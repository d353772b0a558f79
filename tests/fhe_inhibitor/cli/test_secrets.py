"""What a command was given in secret is in no line that shows its work, as a traceback may."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fhe_inhibitor.app.engine import Here, There
from fhe_inhibitor.cli.classify import ClassifyThere
from fhe_inhibitor.cli.remote import MakeKeys
from fhe_inhibitor.remote.options import RemoteOptions

SECRET = "of nobody else"
OPTIONS = RemoteOptions(passphrase=SECRET, ca=Path("ca.pem"))
NO_READING: Any = None


@pytest.mark.parametrize(
    "work",
    [
        Here("tiny", passphrase=SECRET),
        There("https://host", SECRET, OPTIONS),
        ClassifyThere(NO_READING, "https://host", SECRET, OPTIONS),
        MakeKeys("https://host", SECRET, OPTIONS),
    ],
    ids=lambda work: type(work).__name__,
)
def test_a_secret_is_not_shown(work: object) -> None:
    assert SECRET not in repr(work)
    assert "tiny" in repr(work) or "https://host" in repr(work)
