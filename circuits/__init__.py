"""The encrypted world: every stage of the network as a pure function of integer arrays.

The same function is the bit-exact integer reference when it gets NumPy arrays, the
circuit when Concrete traces it, and a proof of ranges when it gets intervals. Nothing
here knows about torch, files or the network.
"""
