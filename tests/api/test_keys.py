"""API keys: for every route, what a key opens and what nobody learns without the right one."""

import asyncio
import hmac
import logging
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from api import runs as run_routes
from api import scopes
from api.access import may_stay
from api.app import create_app
from api.in_process import InProcess
from api.streams import Permit, StreamLimits, next_batch
from ledger.errors import KeyRefused, StorageFailed
from ledger.keyring import Keyring
from tests.api.keys import (
    EVERY,
    KEYED,
    OF_A_RUN,
    PUBLIC,
    SCOPED,
    Keyed,
    action_of,
    body_of,
    need_of,
    path_of,
    seen,
)
from tests.api.server import PATIENCE_S, ROOT, environment, run_ledger, serving
from tests.api.service import MASTER, SECOND, Service, problem, service
from tests.strategies import thorough

ACTIONS = ("read", "write", "erase")


@pytest.fixture
def key(api: Service) -> Keyed:
    """A key of environment dev, with which the ledger is closed."""
    return Keyed(api, name="ci")


# --- every route ---


@pytest.mark.parametrize("route", KEYED)
def test_without_a_key_nothing_is_answered(api: Service, key: Keyed, route: tuple[str, str]) -> None:
    key.create("r")
    answer = api.request(route[0], path_of(route), **body_of(route))
    assert problem(answer, 401)["code"] == "no-key"
    assert answer.headers["www-authenticate"] == 'Bearer realm="run-ledger"'
    assert "x-ratelimit-limit" not in answer.headers
    nowhere = api.request(route[0], path_of(route, "nobody"), **body_of(route))
    assert seen(nowhere) == seen(answer)


@pytest.mark.parametrize("route", PUBLIC)
def test_what_tells_of_no_run_needs_no_key(api: Service, key: Keyed, route: tuple[str, str]) -> None:
    assert api.request(*route).status_code == 200
    assert (
        api.request(*route, headers={"Authorization": "Bearer nonsense", "Host": "a.example"}).status_code == 200
    )


@pytest.mark.parametrize("scope", ["admin", "admin:tasks:t"])
@pytest.mark.parametrize("route", OF_A_RUN)
def test_a_foreign_run_is_byte_for_byte_one_that_does_not_exist(
    api: Service, route: tuple[str, str], scope: str
) -> None:
    ours, theirs = (Keyed(api, name, (scope,)) for name in ("ours", "theirs"))
    before = ours.call(route)
    assert theirs.create("r", metadata={"secret": 1}).status_code == 201
    after = ours.call(route)
    assert problem(after, 404)["code"] == "run-not-found"
    assert seen(before) == seen(after)
    assert theirs.get("/api/v1/runs/r/metadata").json()["version"] == 1


@pytest.mark.parametrize("route", SCOPED)
def test_a_key_without_the_scope_is_refused_and_writes_nothing(api: Service, route: tuple[str, str]) -> None:
    needed = action_of(route)
    Keyed(api).create("r")
    before = api.contents()
    key = Keyed(api, scopes=[action for action in ACTIONS if action != needed])
    answer = key.call(route)
    assert problem(answer, 403)["code"] == "missing-scope"
    assert answer.headers["www-authenticate"].endswith(f'error="insufficient_scope", scope="{needed}"')
    assert answer.headers["x-ratelimit-limit"] == "10000"
    assert api.contents() == before
    if "{run_id}" in route[1]:
        assert seen(key.call(route, "nobody")) == seen(answer)


@pytest.mark.parametrize("route", [route for route in SCOPED if not route[1].endswith("/live")])
def test_the_scope_that_a_route_asks_for_opens_it(api: Service, route: tuple[str, str]) -> None:
    everything = Keyed(api)
    everything.create("r")
    everything.create_batch()
    for scope in (action_of(route), "admin"):
        everything.put("r")  # Something to erase.
        answer = Keyed(api, scopes=[scope]).call(route)
        assert answer.status_code in {200, 201}, answer.text
        assert int(answer.headers["x-ratelimit-remaining"]) == 9_999


@pytest.mark.parametrize("route", KEYED)
def test_a_revoked_key_opens_nothing_from_the_next_request_on(
    api: Service, key: Keyed, route: tuple[str, str]
) -> None:
    key.create("r")
    key.revoke()
    answer = key.call(route)
    assert problem(answer, 401)["code"] == "revoked-key"
    assert answer.headers["www-authenticate"] == 'Bearer realm="run-ledger", error="invalid_token"'


@pytest.mark.parametrize("route", KEYED)
def test_an_expired_key_opens_nothing(api: Service, route: tuple[str, str]) -> None:
    key = Keyed(api, scopes=["admin"], expires_at=api.now + 10 * SECOND)
    assert key.create("r").status_code == 201
    api.now += 10 * SECOND - 1
    assert key.get("/api/v1/runs/r/metadata").status_code == 200
    api.now += 1
    assert problem(key.call(route), 401)["code"] == "expired-key"


@pytest.mark.parametrize("route", OF_A_RUN)
def test_a_run_that_a_key_may_not_know_of_is_byte_for_byte_one_that_does_not_exist(
    api: Service, route: tuple[str, str]
) -> None:
    action = action_of(route)
    key = Keyed(api, scopes=[f"{action}:tasks:mine", f"{action}:tags:mine"])
    absent = key.call(route)
    Keyed(api).create("r", task="other", tags=["other"])
    before = api.contents()
    assert problem(absent, 404)["code"] == "run-not-found"
    assert seen(key.call(route)) == seen(absent)
    assert api.contents() == before


@pytest.mark.parametrize("route", [route for route in OF_A_RUN if action_of(route) != "read"])
def test_a_run_that_a_key_may_only_read_is_forbidden_to_it(api: Service, route: tuple[str, str]) -> None:
    Keyed(api).create("r", task="other")
    before = api.contents()
    answer = Keyed(api, scopes=["read", f"{action_of(route)}:tasks:mine"]).call(route)
    assert problem(answer, 403)["code"] == "restricted-scope"
    assert "runs of the task 'mine' only" in answer.json()["detail"]
    assert api.contents() == before


@pytest.mark.parametrize("route", [route for route in OF_A_RUN if not route[1].endswith("/live")])
@pytest.mark.parametrize("restriction", ["tasks:mine", "tags:a tag"])
def test_a_restricted_key_reaches_the_runs_it_is_for(
    api: Service, route: tuple[str, str], restriction: str
) -> None:
    Keyed(api).create("r", task="mine", tags=["a tag", "b"], metadata={"k": 0})
    answer = Keyed(api, scopes=[f"{action_of(route)}:{restriction}"]).call(route)
    assert answer.status_code == 200, answer.text


def test_a_route_that_is_not_in_the_table_stops_the_start() -> None:
    async def forgotten(_: Request) -> PlainTextResponse:
        return PlainTextResponse("")

    with pytest.raises(LookupError, match="GET /forgotten is missing in the table"):
        scopes.guarded(Route("/forgotten", forgotten, methods=["GET"]))


def test_no_route_of_the_application_is_without_a_test() -> None:
    assert set(EVERY) == {*KEYED, *PUBLIC}
    assert set(EVERY) == set(scopes.NEEDS)
    assert set(PUBLIC) == {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/openapi.json")}


@pytest.mark.parametrize("route", [route for route in KEYED if need_of(route).of == "all"])
def test_a_route_that_tells_of_all_runs_wants_a_scope_without_a_restriction(
    api: Service, route: tuple[str, str]
) -> None:
    method, path = route
    assert (method, action_of(route)) == ("GET", "read")
    for scope in ("tasks:mine", "tags:mine"):
        for query in ("", "?task=mine", "?tag=mine", "?run=r"):
            answer = Keyed(api, scopes=[f"read:{scope}", "write"]).get(path + query)
            assert problem(answer, 403)["code"] == "restricted-scope"
            assert "'mine'" in answer.json()["detail"]
    # HEAD, because a live answer never ends.
    for scopes_of_key in (["read", "read:tasks:mine"], ["read"], ["admin"]):
        assert Keyed(api, scopes=scopes_of_key).request("HEAD", path).status_code == 200


def test_there_are_routes_that_tell_of_all_runs() -> None:
    everything = {path for (_, path), need in scopes.NEEDS.items() if need is not None and need.of == "all"}
    assert everything == {"/api/v1/events", "/api/v1/events/live", "/metrics"}


@pytest.mark.parametrize("restriction", ["tasks:mine", "tags:a tag"])
def test_a_restricted_key_follows_the_runs_it_is_for(api: Service, restriction: str) -> None:
    everything = Keyed(api)
    everything.create("r", task="mine", tags=["a tag", "b"])
    everything.create("other")
    key = Keyed(api, scopes=[f"read:{restriction}"])
    # HEAD, because a live answer never ends.
    statuses = [key.request("HEAD", f"/api/v1/runs/{run}/metadata/live").status_code for run in ("r", "other")]
    assert statuses == [200, 404]


def test_unknown_paths_and_methods_need_a_key_too(api: Service, key: Keyed) -> None:
    assert problem(api.get("/nothing"), 401)
    assert problem(api.request("DELETE", "/api/v1/runs"), 401)
    assert problem(key.get("/nothing"), 404)["code"] == "no-such-route"
    assert problem(key.request("DELETE", "/api/v1/runs"), 405)
    assert key.request("HEAD", "/api/v1/runs").status_code == 200
    assert Keyed(api, scopes=["write"]).request("HEAD", "/api/v1/runs").status_code == 403


# --- two environments ---


def test_run_ids_idempotency_keys_and_triggers_of_two_environments_never_meet(api: Service) -> None:
    answers: dict[str, list[Any]] = {}
    for name in ("one", "two"):
        key = Keyed(api, name)
        once = {"Idempotency-Key": "same"}
        created = key.request("POST", "/api/v1/runs", json={"id": "r", "task": "t"}, headers=once)
        assert created.status_code == 201
        assert "idempotency-replayed" not in created.headers
        options = {"options": {"idempotencyKey": "same", "metadata": {"of": name}}}
        triggered = key.request("POST", "/api/v1/tasks/t/trigger", json=options).json()
        assert triggered["isCached"] is False
        answers[name] = [triggered["id"]]
        other = key.request("POST", "/api/v1/runs", json={"id": f"only-{name}", "task": "t"})
        assert other.status_code == 201
        listed = key.get("/api/v1/runs").json()["data"]
        assert [run["id"] for run in listed] == [f"only-{name}", triggered["id"], "r"]
        assert {run["env"]["name"] for run in listed} == {name}
    assert answers["one"] != answers["two"]


def test_a_foreign_run_cannot_be_parent_or_cursor(api: Service) -> None:
    ours, theirs = Keyed(api, "ours"), Keyed(api, "theirs")
    parent = ours.create("child", parentRunId="r")
    cursor = ours.get("/api/v1/runs?page[after]=r")
    theirs.create("r")
    assert problem(ours.create("child", parentRunId="r"), 422)["code"] == "unknown-parent"
    assert seen(ours.create("child", parentRunId="r")) == seen(parent)
    assert problem(cursor, 400)["code"] == "bad-cursor"
    assert seen(ours.get("/api/v1/runs?page[after]=r")) == seen(cursor)


def test_a_key_that_names_another_environment_is_unknown(api: Service, key: Keyed) -> None:
    Keyed(api, "prod")
    forged = key.text.replace("rl_dev_", "rl_prod_")
    assert problem(api.get("/api/v1/runs", {"Authorization": f"Bearer {forged}"}), 401)["code"] == "unknown-key"


# --- the first key ---


def test_the_first_key_closes_the_ledger_for_good(api: Service) -> None:
    api.create("before")
    key = Keyed(api)
    assert problem(api.get("/api/v1/runs/before/metadata"), 401)
    assert key.get("/api/v1/runs/before/metadata").status_code == 200
    key.revoke()
    assert problem(api.get("/api/v1/runs/before/metadata"), 401)
    with service(api.path) as again:
        assert problem(again.get("/api/v1/runs/before/metadata"), 401)["code"] == "no-key"
        assert problem(again.get("/api/v1/runs", key.headers), 401)["code"] == "revoked-key"


def test_a_closed_ledger_answers_any_name_and_behind_a_proxy(api: Service, key: Keyed) -> None:
    headers = {"Host": "ledger.example", "X-Forwarded-For": "192.0.2.1", "Forwarded": "for=192.0.2.1"}
    assert key.request("GET", "/api/v1/runs", headers=headers).status_code == 200


def test_an_open_ledger_takes_no_key_for_its_own(api: Service) -> None:
    with service(api.path.with_name("other.db")) as other:
        foreign = Keyed(other, "prod")
    answer = api.get("/api/v1/runs", foreign.headers)
    assert problem(answer, 401)["code"] == "unknown-key"
    assert "this ledger has no API keys, and the one sent is of environment prod" in answer.json()["detail"]
    assert api.get("/api/v1/runs", {"Authorization": "Bearer tr_dev_123"}).status_code == 200


def test_keys_made_and_revoked_in_another_process_hold_from_the_next_request_on(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with serving(path) as server, server.client() as http:
        assert http.post("/api/v1/runs", json={"id": "r", "task": "t"}).status_code == 201
        with service(path) as here:
            key = Keyed(here)
            assert http.get("/api/v1/runs/r/metadata").status_code == 401
            assert http.get("/api/v1/runs/r/metadata", headers=key.headers).status_code == 200
            for route in KEYED:
                key = Keyed(here)
                assert http.get("/api/v1/runs", headers=key.headers).status_code == 200
                key.revoke()
                answer = http.request(route[0], path_of(route), headers=key.headers, **body_of(route))
                assert problem(answer, 401)["code"] == "revoked-key"
        assert key.text not in server.errors()


def test_with_a_key_it_may_listen_for_others(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with service(path) as here:
        key = Keyed(here, "prod")
    with (
        serving(path, "--host", "0.0.0.0", RUN_LEDGER_ENVIRONMENT="prod") as server,
        httpx2.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as http,
    ):
        headers = {"Host": "ledger.example", **key.headers}
        assert http.get("/api/v1/runs", headers=headers).status_code == 200
        assert http.get("/readyz").status_code == 200


def test_health_is_answered_even_where_keys_cannot_be_read(api: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise StorageFailed("disk I/O error")

    monkeypatch.setattr(api._ledger._store, "point", failing)
    assert api.get("/healthz").status_code == 200
    assert problem(api.get("/healthz", {"Host": "evil.example"}), 421)
    answer = api.get("/api/v1/runs")
    assert problem(answer, 503)["code"] == "storage-failed"
    assert answer.headers["retry-after"] == "5"


# --- what is shown ---

SHOWN = [
    (b"Bearer", "unknown-key"),
    (b"Bearer ", "unknown-key"),
    (b"", "bad-authorization"),
    (b"Basic cmw6cmw=", "bad-authorization"),
    (b"%KEY", "bad-authorization"),
    (b"Token %KEY", "bad-authorization"),
    (b"Bearer %KEY %KEY", "unknown-key"),
    (b"Bearer %KEYx", "unknown-key"),
    (b"Bearer x%KEY", "unknown-key"),
    (b"Bearer %KEY\x00", "unknown-key"),
    (b"Bearer %KEY,", "unknown-key"),
    (b"Bearer \xc3\xa9%KEY", "unknown-key"),
    (b"Bearer rl_d\xe9v_aaaaaaaaaaaaaaaa_" + b"a" * 43, "unknown-key"),
    (b"Bearer rl_dev_aaaaaaaaaaaaaaaa_" + b"a" * 43, "unknown-key"),
    (b"Bearer rl_none_aaaaaaaaaaaaaaaa_" + b"a" * 43, "unknown-key"),
    (b"Bearer rl__aaaaaaaaaaaaaaaa_" + b"a" * 43, "unknown-key"),
    (b"Bearer rl_dev__" + b"a" * 43, "unknown-key"),
    (b"Bearer rl_dev_' OR 1=1 --_" + b"a" * 43, "unknown-key"),
    (b"Bearer " + b"rl_dev_" + b"a" * 100_000, "unknown-key"),
    (b"Bearer rl_" + b"_" * 60_000, "unknown-key"),
]


@pytest.mark.parametrize(("shown", "code"), SHOWN)
def test_what_is_no_key_is_401(api: Service, key: Keyed, shown: bytes, code: str) -> None:
    header = (b"Authorization", shown.replace(b"%KEY", key.text.encode()))
    answer = api.request("GET", "/api/v1/runs", headers=[header])
    assert problem(answer, 401)["code"] == code
    assert key.text not in answer.text


def test_one_wrong_character_anywhere_is_401(api: Service, key: Keyed) -> None:
    for place in range(len(key.text)):
        other = "a" if key.text[place] != "a" else "b"
        wrong = f"{key.text[:place]}{other}{key.text[place + 1 :]}"
        assert api.get("/api/v1/runs", {"Authorization": f"Bearer {wrong}"}).status_code == 401, place
    assert key.get("/api/v1/runs").status_code == 200


def test_several_authorization_headers_are_401_even_where_one_is_right(api: Service, key: Keyed) -> None:
    right, wrong = f"Bearer {key.text}".encode(), b"Bearer x"
    for lines in ([right, wrong], [wrong, right], [right, right]):
        answer = api.request("GET", "/api/v1/runs", headers=[(b"authorization", line) for line in lines])
        assert problem(answer, 401)["code"] == "bad-authorization"


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer  "])
def test_the_scheme_is_taken_in_any_case(api: Service, key: Keyed, scheme: str) -> None:
    assert api.get("/api/v1/runs", {"Authorization": f"{scheme} {key.text}"}).status_code == 200


def test_a_key_in_a_url_opens_nothing(api: Service, key: Keyed) -> None:
    for name in ("key", "apiKey", "access_token"):
        assert api.get(f"/api/v1/runs?{name}={key.text}").status_code == 401


def test_digests_are_compared_in_constant_time_for_keys_that_exist_and_others(
    api: Service, key: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[int, int]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare_digest(one, other)

    compare_digest = hmac.compare_digest
    monkeypatch.setattr("ledger.keyring.hmac.compare_digest", compare)
    ring: Keyring = api._ledger.keys
    wrong = f"{key.text[:-1]}{'a' if key.text[-1] != 'a' else 'b'}"
    unknown = f"rl_dev_{'a' * 16}_{'a' * 43}"
    nowhere = f"rl_none_{'a' * 16}_{'a' * 43}"
    for text in (wrong, unknown, nowhere):
        with pytest.raises(KeyRefused):
            api._runner.run(ring.admit(text))
    assert compared == [(32, 32)] * 3


def test_no_secret_is_in_the_database_or_in_what_the_server_wrote(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with serving(path) as server, server.client() as http:
        with service(path) as here:
            keys = [Keyed(here), Keyed(here, "prod")]
            for key in keys:
                assert http.get("/api/v1/runs", headers=key.headers).status_code == 200
                assert key.text not in http.get(f"/{key.text}", headers={"Authorization": "Bearer x"}).text
        errors = server.errors()
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert keys[0].id.encode() in kept
    for key in keys:
        secret = key.text.rpartition("_")[2]
        assert secret.encode() not in kept
        assert secret not in errors
    assert MASTER not in kept


# --- who did it, and when a key was used ---


def test_the_actor_is_the_key_and_whom_the_body_names_is_beside_it(api: Service) -> None:
    key = Keyed(api, name="the importer")
    key.create("r", actor="Ann")
    key.put("r", operations=[{"type": "set", "key": "a", "value": 1}], actor="Bob")
    key.request("POST", "/api/v1/runs/r/status", json={"status": "EXECUTING"})
    events = key.get("/api/v1/runs/r/metadata/history").json()["data"]
    assert [event["actor"] for event in events] == ["the importer"] * 3
    assert [event["headers"].get("onBehalfOf") for event in events] == ["Ann", "Bob", None]


def test_the_last_use_is_recorded_once_a_minute_and_no_request_waits_for_it(api: Service) -> None:
    key = Keyed(api)
    ledger = api._ledger

    def last_used(path: Path) -> int | None:
        with closing(sqlite3.connect(path)) as connection:
            (found,) = connection.execute("SELECT last_used_at FROM api_keys").fetchone()
        return None if found is None else int(found)

    async def written() -> None:
        ring = ledger.keys
        if ring._timer is not None:
            ring._timer.cancel()
            ring._begin_writing()
            assert ring._writing is not None
            await ring._writing

    first = api.now
    for _ in range(3):
        key.get("/api/v1/runs")
    assert last_used(api.path) is None
    api._runner.run(written())
    assert last_used(api.path) == first
    api.now += 59 * SECOND
    key.get("/api/v1/runs")
    assert ledger.keys._timer is None
    api.now += SECOND
    key.get("/api/v1/runs")
    api._runner.run(written())
    assert last_used(api.path) == first + 60 * SECOND


def test_a_last_use_that_cannot_be_written_harms_no_request(
    api: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = Keyed(api)
    ring = api._ledger.keys

    async def failing(_: object) -> None:
        raise StorageFailed("disk I/O error")

    async def written() -> None:
        assert ring._timer is not None
        ring._timer.cancel()
        ring._begin_writing()
        assert ring._writing is not None
        await ring._writing

    assert key.get("/api/v1/runs").status_code == 200
    caplog.set_level(logging.WARNING, "ledger.keyring")  # Commands that ran in this process raise it.
    with monkeypatch.context() as patched:
        patched.setattr(api._ledger._store, "write", failing)
        api._runner.run(written())
    assert "the last use of 1 keys was not recorded" in caplog.text
    assert key.text not in caplog.text
    api.now += 60 * SECOND
    assert key.get("/api/v1/runs").status_code == 200
    api._runner.run(written())
    with closing(sqlite3.connect(api.path)) as connection:
        assert connection.execute("SELECT last_used_at FROM api_keys").fetchone() == (api.now,)


def test_the_last_use_is_written_when_the_server_ends(tmp_path: Path) -> None:
    with service(tmp_path / "ledger.db") as api:
        key = Keyed(api)
        key.get("/api/v1/runs")
        now = api.now
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        assert connection.execute("SELECT last_used_at FROM api_keys").fetchall() == [(now,)]


def test_what_goes_on_for_long_learns_that_its_key_is_gone(api: Service) -> None:
    app = api._http._transport.app  # type: ignore[attr-defined]
    staying: list[bool] = []
    keys: list[Keyed] = []

    async def lasting(request: Request) -> PlainTextResponse:
        staying.append(await may_stay(request))
        ledger = request.scope["run_ledger.ledger"]
        if keys:
            await ledger.keys.revoke((await ledger.log("dev")).owner, keys[0].id)
        else:
            await ledger.keys.create((await ledger.log("dev")).owner, MASTER)
        staying.append(await may_stay(request))
        return PlainTextResponse("")

    app.router.routes.append(Route("/lasting", lasting))
    api.get("/lasting")
    assert staying == [True, False]
    keys.append(Keyed(api))
    keys[0].get("/lasting")
    assert staying == [True, False, True, False]


GONE = {"revoked": "revoked-key", "expired": "expired-key", "first key": "no-key"}


@pytest.mark.parametrize("how", GONE)
@pytest.mark.parametrize("path", ["/api/v1/runs/r/metadata/live", "/api/v1/events/live"])
def test_a_stream_ends_with_what_opened_it(api: Service, path: str, how: str) -> None:
    api.create()
    key = None if how == "first key" else Keyed(api, expires_at=api.now + SECOND)

    async def follow() -> None:
        keys, owner = api._ledger.keys, api._log.owner
        seen = b""
        async with in_process(api, heartbeat_s=0.05) as http, asyncio.timeout(PATIENCE_S):
            headers = {} if key is None else key.headers
            async with http.stream("GET", path, headers=headers) as response:
                assert response.status_code == 200
                async for chunk in response.aiter_bytes():
                    seen += chunk
                    if seen.count(b": heartbeat\n") == 2:  # It went on while it might.
                        if key is None:
                            await keys.create(owner, MASTER)
                        elif how == "revoked":
                            await keys.revoke(owner, key.id)
                        else:
                            api.now += SECOND
            assert seen.count(b": heartbeat\n") >= 2
            assert problem(await http.get(path, headers=headers), 401)["code"] == GONE[how]

    api._runner.run(follow())


def test_a_stream_that_never_falls_silent_is_asked_for_its_key_too() -> None:
    class Busy:
        async def next(self, _: float) -> list[str]:
            return ["an event"]

    async def holds(answer: bool) -> bool:
        return answer

    async def batches() -> list[Any]:
        busy: Any = Busy()
        permits = [
            Permit(partial(holds, answer), after) for answer, after in ((False, 3_600), (True, 0), (False, 0))
        ]
        return [await next_batch(busy, permit) for permit in permits]

    assert asyncio.run(batches()) == [["an event"], ["an event"], None]


def test_a_stream_ends_where_the_keys_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    class Busy:
        async def next(self, _: float) -> list[str]:
            return ["an event"]

    async def fails() -> bool:
        raise StorageFailed("disk I/O error")

    async def batch() -> Any:
        busy: Any = Busy()
        return await next_batch(busy, Permit(fails, 0))

    assert asyncio.run(batch()) is None
    assert "disk I/O error" in caplog.text


def test_the_streams_of_each_key_are_counted_by_themselves(api: Service) -> None:
    keys = [Keyed(api), Keyed(api)]
    path = "/api/v1/events/live"

    async def follow() -> None:
        async with (
            asyncio.timeout(PATIENCE_S),
            in_process(api, per_caller=1) as http,
            http.stream("GET", path, headers=keys[0].headers) as first,
            http.stream("GET", path, headers=keys[1].headers) as second,
        ):
            assert (first.status_code, second.status_code) == (200, 200)
            for key in keys:
                refused = await http.get(path, headers=key.headers)
                assert problem(refused, 429)["code"] == "too-many-streams"

    api._runner.run(follow())


def in_process(api: Service, **limits: Any) -> httpx2.AsyncClient:
    """A client of the service whose answers may go on."""
    app = create_app(api._ledger, api._log, stream_limits=StreamLimits(**limits))
    return httpx2.AsyncClient(transport=InProcess(app), base_url="http://127.0.0.1")


# --- restrictions ---


def test_a_restricted_key_creates_only_what_it_may_write(api: Service) -> None:
    key = Keyed(api, scopes=["write:tasks:mine", "write:tags:mine"])
    assert key.create("a", task="mine").status_code == 201
    assert key.create("b", task="other", tags=["x", "mine"]).status_code == 201
    before = api.contents()
    answers = [
        key.create("c", task="other"),
        key.create("c", task="mine2", tags=["Mine"]),
        key.request("POST", "/api/v1/tasks/other/trigger", json={"payload": 1}),
        key.create("a", task="other"),
    ]
    for answer in answers:
        assert problem(answer, 403)["code"] == "restricted-scope"
    assert api.contents() == before
    assert key.request("POST", "/api/v1/tasks/mine/trigger", json={}).status_code == 200
    tagged = {"options": {"tags": "mine"}}
    assert key.request("POST", "/api/v1/tasks/other/trigger", json=tagged).status_code == 200


def test_a_restricted_key_learns_nothing_of_a_run_whose_id_it_tries_to_take(api: Service) -> None:
    everything = Keyed(api)
    everything.create("taken", task="secret task")
    everything.create("same", task="t")
    key = Keyed(api, scopes=["write:tags:mine"])
    for run, task in (("taken", "t"), ("same", "t")):
        answer = key.create(run, task=task, tags=["mine"])
        assert problem(answer, 422)["code"] == "run-exists"
        assert "secret" not in answer.text
    options = {"idempotencyKey": "k", "tags": "other"}
    everything.request("POST", "/api/v1/tasks/t/trigger", json={"options": options})
    answer = key.request("POST", "/api/v1/tasks/t/trigger", json={"options": {**options, "tags": "mine"}})
    assert problem(answer, 422)["code"] == "run-exists"
    assert "run_" not in answer.text


def test_a_parent_that_a_restricted_key_does_not_know_is_unknown(api: Service) -> None:
    everything = Keyed(api)
    key = Keyed(api, scopes=["write:tasks:child"])
    absent = key.create("c", task="child", parentRunId="p")
    everything.create("p", task="parent")
    assert problem(absent, 422)["code"] == "unknown-parent"
    assert seen(key.create("c", task="child", parentRunId="p")) == seen(absent)
    reader = Keyed(api, scopes=["write:tasks:child", "read:tasks:parent"])
    assert reader.create("c", task="child", parentRunId="p").status_code == 201


def test_operations_on_a_parent_or_root_need_a_scope_for_it(api: Service) -> None:
    everything = Keyed(api)
    everything.create("top", task="top")
    everything.create("middle", task="middle", parentRunId="top")
    everything.create("leaf", task="leaf", parentRunId="middle")
    increment = [{"type": "increment", "key": "n", "value": 1}]
    leaf = Keyed(api, scopes=["write:tasks:leaf"])
    before = api.contents()
    for name in ("parentOperations", "rootOperations"):
        answer = leaf.put("leaf", operations=increment, **{name: increment})
        assert problem(answer, 403)["code"] == "restricted-scope"
        assert f"the run's {name.removesuffix('Operations')}" in answer.json()["detail"]
    assert api.contents() == before
    assert leaf.put("leaf", operations=increment, parentOperations=[]).status_code == 200
    both = Keyed(api, scopes=["write:tasks:leaf", "write:tasks:middle"])
    assert both.put("leaf", parentOperations=increment).status_code == 200
    assert problem(both.put("leaf", rootOperations=increment), 403)
    all_three = Keyed(api, scopes=["write:tasks:leaf", "write:tasks:middle", "write:tasks:top"])
    assert all_three.put("leaf", parentOperations=increment, rootOperations=increment).status_code == 200
    top = Keyed(api, scopes=["write:tasks:top"])
    assert top.put("top", parentOperations=increment, rootOperations=increment).status_code == 200


def test_a_restricted_key_lists_and_pages_through_its_runs_only(api: Service) -> None:
    everything = Keyed(api)
    for number in range(12):
        task, tags = ("mine", []) if number % 3 == 0 else ("other", ["mine"] if number % 3 == 1 else ["x"])
        everything.create(f"r{number}", task=task, tags=tags)
    key = Keyed(api, scopes=["read:tasks:mine", "read:tags:mine"])
    expected = [f"r{number}" for number in reversed(range(12)) if number % 3 != 2]
    found: list[str] = []
    query = ""
    while True:
        page = key.get(f"/api/v1/runs?page[size]=3{query}").json()
        found += [run["id"] for run in page["data"]]
        if "next" not in page["pagination"]:
            break
        query = f"&page[after]={page['pagination']['next']}"
    assert found == expected
    assert [run["id"] for run in key.get("/api/v1/runs?filter[taskIdentifier]=other").json()["data"]] == [
        run for run in expected if int(run[1:]) % 3 == 1
    ]
    hidden, absent = (key.get(f"/api/v1/runs?page[after]={run}") for run in ("r2", "r99"))
    assert problem(hidden, 400)["detail"] == absent.json()["detail"].replace("r99", "r2")


# A value for each parameter that a list may be asked with; a new one is missing here until somebody adds it.
PARAMETERS = {
    "page[size]": "100",
    "page[after]": "z",
    "page[before]": "a",
    "filter[status]": "QUEUED",
    "filter[taskIdentifier]": "mine,other",
    "filter[tag]": "both",
    "filter[parent]": "a",
    "filter[root]": "a",
    "filter[createdAt][from]": "2000-01-01",
    "filter[createdAt][to]": "2100-01-01",
    "filter[createdAt][period]": "1d",
    "filter[updatedAt][from]": "0",
    "filter[updatedAt][to]": "4102444800000",
    "filter[updatedAt][period]": "1w",
    "filter[metadata][n][gt]": "0",
    "filter[stalled]": "false",
    "filter[regressed]": "false",
    "filter[isTest]": "false",
    "include": "progress",
    "sort": "createdAt",
    "asOf": "2100-01-01T00:00:00Z",
}
UNKNOWN = {
    f"filter[{name}]" for name in ("batch", "queue", "machine", "region", "version", "schedule", "bulkAction")
}


def test_every_parameter_of_the_list_is_asked_by_a_restricted_key_here() -> None:
    asked = {"filter[metadata]" if name.startswith("filter[metadata]") else name for name in PARAMETERS}
    assert asked == {one.name for one in run_routes.LIST.parameters} - UNKNOWN


@pytest.mark.parametrize("parameter", sorted(PARAMETERS))
def test_whatever_a_restricted_key_asks_of_the_list_hidden_runs_stay_hidden(
    lasting: Service, parameter: str
) -> None:
    name = f"e{next(_environments)}"
    everything = Keyed(lasting, name)
    everything.create("a", task="mine")
    for run, task in (("m", "mine"), ("hidden", "other"), ("z", "mine")):
        everything.create(run, task=task, parentRunId="a", tags=["both"], metadata={"n": 1})
    path = f"/api/v1/runs?{parameter}={PARAMETERS[parameter]}"
    assert '"id":"hidden"' in everything.get(path).text
    answer = Keyed(lasting, name, ["read:tasks:mine"]).get(path)
    assert '"id":"m"' in answer.text
    assert "hidden" not in answer.text


def test_a_restricted_key_pages_through_its_runs_only_as_they_stood(api: Service) -> None:
    everything = Keyed(api)
    for number in range(12):
        everything.create(f"r{number}", task="mine" if number % 3 else "other", metadata={"then": True})
    moment = "2023-11-14T22:13:20Z"
    api.now += SECOND
    everything.create("later", task="mine")
    for number in range(12):
        everything.request("PUT", f"/api/v1/runs/r{number}/metadata", json={"metadata": {"then": False}})
        everything.request("POST", f"/api/v1/runs/r{number}/status", json={"status": "EXECUTING"})
    key = Keyed(api, scopes=["read:tasks:mine"])
    expected = [f"r{number}" for number in reversed(range(12)) if number % 3]
    for status in ("", "&filter[status]=QUEUED"):
        found: list[str] = []
        query = ""
        while True:
            page = key.get(f"/api/v1/runs?asOf={moment}&page[size]=3{status}{query}").json()
            found += [run["id"] for run in page["data"] if run["metadata"] == {"then": True}]
            if "next" not in page["pagination"]:
                break
            query = f"&page[after]={page['pagination']['next']}"
        assert found == expected
    assert key.get(f"/api/v1/runs?asOf={moment}&filter[status]=EXECUTING").json()["data"] == []
    assert key.get(f"/api/v1/runs?asOf={moment}&filter[taskIdentifier]=other").json()["data"] == []
    for cursor in ("after", "before"):
        hidden, absent = (key.get(f"/api/v1/runs?asOf={moment}&page[{cursor}]={run}") for run in ("r3", "r99"))
        assert problem(hidden, 400)["detail"] == absent.json()["detail"].replace("r99", "r3")


def test_a_run_that_a_restricted_key_may_not_read_cannot_be_compared_with(api: Service) -> None:
    everything = Keyed(api)
    everything.create("mine", task="mine", metadata={"a": 1})
    key = Keyed(api, scopes=["read:tasks:mine", "read:tags:mine", "write"])
    path = "/api/v1/runs/{}/metadata/diff?toRun={}"
    queries = ("", "&to=1", "&to=9", "&from=9", "&to=2000-01-01T00:00:00Z")
    absent = [key.get(path.format("mine", "other") + query) for query in queries]
    everything.create("other", task="other", metadata={"secret": 1})
    for query, before in zip(queries, absent, strict=True):
        assert problem(before, 404)["code"] == "run-not-found"
        assert seen(key.get(path.format("mine", "other") + query)) == seen(before)
    assert problem(key.get(path.format("other", "mine")), 404)["code"] == "run-not-found"
    everything.create("third", task="other", tags=["mine"], metadata={"a": 2})
    for reader in (key, everything):
        assert reader.get(path.format("mine", "third")).json() == [{"op": "replace", "path": "/a", "value": 2}]
    assert "secret" in everything.get(path.format("mine", "other")).text


def test_relatives_that_a_restricted_key_may_not_read_are_left_out(api: Service) -> None:
    everything = Keyed(api)
    everything.create("top", task="top", metadata={"secret": 1})
    everything.create("middle", task="middle", parentRunId="top", metadata={"secret": 2})
    everything.create("leaf", task="leaf", parentRunId="middle")

    def related(*found: str) -> list[str]:
        key = Keyed(api, scopes=found)
        members = key.get("/api/v3/runs/leaf").json()["relatedRuns"]
        return [run["id"] for run in members.values()]

    assert related("read") == ["middle", "top"]
    assert related("read:tasks:leaf") == []
    assert related("read:tasks:leaf", "read:tasks:top") == ["top"]
    assert related("read:tasks:leaf", "read:tasks:middle") == ["middle"]


TASKS, TAGS = ("a", "b", "c"), ("x", "y")
SCOPES = st.lists(
    st.builds(
        "{}{}".format,
        st.sampled_from(("read", "write", "admin")),
        st.sampled_from(("", *(f":tasks:{task}" for task in TASKS), *(f":tags:{tag}" for tag in TAGS))),
    ),
    min_size=1,
    max_size=4,
)
RUNS = st.lists(
    st.tuples(st.sampled_from(TASKS), st.lists(st.sampled_from(TAGS), unique=True), st.integers(0, 9)),
    min_size=1,
    max_size=6,
)
_environments = count()


def _allowed(held: list[str], action: str, run: tuple[str, list[str], int]) -> bool:
    """The model: some scope allows it."""
    task, tags, _ = run
    restrictions = {scope.partition(":")[2] for scope in held if scope.split(":")[0] in {action, "admin"}}
    return not restrictions.isdisjoint({"", f"tasks:{task}", *(f"tags:{tag}" for tag in tags)})


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One application for many examples, each of which has an environment of its own."""
    with service(tmp_path_factory.mktemp("keys") / "ledger.db") as made:
        yield made


@settings(thorough, max_examples=40)
@given(held=SCOPES, runs=RUNS)
def test_any_restriction_holds_as_its_scopes_say(
    lasting: Service, held: list[str], runs: list[tuple[str, list[str], int]]
) -> None:
    name = f"e{next(_environments)}"
    everything, key = Keyed(lasting, name, ("admin",)), Keyed(lasting, name, held)
    parents: list[int | None] = []
    for number, (task, tags, above) in enumerate(runs):
        parent = above if above < number else None
        parents.append(parent)
        members = {} if parent is None else {"parentRunId": f"r{parent}"}
        assert everything.create(f"r{number}", task=task, tags=tags, **members).status_code == 201
    reads = any(scope.split(":")[0] in {"read", "admin"} for scope in held)
    writes = any(scope.split(":")[0] in {"write", "admin"} for scope in held)
    for number, run in enumerate(runs):
        expected = (200 if _allowed(held, "read", run) else 404) if reads else 403
        assert key.get(f"/api/v1/runs/r{number}/metadata/history").status_code == expected
        root = number
        while (parent := parents[root]) is not None:
            root = parent
        parent = number if parents[number] is None else parents[number]
        assert parent is not None
        for lists, touched in (
            (("operations",), [number]),
            (("parentOperations",), [number, parent]),
            (("operations", "rootOperations"), [number, root]),
        ):
            answer = key.put(f"r{number}", **{name: [{"type": "set", "key": "k", "value": 1}] for name in lists})
            own = _allowed(held, "write", run)
            if not writes or (not own and _allowed(held, "read", run)):
                expected = 403
            elif not own:
                expected = 404
            else:
                expected = 200 if all(_allowed(held, "write", runs[one]) for one in touched) else 403
            assert answer.status_code == expected, (number, lists)
    listed = key.get("/api/v1/runs")
    if reads:
        readable = [f"r{number}" for number, run in enumerate(runs) if _allowed(held, "read", run)]
        assert [run["id"] for run in listed.json()["data"]] == readable[::-1]
    else:
        assert listed.status_code == 403


# --- jobs and commands ---


def test_a_job_with_a_key_reports_to_the_environment_of_the_key(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with service(path) as here:
        key, other = Keyed(here, "prod", name="job"), Keyed(here)
    code = "from ledger import run\nwith run('nightly', id='r') as r:\n    r.metadata.set('rows', 1)\n"
    with serving(path) as server, server.client() as http:
        variables = environment(
            RUN_LEDGER_URL=server.url, RUN_LEDGER_API_KEY=key.text, XDG_STATE_HOME=str(tmp_path)
        )
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=variables, check=True, timeout=60)
        found = http.get("/api/v3/runs/r", headers=key.headers).json()
        assert (found["status"], found["metadata"]) == ("COMPLETED", {"rows": 1})
        history = http.get("/api/v1/runs/r/metadata/history", headers=key.headers).json()["data"]
        assert {event["actor"] for event in history} == {"job"}
        assert http.get("/api/v3/runs/r", headers=other.headers).status_code == 404
        shown = run_ledger("get", "r", variables=variables)
        assert (shown.returncode, shown.stdout) == (0, '{"rows":1}\n')
        same = run_ledger("get", "r", "--environment", "prod", variables=variables)
        assert same.stdout == shown.stdout
        wrong = run_ledger("get", "r", "--environment", "dev", variables=variables)
        assert wrong.stderr == (
            "run-ledger: RUN_LEDGER_API_KEY is a key of environment prod, not of dev; "
            "leave out --environment (RUN_LEDGER_ENVIRONMENT), or use another key\n"
        )
        keyless = run_ledger("get", "r", variables={"RUN_LEDGER_URL": server.url})
        assert keyless.returncode == 1
        assert keyless.stderr.startswith("run-ledger: this ledger has API keys; ")
    assert os.environ.get("RUN_LEDGER_API_KEY") is None


def test_who_holds_the_database_needs_no_key(tmp_path: Path) -> None:
    path = tmp_path / "run-ledger.db"
    with service(path) as here:
        Keyed(here, "prod").create("r", metadata={"a": 1})
    done = run_ledger("get", "r", "--environment", "prod", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, '{"a":1}\n')


def test_the_documentation_names_every_route_with_its_scope() -> None:
    rows = dict(
        re.findall(r"^\| `([A-Z]+ /[^`]*)` \| `?([a-z]+)`? \|", (ROOT / "docs/keys.md").read_text(), re.MULTILINE)
    )
    table = {
        f"{method} {path}".replace("{run_id}", "{id}").replace("{task:path}", "{task}"): (
            "none" if need is None else need.action or "any"
        )
        for (method, path), need in scopes.NEEDS.items()
    }
    assert rows == table
