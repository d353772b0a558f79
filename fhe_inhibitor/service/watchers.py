"""Tasks that are to run as long as the server does: what fails in one is logged, and it goes on."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine

from fhe_inhibitor.service.logs import fields

LOG = logging.getLogger(__name__)
RETRY_S = 1.0  # after a failure, so that one that stays doesn't fill the log


class Watchers:
    """Such tasks of one owner, each with a name for people."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, task: Coroutine[None, None, None]) -> None:
        """Start a task that never ends by itself."""
        self._tasks.append(asyncio.create_task(task, name=name))

    def ended(self) -> list[str]:
        """Return the names of those that ended all the same."""
        return [task.get_name() for task in self._tasks if task.done()]

    async def close(self) -> None:
        """End all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def repeat(step: Callable[[], Awaitable[None]], pause_s: float) -> None:
    """Do a step again and again; after one that failed, whyever, wait `RETRY_S` and go on."""
    while True:
        try:
            await step()
            await asyncio.sleep(pause_s)
        except Exception as error:
            log_failure(step.__name__.strip("_"), error)
            await asyncio.sleep(max(RETRY_S, pause_s))


def log_failure(what: str, error: Exception) -> None:
    """Log what failed and where; the system's own errors with their message."""
    reason = str(error) if isinstance(error, OSError | sqlite3.Error) else None
    LOG.error(f"{what} failed", exc_info=error, extra=fields(reason=reason))
