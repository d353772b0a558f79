"""A language model that predicts the next character of a text that it never sees.

    python -m demos.next_character "it was a very goo" --model build/experiments/language/0/integers

The model is the small causal inhibitor that `fhe-inhibitor experiments run --plan
demos/experiments.yaml --only language` makes, a classifier whose labels are the characters. It
reads the last characters of the context. What was decrypted stands beside the exact integers:
encrypted rounding is not exact, so that a logit may differ by some steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from compile.local.session import Session
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.runtime.classifier import Classification
from fhe_inhibitor.system.huge_pages import restart_with_huge_pages
from fhe_inhibitor.system.progress import Observer, Printed

MODEL = Path("build/experiments/language/0/integers")
SHOWN = 5  # characters, the most probable ones


def main(
    context: Annotated[str, typer.Argument(metavar="TEXT")] = "it was a very goo",
    model: Annotated[Path, typer.Option(help="Folder of a causal model of characters.")] = MODEL,
    mode: Annotated[str, typer.Option(help="disable, simulate or execute.")] = "execute",
    characters: Annotated[
        int, typer.Option(min=1, help="How many to predict, each from those before it.")
    ] = 1,
) -> None:
    """Predict the next characters, encrypted, and compare with the exact integers."""
    loaded = IntegerModel.load(model)
    print(f"{loaded.name} reads {loaded.max_tokens} characters, knows {len(loaded.labels)}")
    observer = Printed() if mode == "execute" else Observer()
    with Session(loaded, mode, observer=observer) as session:
        for _ in range(characters):
            context += describe(loaded, context, session.classify(context))


def describe(model: IntegerModel, context: str, result: Classification) -> str:
    """Print what was predicted, encrypted and in the clear; return the character."""
    clear = np.array(result.clear_logits)
    decrypted = clear if result.logits is None else np.array(result.logits)
    probabilities = model.probabilities(decrypted)
    print(f"\ncontext: {context!r}, of which the last {model.max_tokens} characters are read")
    print("next     probability   decrypted   exact")
    for index in np.argsort(-decrypted, kind="stable")[:SHOWN]:
        name, share = model.labels[index], probabilities[index]
        print(f"{name:8} {share:11.3f} {decrypted[index]:11} {clear[index]:7}")
    best, exact = model.labels[int(decrypted.argmax())], model.labels[int(clear.argmax())]
    largest = int(np.abs(decrypted - clear).max())
    print(f"predicted: {best}; exact integers: {exact}; logits differ by {largest} at most")
    if result.logits is not None:
        print(f"{result.seconds:.1f} s from encryption to logits")
    return " " if best == "space" else best


if __name__ == "__main__":
    restart_with_huge_pages()
    typer.run(main)
