"""The integer checkpoint: what a trained model becomes, and all that is needed to run it.

Imports `circuits`, `system`, `runtime` and `text`; no torch. Begin with `model`, then `public`
(the part that a client has) and `format` (the file).
"""
