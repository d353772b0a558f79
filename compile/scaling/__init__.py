"""One sentence over many cores: seconds that were measured, and those of machines that weren't.

Imports `compile.cost` and `compile.local`. Begin with `run` (threads of this machine, measured),
then `graph` (a list scheduler for machines that aren't here) and `simulation`.
"""
