"""Requests with API keys, and an example request for every route of the table."""

from collections.abc import Sequence
from typing import Any

import httpx2

from api.app import ROUTES
from api.contract import PAGES
from api.scopes import NEEDS, Need
from ledger.keys import Action
from ledger.ledger import Ledger
from ledger.writes import CreateBatch
from tests.api.service import MASTER, Service

_METADATA = {"operations": [{"type": "set", "key": "k", "value": 1}]}
BODIES: dict[tuple[str, str], Any] = {
    ("PUT", "/api/v1/runs/{run_id}/metadata"): _METADATA,
    ("POST", "/api/v1/runs/{run_id}/status"): {"status": "EXECUTING"},
    ("POST", "/api/v1/runs/{run_id}/metadata/erase"): {"key": "k", "reason": "asked for"},
    ("POST", "/api/v1/tasks/{task:path}/trigger"): {"payload": 1},
    ("POST", "/api/v1/runs"): {"task": "t"},
    ("POST", "/api/v1/auth/jwt/claims"): None,
    ("POST", "/api/v1/auth/public-tokens"): {"scopes": ["read:runs:r"]},
    ("POST", "/api/v1/runs/{run_id}/tags"): {"tags": "a tag"},
    ("POST", "/api/v2/runs/{run_id}/cancel"): {},
    ("POST", "/api/v3/batches"): {"runCount": 1},
    ("POST", "/api/v3/batches/{batch_id}/items"): {"index": 0, "task": "t"},
    ("POST", "/api/v2/tasks/batch"): {"items": [{"task": "t"}]},
}
QUERIES = {
    "/api/v1/runs/{run_id}/metadata/diff": "?from=1&to=1",
    "/api/v1/runs/{run_id}/metadata/explain": "?key=k",
    "/realtime/v1/runs": "?tags=a+tag",
}

BATCH = "batch_" + "0" * 25  # The one that `Keyed.create_batch` makes.

# Every route of the application as (method, path): a new one is tested by being there.
EVERY = sorted((method, route.path) for route in ROUTES for method in route.methods or () if method != "HEAD")
DESCRIBED = [route for route in EVERY if route not in PAGES]
KEYED = [route for route in EVERY if NEEDS[route] is not None]
PUBLIC = [route for route in EVERY if NEEDS[route] is None]
SCOPED = [route for route in KEYED if (need := NEEDS[route]) is not None and need.action is not None]
OF_A_RUN = [route for route in KEYED if "{run_id}" in route[1]]


def action_of(route: tuple[str, str]) -> Action:
    action = need_of(route).action
    assert action is not None
    return action


def need_of(route: tuple[str, str]) -> Need:
    need = NEEDS[route]
    assert need is not None
    return need


class Keyed:
    """
    Requests to a service with a key.

    Attributes:
        text: The key.
        id: Its public part.
    """

    def __init__(
        self,
        api: Service,
        environment: str = "dev",
        scopes: Sequence[str] = ("read", "write"),
        name: str | None = None,
        expires_at: int | None = None,
    ) -> None:
        self._api = api
        ledger: Ledger = api._ledger

        async def make() -> tuple[str, str]:
            owner = (await ledger.log(environment)).owner
            made = await ledger.keys.create(owner, MASTER, name=name, scopes=scopes, expires_at=expires_at)
            return made.text, made.key.id

        self.text, self.id = api._runner.run(make())
        self._environment = environment

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.text}"}

    def request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        headers = {**self.headers, **options.pop("headers", {})}
        return self._api.request(method, path, headers=headers, **options)

    def get(self, path: str) -> httpx2.Response:
        return self.request("GET", path)

    def create(self, run: str, task: str = "t", **members: Any) -> httpx2.Response:
        return self.request("POST", "/api/v1/runs", json={"id": run, "task": task, **members})

    def create_batch(self) -> None:
        """A batch that has room for one run."""
        ledger: Ledger = self._api._ledger

        async def make() -> None:
            await (await ledger.log(self._environment)).create_batch(CreateBatch(batch_id=BATCH, run_count=1))

        self._api._runner.run(make())

    def put(self, run: str, **lists: Any) -> httpx2.Response:
        return self.request("PUT", f"/api/v1/runs/{run}/metadata", json=lists or _METADATA)

    def call(self, route: tuple[str, str], run: str = "r") -> httpx2.Response:
        """An acceptable request to a route of the table."""
        return self.request(route[0], path_of(route, run), **body_of(route))

    def revoke(self) -> None:
        ledger: Ledger = self._api._ledger

        async def revoked() -> None:
            await ledger.keys.revoke((await ledger.log(self._environment)).owner, self.id)

        self._api._runner.run(revoked())


def path_of(route: tuple[str, str], run: str = "r") -> str:
    path = route[1].replace("{run_id}", run).replace("{batch_id}", BATCH).replace("{task:path}", "t")
    return path + QUERIES.get(route[1], "")


def body_of(route: tuple[str, str]) -> dict[str, Any]:
    if route[0] == "GET":
        return {}
    return {"json": BODIES[route]}  # A new route needs an example here.


def seen(response: httpx2.Response) -> tuple[int, bytes, list[tuple[str, str]]]:
    """All that a caller can see of an answer, but for the requests it has left."""
    headers = [(name, value) for name, value in response.headers.items() if not name.startswith("x-ratelimit-")]
    return response.status_code, response.content, headers
