"""The student in integers, differentiable: what quantization-aware training trains.

Imports `circuits`, whose stages it repeats in torch, and `model`. Begin with `steps` (step sizes,
rounding, noise), then `network`; `functions` are the loops, compiled in `kernels`, and in torch's
`operations` for a GPU.
"""
