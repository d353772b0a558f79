"""Homomorphic-encryption inference with inhibitor attention."""

import os

# HPX, the scheduler inside Concrete, would catch SIGPIPE from the first evaluation on, and end the
# process when a peer hangs up or a pager closes; Python wants to raise BrokenPipeError then.
os.environ.setdefault("HPX_HANDLE_SIGNALS", "0")
