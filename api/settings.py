"""Settings, from the environment variables that begin with RUN_LEDGER_; options of the command line come first."""

import os
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from projections.size import METADATA_BYTES_DEFAULT, METADATA_BYTES_MAX

PREFIX = "RUN_LEDGER_"


class BadSettings(Exception):
    """A setting is unknown or its value cannot be used; one line says which and why."""


def _address(url: str) -> str:
    parts = urlsplit(url)
    if not parts.hostname or parts.port == 0:  # Reading the port raises ValueError when it is none.
        raise ValueError("names no host")
    return url


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    database_url: str = "sqlite+aiosqlite:///run-ledger.db"
    url: Annotated[str, Field(pattern=r"^https?://"), AfterValidator(_address)] | None = None
    api_key: SecretStr | None = None
    environment: str = Field(default="dev", pattern=r"^[a-z][a-z0-9-]{0,31}$")
    metadata_bytes_max: int = Field(default=METADATA_BYTES_DEFAULT, ge=2, le=METADATA_BYTES_MAX)
    late_write_s: int = Field(default=3_600, ge=0, le=10 * 365 * 86_400)


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
        raise BadSettings(f"{source} is {fault['input']!r}: {fault['msg'].lower()}") from error
