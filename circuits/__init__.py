"""The encrypted world: every stage of the network as a pure function of integer arrays.

Given NumPy arrays, a stage is the bit-exact integer reference; given Concrete's tracers, it becomes
the circuit; given intervals, it proves ranges. Imports NumPy alone, and Concrete in `encrypted`.

Begin with `inhibitor`: one head, and the equation. `stages` puts a layer's steps around it,
`network` puts all stages one after the other, and `plan` lists them as data, with the names and
ranges of what passes between them: what `compile` starts from. Below all of them is `lookups`, the
one operation that isn't a sum.
"""
