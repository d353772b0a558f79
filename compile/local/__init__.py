"""Classify in this process, encrypted, simulated or in the clear: the twin of `remote/`.

Imports `compile` and `fhe_inhibitor.integer`. Begin with `session`.
"""
