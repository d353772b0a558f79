"""The page of both benchmarks, encrypted and in the clear, from their results files."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from compile.benchmark.report import attention_markdown, write_attention
from compile.benchmark.results import NAME as ATTENTION
from compile.benchmark.results import read_results
from fhe_inhibitor.benchmark.report import NAME as PLAINTEXT
from fhe_inhibitor.benchmark.report import plaintext_markdown, write_plaintext
from fhe_inhibitor.benchmark.run import PlaintextResults
from fhe_inhibitor.errors import InputError

PAGE = "benchmarks.md"
HEAD = """# One attention head as sequences grow

Made by `fhe-inhibitor benchmark report` from what `benchmark attention` and `benchmark plaintext`
measured. Published figures are those of Brännvall 2023 (arXiv 2310.02041), on another machine.
"""
READING = """### Where the advantage comes from

- *Width.* |q - k| of b-bit operands is looked up with b + 1 bits and its sum over d channels with
  b + log2 d; a sum of products has 2 b - 1 + log2 d. Each bit beyond 5 multiplies the time of a
  lookup by 2 to 6: that is most of the ratio of the exact circuits.
- *Tables that a bootstrap continues.* Past its padding bit it goes on with the negative of its
  table. An absolute value less a constant does too: |q - k| needs b bits, and so does the
  threshold of values of b bits, since 2 relu(x) = x + |x|. A square doesn't, but a parabola may
  turn over for the few differences that lie far out. The table of the exponential is made flat at
  both ends, and saturates. The rounded circuits of both mechanisms use these since version 2.
- *Range.* A rounded lookup covers the largest sum that could occur. Rounded to 4 bits, distances
  keep their meaning; weights of a softmax need 5, and a product of weights and values that stays
  exact makes the sum over keys wide, which asks for less noise and so for dearer lookups: the
  optimizer's complexity of a 5-bit lookup is about 1.5 times that of one alone.
- *Number.* The rounded dot product takes one lookup a product, 2 x y = x^2 + y^2 - (x - y)^2 with
  the squares looked up once a token, and divides before the exponential: n^2 (2 d + 3) lookups
  beside n^2 (2 d + 1), where the usual form takes n^2 (4 d + 3); the
  exact one here takes n^2 (4 d + 2), as the division of a weight is one packed lookup. Exact and
  rounded circuits of one mechanism differ in precision; compare speeds beside the quality that each
  keeps.
"""


def has_results(results: Path) -> bool:
    """Whether a folder has results of either benchmark."""
    return any((results / f"{name}.json").exists() for name in (ATTENTION, PLAINTEXT))


def write_page(results: Path, out: Path) -> Path:
    """Write benchmarks.md with what it shows to `out`; return its path.

    results: folder with attention.json, plaintext.json or both. Raises InputError if it has
    neither, or one that can't be read.
    """
    parts = [HEAD]
    attention, plaintext = (results / f"{name}.json" for name in (ATTENTION, PLAINTEXT))
    if not has_results(results):
        raise InputError(f"{results} has neither {attention.name} nor {plaintext.name}")
    if attention.exists():
        encrypted = read_results(attention)
        write_attention(encrypted, out)
        parts += [attention_markdown(encrypted), READING]
    if plaintext.exists():
        clear = _read_plaintext(plaintext)
        write_plaintext(clear, out)
        parts.append(plaintext_markdown(clear))
    (out / PAGE).write_text("\n".join(parts), encoding="utf-8")
    return out / PAGE


def _read_plaintext(path: Path) -> PlaintextResults:
    try:
        return PlaintextResults.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError):
        raise InputError(f"{path} holds no results of this version: measure them anew") from None
