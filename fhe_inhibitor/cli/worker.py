"""A command's work in a process of its own, so that Ctrl-C and progress work at any moment.

Concrete's native code answers Ctrl-C by killing its process or by a page of stack trace, and it
holds Python's interpreter lock while it compiles and makes keys. So the work is done by a child
for which such signals are blocked. This process shows its progress; on Ctrl-C, SIGTERM and SIGHUP
it ends the child and removes what that left unfinished. A crash of native code becomes an ordinary
error, too. Work that has something to take back elsewhere calls `system.child.ends_on_request`.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from fhe_inhibitor.system.cache import remove_unfinished
from fhe_inhibitor.system.child import Child
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.system.signals import Ended

Result_co = TypeVar("Result_co", covariant=True)


class Work(Protocol[Result_co]):
    """What a command does: a dataclass of what it was given, which can be pickled."""

    def run(self, observer: Observer) -> Result_co:
        """Do it, and return something that can be pickled."""
        ...


def in_worker(work: Work[Result_co], observer: Observer, may_wait: bool = False) -> Result_co:
    """Return `work.run(observer)`, called in a child process.

    may_wait: whether the work waits for others, such as a server, without using the processor.
    Raises what it raises if that is an InputError, ChildError for all else.
    """
    child = Child(_given, work)
    try:
        return child.call("run", observer=observer, may_wait=may_wait)
    except (KeyboardInterrupt, Ended, BrokenPipeError):  # the last: nobody reads what we print
        child.stop()
        remove_unfinished()
        raise
    finally:
        child.close()


def _given(work: Work[Result_co]) -> Work[Result_co]:
    return work
