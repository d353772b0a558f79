"""A socket to serve on, or one line that says why there is none."""

from __future__ import annotations

import socket

from fhe_inhibitor.errors import InputError


def listen(host: str, port: int, backlog: int | None = None) -> socket.socket:
    """Return a socket that listens on an address, IPv6 if it has a colon.

    port: 0 for a free one. backlog: connections that may wait; Python's own number if None. Raises
    InputError for an address that can't be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=backlog)
    # The last two for what no name of a host, and no port, can be.
    except (OSError, UnicodeError, OverflowError) as error:
        raise cannot_listen(host, port, error) from error


def cannot_listen(host: str, port: int, error: Exception) -> InputError:
    """Return what a user is told of an address that can't be used."""
    reason = getattr(error, "strerror", None) or error
    return InputError(f"can't listen on {host}, port {port} ({reason}): name another host or port")
