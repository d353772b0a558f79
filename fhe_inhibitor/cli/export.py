"""The command `fhe-inhibitor export`: parses, calls, prints."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fhe_inhibitor.cli.options import print_json
from fhe_inhibitor.integer.model import DEFAULT_MODEL
from fhe_inhibitor.system.extras import needs


def export(
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write.")],
    model: Annotated[
        str,
        typer.Option(metavar="NAME|DIR", help="A shipped checkpoint, a student or a DistilBERT."),
    ] = DEFAULT_MODEL,
    quantized: Annotated[
        bool, typer.Option(help="The integers; of a float model, 8 bits by calibration.")
    ] = False,
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Texts for the ranges, one a line.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE.tsv", help="Compare labels on these texts, not random tokens."),
    ] = None,
) -> None:
    """Write a model as a graph of standard ONNX operators, run it, and say how it compares."""
    with needs("onnx"):
        from fhe_inhibitor.onnx.export import export_onnx
    from fhe_inhibitor.text.data import read_sentences, read_unlabelled

    # Of any number of labels: they are compared with the original's, not with the file's.
    texts = read_unlabelled(data) if data else []
    sentences = read_sentences(calibration) if calibration else []
    print_json(asdict(export_onnx(model, out, quantized, sentences, texts)))
