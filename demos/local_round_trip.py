"""A sentence, classified by a server that never sees it: both sides in one file, step by step.

    python -m demos.local_round_trip "a gripping , funny film"

Everything that passes between the two is bytes; the comments say what each side knows.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from compile.local.prepared import compile_model
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.runtime.client import Client
from fhe_inhibitor.runtime.messages import Request, Response
from fhe_inhibitor.runtime.server import Server, to_response
from fhe_inhibitor.system.progress import Observer


def main(text: str) -> None:
    model = IntegerModel.load()

    with tempfile.TemporaryDirectory() as folder:
        # The operator compiles the network once. The folder holds the server's native code and
        # two plain JSON files, which are all that a client needs.
        circuits = Path(folder) / "circuits"
        compile_model(model, Observer()).save(circuits)

        # Client: keys. Only the evaluation keys leave it; they can compute, not decrypt.
        client = Client(circuits)
        client.generate_keys()
        evaluation_keys = client.evaluation_keys()
        print(f"client -> server: {len(evaluation_keys) / 1e6:.1f} MB of evaluation keys, once")

        # Client: tokenize, embed, quantize and encrypt. The server will learn the bucket's
        # length, nothing else about the text.
        x, padding = model.encode(model.tokenize(text))
        request = client.encrypt(x, padding, model.projections(x)).to_bytes()
        print(f"client -> server: {len(request) / 1e3:.1f} kB for {len(x)} encrypted positions")

        # Server: every layer, on ciphertexts.
        server = Server(circuits)
        keys = server.read_evaluation_keys(evaluation_keys)
        for done in server.start(Request.from_bytes(request), keys):
            print(
                f"  server: {done.index}/{done.total} {done.task.stage}: "
                f"{done.task.n_lookups} lookups, {done.seconds:.1f} s"
            )
        response = to_response(len(x), done).to_bytes()
        print(f"server -> client: {len(response) / 1e3:.1f} kB of encrypted logits")

        # Client: decrypt.
        logits = client.decrypt(Response.from_bytes(response))
        for label, probability in zip(model.labels, model.probabilities(logits), strict=True):
            print(f"{label}: {probability:.3f}")


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "a gripping , funny film")
