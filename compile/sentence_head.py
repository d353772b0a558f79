"""A classifier's head as a circuit of its own, with keys of its own.

circuit = SentenceHeadCircuit(head)      # proved, compiled, counted
circuit.generate_keys()
circuit.call_encrypted(x).output         # the score of x int [1, inputs]

Without hidden units nothing is looked up: there are no evaluation keys to make or to send, and
Concrete chooses parameters for the encryption alone. The client's check of parameters applies to
these as to all others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from circuits.encrypted import declare, encrypted_lookup
from circuits.sentence_head import SentenceHead
from compile.functions import DeclaredFunction
from compile.lookup_counts import check_lookups, compiled_lookups
from compile.module import compile_functions
from compile.options import DEFAULT_P_ERROR
from compile.single_function import CompiledFunction
from compile.verifier import VerificationError
from fhe_inhibitor.runtime.security import check, parse

FUNCTION = "sentence_head"
N_SAMPLES = 8


class SentenceHeadCircuit(CompiledFunction):
    """A compiled head.

    Raises VerificationError if a sum could leave its table or the lookups differ from the formula,
    and InputError if no parameters reach p_error, or if those that do aren't 128-bit secure.
    """

    def __init__(self, head: SentenceHead, p_error: float = DEFAULT_P_ERROR) -> None:
        super().__init__(compile_functions([trace_head(head)], [], p_error), FUNCTION)
        self.head = head
        self.lookups = compiled_lookups(self.module)[FUNCTION]
        check_lookups(self.module, FUNCTION, self.lookups, head.count_lookups())
        check(parse(self.module.client.specs.serialize()))


def trace_head(head: SentenceHead) -> DeclaredFunction:
    """Return the function that Concrete compiles, its ranges proved.

    Raises VerificationError if a sum can leave its table.
    """
    try:
        proved = head.prove()
    except OverflowError as error:
        raise VerificationError(
            f"{FUNCTION}: {error}: take fewer bits, or a longer table"
        ) from error
    lookup = encrypted_lookup()

    def function(x: Any) -> Any:
        score = head.evaluate(x, lookup)
        declare(score, (int(proved.low.min()), int(proved.high.max())))
        return score

    function.__name__ = FUNCTION
    declared = DeclaredFunction(function, {"x": "encrypted"})
    declared.inputset.extend(sample_inputs(head))
    return declared


def sample_inputs(head: SentenceHead) -> list[np.ndarray]:
    """Return inputs `[1, inputs]` that show Concrete the range of x, none longer than `max_norm`.

    A sample at both ends of the range has its ends in as many places as its norm allows. Raises
    VerificationError if that is none.
    """
    rng = np.random.default_rng(0)
    low, high = head.input_range
    n, samples = head.n_inputs, []
    places = n
    if head.max_norm is not None:
        places = min(n, int(head.max_norm**2 // max(low**2, high**2)))
        if not places:
            raise VerificationError(
                f"{FUNCTION}: a max_norm of {head.max_norm:g} reaches no end of the inputs' range "
                f"{low}..{high}: take a range of what such inputs have, or a larger norm"
            )
    for ends in ([low], [high], *([low, high],) * N_SAMPLES):
        x = np.zeros((1, n), dtype=np.int64)
        x[0, rng.permutation(n)[:places]] = rng.choice(ends, places)
        samples.append(x)
    return samples
