"""HTML in texts: reviews from the web are full of it, and no model of ours was trained on it."""

from __future__ import annotations

import html
import re

TAGS = "a b big blockquote br center cite code del div em font h[1-6] hr i img ins li ol p pre q s"
TAGS += " small span strong sub sup table td th tr tt u ul"
# Not "i <3 it", nor "<sigh>".
TAG = re.compile(rf"</?({'|'.join(TAGS.split())})(\s[^<>]*)?\s*/?>", re.IGNORECASE)
ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]+|[a-zA-Z][a-zA-Z0-9]*);")


def without_markup(text: str) -> str:
    """Return a text with a space for each tag, and the character for each entity.

    >>> without_markup("great!<br /><br />I &amp; my wife")
    'great!  I & my wife'
    """
    return ENTITY.sub(lambda match: html.unescape(match[0]), TAG.sub(" ", text))
