"""Whether encrypted classification can work here, and what is in its way: `doctor`'s findings.

for finding in diagnose():
    print(finding.name, finding.state, finding.found, finding.remedy)
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from compile.local.prepared import CIRCUITS_PART, SIMULATION_PART
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.remote.client import RemoteClient, RemoteOptions
from fhe_inhibitor.remote.errors import AccessDenied, RemoteError
from fhe_inhibitor.runtime.keyring import UNKNOWN, Keyring, KeysEntry
from fhe_inhibitor.runtime.protocol import PROTOCOL_VERSION
from fhe_inhibitor.system.cache import MANIFEST, UNFINISHED, why_unfit
from fhe_inhibitor.system.child import Child, ChildError
from fhe_inhibitor.system.diagnosis import (
    GB,
    Finding,
    find_cores,
    find_disk,
    find_extras,
    find_huge_pages,
    find_memory,
    find_processor,
    find_versions,
)
from fhe_inhibitor.system.folders import CACHE_VARIABLE, KEYS_VARIABLE, cache_root, keys_root
from fhe_inhibitor.system.pages import counted
from fhe_inhibitor.system.progress import Observer

BITS = 3  # of the tiny circuit's lookup
VARIABLES = {"cache": CACHE_VARIABLE, "keys": KEYS_VARIABLE}  # which name other folders


def diagnose(
    server: str | None = None,
    token: str | None = None,
    options: RemoteOptions | None = None,
    observer: Observer | None = None,
) -> Iterator[Finding]:
    """Yield what is found about each thing that encrypted classification needs.

    server: an address, to be asked whether it serves this client; with its token and options.
    """
    observer = observer or Observer()
    checks: dict[str, Callable[[], Finding]] = {
        "versions": find_versions,
        "extras": find_extras,
        "processor": find_processor,
        "cores": find_cores,
        "memory": find_memory,
        "huge pages": find_huge_pages,
        "cache": find_cache,
        "keys": find_keys,
        "concrete": find_concrete,
    }
    if server is not None:
        checks["server"] = partial(find_server, server, token, options or RemoteOptions())
    for name, check in checks.items():
        observer.begin(name)
        try:
            yield check()
        except InputError as error:  # such as that of a user without a home folder
            yield Finding(name=name, state="failure", found="can't be told", remedy=str(error))
        except OSError as error:  # such as that of a file that another user owns
            remedy = "make it readable for this user"
            if name in VARIABLES:
                remedy += f", or name another folder in {VARIABLES[name]}"
            found = f"can't be told: {error}"
            yield Finding(name=name, state="failure", found=found, remedy=remedy)


def find_cache() -> Finding:
    """Find the cache's folder, what is in it, and whether that is whole."""
    folder = cache_root()
    disk = find_disk("cache", folder, CACHE_VARIABLE, runs_code=True)
    sizes = _sizes(folder)
    manifests = [path for path in sizes if path.name == MANIFEST]
    parts = [path.parent for path in manifests if path.parents[2] == folder]
    found = f"{disk.found}, {counted(len(parts), 'part')} of {sum(sizes.values()) / GB:.2f} GB"
    if disk.state == "failure":
        return disk.model_copy(update={"found": found})
    damaged = [part for part in parts if _is_ours(part) and why_unfit(part, {})]
    if damaged:
        return Finding(
            name="cache",
            state="warning",
            found=f"{found}, damaged: {', '.join(map(str, damaged))}",
            remedy="nothing: what is damaged is made anew when it is needed. If it happens again, "
            "look at the disk",
        )
    if any(folder.glob(f"*/{UNFINISHED}*")):
        return Finding(
            name="cache",
            state="warning",
            found=f"{found}, with something unfinished",
            remedy="nothing: it is removed when its model is used next, or another process writes "
            "it now",
        )
    return disk.model_copy(update={"found": found})


def _sizes(folder: Path) -> dict[Path, int]:
    """Return the bytes of each file below a folder, without those that go away meanwhile."""
    sizes: dict[Path, int] = {}
    for inside, _, names in os.walk(folder):
        for path in (Path(inside, name) for name in names):
            with suppress(OSError):
                sizes[path] = path.stat().st_size
    return sizes


def _is_ours(part: Path) -> bool:
    """Whether a part is of circuits: also those for long documents, or cut for workers."""
    return part.name.split("-")[0] in (CIRCUITS_PART, SIMULATION_PART)


def find_keys() -> Finding:
    """Find the keys, whether their owner alone can read them, and their parameters."""
    keyring = Keyring()
    disk = find_disk("keys", keys_root(), KEYS_VARIABLE)
    if disk.state == "failure":
        return disk
    entries = keyring.entries()
    found = f"{disk.found}, {counted(len(entries), 'set')}"
    described = [_describe(keyring, entry) for entry in entries]
    found = "; ".join((found, *described)) if entries else f"{found}: made for the first text"
    files = [keyring.path(entry.circuits_hash) for entry in entries]
    paths = [*files, *(path.parent for path in files)]
    open_to_others = [path for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o077]
    if open_to_others:
        first = open_to_others[0]
        return Finding(
            name="keys",
            state="failure",
            found=f"{found}; {first} has mode {stat.S_IMODE(first.stat().st_mode):04o}",
            remedy="others may have read them: `fhe-inhibitor keys remove` and make new ones, or "
            f"`chmod go= {' '.join(map(str, open_to_others))}` if you know that nobody did",
        )
    if any(entry.model == UNKNOWN for entry in entries):
        return Finding(
            name="keys",
            state="warning",
            found=found,
            remedy="a description is missing or damaged: `fhe-inhibitor keys remove` those keys, "
            "and new ones are made when they are needed",
        )
    return disk.model_copy(update={"found": found})


def find_concrete() -> Finding:
    """Find whether Concrete compiles a tiny circuit here and runs it on a ciphertext.

    In a process of its own: native code that crashes there is a finding here.
    """
    try:
        child = Child(TinyCircuit)
        try:
            compile_s, keygen_s, lookup_s = child.call("run")
        finally:
            child.close()
    except ChildError as error:
        return Finding(
            name="concrete",
            state="failure",
            found=str(error),
            remedy="look at the lines above; FHE_INHIBITOR_TRACEBACK=1 shows what native code "
            "says. If they are all well, install into a new environment",
        )
    return Finding(
        name="concrete",
        state="ok",
        found=f"a {BITS}-bit lookup on a ciphertext was right: compiled in {compile_s:.1f} s, keys "
        f"in {keygen_s:.1f} s, encrypted, run and decrypted in {lookup_s:.2f} s",
    )


def find_server(server: str, token: str | None, options: RemoteOptions) -> Finding:
    """Find whether a server answers, takes the token, and has a model that this client can use."""
    try:
        with RemoteClient(server, token, options) as client:
            model = client.connect()
            private = client.is_private
    except AccessDenied as error:
        remedy = "ask its operator for a token, and give it in FHE_INHIBITOR_TOKEN or --token-file"
        return Finding(name="server", state="failure", found=str(error), remedy=remedy)
    except (InputError, RemoteError) as error:
        remedy = "ask its operator whether it runs, and compare the address and the versions"
        return Finding(name="server", state="failure", found=str(error), remedy=remedy)
    found = (
        f"{server} has {model.name} for {', '.join(map(str, model.buckets))} tokens, protocol "
        f"{model.protocol_version}"
    )
    if model.protocol_version != PROTOCOL_VERSION or not private:
        remedy = "others can read the token on its way: use an https address"
        if private:
            remedy = f"this client speaks protocol {PROTOCOL_VERSION}: upgrade the older one"
        return Finding(name="server", state="warning", found=found, remedy=remedy)
    return Finding(name="server", state="ok", found=found)


class TinyCircuit:
    """One encrypted lookup, with keys of its own."""

    def run(self) -> tuple[float, float, float]:
        """Return the seconds of compiling, of making keys, and of a number's way there and back.

        Raises RuntimeError for a wrong result.
        """
        from concrete import fhe

        top = (1 << BITS) - 1
        start = time.perf_counter()
        compiler = fhe.Compiler(lambda x: fhe.univariate(lambda v: top - v)(x), {"x": "encrypted"})
        circuit = compiler.compile(range(top + 1))
        compiled = time.perf_counter()
        circuit.keygen()
        made = time.perf_counter()
        found = circuit.encrypt_run_decrypt(1)
        ended = time.perf_counter()
        if found != top - 1:
            raise RuntimeError(f"an encrypted lookup gave {found}, not {top - 1}")
        return compiled - start, made - compiled, ended - made


def _describe(keyring: Keyring, entry: KeysEntry) -> str:
    """Return a set of keys in a few words."""
    locked = "locked" if keyring.is_locked(entry.circuits_hash) else "without a passphrase"
    dimensions = "/".join(str(key.dimension) for key in entry.parameters or ())
    known = f"dimensions {dimensions}" if dimensions else "parameters unknown"
    return f"{entry.circuits_hash[:12]} for {entry.model}, {known}, {locked}"
