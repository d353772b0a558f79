"""What can go wrong between a client and its server, as errors that a program can tell apart.

What the user can mend by another argument is an InputError too: the command line exits 2 for it.
"""

from __future__ import annotations

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.progress import printable


class RemoteError(RuntimeError):
    """The server said no, or nothing.

    code: the server's word for it, see `runtime.protocol`. retry_after_s: when to ask again, None
    if that won't help.
    """

    def __init__(
        self, message: str, code: str | None = None, retry_after_s: float | None = None
    ) -> None:
        # Part of it may be the server's, which must not reach a terminal's controls.
        super().__init__(printable(message))
        self.code = code
        self.retry_after_s = retry_after_s


class ServerUnreachable(RemoteError):
    """No answer, or one that says to come back later, for as long as the client was patient."""


class AccessDenied(RemoteError, InputError):
    """The server doesn't know the token."""


class NotFound(RemoteError):
    """No such model, keys or job for this user; perhaps removed, perhaps expired."""


class UnknownModel(NotFound, InputError):
    """The server has no model of that name, or several and none was named."""


class ModelMismatch(RemoteError, InputError):
    """Client and server don't hold the same circuits; nothing was encrypted or sent."""


class QuotaExceeded(RemoteError):
    """The server allows one user no more, or nothing so large."""


class JobFailed(RemoteError):
    """The server gave up on a request; `code` says why, see `runtime.protocol.Failure`."""
