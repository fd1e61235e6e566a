"""
Schemathesis makes requests of the OpenAPI document, and holds the server to what the document says.

Live streams never end, so they are asked with HEAD, which reads the whole request and answers the headers.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.contract import DESCRIPTIONS
from api.openapi import JSON_LINES, public_path
from ledger.run_ids import BATCH_ID, RUN_ID
from tests.api.contract import contract
from tests.api.keys import EVERY, KEYED, OF_A_RUN, SCOPED, Keyed, need_of
from tests.api.server import PATIENCE_S, Server, serving
from tests.api.service import MASTER, service

Route = tuple[str, str]
AnyCase = Case[Any]

REFUSED = ["400", "404", "405", "413", "415", "422"]  # What is past a bound in bytes is 413.
SCHEMA = schemathesis.openapi.from_dict(
    contract(),
    config=schemathesis.Config.from_dict({"checks": {"negative_data_rejection": {"expected-statuses": REFUSED}}}),
)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
STREAMS = [
    route
    for route, description in DESCRIPTIONS.items()
    if any(answer.media_type == "text/event-stream" for answer in description.answers.values())
]
# Nothing can be wrong about a request that may say nothing.
SPEAKING = [
    route
    for route in EVERY
    if "{" in route[1] or DESCRIPTIONS[route].body is not None or DESCRIPTIONS[route].query.parameters
]

some = settings(deadline=None, max_examples=6, suppress_health_check=list(HealthCheck), print_blob=True)
few = settings(some, max_examples=2)


@schemathesis.serializer(JSON_LINES)
def as_lines(_: Any, value: Any) -> bytes:
    """JSON lines, however wrong they are."""
    items = value if isinstance(value, list) else [value]
    return "".join(f"{json.dumps(item)}\n" for item in items).encode()


class Caller:
    """
    Sends what schemathesis makes. The run `r` takes the place of half the runs it makes up, and *batch* that of half
    the batches.
    """

    def __init__(self, server: Server, batch: str, key: str | None = None) -> None:
        self._url = server.url
        self._batch = batch
        self._session = requests.Session()
        self._session.trust_env = False
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._sent = 0

    def send(self, route: Route, case: AnyCase, run: str | None = None) -> requests.Response:
        """Send a case, about this run where one is named, and hold the answer to the document."""
        self._sent += 1
        self._name_what_exists(case.path_parameters or {}, run)
        asked: Any = case.as_transport_kwargs(base_url=self._url, headers=self._headers)
        if route in STREAMS:
            asked["method"] = "HEAD"
        answer = self._session.request(**asked, timeout=PATIENCE_S)
        case.validate_response(answer, checks=CHECKS[:-3] if route in STREAMS else CHECKS)
        return answer

    def _name_what_exists(self, made_up: dict[str, Any], run: str | None) -> None:
        for name, pattern, known in (("run_id", RUN_ID, "r"), ("batch_id", BATCH_ID, self._batch)):
            if run is not None and name == "run_id":
                made_up[name] = run
            elif self._sent % 2 and isinstance(made_up.get(name), str) and pattern.fullmatch(made_up[name]):
                made_up[name] = known


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    path = tmp_path_factory.mktemp("open") / "ledger.db"
    with service(path) as api:
        api.create("r", metadata={"k": 1})
        batch = api.request("POST", "/api/v3/batches", json={"runCount": 1_000}).json()["id"]
    with serving(path) as server:
        yield Caller(server, batch)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Caller]]:
    """Callers of a ledger with keys: one that may do all, one for each scope, and a revoked one."""
    path = tmp_path_factory.mktemp("closed") / "ledger.db"
    with service(path) as api:
        keys = {name: Keyed(api, scopes=[name]) for name in ("admin", "read", "write", "erase")}
        keys["revoked"] = Keyed(api)
        keys["admin"].create("r", metadata={"k": 1})
        batch = keys["admin"].request("POST", "/api/v3/batches", json={"runCount": 1_000}).json()["id"]
        keys["revoked"].revoke()
        Keyed(api, "theirs", ["admin"]).create("r-theirs", metadata={"k": 1})
    with serving(path, RUN_LEDGER_SECRET=MASTER.decode()) as server:
        yield {name: Caller(server, batch, key.text) for name, key in keys.items()}


def operation_of(route: Route) -> APIOperation[Any, Any, Any, Any]:
    return SCHEMA[public_path(route[1])][route[0]]


@pytest.mark.parametrize("route", EVERY)
def test_what_the_document_allows_is_answered_as_it_says(opened: Caller, route: Route) -> None:
    @some
    @given(case=operation_of(route).as_strategy(GenerationMode.POSITIVE))
    def sent(case: AnyCase) -> None:
        opened.send(route, case)

    sent()


@pytest.mark.parametrize("route", SPEAKING)
def test_what_the_document_forbids_is_refused(opened: Caller, route: Route) -> None:
    @some
    @given(case=operation_of(route).as_strategy(GenerationMode.NEGATIVE))
    def sent(case: AnyCase) -> None:
        opened.send(route, case)

    sent()


@pytest.mark.parametrize("route", EVERY)
def test_with_a_key_the_same_holds(closed: dict[str, Caller], route: Route) -> None:
    @few
    @given(case=operation_of(route).as_strategy(GenerationMode.POSITIVE))
    def sent(case: AnyCase) -> None:
        answer = closed["admin"].send(route, case)
        assert answer.status_code not in {401, 403}
        assert (route in KEYED) == ("x-ratelimit-remaining" in answer.headers)

    sent()


@pytest.mark.parametrize("route", SCOPED)
def test_a_key_without_the_scope_gets_403_whatever_it_asks(closed: dict[str, Caller], route: Route) -> None:
    other = next(name for name in ("read", "write", "erase") if name != need_of(route).action)

    @few
    @given(case=operation_of(route).as_strategy(GenerationMode.POSITIVE))
    def sent(case: AnyCase) -> None:
        assert closed[other].send(route, case).status_code == 403

    sent()


@pytest.mark.parametrize("route", KEYED)
def test_a_revoked_key_gets_401_whatever_it_asks(closed: dict[str, Caller], route: Route) -> None:
    @few
    @given(case=operation_of(route).as_strategy(GenerationMode.POSITIVE))
    def sent(case: AnyCase) -> None:
        assert closed["revoked"].send(route, case).status_code == 401

    sent()


@pytest.mark.parametrize("route", OF_A_RUN)
def test_a_foreign_run_is_one_that_does_not_exist_whatever_is_asked(
    closed: dict[str, Caller], route: Route
) -> None:
    @few
    @given(case=operation_of(route).as_strategy(GenerationMode.POSITIVE))
    def sent(case: AnyCase) -> None:
        case.headers.pop("Idempotency-Key", None)  # The second of two requests would be another one under it.
        theirs, absent = (closed["admin"].send(route, case, run) for run in ("r-theirs", "r-absent"))
        assert theirs.status_code == absent.status_code >= 400
        assert theirs.content.replace(b"r-theirs", b"r-absent") == absent.content
        assert _headers(theirs) == _headers(absent)

    sent()


@pytest.mark.parametrize("route", STREAMS)
def test_a_stream_is_sent_as_the_document_says(opened: Caller, route: Route) -> None:
    url = opened._url + route[1].replace("{run_id}", "r")
    with requests.Session() as session:
        session.trust_env = False
        with session.get(url, params={"from": "start"}, stream=True, timeout=PATIENCE_S) as answer:
            assert answer.headers["content-type"].partition(";")[0] == "text/event-stream"
            assert next(answer.iter_lines()) == b": run-ledger"


def _headers(answer: requests.Response) -> dict[str, str]:
    """All but the requests that are left, and the time."""
    passing = {"date", "x-ratelimit-remaining", "x-ratelimit-reset"}
    return {name: value for name, value in answer.headers.items() if name not in passing}


def test_streams_are_the_live_routes() -> None:
    assert [route for route in DESCRIPTIONS if route[1].endswith("/live")] == STREAMS
