"""Run the tour in a fresh kernel and store its outputs, in the notebook or beside it.

    python -m demos.notebook

Times of execution are not stored, so that only what the cells show differs between two runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import nbformat
import typer
from nbclient import NotebookClient
from nbformat import NotebookNode

TOUR = Path(__file__).with_name("tour.ipynb")
CELL_TIMEOUT_S = 600  # a busy machine is several times slower than a quiet one


def main(
    out: Annotated[Path, typer.Option(help="Where the notebook goes with its outputs.")] = TOUR,
) -> None:
    """Execute the tour, and write it with its outputs."""
    nbformat.write(execute(read_tour()), out)


def read_tour() -> NotebookNode:
    """Return the tour as it is stored."""
    return nbformat.read(TOUR, as_version=4)


def execute(notebook: NotebookNode) -> NotebookNode:
    """Run all cells, in order; the notebook gets their outputs, and is returned.

    Raises `nbclient.exceptions.CellExecutionError` for the first cell that fails.
    """
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(TOUR.parent)}},
    )
    return client.execute(transport_encryption="auto")  # else the kernel warns that it has none


if __name__ == "__main__":
    typer.run(main)
