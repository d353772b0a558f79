"""HTML in texts is read as what it stands for, and what only looks like HTML is left alone."""

from __future__ import annotations

import pytest

from fhe_inhibitor.text.markup import without_markup


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("great!<br /><br />I &amp; my wife&#39;s", "great! I & my wife's"),
        ('<p class="x">a <B>fine</B> film</p>', "a fine film"),
        ("&quot;fine&quot;&nbsp;film", '"fine" film'),
        ("i <3 it & you <sigh> a < b > c", "i <3 it & you <sigh> a < b > c"),
        ("AT&T &notit &unheard; 5&6", "AT&T &notit &unheard; 5&6"),
        ("&lt;br&gt;", "<br>"),
        (f"&#{'1' * 5000};", f"&#{'1' * 5000};"),
    ],
)
def test_tags_and_entities(text: str, read: str) -> None:
    assert " ".join(without_markup(text).split()) == read
