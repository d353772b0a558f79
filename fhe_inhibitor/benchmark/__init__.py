"""One attention head in the clear: inhibitor against dot product, in int16, and their quality.

Imports `circuits`, `system` and `model`. Begin with `kernels`, then `run`; encrypted heads are
timed by `compile/benchmark`.
"""
