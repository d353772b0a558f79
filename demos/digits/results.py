"""The results file: two students, and a record of each image that was decrypted.

What is finished is kept. A student that was trained anew is measured anew.
"""

from __future__ import annotations

from pathlib import Path

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import Record, read_results, write_atomically
from fhe_inhibitor.system.machine import Machine
from fhe_inhibitor.system.statistics import Share

NAME = "digits"
INHIBITOR, DOT_PRODUCT = "inhibitor", "dot_product"
KINDS = (INHIBITOR, DOT_PRODUCT)
PACKAGES = ("concrete-python", "torch", "scikit-learn")


class Decrypted(Record):
    """One image that was classified encrypted.

    index: its place in the test split. logits, clear_logits: decrypted, and of the integers in the
    clear with exact rounding. seconds: from encryption to logits. load_average: of the machine as
    the image began.
    """

    index: int
    label: int
    logits: tuple[int, ...]
    clear_logits: tuple[int, ...]
    seconds: float
    load_average: float
    request_bytes: int
    response_bytes: int

    @property
    def found(self) -> int:
        """The label that the decrypted logits say."""
        return max(range(len(self.logits)), key=self.logits.__getitem__)

    @property
    def expected(self) -> int:
        """The label that the integers in the clear say."""
        return max(range(len(self.clear_logits)), key=self.clear_logits.__getitem__)


class Encrypted(Record):
    """Circuits, keys and decrypted images. lookup_s: of one lookup by bit width."""

    machine: Machine
    keygen_s: float | None
    evaluation_keys_bytes: int
    lookup_s: dict[int, float]
    images: tuple[Decrypted, ...] = ()


class Student(Record):
    """One mechanism. in_float, exact, noisy: accuracies on the test split: of the float student, of
    its integers, and of those with rounding noise drawn, a mean of `draws`. training_s: None where
    the student was there. lookups: of one image, by bit width, and stages: of each stage in all.
    complexity: of one image, by Concrete's optimizer.
    """

    machine: Machine
    model_hash: str
    in_float: Share
    exact: Share
    noisy: Share
    draws: int
    training_s: float
    lookups: dict[int, int]
    stages: dict[str, int]
    complexity: float
    encrypted: Encrypted | None = None


class Results(Record):
    """The file. source: of the images."""

    source: str
    n_train: int
    n_test: int
    image_size: tuple[int, int]
    patch: tuple[int, int]
    students: dict[str, Student] = {}


class KeptResults:
    """Results that are written whenever something is added.

    fresh: what is asked for, without students. Raises InputError for a file that can't be read, and
    for one of other images or patches.
    """

    def __init__(self, out: Path, fresh: Results) -> None:
        self.path = out / f"{NAME}.json"
        self.found = fresh
        if self.path.exists():
            self.found = read_results(self.path, Results, f"demos.{NAME}")
            if self.found.model_copy(update={"students": {}}) != fresh:
                raise InputError(
                    f"{self.path} has other images or patches than are asked for: name another "
                    "folder with --out, or remove the file"
                )

    def add(self, kind: str, student: Student) -> None:
        """Add a student, or replace it; write the file."""
        students = {**self.found.students, kind: student}
        self.found = self.found.model_copy(update={"students": students})
        write_atomically(self.path, self.found.model_dump_json(indent=1) + "\n")

    def add_encrypted(self, kind: str, encrypted: Encrypted) -> None:
        """Replace what is known of a student under encryption; write the file."""
        student = self.found.students[kind]
        self.add(kind, student.model_copy(update={"encrypted": encrypted}))

    def add_image(self, kind: str, image: Decrypted) -> None:
        """Add a decrypted image; write the file."""
        encrypted = self.found.students[kind].encrypted
        assert encrypted is not None
        images = (*encrypted.images, image)
        self.add_encrypted(kind, encrypted.model_copy(update={"images": images}))
