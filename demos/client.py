"""A client that has a sentence classified by a server that can't read it, step by step.

    export FHE_INHIBITOR_TOKEN=...          # as the server printed it
    python -m demos.client "a gripping , funny film"

`demos/README.md` shows it beside its server. The short form is

    with RemoteClient(url, token) as client:
        print(client.classify(text).label)
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from fhe_inhibitor.remote.client import RemoteClient, RemoteOptions
from fhe_inhibitor.system.child import silence_dependencies
from fhe_inhibitor.system.progress import Observer


def main(
    text: Annotated[str, typer.Argument()] = "a gripping , funny film",
    server: Annotated[str, typer.Option(help="Where the server is.")] = "http://127.0.0.1:8765",
    ca: Annotated[
        Path | None, typer.Option(help="The server's certificate, if the system doesn't know it.")
    ] = None,
    accept_new_model: Annotated[
        bool, typer.Option("--accept-new-model", help="Take another model than the server had.")
    ] = False,
) -> None:
    """Agree on a model, make keys, send them, classify."""
    silence_dependencies()
    token = os.environ.get("FHE_INHIBITOR_TOKEN")
    options = RemoteOptions(ca=ca, accept_new_model=accept_new_model)
    with RemoteClient(server, token, options, Shown()) as client:
        # One hash over all that both sides must agree on. Were it another one than the keys here
        # belong to, the client would know now, before it sent anything.
        model = client.connect()
        print(
            f"{model.name}, hash {model.circuits_hash[:12]}, reads up to {model.buckets[-1]} tokens"
        )

        # Tokenizer, embedding and the circuits' specifications, fetched once. Text becomes
        # integers here, in the clear.
        public = client.public_model()
        tokens = public.tokenize(text)
        print(f"tokens: {' | '.join(tokens.tokens)}")
        x, padding = public.encode(tokens)
        print(f"integers: {x.shape[0]} x {x.shape[1]} from {x.min()} to {x.max()}")

        # Keys, made once. The secret one stays in a file of mode 0600; those for evaluation,
        # which compute and don't decrypt, are sent once.
        client.prepare()
        print(f"secret key: {client.keyring.path(model.circuits_hash)}")
        print(f"sent once: {client.evaluation_keys_bytes:,} bytes of evaluation keys")

        # Encrypt, send, wait, receive, decrypt.
        result = client.classify(text)
        print(f"sent: {result.request_bytes:,} bytes of ciphertext")
        print(f"received: {result.response_bytes:,} bytes of ciphertext, {result.seconds:.1f} s")
        print(f"decrypted: {dict(zip(public.labels, result.logits or (), strict=True))}")
        print(f"{result.label}, probability {result.probability:.3f}")


class Shown(Observer):
    """Prints each step of the client once, as it begins."""

    def __init__(self) -> None:
        self._step = ""

    def begin(self, step: str) -> None:
        if step != self._step:
            self._step = step
            print(f"  ... {step}", flush=True)


if __name__ == "__main__":
    typer.run(main)
