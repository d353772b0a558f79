"""The first half of a build: from labelled texts to a quantized student, in torch.

    texts -> two sets -> teacher -> corpus, vocabulary -> student, quantized -> checkpoint

It goes on where it stopped if it is called again with the same folders. `run` is the second half.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import writing
from fhe_inhibitor.system.progress import Observer, Stopwatch
from fhe_inhibitor.training.own_texts import CLAIM_FILE, OwnRecipe, prepare, train_on


def make_student(
    own: OwnRecipe, out: Path, work: Path, observer: Observer, skip_invalid: bool = False
) -> dict[str, float]:
    """Read the texts and make the checkpoint `out`; return the seconds of each step, of this call.

    work: folder of everything in between. Raises InputError for texts, teachers, options or folders
    that can't be used, and while another process builds in the same folder.
    """
    with writing(f"the folder {out}", "name another one with --out"):
        is_taken = out.exists() and any(out.iterdir())
    if is_taken and not (work / CLAIM_FILE).exists():
        raise InputError(f"{out} is not empty: name a new folder with --out, or remove it")
    steps = Stopwatch(observer)
    with claimed(work):
        prepared = prepare(own, work, steps, skip_invalid)
        train_on(own, prepared, out, work, steps)
    return steps.stop()


@contextmanager
def claimed(work: Path) -> Iterator[None]:
    """Hold a work folder, made where it is missing.

    Raises InputError if another process does, and for what is no folder.
    """
    with writing(f"the folder {work}", "name another one with --work"):
        work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"another process builds in {work}: let it finish") from None
    try:
        yield
    finally:
        lock.release()
