"""`import fhe_inhibitor`: what it gives, what it costs, and what transformers can do after it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import pipeline

import fhe_inhibitor
from fhe_inhibitor.integer.model import CHECKPOINTS, DEFAULT_MODEL
from fhe_inhibitor.model.from_distilbert import from_distilbert
from tests.tiny_teacher import tiny_teacher

IMPORT_S = 0.3
MEASURED = """
import json, sys, time
start = time.perf_counter()
import fhe_inhibitor
seconds = time.perf_counter() - start
print(json.dumps([seconds, sorted(sys.modules), dir(fhe_inhibitor)]))
"""
TEXT = "a fine film , not dull"


@pytest.fixture(scope="module")
def imports() -> list[tuple[float, set[str], set[str]]]:
    """Seconds, loaded modules and `dir` of three fresh processes."""
    found = []
    for _ in range(3):
        output = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, check=True)
        seconds, modules, names = json.loads(output.stdout)
        found.append((seconds, set(modules), set(names)))
    return found


def test_importing_is_fast(imports: list[tuple[float, set[str], set[str]]]) -> None:
    assert min(seconds for seconds, _, _ in imports) < IMPORT_S


def test_importing_loads_nothing_heavy(imports: list[tuple[float, set[str], set[str]]]) -> None:
    _, modules, names = imports[0]
    assert not modules & {"torch", "concrete", "transformers", "numpy", "pydantic", "compile"}
    assert {name for name in modules if name.startswith("fhe_inhibitor.")} == set()
    assert set(fhe_inhibitor.__all__) <= names  # found by completion before they are loaded


@pytest.mark.parametrize("name", fhe_inhibitor.__all__)
def test_each_public_name_is_what_it_says(name: str) -> None:
    value = getattr(fhe_inhibitor, name)
    assert value if name == "__version__" else value.__name__ == name


def test_type_checkers_see_the_modules_that_are_loaded() -> None:
    """The imports for type checkers name the same places as the table of the lazy ones."""
    source = Path(str(fhe_inhibitor.__file__)).read_text(encoding="utf-8")
    for name, module in fhe_inhibitor._MODULES.items():
        imports = source.partition(f"    from {module} import ")[2].partition("\n    from ")[0]
        assert name in imports, f"{name} is not imported from {module}"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Sesion'"):
        _ = fhe_inhibitor.Sesion  # type: ignore[attr-defined]


def scores(folder: Path, text: str) -> dict[str, float]:
    """Return the probabilities that transformers' pipeline gives a text, by label."""
    classify: Any = pipeline("text-classification", model=str(folder), top_k=None)
    return {found["label"]: found["score"] for found in classify([text])[0]}


def expected(model: Any, tokenizer: Any, text: str) -> dict[str, float]:
    with torch.no_grad():
        logits = model.eval()(**tokenizer(text, return_tensors="pt")).logits[0]
    return {model.config.id2label[i]: p for i, p in enumerate(logits.softmax(-1).tolist())}


def test_a_saved_student_works_in_a_pipeline(tmp_path: Path) -> None:
    teacher = tiny_teacher()
    student = from_distilbert(teacher.model, "inhibitor_signed")
    student.save_pretrained(tmp_path)
    teacher.tokenizer.save_pretrained(tmp_path)
    found = scores(tmp_path, TEXT)
    assert len(found) == 2
    assert found == pytest.approx(expected(student, teacher.tokenizer, TEXT), abs=1e-6)


def test_the_shipped_student_works_in_a_pipeline() -> None:
    found = scores(CHECKPOINTS / DEFAULT_MODEL, "a gripping , funny film")
    assert found["positive"] > 0.99
    assert scores(CHECKPOINTS / DEFAULT_MODEL, "dull and stupid")["negative"] > 0.99


def test_a_pipeline_needs_one_import_alone() -> None:
    """In a fresh process: naming one class registers all of them with transformers."""
    program = (
        "import sys\n"
        "from fhe_inhibitor import InhibiDistilBertConfig\n"
        "from transformers import pipeline\n"
        "print(pipeline('text-classification', model=sys.argv[1])('dull'))"
    )
    command = [sys.executable, "-c", program, str(CHECKPOINTS / DEFAULT_MODEL)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "'label': 'negative'" in done.stdout, done.stderr
