"""A command's work in a process of its own, so that Ctrl-C and progress work at any moment.

Concrete's native code answers Ctrl-C by killing its process or by a page of stack trace, and it
holds Python's interpreter lock while it compiles and makes keys. So the work is done by a child
for which SIGINT is blocked. This process shows its progress; on Ctrl-C it ends the child and
removes what that left unfinished. A crash of native code becomes an ordinary error, too. Work that
has something to take back elsewhere calls `system.child.ends_on_request`.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from fhe_inhibitor.system.cache import remove_unfinished
from fhe_inhibitor.system.child import Child
from fhe_inhibitor.system.progress import Observer

Result_co = TypeVar("Result_co", covariant=True)


class Work(Protocol[Result_co]):
    """What a command does: a dataclass of what it was given, which can be pickled."""

    def run(self, observer: Observer) -> Result_co:
        """Do it, and return something that can be pickled."""
        ...


def in_worker(work: Work[Result_co], observer: Observer) -> Result_co:
    """Return `work.run(observer)`, called in a child process.

    Raises what it raises if that is an InputError, ChildError for all else.
    """
    child = Child(_given, work)
    try:
        return child.call("run", observer=observer)
    except KeyboardInterrupt:
        child.stop()
        remove_unfinished()
        raise
    finally:
        child.close()


def _given(work: Work[Result_co]) -> Work[Result_co]:
    return work
