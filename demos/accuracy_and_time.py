"""Accuracy against encrypted time for every sequence length: the README's table and plot.

    python -m demos.accuracy_and_time --data FOLDER --out docs

Accuracy: the integer model with rounding noise drawn, on the validation set and on the sentences
held out from train. Time: sentences of full length, encrypted, from encryption to label. With a
baseline the two attentions alternate, sentence by sentence, so that a drifting machine favours
neither. Finished parts are kept in the JSON, and a repeated call goes on with what is missing, on
the machine that the JSON names.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from compile.local.session import Session
from fhe_inhibitor.integer.evaluation import evaluate
from fhe_inhibitor.integer.model import CHECKPOINTS, DEFAULT_MODEL, IntegerModel
from fhe_inhibitor.runtime.costs import predict_seconds
from fhe_inhibitor.system.files import write_atomically
from fhe_inhibitor.system.huge_pages import restart_with_huge_pages
from fhe_inhibitor.system.machine import Machine, check_machine, describe_machine
from fhe_inhibitor.system.plots import STYLES, new_axes, save_figure
from fhe_inhibitor.text.data import LabelledText, hold_out, load_splits

NOISE_DRAWS = 5
PACKAGES = ("concrete-python",)
FILE = "accuracy_and_time"


def main(
    data: Annotated[Path, typer.Option(help="Folder with SST-2's train.tsv and dev.tsv.")],
    out: Annotated[Path, typer.Option(help="Where the JSON, the table and the plots go.")] = Path(
        "docs"
    ),
    baseline: Annotated[
        str | None, typer.Option(help="Folder of a dot-product student to compare with.")
    ] = None,
    sentences: Annotated[int, typer.Option(help="Encrypted sentences per length.")] = 3,
) -> None:
    """Measure what is missing in the JSON, then write the table and the plots."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{FILE}.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def once(key: str, measure: Callable[[], Any]) -> None:
        if key not in results:
            results[key] = measure()
            write_atomically(path, json.dumps(results, indent=1) + "\n")

    once("machine", lambda: describe_machine(PACKAGES).model_dump())
    splits = load_splits(data)
    rows = {"validation": splits["validation"], "held_out": hold_out(splits["train"])[1]}
    models = {"inhibitor": IntegerModel.load()}
    if baseline:
        models["dot product"] = IntegerModel.load(baseline)
    if any(f"time/{n}" not in results for n in models["inhibitor"].buckets):
        check_machine(Machine.model_validate(results["machine"]), describe_machine(PACKAGES), path)
    for kind, model in models.items():
        for n in model.buckets:
            for name, split in rows.items():
                once(f"accuracy/{kind}/{n}/{name}", partial(accuracy, model, split, n))
    sessions = {kind: Session(model) for kind, model in models.items()}
    for n in models["inhibitor"].buckets:
        once(f"time/{n}", partial(measure_times, sessions, rows["validation"], n, sentences))
    once("bag_of_words", lambda: read_training_results()["bag_of_words"])
    once("dot_product", lambda: read_training_results()["dot_product"])
    (out / f"{FILE}.md").write_text(to_markdown(results, models), encoding="utf-8")
    plot(results, models["inhibitor"].buckets, out)


def read_training_results() -> dict[str, Any]:
    """Return what `train` measured of the shipped model's teacher and baselines."""
    return json.loads((CHECKPOINTS / DEFAULT_MODEL / "results.json").read_text())


def accuracy(model: IntegerModel, rows: list[LabelledText], n: int) -> float:
    """Return the accuracy on n tokens, rounding noise drawn."""
    return evaluate(model, rows, n, NOISE_DRAWS).value


def measure_times(
    sessions: dict[str, Session], rows: list[LabelledText], n: int, sentences: int
) -> dict[str, Any]:
    """Time encrypted sentences that fill n tokens, both attentions in turn."""
    tokenize = sessions["inhibitor"].model.tokenize
    texts = [row.text for row in rows if tokenize(row.text, n).n_total >= n][:sentences]
    for session in sessions.values():
        session.classify(texts[0], n)  # unpacks keys, fills caches
    measured: dict[str, dict[str, Any]] = {}
    for kind, session in sessions.items():
        backend = session.prepare()
        assert backend is not None  # mode execute
        lookups = backend.manifest.program(n).lookups
        measured[kind] = {"lookups": lookups, "lookup_s": backend.measure_lookups(), "seconds": []}
    for text in texts:
        for kind, session in sessions.items():
            result = session.classify(text, n)
            entry = measured[kind]
            entry["seconds"].append(result.seconds)
            entry["request_bytes"] = result.request_bytes
            entry["response_bytes"] = result.response_bytes
    for entry in measured.values():
        entry["predicted_s"] = predict_seconds(entry["lookups"], entry["lookup_s"])
    return measured


def to_markdown(results: dict[str, Any], models: dict[str, IntegerModel]) -> str:
    """Return the table, bound to machine, versions, commit and date."""
    machine = Machine.model_validate(results["machine"])
    versions = machine.versions
    lines = [
        "# Accuracy against encrypted time, SST-2",
        "",
        f"{machine.hardware}; Concrete {versions['concrete-python']}, Python {versions['python']}; "
        f"commit {machine.commit}, {machine.date}. Accuracy: integer model, rounding noise drawn "
        f"({NOISE_DRAWS} times), on 872 validation sentences (standard error 1.2 points) and on "
        "1,000 sentences held out from train; the bag of words has no lookup and no noise; a "
        "student without times is as `train` measured it. Seconds: median, from encryption to "
        "label, keys and circuits at hand; predicted: lookups by width times the time of one, "
        "measured in the same run.",
        "",
        "| tokens | attention | validation | held out | lookups | by width | seconds | predicted "
        "| request | response |",
        "|---" * 10 + "|",
    ]
    for n in models["inhibitor"].buckets:
        for kind in models:
            time = results[f"time/{n}"][kind]
            widths = ", ".join(f"{c} of {w} bits" for w, c in sorted(time["lookups"].items()))
            lines.append(
                f"| {n} | {kind} | {100 * results[f'accuracy/{kind}/{n}/validation']:.1f} "
                f"| {100 * results[f'accuracy/{kind}/{n}/held_out']:.1f} "
                f"| {sum(time['lookups'].values()):,} | {widths} "
                f"| {median(time['seconds']):.1f} | {time['predicted_s']:.1f} "
                f"| {time['request_bytes'] / 1e3:.1f} kB | {time['response_bytes'] / 1e3:.1f} kB |"
            )
        if "dot product" not in models:
            student = results["dot_product"][str(n)]
            lines.append(
                f"| {n} | dot product | {100 * student['validation']['value']:.1f} "
                f"| {100 * student['held_out']['value']:.1f} | | | | | | |"
            )
        words = results["bag_of_words"][str(n)]
        lines.append(
            f"| {n} | bag of words | {100 * words['validation']:.1f} "
            f"| {100 * words['held_out']:.1f} | 0 | | | | | |"
        )
    return "\n".join([*lines, "", f"![accuracy against time]({FILE}.png)", ""])


def plot(results: dict[str, Any], buckets: tuple[int, ...], out: Path) -> None:
    """Plot accuracy against seconds, one line per attention, points named by their tokens."""
    figure, axes = new_axes()
    for kind in ("inhibitor", "dot product"):
        if kind not in results[f"time/{buckets[0]}"]:
            continue
        seconds = [median(results[f"time/{n}"][kind]["seconds"]) for n in buckets]
        accuracy = [100 * results[f"accuracy/{kind}/{n}/validation"] for n in buckets]
        axes.plot(seconds, accuracy, label=kind, **STYLES[kind])
        for x, y, n in zip(seconds, accuracy, buckets, strict=True):
            axes.annotate(str(n), (x, y), textcoords="offset points", xytext=(4, 5), fontsize=8)
    words = 100 * results["bag_of_words"][str(buckets[-1])]["validation"]
    axes.axhline(words, color="black", linestyle=":", label="bag of words, no lookup")
    axes.set_xlabel("seconds from encryption to label, two cores; points: tokens read")
    axes.set_ylabel("SST-2 validation accuracy, %")
    axes.set_xlim(left=0)
    axes.margins(x=0.1, y=0.3)
    axes.legend()
    save_figure(figure, out, FILE)


if __name__ == "__main__":
    restart_with_huge_pages()
    typer.run(main)
