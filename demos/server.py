"""A server that classifies what it can't read, step by step; `fhe-inhibitor serve` does the same.

    python -m demos.server

`demos/README.md` shows it beside its client.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compile.local.prepared import prepare_circuits
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.runtime.protocol import MODEL_FILES
from fhe_inhibitor.service.access import list_tokens, new_token
from fhe_inhibitor.service.process import serve
from fhe_inhibitor.service.settings import load_settings
from fhe_inhibitor.system.child import silence_dependencies

USER = "alice"


def main(
    data: Annotated[Path, typer.Option(help="Where keys and jobs go.")] = Path("build/server"),
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8765,
) -> None:
    """Compile, make a token, serve."""
    silence_dependencies()

    # Compiled once, then found in the cache. The weights are in the circuits, in the clear: the
    # model is the server's own, the text is not.
    circuits = prepare_circuits(IntegerModel.load())
    print(f"circuits: {circuits}")

    # What every client gets before it sends anything. None of it runs code.
    for name in MODEL_FILES:
        print(f"  for clients: {name}, {(circuits / name).stat().st_size / 1e3:,.0f} KB")

    # Who may ask. The server keeps the token's hash alone, so it is shown once.
    settings = load_settings(data_dir=data, port=port)
    if any(user == USER for user, _ in list_tokens(settings.tokens)):
        print(f"{USER} has a token; for another one: fhe-inhibitor tokens new {USER} --data {data}")
    else:
        print(f"for the client: export FHE_INHIBITOR_TOKEN={new_token(settings.tokens, USER)}")

    # From here on: one line of JSON for each event. Sizes, names of tasks and times are all
    # that can be logged, because all that arrives is encrypted.
    serve(settings, [circuits])


if __name__ == "__main__":
    typer.run(main)
