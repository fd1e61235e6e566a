"""The ledger behind a server."""

import asyncio
import json
import logging
import ssl
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import httpx2

from ledger.errors import BadCursor, NotFound, OutcomeUnknown, RunNotFound, Unreachable, WriteRefused
from ledger.handle import inherit
from ledger.handle.records import Change, RunRecord
from ledger.handle.requests import Answer, Request, run_path
from ledger.run_ids import RUN_ID
from projections.size import BODY_BYTES_MAX
from projections.times import Microseconds, format_time
from projections.values import JsonObject

TIMEOUT_S = 5  # seconds for one answer; longer, and the request is kept for later
CONNECT_S = 2  # seconds for a connection
BYTES_S_MIN = 65_536  # bytes a second of the slowest line that a request's time allows for

_Made = TypeVar("_Made")

# Codes of answers that are about the way here and not about the request: it may pass another time.
_PASSING = frozenset({"foreign-host", "forwarded", "no-such-route"})
_REFUSALS = frozenset({400, 404, 412, 413, 415, 422})
_NOT_CARRIED_OUT = frozenset({401, 403, 404, 421, 429, 503, 507})


def _is_not_ours(record: logging.LogRecord) -> bool:
    return record.threadName != inherit.THREAD


# It tells of every request, and nobody wants that between the lines that a job logs.
logging.getLogger("httpx2").addFilter(_is_not_ours)


@cache
def _certificates() -> ssl.SSLContext:
    """Loaded once, and not each time a process forks: that takes a tenth of a second."""
    return httpx2.create_ssl_context()


class HttpBackend:
    """
    A server.

    Args:
        url: Its base URL.
        api_key: What it wants to see, None for a server that is open.
        environment: The environment that is meant where the key does not say it.
    """

    def __init__(self, url: str, api_key: str | None, environment: str) -> None:
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._http = httpx2.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=httpx2.Timeout(TIMEOUT_S, connect=CONNECT_S),
            verify=_certificates(),
        )
        # A key names its environment and itself before its secret.
        owner = environment if api_key is None else "_".join(api_key.split("_")[:3])
        self.destination = f"{url.rstrip('/')}#{owner}"
        self.variables = {"RUN_LEDGER_URL": url, "RUN_LEDGER_ENVIRONMENT": environment}
        if api_key is not None:
            self.variables["RUN_LEDGER_API_KEY"] = api_key

    async def send(self, request: Request) -> Answer:
        """See `Backend.send`."""
        content = request.body.encode()
        if len(content) > BODY_BYTES_MAX:  # A server ends the connection instead of reading so much.
            reason = f"a request of {len(content):,} bytes, at most {BODY_BYTES_MAX:,} are allowed"
            raise WriteRefused(request.run_id, "body-too-large", reason, request.operations)
        response = await self._ask(
            request.method,
            request.path,
            content=content,
            headers={"Content-Type": "application/json", "Idempotency-Key": request.key},
        )
        body = _members(response)
        if response.is_success and isinstance(body.get("version"), int):
            return Answer(
                body.get("id", request.run_id), body["version"], body.get("isCached", False), body.get("metadata")
            )
        code = body.get("code")
        if code not in _PASSING and (
            response.status_code == 413 or (response.status_code in _REFUSALS and code is not None)
        ):
            missing = None
            if code == "run-not-found":
                missing = request.run_id
            elif code == "unknown-parent":
                missing = json.loads(request.body).get("parentRunId")
            detail = body.get("detail", f"the server answers {response.status_code}")
            raise WriteRefused(request.run_id, str(code), detail, request.operations, missing)
        raise self._unusable(response, body)

    async def retrieve(self, run_id: str) -> RunRecord:
        """See `Backend.retrieve`."""
        body = await self._read(run_path(run_id, "v3"), run_id)
        return self._understood(RunRecord.of_json, body)

    async def metadata(self, run_id: str, version: int | None, at: Microseconds | None) -> JsonObject:
        """See `Backend.metadata`."""
        query = {"version": version, "at": None if at is None else format_time(at)}
        body = await self._read(f"{run_path(run_id)}/metadata", run_id, query)
        return self._understood(lambda body: dict(body["metadata"]), body)

    async def history(self, run_id: str, after: int, limit: int) -> list[Change]:
        """See `Backend.history`."""
        page = await self._read(f"{run_path(run_id)}/metadata/history", run_id, {"after": after, "limit": limit})
        return self._understood(lambda page: [Change.of_json(event) for event in page["data"]], page)

    async def list(
        self, status: tuple[str, ...], task: tuple[str, ...], limit: int, after: str | None
    ) -> list[RunRecord]:
        """See `Backend.list`."""
        query = {
            "filter[status]": ",".join(status) or None,
            "filter[taskIdentifier]": ",".join(task) or None,
            "page[size]": limit,
            "page[after]": after,
        }
        page = await self._read("/api/v1/runs", None, query)
        return self._understood(lambda page: [RunRecord.of_json(run) for run in page["data"]], page)

    async def close(self) -> None:
        """See `Backend.close`."""
        await self._http.aclose()

    async def _read(self, path: str, run_id: str | None, query: dict[str, Any] | None = None) -> dict[str, Any]:
        if run_id is not None and not RUN_ID.fullmatch(run_id):  # It could lead to another route.
            raise RunNotFound(run_id)
        given = {name: value for name, value in (query or {}).items() if value is not None}
        response = await self._ask("GET", path, params=given)
        body = _members(response)
        if response.is_success and body:
            return body
        match body.get("code"):
            case "run-not-found":
                raise RunNotFound(str(run_id))
            case "version-not-found":
                raise NotFound(body.get("detail"))
            case "bad-cursor":
                raise BadCursor(str((query or {}).get("page[after]")))
            case str() if response.status_code in {400, 422}:
                raise ValueError(body.get("detail"))
        raise self._unusable(response, body)

    async def _ask(self, method: str, path: str, **options: Any) -> httpx2.Response:
        allowed_s = TIMEOUT_S + len(options.get("content", b"")) / BYTES_S_MIN
        try:
            async with asyncio.timeout(allowed_s):  # Also for an answer that comes a byte at a time.
                return await self._http.request(method, path, **options)
        except TimeoutError as error:
            reason = f"no answer from {self._http.base_url} within {allowed_s:.0f} s"
            raise Unreachable(reason, certain=False) from error
        except httpx2.InvalidURL as error:
            raise Unreachable(f"{self._http.base_url} is no address of a server: {error}", certain=True) from error
        except httpx2.HTTPError as error:
            certain = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
            reason = f"no answer from {self._http.base_url}: {error or type(error).__name__}"
            raise Unreachable(reason, certain=certain) from error

    def _understood(self, made: Callable[[dict[str, Any]], _Made], body: dict[str, Any]) -> _Made:
        """What an answer says; another program's answer may be JSON too."""
        try:
            return made(body)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"what {self._http.base_url} answers is not the answer of a Run Ledger server"
            raise Unreachable(reason, certain=True) from error

    def _unusable(self, response: httpx2.Response, body: dict[str, Any]) -> Unreachable:
        status = response.status_code
        said = body.get("detail") or f"{status} {response.reason_phrase}"
        if "code" not in body:
            said += ", which is not the answer of a Run Ledger server"
        certain = status in _NOT_CARRIED_OUT and body.get("code") != OutcomeUnknown.code
        return Unreachable(f"{self._http.base_url} answers: {said}", certain=certain)


def _members(response: httpx2.Response) -> dict[str, Any]:
    """The answer's body if it is a JSON object; nothing of it if it is not."""
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
