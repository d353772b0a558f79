"""Time and memory of the attention that models train with: inhibitors against eager dot product.

    python -m demos.attention_speed

The dot product is transformers' eager attention of DistilBERT. The attentions take turns, call by
call, so that a drifting machine favours none; the ratio is that of the medians. One thread is
measured in processor time, what else the machine does doesn't count; several in wall time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Annotated

import psutil
import torch
import typer
from torch import Tensor, nn
from transformers.models.distilbert.modeling_distilbert import eager_attention_forward

from fhe_inhibitor.model import fused_attention as fused_inhibitor
from fhe_inhibitor.system.machine import describe_machine
from fhe_inhibitor.system.statistics import Summary, compare, summarize

BATCH, HEADS, HEAD_DIM = 16, 12, 32  # MiniLM's heads
INHIBITORS = ("inhibitor", "inhibitor_signed")
SAMPLE_S = 2e-4
Attention = Callable[[], Tensor]


def make_attentions(n: int, batch: int, heads: int, head_dim: int) -> dict[str, Attention]:
    """Return the attentions on the same operands, as a model's projections give them."""
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(batch, n, heads, head_dim).requires_grad_().transpose(1, 2) for _ in range(3)
    )
    mask = torch.ones(batch, 1, 1, n, dtype=torch.bool)
    mask[::2, ..., n // 2 :] = False  # every second text is half as long
    barrier = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
    gamma, eta = (torch.ones(heads, 1, 1).requires_grad_() for _ in range(2))
    shift = torch.full((heads, 1, 1), head_dim**0.5).requires_grad_()  # about half of Z is 0
    common = {"mask": mask, "gamma": gamma, "shift": shift}

    def cast() -> tuple[Tensor, Tensor, Tensor]:
        """What linear layers give under autocast."""
        if torch.is_autocast_enabled("cpu"):
            return q.bfloat16(), k.bfloat16(), v.bfloat16()
        return q, k, v

    return {
        "dot_product": lambda: eager_attention_forward(nn.Identity(), *cast(), barrier)[0],
        "inhibitor": lambda: fused_inhibitor.inhibitor(*cast(), **common),
        "inhibitor_signed": lambda: fused_inhibitor.inhibitor_signed(*cast(), **common, eta=eta),
    }


def call(attention: Attention, backward: bool, half: bool) -> None:
    """Attend once, in bfloat16 autocast if `half`, with gradients if `backward`."""
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=half),
        torch.set_grad_enabled(backward),
    ):
        out = attention()
    if backward:
        out.sum().backward()


def time_attentions(
    n: int,
    backward: bool,
    half: bool,
    repetitions: int,
    batch: int = BATCH,
    heads: int = HEADS,
    head_dim: int = HEAD_DIM,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, tuple[Summary, Summary]]:
    """Return of each attention its seconds by `clock`, and the ratio to the dot product's."""
    attentions = make_attentions(n, batch, heads, head_dim)
    seconds: dict[str, list[float]] = {name: [] for name in attentions}
    for repetition in range(-2, repetitions):  # two to warm up
        for name, attention in attentions.items():
            start = clock()
            call(attention, backward, half)
            if repetition >= 0:
                seconds[name].append(clock() - start)
    return {
        name: (summarize(values), compare(values, seconds["dot_product"]))
        for name, values in seconds.items()
    }


def peak_growth_bytes(
    kind: str, n: int, batch: int = BATCH, heads: int = HEADS, head_dim: int = HEAD_DIM
) -> int:
    """Return by how much one call with gradients raises the resident memory of this process."""
    call(make_attentions(8, 1, heads, head_dim)[kind], backward=True, half=False)  # compiles
    attention = make_attentions(n, batch, heads, head_dim)[kind]
    process, done = psutil.Process(), threading.Event()
    samples = [process.memory_info().rss]

    def sample() -> None:
        while not done.wait(SAMPLE_S):
            samples.append(process.memory_info().rss)

    thread = threading.Thread(target=sample)
    thread.start()
    call(attention, backward=True, half=False)
    done.set()
    thread.join()
    return max(samples) - samples[0]


def in_new_process(kind: str, n: int) -> int:
    """Return the same where nothing was allocated and freed before."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(peak_growth_bytes, kind, n).result()


def main(
    lengths: Annotated[
        str, typer.Option(metavar="N,N,...", help="Sequence lengths in tokens.")
    ] = "32,64,128,256",
    repetitions: Annotated[int, typer.Option(min=1, help="Calls of each attention.")] = 30,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each attention.")] = 1,
) -> None:
    """Measure and print a table."""
    torch.set_num_threads(threads)
    clock = time.thread_time if threads == 1 else time.perf_counter
    kind = "processor time of 1 thread" if threads == 1 else f"wall time of {threads} threads"
    machine = describe_machine(("torch", "numba"))
    print(
        f"{machine.processor}, {kind}, load {machine.load_average} at the start, {machine.date}, "
        f"commit {machine.commit}; batch {BATCH}, {HEADS} heads of {HEAD_DIM}\n\n"
        "| n | precision | gradients | eager dot product ms | inhibitor ms | ratio | signed ms "
        "| ratio | memory MB, in that order |\n|---|---|---|---|---|---|---|---|---|"
    )
    for n in (int(part) for part in lengths.split(",")):
        for half in (False, True):
            for backward in (False, True):
                results = time_attentions(n, backward, half, repetitions, clock=clock)
                cells = [f"{1e3 * results['dot_product'][0].median:.1f}"]
                for name in INHIBITORS:
                    seconds, ratio = results[name]
                    cells += [
                        f"{1e3 * seconds.median:.1f}",
                        f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})",
                    ]
                memory = (
                    ""
                    if half or not backward
                    else ", ".join(f"{in_new_process(name, n) / 1e6:.0f}" for name in results)
                )
                precision = "bfloat16" if half else "float32"
                row = [n, precision, "yes" if backward else "no", *cells, memory]
                print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
