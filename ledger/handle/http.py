"""The ledger behind a server."""

import json
from typing import Any

import httpx2

from ledger.errors import NotFound, RunNotFound, Unreachable, WriteRefused
from ledger.handle.records import Change, RunRecord
from ledger.handle.requests import Answer, Request, run_path
from projections.times import Microseconds, format_time
from projections.values import JsonObject

TIMEOUT_S = 5  # seconds for one answer; longer, and the request is kept for later
CONNECT_S = 2  # seconds for a connection

# Codes of answers that are about the way here and not about the request: it may pass another time.
_PASSING = frozenset({"foreign-host", "forwarded", "no-such-route"})
_REFUSALS = frozenset({400, 404, 412, 413, 415, 422})
_NOT_CARRIED_OUT = frozenset({401, 403, 404, 421, 429, 503, 507})


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
            base_url=url, headers=headers, timeout=httpx2.Timeout(TIMEOUT_S, connect=CONNECT_S)
        )
        # A key names its environment and itself before its secret.
        owner = environment if api_key is None else "_".join(api_key.split("_")[:3])
        self.destination = f"{url.rstrip('/')}#{owner}"
        self.variables = {"RUN_LEDGER_URL": url}
        if api_key is not None:
            self.variables["RUN_LEDGER_API_KEY"] = api_key

    async def send(self, request: Request) -> Answer:
        """See `Backend.send`."""
        response = await self._ask(
            request.method,
            request.path,
            content=request.body.encode(),
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
        return RunRecord.of_json(await self._read(run_path(run_id, "v3"), run_id))

    async def metadata(self, run_id: str, version: int | None, at: Microseconds | None) -> JsonObject:
        """See `Backend.metadata`."""
        query = {"version": version, "at": None if at is None else format_time(at)}
        metadata: JsonObject = (await self._read(f"{run_path(run_id)}/metadata", run_id, query))["metadata"]
        return metadata

    async def history(self, run_id: str, after: int, limit: int) -> list[Change]:
        """See `Backend.history`."""
        page = await self._read(f"{run_path(run_id)}/metadata/history", run_id, {"after": after, "limit": limit})
        return [Change.of_json(event) for event in page["data"]]

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
        page = await self._read("/api/v1/runs", "", query)
        return [RunRecord.of_json(run) for run in page["data"]]

    async def close(self) -> None:
        """See `Backend.close`."""
        await self._http.aclose()

    async def _read(self, path: str, run_id: str, query: dict[str, Any] | None = None) -> dict[str, Any]:
        given = {name: value for name, value in (query or {}).items() if value is not None}
        response = await self._ask("GET", path, params=given)
        body = _members(response)
        if response.is_success and body:
            return body
        match body.get("code"):
            case "run-not-found":
                raise RunNotFound(run_id)
            case "version-not-found":
                raise NotFound(body.get("detail"))
            case str() if response.status_code in {400, 422}:
                raise ValueError(body.get("detail"))
        raise self._unusable(response, body)

    async def _ask(self, method: str, path: str, **options: Any) -> httpx2.Response:
        try:
            return await self._http.request(method, path, **options)
        except httpx2.InvalidURL as error:
            raise Unreachable(f"{self._http.base_url} is no address of a server: {error}", certain=True) from error
        except httpx2.HTTPError as error:
            certain = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
            reason = f"no answer from {self._http.base_url}: {error or type(error).__name__}"
            raise Unreachable(reason, certain=certain) from error

    def _unusable(self, response: httpx2.Response, body: dict[str, Any]) -> Unreachable:
        status = response.status_code
        said = body.get("detail") or f"{status} {response.reason_phrase}"
        if "code" not in body:
            said += ", which is not the answer of a Run Ledger server"
        return Unreachable(f"{self._http.base_url} answers: {said}", certain=status in _NOT_CARRIED_OUT)


def _members(response: httpx2.Response) -> dict[str, Any]:
    """The answer's body if it is a JSON object; nothing of it if it is not."""
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
