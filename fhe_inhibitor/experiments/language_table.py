"""The section of language models on the page of experiments: perplexities, and what was trained."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from fhe_inhibitor.system.pages import markdown_table

NAMES = {
    "teacher": "dot product",
    "continued": "dot product, as many steps again",
    "distilled": "inhibitor, distilled from the first",
    "labels": "inhibitor, from the text alone",
    "integers": "small inhibitor, integers with noise",
    "twin": "small dot product, integers with noise",
}
HEAD = ["model", "layers", "characters read", "perplexity", "standard error"]


def describe_language(results: Sequence[dict[str, Any]]) -> str:
    """Return the table of all models, means over seeds, and what they learned from.

    results: as `language.LanguageResult` has them. The standard error is that of one seed's
    held-out text, from the differences between its windows.
    """
    values: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        for row in result["rows"]:
            values[row["recipe"], row["settings"]["context"]][row["metric"]].append(row["value"])
    rows = []
    for (name, context), found in values.items():
        of_seeds = found["perplexity"]
        spread = f" ± {stdev(of_seeds):.3f} ({len(of_seeds)})" if len(of_seeds) > 1 else ""
        rows.append(
            [
                NAMES.get(name, name),
                _n_layers(name, results[0]["experiment"]),
                context,
                f"{fmean(of_seeds):.3f}{spread}",
                f"{fmean(found['standard_error']):.3f}",
            ]
        )
    return "\n\n".join([_describe_text(results[0]), "\n".join(markdown_table(HEAD, rows))])


def _n_layers(name: str, experiment: dict[str, Any]) -> int:
    small = name in ("integers", "twin")
    return experiment["small"].get("n_layers", 2) if small else experiment["n_layers"]


def _describe_text(result: dict[str, Any]) -> str:
    learned, held_out = result["n_characters"]
    source = "review sentences" if result["experiment"]["text"] else "sentences of a small grammar"
    return f"{learned:,} characters of {source} to learn from, {held_out:,} held out."
