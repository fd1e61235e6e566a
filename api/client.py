"""
How the command line reaches runs: a server over HTTP, or the database on this machine.

Without a server the application itself answers, in this process; so both ways obey the same rules and give the
same answers.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2

from ledger.settings import Settings, refuse_other_environment

TIMEOUT_S = 30  # seconds for one answer

_SAFE = "._:@+=-"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class Failed(Exception):
    """The request was refused or could not be made; the text says why, for a person."""


class Client:
    """
    Requests about runs.

    Args:
        http: A client whose base URL is the server's.
    """

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def get(self, path: str, query: dict[str, Any] | None = None) -> Any:
        """
        Read something; parameters that are None are left out.

        Raises:
            Failed: There is no such thing, or no answer.
        """
        given = {name: value for name, value in (query or {}).items() if value is not None}
        return await self._answer("GET", path, params=given)

    async def send(self, method: str, path: str, body: dict[str, Any]) -> Any:
        """
        Change something.

        Raises:
            Failed: It was refused, or there was no answer.
        """
        return await self._answer(method, path, json=body)

    async def _answer(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = await self._http.request(method, path, **options)
        except httpx2.HTTPError as error:
            raise Failed(f"no answer from {self._http.base_url}: {error or type(error).__name__}") from error
        try:
            answer = response.json()
        except ValueError as error:
            raise Failed(
                f"{self._http.base_url} is not a Run Ledger server (status {response.status_code})"
            ) from error
        if response.is_error:
            raise Failed(answer.get("detail", response.text))
        return answer


@asynccontextmanager
async def connect(settings: Settings) -> AsyncIterator[Client]:
    """
    A client of the server that the settings name, else of the database.

    Raises:
        Failed: There is no such database.
        BadSettings: The server will not work on the environment that was chosen.
        UnusableDatabase: It cannot be opened.
    """
    if settings.url is not None:
        refuse_other_environment(settings)
        key = settings.api_key
        headers = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
        async with httpx2.AsyncClient(base_url=settings.url, headers=headers, timeout=TIMEOUT_S) as http:
            yield Client(http)
        return
    # Loaded only here: a command that talks to a server starts in a third of the time.
    from api.app import create_app  # noqa: PLC0415
    from ledger.ledger import Ledger  # noqa: PLC0415

    _check_exists(settings.database_url)
    ledger = await Ledger.open(
        settings.database_url,
        metadata_bytes_max=settings.metadata_bytes_max,
        late_write_s=settings.late_write_s,
    )
    try:
        app = create_app(ledger, await ledger.log(settings.environment), for_owner=True)
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=None) as http:
            yield Client(http)
    finally:
        await ledger.close()


def path_of(run_id: str, rest: str = "metadata", version: str = "v1") -> str:
    """The path of something about a run."""
    base = f"/api/{version}/runs/{quote(run_id, safe=_SAFE)}"
    return f"{base}/{rest}" if rest else base


def without_controls(text: str) -> str:
    """
    Text for a terminal: characters that could steer it, or turn the order of what follows, are shown as escapes.

    The escapes are JSON's own, so that JSON text stays JSON with the same meaning.
    """
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _check_exists(url: str) -> None:
    """Reading must not make an empty database where somebody only mistyped its name."""
    from sqlalchemy import make_url  # noqa: PLC0415 - As above.
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415 - As above.

    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise Failed(
            f"{url!r} is not a database URL; write for example sqlite+aiosqlite:///run-ledger.db"
        ) from error
    if parsed.get_backend_name() == "sqlite" and parsed.database and not Path(parsed.database).exists():
        raise Failed(
            f"there is no database {parsed.database}; start one with 'run-ledger serve', name another with "
            "--database-url, or set RUN_LEDGER_URL to the address of a server"
        )
