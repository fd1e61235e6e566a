"""
How the command line reaches runs: a server over HTTP, or the database on this machine.

Without a server the application itself answers, in this process; so both ways obey the same rules and give the
same answers.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx2

from ledger.settings import Settings, refuse_other_environment

TIMEOUT_S = 30  # seconds for one answer
SILENCE_S = 60  # seconds without a sign of life after which a live answer is asked for anew
RETRY_S = (0.1, 2.0)  # seconds until a live answer that broke off is asked for anew: at first, and at most

_SAFE = "._:@+=-"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class Failed(Exception):
    """The request was refused or could not be made; the text says why, for a person."""


class Message(NamedTuple):
    """
    One server-sent event.

    Attributes:
        kind: `message` unless it names another; `open` for each time that the stream begins or goes on.
        data: What its JSON says.
    """

    kind: str
    data: Any


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

    async def live(self, path: str, query: dict[str, Any] | None = None) -> AsyncGenerator[Message]:
        """
        Follow something. Where the answer breaks off it is asked for anew, behind the last event that came.

        Raises:
            Failed: It was refused, or there never was an answer.
        """
        given = {name: value for name, value in (query or {}).items() if value is not None}
        timeout = httpx2.Timeout(TIMEOUT_S, read=SILENCE_S)
        last_id = ""
        was_open = False
        wait_s, longest_s = RETRY_S
        while True:
            headers = {"Last-Event-ID": last_id} if last_id else {}
            try:
                async with self._http.stream(
                    "GET", path, params=given, headers=headers, timeout=timeout
                ) as response:
                    if response.status_code == 204:
                        return
                    if response.status_code == 200:
                        was_open, wait_s = True, RETRY_S[0]
                        yield Message("open", None)
                        async for behind, message in _messages(response):
                            if message is not None:
                                yield message
                            last_id = behind
                    elif not (was_open and response.status_code in _PASSING):
                        raise Failed(_detail(await response.aread(), response.status_code))
            except httpx2.HTTPError as error:
                if not was_open:
                    raise Failed(
                        f"no answer from {self._http.base_url}: {error or type(error).__name__}"
                    ) from error
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, longest_s)

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


_PASSING = {429, 500, 502, 503, 504, 507}


async def _messages(response: httpx2.Response) -> AsyncIterator[tuple[str, Message | None]]:
    """
    The events of an answer, each with the id behind it; None for one that says no more than its id.

    Source: the WHATWG HTML standard, section Server-sent events. (httpx2's own lines end at U+2028 too.)
    """
    last_id, kind, data = "", "", list[str]()
    async for line in _lines(response):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            last_id = value
        elif name == "event":
            kind = value
        elif name == "data":
            data.append(value)
        elif not line:
            text = "\n".join(data)
            yield last_id, Message(kind or "message", json.loads(text)) if text else None
            kind, data = "", []


async def _lines(response: httpx2.Response) -> AsyncIterator[str]:
    rest = b""
    async with aclosing(response.aiter_bytes()) as chunks:
        async for chunk in chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.removesuffix(b"\r").decode()


def _detail(body: bytes, status: int) -> str:
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the server is not a Run Ledger server (status {status})"


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
    from api.in_process import InProcess  # noqa: PLC0415
    from ledger.ledger import Ledger  # noqa: PLC0415

    _check_exists(settings.database_url)
    ledger = await Ledger.open(
        settings.database_url,
        metadata_bytes_max=settings.metadata_bytes_max,
        late_write_s=settings.late_write_s,
    )
    try:
        app = create_app(ledger, await ledger.log(settings.environment), for_owner=True)
        async with httpx2.AsyncClient(transport=InProcess(app), base_url="http://localhost", timeout=None) as http:
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
