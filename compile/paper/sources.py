"""The commands that the page's numbers come from, each with what it ran on."""

from __future__ import annotations

from compile.paper.cells import sentence
from compile.paper.inputs import DecryptedEvaluation, Inputs
from compile.paper.records import Source

REPORT, COMPILE, COST, EVALUATE, TRAIN = "report", "compile", "cost", "evaluate", "train"


def sources_of(inputs: Inputs) -> dict[str, Source]:
    """Return all sources by name. One without a machine has a command that wasn't run yet."""
    machine, model = inputs.machine, f"--model {inputs.model}"
    chosen = f" --p-error {inputs.p_error}" if inputs.p_error else ""
    sources = {
        REPORT: Source(command=inputs.command, machine=machine),
        COMPILE: Source(
            command=f"fhe-inhibitor compile {model}{chosen} --out DIR", machine=machine
        ),
        COST: Source(
            command=f"fhe-inhibitor cost {model} --report DIR/report.json --p-error P",
            machine=machine,
            note=f"Predicted for {inputs.predictions.machine}; all lengths share one set of keys. "
            "`compile` writes DIR.",
        ),
        EVALUATE: Source(command=_evaluate(inputs), machine=machine if inputs.accuracy else None),
        decrypted_name(0): Source(
            command=f"fhe-inhibitor evaluate --mode execute {model} --data FILE.tsv --tokens "
            f"{inputs.max_tokens} --out FILE.jsonl"
        ),
    }
    if inputs.trained is not None:
        sources[TRAIN] = Source(
            command=inputs.trained.command,
            machine=inputs.trained.machine,
            note="Stored beside the model when it was trained.",
        )
    for index, evaluation in enumerate(inputs.evaluations):
        sources[decrypted_name(index)] = _decrypted_source(evaluation)
    for index, peer in enumerate(inputs.peers):
        sources[peer_name(index)] = Source(
            command="", note=f"{peer.paper}, {peer.year}, <{peer.url}>. {sentence(peer.stands)}"
        )
    return sources


def decrypted_name(index: int) -> str:
    """Return the name of the source of an evaluation, counted from 0."""
    return "decrypted" if index == 0 else f"decrypted-{index + 1}"


def peer_name(index: int) -> str:
    """Return the name of the source of a peer, counted from 0."""
    return f"peer-{index + 1}"


def _evaluate(inputs: Inputs) -> str:
    """Return the command of the integer model's accuracy."""
    found = inputs.accuracy
    words = [f"fhe-inhibitor evaluate --model {inputs.model}"]
    words.append(f"--data {found.data if found else 'FILE.tsv'} --tokens {inputs.max_tokens}")
    if found:
        words.append(f"--draws {found.accuracy.n_draws}")
        words += [f"--limit {found.limit}"] if found.limit else []
    return " ".join(words)


def _decrypted_source(evaluation: DecryptedEvaluation) -> Source:
    header, sittings = evaluation.header, evaluation.found.sittings
    dates = sorted({sitting.machine.date for sitting in sittings})
    note = f"{len(sittings)} sittings, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}"
    return Source(
        command=f"fhe-inhibitor evaluate --mode execute --model {header.model} --data "
        f"{header.data} --tokens {header.max_tokens} --draws {header.n_draws} --out "
        f"{evaluation.file}",
        machine=sittings[-1].machine,
        note=f"{note}; the machine is that of the last.",
    )
