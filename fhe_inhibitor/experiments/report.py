"""The page of all experiments, from their JSON: one section each, tables and plots.

The sections are named as the folders of results; a section without results says so. A table
has a row for each recipe with its settings, a column for each task: mean over seeds, standard
deviation between them, how many there were.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.experiments.language_table import describe_language
from fhe_inhibitor.experiments.lengths_table import describe_lengths
from fhe_inhibitor.experiments.one_layer_table import describe_one_layer
from fhe_inhibitor.system.pages import markdown_table
from fhe_inhibitor.system.plots import new_axes, save_figure

PAGE = "experiments.md"
FOLDER = "experiments"

SECTIONS = {
    "layers": (
        "Layer by layer",
        "One layer's Q, K, V, gamma, eta and delta at a time, bottom up: mean squared error of "
        "its attention output against the teacher's, on texts that it isn't trained on. E1's "
        "students without `joined` start from this one. It learns from sentences; what is derived "
        "is derived from phrases of SST-2.",
    ),
    "recipes": (
        "Recipes",
        "The published recipes (arXiv 2503.15983: E1 is task-agnostic, E2 task-specific) and "
        "ours, `aligned`, on development sets.",
    ),
    "ablation": (
        "Thresholds: fixed or learned, derived or not, signed or unsigned",
        "The same recipe with one thing changed at a time. Gamma, eta and delta learn at the rate "
        "of all weights, 5e-5 that falls to 0 over 800 steps. Adam moves a weight by about that "
        "rate in a step, so each of them moves by about 0.02 in all: fixed and learned ones hardly "
        "differ here, and what a larger rate of their own would bring wasn't tried.",
    ),
    "quantization": (
        "Quantization: 8, 6 and 4 bits",
        "Weights and activations, fake-quantized: after training (`converted`), and in "
        "training (`retrained`, its steps as in the plan). No bits: the float student.",
    ),
    "static-normalisation": (
        "Static normalisation in place of LayerNorm",
        "What can be compiled: its cost (`converted`), and after a short re-training "
        "(`retrained`); with LayerNorm, see the students without bits above.",
    ),
    "compilable": (
        "The full-size student that can be compiled",
        "Integers only, rounding noise drawn; one of the tokens is [CLS].",
    ),
    "all-steps": (
        "All steps",
        "The recipes with as many steps as they have by themselves, RTE with those of the plan; "
        "the section on recipes has fewer. E1's teachers learned for as long as it did. "
        "`converted` and `retrained` go on from `aligned`. E1 with `joined` starts from "
        "the student that learned from joined sentences.",
    ),
    "lengths": (
        "Hidden states by length of text",
        "E1 first learned from single sentences. Here one student is aligned on them for a few "
        "steps, and one on joined sentences, most of which are pairs. The figures are the squared "
        "error of a layer's hidden states, over the mean square of the teacher's, on development "
        "sets. Softmax divides by its sum over keys, and the inhibitor does not: its sum grows "
        "with the number of keys. That is one reason why errors may grow with length. But joined "
        "sentences are not only longer: they are pairs, reach later positions, put more sentences "
        "and more tokens into a step, and the start is derived from them; each of these may "
        "matter too.",
    ),
    "matching": (
        "Comparing two texts",
        "RTE asks what two texts have to do with each other. Here pairs are made from sentences: "
        "the first text is two of them, the second one repeats either. In half of the pairs one "
        "word of it is exchanged for a word of another sentence, or all of it for another "
        "sentence. Each learns to tell these pairs from the others, from as many pairs as RTE "
        "has or from five times as many: a teacher, E1's student from joined sentences, and "
        "`aligned`, which is distilled on the pairs from the teacher that has learned them. The "
        "accuracy is that of 1,000 further pairs; who guesses has 50.",
    ),
    "layers-joined": (
        "Layer by layer, from joined sentences",
        "As in the first section, but the student learns from joined sentences, and is derived "
        "from them. The plan gives it smaller batches and fewer steps of all hidden states.",
    ),
    "language": (
        "Causal language models",
        "Perplexity per character on held-out sentences. The inhibitor beside its dot-product "
        "twin, and small models in the integers that run encrypted "
        "(`python -m demos.next_character`). The distilled inhibitor starts from its twin's "
        "weights, so that it has learned for twice as many steps, as has the twin where it went "
        "on; the inhibitor that learns from the text alone has as many as the twin at first.",
    ),
    "one-layer": (
        "One-layer transformers",
        "Four tasks of table 1 of arXiv 2310.02041, from labels, each mechanism in the same simple "
        "set-up (`fhe_inhibitor/experiments/small_tasks.py`), the inhibitor with its shift of 0.5. "
        "The paper does not publish its set-ups, and data are what was at hand: the paper's row is "
        "there to compare the two mechanisms within it, not to be reached.",
    ),
    "vision": (
        "A vision transformer of several layers",
        "Scikit-learn's digits in patches of 2 x 2 pixels. The teacher has dot products; the "
        "students have signed inhibitors: one is distilled from the teacher, at a learning rate of "
        "0.001, one learns from labels alone, at 0.003; so the two also differ in their rate.",
    ),
}

# Sections that tell the distance to the teacher, and of which sections they tell the costs.
COMPARED = {
    "recipes": ("layers", "recipes"),
    "all-steps": ("all-steps", "layers-joined"),
}
# The score of whoever always says the most frequent class, from the labels of GLUE's dev.tsv; of
# CoLA it is a correlation.
MOST_FREQUENT = {"sst2": 444 / 872, "cola": 0.0, "rte": 146 / 277, "wnli": 40 / 71}
LAYER_COLUMNS = (
    "layer", "teacher's mean square", "gamma = eta = 1", "derived", "trained, first", "last",
    "steps that went up",
)  # fmt: skip


def write_report(results: Path, out: Path) -> str:
    """Write docs/experiments.md and its plots from the JSON files of `results`; return the page.

    Raises InputError if there are none, or for a file that holds no rows.
    """
    sections = {name: _read(results / name) for name in SECTIONS}
    if not any(sections.values()):
        raise InputError(
            f"{results} has no results; run `fhe-inhibitor experiments run`, or name their folder"
        )
    figures = out / FOLDER
    figures.mkdir(parents=True, exist_ok=True)
    parts = [
        "# Experiments\n",
        "Written by `fhe-inhibitor experiments report` from JSON files; no figure was entered by "
        "hand.",
        _describe_machines(sections),
    ]
    for number, (name, (title, about)) in enumerate(SECTIONS.items(), start=1):
        parts += [f"## {number}. {title}\n", about + "\n"]
        section = sections[name]
        if not section:
            parts.append("Not run yet.")
        elif name in ("layers", "layers-joined"):
            parts.append(_describe_layers(section, figures, name))
        elif name == "language":
            parts.append(describe_language(section))
        elif name == "lengths":
            parts.append(describe_lengths(section))
        elif name == "one-layer":
            parts.append(describe_one_layer(section))
        else:
            parts.append(table([row for result in section for row in result["rows"]]))
        if section and name in COMPARED:
            parts.append(_gaps([row for result in section for row in result["rows"]]))
            parts.append(_costs({name: sections[name] for name in COMPARED[name]}))
    page = "\n\n".join(part.strip("\n") for part in parts) + "\n"
    (out / PAGE).write_text(page, encoding="utf-8")
    return page


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return a table in Markdown of the score of each recipe and task, in percent.

    >>> rows = [dict(recipe="aligned", task="rte", seed=s, split="validation", metric="score",
    ...              value=v, settings={}) for s, v in ((0, 0.5), (1, 0.6))]
    >>> print(table(rows))
    | recipe | rte |
    |---|---|
    | aligned | 55.00 ± 7.07 (2) |
    """
    scores = _scores(rows)
    differing = _differing([dict(settings) for (_, settings), _ in scores])
    tasks = list(dict.fromkeys(task for _, task in scores))
    rows_of_cells = []
    keys = dict.fromkeys(key for key, _ in scores)
    for recipe, settings in sorted(keys, key=lambda key: key[0] != "teacher"):
        cells = [str(dict(settings).get(name, "")) for name in differing]
        values = [scores.get(((recipe, settings), task), {}) for task in tasks]
        rows_of_cells.append([recipe, *cells, *map(_cell, values)])
    return "\n".join(markdown_table(["recipe", *differing, *tasks], rows_of_cells))


def _scores(rows: Sequence[dict[str, Any]]) -> dict[Any, dict[Any, float]]:
    """((recipe, settings), task) to the score of each seed; development sets have a column each."""
    scores: dict[Any, dict[Any, float]] = defaultdict(dict)
    for row in rows:
        if row["metric"] == "score":
            settings = tuple(sorted((k, str(v)) for k, v in row.get("settings", {}).items()))
            split = row.get("split", "validation")
            task = row["task"] if split == "validation" else f"{row['task']}, {split}"
            scores[(row["recipe"], settings), task][row["seed"]] = row["value"]
    return dict(scores)


def _differing(settings: Sequence[dict[str, str]]) -> list[str]:
    """The names of settings that not all rows share."""
    names = dict.fromkeys(name for one in settings for name in one)
    return [name for name in names if len({one.get(name) for one in settings if one}) > 1]


def _cell(of_seeds: dict[Any, float]) -> str:
    return f"{100 * fmean(of_seeds.values()):.2f}{_spread(of_seeds.values())}" if of_seeds else ""


def _spread(of_seeds: Collection[float]) -> str:
    """Standard deviation between seeds, in percent, and how many there were."""
    return f" ± {100 * stdev(of_seeds):.2f} ({len(of_seeds)})" if len(of_seeds) > 1 else ""


def _gaps(rows: Sequence[dict[str, Any]]) -> str:
    """How far a recipe's mean over the development sets is from its teacher's, of shared tasks."""
    by_recipe: dict[str, dict[str, dict[Any, float]]] = defaultdict(dict)
    developed = [row for row in rows if row.get("split", "validation") == "validation"]
    scores = _scores(developed)
    differing = _differing([dict(settings) for (_, settings), _ in scores])
    for ((recipe, settings), task), of_seeds in scores.items():
        parts = [f"{name} {dict(settings)[name]}" for name in differing if name in dict(settings)]
        by_recipe[", ".join([recipe, *parts])][task] = of_seeds
    teacher = {task: fmean(of_seeds.values()) for task, of_seeds in by_recipe["teacher"].items()}
    lines = []
    for recipe, of_tasks in by_recipe.items():
        shared = [task for task in of_tasks if task in teacher]
        if recipe == "teacher" or not shared:
            continue
        line = f"- {recipe}: {_gap(of_tasks, teacher, shared)} points over {', '.join(shared)}"
        told = [task for task in shared if not _says_one_class(task, teacher[task])]
        if told and told != shared:
            line += f"; {_gap(of_tasks, teacher, told)} over {', '.join(told)}"
        lines.append(line)
    head = ["Mean difference to the teacher (±: between the seeds that have all of these tasks):"]
    head += [
        f"The teacher of {task} has {100 * value:.2f}, no more than whoever always says the most "
        "frequent class; the mean without it follows."
        for task, value in teacher.items()
        if _says_one_class(task, value)
    ]
    return " ".join(head[1:] + head[:1]) + "\n\n" + "\n".join(lines) if lines else ""


def _gap(
    of_tasks: dict[str, dict[Any, float]], teacher: dict[str, float], tasks: Sequence[str]
) -> str:
    """Mean difference to the teacher over these tasks, and its deviation between seeds."""
    gap = fmean(fmean(of_tasks[task].values()) - teacher[task] for task in tasks)
    seeds = [s for s in of_tasks[tasks[0]] if all(s in of_tasks[task] for task in tasks)]
    of_seed = [fmean(of_tasks[task][seed] - teacher[task] for task in tasks) for seed in seeds]
    return f"{100 * gap:+.2f}{_spread(of_seed)}"


def _says_one_class(task: str, score: float) -> bool:
    return score < MOST_FREQUENT.get(task, -1) + 1e-9


def _costs(sections: dict[str, list[dict[str, Any]]]) -> str:
    """Minutes of each phase and the largest memory, of the results that say so."""
    rows = []
    for section, results in sections.items():
        for result in (result for result in results if "phase_s" in result):
            phases = (f"{name} {seconds / 60:.1f}" for name, seconds in result["phase_s"].items())
            memory = result["peak_memory_bytes"] / 1e9
            rows.append([f"{section} {result['variant']}", ", ".join(phases), f"{memory:.1f}"])
    head = ["experiment", "minutes of each phase", "peak memory of the process so far, GB"]
    return "\n".join(["What they took:", "", *markdown_table(head, rows)]) if rows else ""


def _describe_layers(results: Sequence[dict[str, Any]], figures: Path, section: str) -> str:
    """Plot and table of each layer's error, of every result that has them."""
    parts = []
    for result in results:
        errors: dict[int, list[tuple[int, float]]] = defaultdict(list)
        for row in result["layers"]:
            if "held_out" in row:
                errors[row["layer"]].append((row["step"], row["held_out"]))
        figure, axes = new_axes()
        for layer, points in errors.items():
            shade = str(0.75 * layer / max(1, len(errors) - 1))
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, color=shade, label=f"layer {layer}")
        axes.set(xlabel="step", ylabel="mean squared error, held out", yscale="log")
        axes.grid(True, which="major", linewidth=0.3)
        axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
        name = f"{section}-{result['variant']}"
        save_figure(figure, figures, name)
        parts += [_layer_table(result, errors), f"![error of each layer]({FOLDER}/{name}.png)"]
    return "\n\n".join(parts)


def _layer_table(result: dict[str, Any], errors: dict[int, list[tuple[int, float]]]) -> str:
    rows = []
    for layer, points in errors.items():
        fit = result["initial"][layer] if result["initial"] else {}
        start = [f"{fit[name]:.4g}" if fit else "" for name in ("teacher", "before", "after")]
        values = [value for _, value in points]
        rises = sum(later > earlier for earlier, later in zip(values, values[1:], strict=False))
        ends = [f"{value:.4g}" for value in (values[0], values[-1])]
        rows.append([layer, *start, *ends, f"{rises} of {len(values) - 1}"])
    return "\n".join(markdown_table(LAYER_COLUMNS, rows))


def _describe_machines(sections: dict[str, list[dict[str, Any]]]) -> str:
    """Where and when the results were made."""
    lines = set()
    for name, results in sections.items():
        for result in results:
            machine = result.get("machine")
            if machine:
                versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
                lines.add(
                    f"- {name}: {machine['processor']}, {machine['cores']} cores, "
                    f"{machine['memory_gb']} GB, {versions}, commit {machine['commit']}, "
                    f"{machine['date']}"
                )
    return "\n".join(sorted(lines))


def _read(folder: Path) -> list[dict[str, Any]]:
    results = []
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            result["rows"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no result of an experiment: no rows ({error})") from None
        results.append({"initial": [], "layers": [], **result, "variant": path.stem})
    return results
