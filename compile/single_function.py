"""One compiled function with keys of its own, each phase of a call apart.

compiled = CompiledFunction(module, "head")
compiled.generate_keys()
compiled.call_encrypted(x)      # encrypt, run, decrypt: what came back, seconds and bytes
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from concrete import fhe
from concrete.fhe.compilation.module import FheModule


@dataclass(frozen=True)
class FunctionCall:
    """One encrypted call. output: what was decrypted; sizes are those of the serialized values."""

    encrypt_s: float
    run_s: float
    decrypt_s: float
    request_bytes: int
    response_bytes: int
    output: np.ndarray

    @property
    def seconds(self) -> float:
        """Seconds of all three phases."""
        return self.encrypt_s + self.run_s + self.decrypt_s


class CompiledFunction:
    """A function of a module, in whose keys its client and server agree.

    module: what `compile.module.compile_functions` gives. function: the name of the function.
    """

    def __init__(self, module: FheModule, function: str) -> None:
        self.module = module
        self._function = function

    def generate_keys(self) -> float:
        """Make new keys; return the seconds that took."""
        start = time.perf_counter()
        self.module.client.keys.generate(force=True)
        return time.perf_counter() - start

    def evaluation_keys_bytes(self) -> int:
        """Return the size of the evaluation keys as sent."""
        return len(self.module.client.evaluation_keys.serialize())

    def call_encrypted(self, *integers: np.ndarray) -> FunctionCall:
        """Encrypt integers, run the function on what arrives, decrypt what comes back."""
        client, name = self.module.client, self._function
        start = time.perf_counter()
        sent = client.encrypt(*integers, function_name=name)
        # One value comes alone, several come as a tuple.
        request = [value.serialize() for value in (sent if isinstance(sent, tuple) else (sent,))]
        encrypt_s = time.perf_counter() - start
        received = tuple(fhe.Value.deserialize(data) for data in request)
        result, run_s = self.run(name, received)
        response = result.serialize()
        start = time.perf_counter()
        output = client.decrypt(fhe.Value.deserialize(response), function_name=name)
        decrypt_s = time.perf_counter() - start
        sizes = sum(map(len, request)), len(response)
        return FunctionCall(encrypt_s, run_s, decrypt_s, *sizes, np.asarray(output))

    def run(self, name: str, values: Sequence[fhe.Value]) -> tuple[fhe.Value, float]:
        """Run a function of the module on ciphertexts; return its result and its seconds."""
        keys = self.module.client.evaluation_keys
        start = time.perf_counter()
        result = self.module.server.run(*values, evaluation_keys=keys, function_name=name)
        return result, time.perf_counter() - start
