"""What the service refuses, and the answer that a client gets."""

from __future__ import annotations

from starlette.exceptions import HTTPException


class Refused(HTTPException):
    """An answer other than success: HTTP status, a code for programs, a line for people."""

    def __init__(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, message, headers)
        self.code = code


def not_found(what: str) -> Refused:
    """Return the answer for what is not there, or not the user's."""
    return Refused(404, "not_found", f"no such {what}")


def too_many(code: str, message: str, retry_after_s: float) -> Refused:
    """Return the answer for more than a limit; retry_after_s: when to try again."""
    return Refused(429, code, message, {"Retry-After": str(max(1, round(retry_after_s)))})


def too_large(what: str, limit: int) -> Refused:
    """Return the answer for bytes beyond a limit."""
    return Refused(413, "too_large", f"{what} may have {limit} bytes at most")


def wrong_model(asked: str) -> Refused:
    """Return the answer for a circuits hash that this server doesn't serve."""
    return Refused(
        409,
        "wrong_model",
        f"this server runs no model {asked[:12]}: fetch the model again, then make keys for it",
    )
