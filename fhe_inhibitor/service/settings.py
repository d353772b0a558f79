"""What an operator of the service can choose, and where from.

Every field is a line `name = value` of a TOML file and a variable `FHE_INHIBITOR_SERVE_NAME` of the
environment. Options of the command line go before the environment, that before the file.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import psutil
from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import TomlConfigSettingsSource as Toml

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.protocol import Limits
from fhe_inhibitor.service.certificates import check_certificate
from fhe_inhibitor.system.extras import needs
from fhe_inhibitor.system.files import to_utf8
from fhe_inhibitor.system.folders import service_root, with_home
from fhe_inhibitor.system.machine import cgroup_limit_bytes, usable_cores

ENVIRONMENT = "FHE_INHIBITOR_SERVE_"
DAY_S = 24 * 3600.0
UNPACKED = 10  # memory that evaluation keys take, over their size as they are sent
MEBIBYTE = 1 << 20
# First parts of the paths that the service has (`routes`, `web`), where metrics would be hidden.
OWN_PATHS = ("v1", "health", "ready", "status", "docs", "openapi.json")


class Settings(BaseSettings):
    """Settings of the service.

    data_dir: database, keys and ciphertexts. tokens_file: `access`; in data_dir if None.
    certificate, certificate_key: PEM files, for HTTPS. workers: processes that compute.
    worker_threads: of each; the cores shared out if None. worker_memory_bytes: that each may use,
    because a forged ciphertext can ask for any amount; three quarters of the machine's, or of what
    the server's control group may take, shared out if None. worker_keys_bytes: evaluation keys that
    each keeps ready, of the clients it served last; unpacked they take about ten times as much, but
    half of its memory at most.
    max_connections: open at once. head_timeout_s: until a request's head is there. body_timeout_s:
    until its body is, and more for what has come at `middleware.SLOWEST_BYTES_PER_S` or faster.
    scheduler: of a Dask cluster whose workers run the tasks; `workers` is then how many jobs run
    there at once. insecure_cluster, cluster_shared: as in `cluster.options.Cluster`.
    metrics_port, metrics_host: for Prometheus alone. metrics_path: on the port that is open to all;
    without either there are no metrics to be seen. open_status: the counts of the page `/` are for
    all who reach it, and not for users with a token alone.
    max_*: of one user. max_unfinished_jobs: also of requests that have not all arrived, which are
    in memory. max_streams: of events, which stay open until a job ends. reserved_bytes: of the
    disk, left free.
    """

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT, extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(8765, ge=0, lt=65536)
    data_dir: Path = Field(default_factory=service_root)
    tokens_file: Path | None = None
    certificate: Path | None = None
    certificate_key: Path | None = None
    max_connections: PositiveInt = 1000
    head_timeout_s: PositiveFloat = 10.0
    body_timeout_s: PositiveFloat = 30.0
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = Field(None, ge=0, lt=65536)
    open_status: bool = False
    metrics_path: str | None = Field(None, pattern="^/[A-Za-z0-9/._-]+$")
    workers: PositiveInt = 1
    worker_threads: PositiveInt | None = None
    worker_memory_bytes: PositiveInt | None = None
    worker_keys_bytes: PositiveInt = 256 * MEBIBYTE
    scheduler: str | None = None
    insecure_cluster: bool = False
    cluster_shared: Path | None = None
    task_timeout_s: PositiveFloat = 900.0
    keys_ttl_s: PositiveFloat = 30 * DAY_S
    job_ttl_s: PositiveFloat = DAY_S
    max_keys_bytes: PositiveInt = 512 * MEBIBYTE
    max_keys: PositiveInt = 4
    max_request_bytes: PositiveInt = 4 * MEBIBYTE
    max_chunk_bytes: PositiveInt = 8 * MEBIBYTE
    max_unfinished_jobs: PositiveInt = 32
    max_streams: PositiveInt = 64
    requests_per_s: PositiveFloat = 50.0
    burst_requests: PositiveInt = 200
    reserved_bytes: int = Field(256 * MEBIBYTE, ge=0)

    @field_validator("data_dir", "tokens_file", "certificate", "certificate_key", "cluster_shared")
    @classmethod
    def _of_home(cls, path: Path | None) -> Path | None:
        """A shell replaces the ~ of an option; nobody does in a file or a variable."""
        return path and with_home(path)

    @field_validator("*", mode="before")
    @classmethod
    def _not_lax(cls, value: Any, field: ValidationInfo) -> Any:
        """An empty host is every network, an empty folder the current one, and true is the 1."""
        if value == "":
            raise ValueError("it is empty; write a value, or leave it out for the default")
        wanted = cls.model_fields[field.field_name or ""].annotation
        if isinstance(value, bool) and wanted is not bool:
            raise ValueError("wanted a value, not true or false")
        return value

    @field_validator("metrics_port")
    @classmethod
    def _of_metrics_alone(cls, port: int | None, others: ValidationInfo) -> int | None:
        if port and port == others.data.get("port"):
            raise ValueError("the server itself listens there; take another port")
        return port

    @field_validator("metrics_path")
    @classmethod
    def _not_taken(cls, path: str | None) -> str | None:
        if path and path.split("/")[1] in OWN_PATHS:
            raise ValueError("the server has something else there; take another, such as /metrics")
        return path

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read options, then the environment, then the file."""
        return init_settings, env_settings, _Toml(settings_cls)

    @property
    def tokens(self) -> Path:
        """The file of tokens."""
        return self.tokens_file or self.data_dir / "tokens"

    @property
    def threads(self) -> int:
        """Threads of each worker."""
        return self.worker_threads or max(1, usable_cores() // self.workers)

    @property
    def memory_bytes(self) -> int:
        """Memory that each worker may use."""
        there, limit = psutil.virtual_memory().total, cgroup_limit_bytes()
        usable = there if limit is None else min(there, limit)
        return self.worker_memory_bytes or int(0.75 * usable) // self.workers

    @property
    def ready_keys_bytes(self) -> int:
        """Packed keys that a worker keeps ready: unpacked they fill half of its memory at most."""
        return min(self.worker_keys_bytes, self.memory_bytes // (2 * UNPACKED))

    @property
    def limits(self) -> Limits:
        """The part that clients are told."""
        return Limits(**{name: getattr(self, name) for name in Limits.model_fields})


class _Toml(Toml):
    """The settings' file; some programs begin it with a mark of its encoding."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        return tomllib.loads(to_utf8(file_path.read_bytes()).decode())


def load_settings(file: Path | None = None, **options: Any) -> Settings:
    """Return settings from options that are not None, the environment and a TOML file.

    Raises InputError for an unknown name, a value out of its range, an unreadable file, a
    certificate or its key that can't be used, and a scheduler that can't be.
    """

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    if file is not None and not file.is_file():
        raise InputError(f"no settings file {file}")
    _check_variables()
    given = {name: value for name, value in options.items() if value is not None}
    try:
        settings = FromFile(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise InputError(f"setting {name}: {said} ({first['input']!r})") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} can't be read as TOML: {error}") from error
    check_certificate(settings.certificate, settings.certificate_key)
    if settings.scheduler is not None:
        with needs("cluster"):
            from fhe_inhibitor.cluster.connection import check_address

        check_address(settings.scheduler, settings.insecure_cluster)
    return settings


def _check_variables() -> None:
    """Refuse a variable that would set nothing: one letter less may leave out a certificate."""
    names = sorted(f"{ENVIRONMENT}{name}".upper() for name in Settings.model_fields)
    for variable in os.environ:
        if variable.upper().startswith(ENVIRONMENT) and variable.upper() not in names:
            raise InputError(
                f"the variable {variable} names no setting: wanted one of {', '.join(names)}"
            )
