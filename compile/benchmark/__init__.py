"""One attention head, encrypted: inhibitor against dot product, timed in turns.

Imports `compile` and `fhe_inhibitor.benchmark`, and where a cluster runs the heads
`fhe_inhibitor.cluster`. Begin with `circuit`, then `run`.
"""
