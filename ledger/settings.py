"""Settings, from the environment variables that begin with RUN_LEDGER_; options of the command line come first."""

import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ledger.master import SECRET_CHARACTERS_MIN
from ledger.run_ids import RUN_ID
from projections.size import ATTEMPT_MAX, METADATA_BYTES_DEFAULT, METADATA_BYTES_MAX, NAME_CHARACTERS_MAX

PREFIX = "RUN_LEDGER_"
OPEN_ENVIRONMENT = "dev"  # The one environment that a ledger without API keys serves.
RATE_LIMIT_DEFAULT = 1_000  # requests a second for each key: more than most servers answer
_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")  # As browsers write it: no path.
RATE_LIMIT_MAX = 1_000_000  # requests a second; no process comes near it


class BadSettings(Exception):
    """A setting is unknown or its value cannot be used; one line says which and why."""


def _address(url: str) -> str:
    parts = urlsplit(url)
    if not parts.hostname or parts.port == 0:  # Reading the port raises ValueError when it is none.
        raise ValueError("names no host")
    return url


def _long_enough(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value()) < SECRET_CHARACTERS_MIN:
        raise ValueError(
            f"it has fewer than {SECRET_CHARACTERS_MIN} characters; make one with: openssl rand -hex 32"
        )
    return secret


def _origins(value: object) -> object:
    """Origins of web pages, separated by commas, or a star for all."""
    if not isinstance(value, str):
        return value
    origins = tuple(item.strip().lower() for item in value.split(",") if item.strip())
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin} is no origin; write for example https://app.example, or *")
    return origins


def _state_folder() -> Path:
    """
    Where this user's programs keep what must outlive them.

    Source: the XDG Base Directory Specification, `XDG_STATE_HOME`.
    """
    state = os.environ.get("XDG_STATE_HOME")
    try:
        home = Path(state) if state else Path("~/.local/state").expanduser()
    except RuntimeError:  # A container's user may have no home.
        home = Path(tempfile.gettempdir()) / f"user-{os.getuid()}"
    return home / "run-ledger" / "spool"


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    database_url: str = "sqlite+aiosqlite:///run-ledger.db"
    url: Annotated[str, Field(pattern=r"^https?://"), AfterValidator(_address)] | None = None
    api_key: SecretStr | None = None
    environment: str = Field(default=OPEN_ENVIRONMENT, pattern=r"^[a-z][a-z0-9-]{0,31}$")
    metadata_bytes_max: int = Field(default=METADATA_BYTES_DEFAULT, ge=2, le=METADATA_BYTES_MAX)
    secret: Annotated[SecretStr, AfterValidator(_long_enough)] | None = None
    rate_limit: int = Field(default=RATE_LIMIT_DEFAULT, ge=0, le=RATE_LIMIT_MAX)
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)] = ()
    late_write_s: int = Field(default=3_600, ge=0, le=10 * 365 * 86_400)

    # Live streams: seconds of silence before a sign of life, seconds until a reader that takes no bytes is
    # dropped, and how many streams one caller may have open.
    heartbeat_s: float = Field(default=15, ge=0.05, le=3_600)
    stalled_reader_s: float = Field(default=30, ge=0.1, le=3_600)
    streams_max: int = Field(default=1_000, ge=1, le=1_000_000)

    # What a job reports, and how.
    actor: str | None = Field(default=None, min_length=1, max_length=NAME_CHARACTERS_MAX)
    flush_interval_s: float = Field(default=1.0, ge=0.05, le=60)
    spool_dir: Path = Field(default_factory=_state_folder)
    spool_bytes_max: int = Field(default=64 * 2**20, ge=2**16)

    # The run that a process works for, as a run tells the processes that it starts.
    run_id: str | None = Field(default=None, pattern=f"^{RUN_ID.pattern}$")
    run_attempt: int | None = Field(default=None, ge=1, le=ATTEMPT_MAX)
    run_parent: str | None = Field(default=None, pattern=f"^{RUN_ID.pattern}$")
    run_root: str | None = Field(default=None, pattern=f"^{RUN_ID.pattern}$")


def load_settings(**options: Any) -> Settings:
    """
    Read the settings; *options* that are not None win over the environment.

    Raises:
        BadSettings: One is unknown, or its value cannot be used.
    """
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    unknown = sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)
    if unknown:
        raise BadSettings(f"unknown setting {unknown[0]}; there are {', '.join(sorted(known))}")
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        name = str(fault["loc"][0])
        source = f"--{name.replace('_', '-')}" if name in given else f"{PREFIX}{name.upper()}"
        if name in {"api_key", "secret"}:  # Neither a terminal nor a log is the place for it.
            raise BadSettings(f"{source} cannot be used: {fault['msg'].lower()}") from None
        raise BadSettings(f"{source} is {fault['input']!r}: {fault['msg'].lower()}") from error


def refuse_other_environment(settings: Settings) -> None:
    """
    Check that the environment that was chosen is the one that the server will work on.

    Raises:
        BadSettings: The key is of another one, or there is none and a server without keys serves another.
    """
    if settings.url is None or "environment" not in settings.model_fields_set:
        return
    from ledger.keys import environment_of  # noqa: PLC0415 - Few commands need it.

    key = settings.api_key
    served = None if key is None else environment_of(key.get_secret_value())
    if served is not None and served != settings.environment:
        raise BadSettings(
            f"RUN_LEDGER_API_KEY is a key of environment {served}, not of {settings.environment}; "
            "leave out --environment (RUN_LEDGER_ENVIRONMENT), or use another key"
        )
    if key is None and settings.environment != OPEN_ENVIRONMENT:
        raise BadSettings(
            f"a server without API keys serves the environment {OPEN_ENVIRONMENT} only, "
            f"not {settings.environment}; set RUN_LEDGER_API_KEY to a key of that environment, leave out "
            "--environment, or leave out RUN_LEDGER_URL to use the database itself"
        )
