"""One attention head, encrypted: inhibitor against dot product, timed in turns.

Imports `compile` and `fhe_inhibitor.benchmark`. Begin with `circuit`, then `run`.
"""
