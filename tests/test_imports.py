"""The four folders import in one direction, no file imports in a circle, and roles stay apart."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from compile.local.prepared import CODE, SPLIT_CODE

REPOSITORY = Path(__file__).resolve().parent.parent
# Each room may import itself and those before it, nothing else. A module is in the room with the
# longest name that its own begins with. The command line stands last: nothing imports it.
ROOMS = (
    "circuits",
    "fhe_inhibitor",
    "fhe_inhibitor.system",
    "fhe_inhibitor.runtime",
    "fhe_inhibitor.cluster",
    "fhe_inhibitor.text",
    "fhe_inhibitor.images",
    "fhe_inhibitor.integer",
    "fhe_inhibitor.model",
    "fhe_inhibitor.onnx",
    "fhe_inhibitor.training",
    "fhe_inhibitor.experiments",
    "fhe_inhibitor.remote",
    "fhe_inhibitor.service",
    "fhe_inhibitor.benchmark",
    "compile",
    "compile.cost",
    "compile.local",
    "compile.scaling",
    "compile.evaluation",
    "compile.building",
    "compile.paper",
    "compile.benchmark",
    "demos",
    "fhe_inhibitor.app",
    "fhe_inhibitor.cli",
)
COMMAND_LINE = ROOMS[-1]
# `import fhe_inhibitor` names everything, for users and type checkers, but loads a module only when
# a name of it is used. So it may name what stands above it; in turn no room takes a name from it.
PUBLIC_FACE = "fhe_inhibitor"
MAY_USE_THE_PUBLIC_FACE = ("demos",)
APART = {frozenset(("fhe_inhibitor.remote", "fhe_inhibitor.service"))}
CIRCUITS_MAY_IMPORT = {
    "__future__", "circuits", "collections", "concrete", "dataclasses", "enum", "functools",
    "itertools", "math", "numpy", "typing",
}  # fmt: skip


def is_part_of(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def room(module: str) -> str:
    """The room of a module; `python -m fhe_inhibitor` belongs to the command line."""
    if module == "fhe_inhibitor.__main__":
        return COMMAND_LINE
    return max((name for name in ROOMS if is_part_of(module, name)), key=len)


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def find_imports(source: str, modules: set[str]) -> set[str]:
    """All modules that a file imports, inside functions too; `from a import b` is a.b if a file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write it in full"
            assert node.module is not None
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            names.update(submodules & modules or {node.module})
    return names


FILES = {
    module_name(path): path
    for folder in ("circuits", "fhe_inhibitor", "compile", "demos")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
}
IMPORTS = {name: find_imports(path.read_text(), set(FILES)) for name, path in FILES.items()}


@pytest.mark.parametrize("module", [name for name in FILES if name != PUBLIC_FACE])
def test_imports_point_one_way(module: str) -> None:
    own = room(module)
    for imported in IMPORTS[module] & set(FILES):
        other = room(imported)
        assert ROOMS.index(other) <= ROOMS.index(own), f"{module} imports {imported}"
        assert other != COMMAND_LINE or own == COMMAND_LINE, f"{module} imports the command line"
        assert {own, other} not in APART, f"{module} imports {imported}"
        by_face = imported == PUBLIC_FACE and own not in MAY_USE_THE_PUBLIC_FACE
        assert not by_face, f"{module} imports through the public face"


@pytest.mark.parametrize("name", ROOMS)
def test_each_room_says_what_it_is_for(name: str) -> None:
    docstring = ast.get_docstring(ast.parse(FILES[name].read_text()))
    assert docstring, f"{name} has no docstring"
    assert len(docstring.splitlines()) >= 3, f"{name}: what for, what it imports, where to begin"


def test_no_file_imports_in_a_circle() -> None:
    graph = {module: imports & set(FILES) for module, imports in IMPORTS.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("circuits")])
def test_circuits_know_neither_torch_nor_files_nor_network(module: str) -> None:
    foreign = {name.split(".")[0] for name in IMPORTS[module]} - CIRCUITS_MAY_IMPORT
    assert not foreign
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(FILES[module].read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert "open" not in calls


@pytest.mark.parametrize(
    "module",
    ["runtime.server", "service.worker", "service.process", "cluster.worker", "cluster.engine"],
)
def test_server_knows_nothing_of_the_client(module: str) -> None:
    """Not even through a third file: the server must run without code that holds secrets."""
    reached, waiting = set[str](), [f"fhe_inhibitor.{module}"]
    while waiting:
        imported = waiting.pop()
        if imported not in reached:
            reached.add(imported)
            waiting.extend(IMPORTS.get(imported, ()))
    assert len(reached) > 1
    assert not reached & {"fhe_inhibitor.runtime.client", "fhe_inhibitor.runtime.keyring"}
    assert not [name for name in reached if name.split(".")[0] == "concrete"]


def test_oracle_finds_what_it_should() -> None:
    """A check of the checker: submodules, plain names and imports inside functions."""
    source = "from circuits import stages\ndef f():\n    import compile.module\n"
    assert find_imports(source, {"circuits.stages"}) == {"circuits.stages", "compile.module"}


def test_circuits_are_made_anew_when_any_code_that_they_come_from_changes() -> None:
    """What is named as such has with it all of `circuits` that it imports."""
    for name in CODE:
        missing = {m for m in froms(name) if m.startswith("circuits.")} - {*CODE}
        assert not missing, (name, missing)


def test_tasks_are_cut_anew_when_any_code_that_decides_how_changes() -> None:
    named = {*CODE, *SPLIT_CODE}
    assert froms("compile.cost.sketch") >= {"compile.complexity", "compile.options"}
    for name in SPLIT_CODE:
        missing = {m for m in froms(name) if m.startswith(("circuits.", "compile."))} - named
        assert not missing, (name, missing)


def froms(name: str) -> set[str]:
    """Return the modules that a module imports names from."""
    path = REPOSITORY / Path(*name.split(".")).with_suffix(".py")
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    return {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
