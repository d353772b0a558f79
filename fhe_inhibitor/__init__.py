"""Homomorphic-encryption inference with inhibitor attention: the clear world.

Each folder is one system; `tests/test_imports.py` lists them in the order in which they may import
one another. Begin with `runtime/` (client and server), `integer/` (the model that they run) and
`training/` (where it comes from).
"""

import os

# HPX, the scheduler inside Concrete, would catch SIGPIPE from the first evaluation on, and end the
# process when a peer hangs up or a pager closes; Python wants to raise BrokenPipeError then.
os.environ.setdefault("HPX_HANDLE_SIGNALS", "0")
