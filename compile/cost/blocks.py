"""Into how many blocks of rows a network's stages are cut, so that its tasks are worth sending.

    blocks = choose_blocks(network, lengths, p_error, workers=16)
    build_module(network, lengths, CompileOptions(blocks=blocks))

Each stage of a layer gets as many tasks as there are workers, heads counted, unless it has fewer
rows, or its tasks would get shorter than `MIN_TASK_S` on one core by the cost model: what is sent
around for a task should be little beside the task.
"""

from __future__ import annotations

from collections.abc import Iterable

from circuits.blocks import LayerBlocks
from circuits.network import Network
from compile.cost.report import LengthEstimate, estimate
from compile.cost.speed import USUAL_CORE, Speed
from fhe_inhibitor.errors import InputError

MIN_TASK_S = 1.0


def choose_blocks(
    network: Network,
    lengths: Iterable[int],
    p_error: float,
    workers: int,
    speed: Speed = USUAL_CORE,
) -> dict[int, tuple[LayerBlocks, ...]]:
    """Return the blocks of each layer, by number of tokens; 1 worker cuts nothing.

    speed: of the cores that a task takes its seconds on. Raises InputError for less than 1 worker,
    and as `estimate` does.
    """
    if workers < 1:
        raise InputError(f"{workers} workers to split the work for; wanted 1 or more")
    lengths = list(lengths)
    if workers == 1:
        return {n: (LayerBlocks(),) * len(network.layers) for n in lengths}
    report = estimate(network, lengths, p_error, speed)
    return {length.n: cut_for(network, length, workers, MIN_TASK_S) for length in report.lengths}


def cut_for(
    network: Network, length: LengthEstimate, workers: int, min_task_s: float
) -> tuple[LayerBlocks, ...]:
    """Return the blocks of each layer for one number of tokens, of which nothing is cut yet."""
    seconds = {stage.stage: stage.seconds for stage in length.stages}
    blocks = []
    for index, (layer, rows) in enumerate(
        zip(network.layers, network.lengths(length.n), strict=True)
    ):
        n_queries = 1 if layer.single_query else rows
        heads = len(layer.heads)

        def count(stage: str, wanted: int, n_rows: int, alike: int = 1, at: int = index) -> int:
            # A client may evaluate the first projections itself; it encrypts them in these blocks.
            each_s = seconds.get(f"layer{at}.{stage}", seconds[f"layer{at}.attend"]) / alike
            return max(1, min(wanted, n_rows, int(each_s / min_task_s)))

        blocks.append(
            LayerBlocks(
                project=count("project", workers, rows),
                attend=count("attend", -(-workers // heads), n_queries, heads),
                feed_forward=count("feed_forward", workers, n_queries),
            )
        )
    return tuple(blocks)
