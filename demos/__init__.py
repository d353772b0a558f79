"""Programs to read and to run: client and server step by step, timings, plots.

They import everything but the command line, and nothing imports them. Begin with
`local_round_trip` or the notebook `tour.ipynb`, which shows one sentence stage by stage; README.md
walks through client and server in two terminals.
"""
