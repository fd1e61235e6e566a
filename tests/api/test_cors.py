"""Web pages of other origins: who may call, and what a browser is told."""

from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.requests import Request
from starlette.routing import Route

from api import app as application
from api.app import create_app
from ledger.settings import BadSettings, load_settings
from tests.api.keys import EVERY, Keyed, body_of, path_of
from tests.api.server import serving
from tests.api.service import MASTER, Service, problem

PAGE = "https://app.example"
ALLOWED = "access-control-allow-origin"
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": (
        "authorization,content-type,traceparent,trigger-version,x-trigger-api-version,x-trigger-client,"
        "x-trigger-electric-version,x-trigger-realtime-streams-version,x-trigger-request-idempotency-key,"
        "x-trigger-source"
    ),
}


def let_in(api: Service, *origins: str) -> None:
    app = create_app(api._ledger, api._log, master=lambda: MASTER, cors_origins=origins)
    api._http._transport = httpx2.ASGITransport(app, raise_app_exceptions=False)


def preflight(api: Service, path: str = "/api/v1/runs", origin: str = PAGE, **headers: str) -> httpx2.Response:
    return api.request("OPTIONS", path, headers={"Origin": origin, **PREFLIGHT, **headers})


def words(response: httpx2.Response, name: str) -> set[str]:
    return {word.strip().lower() for word in response.headers[name].split(",")}


def test_no_page_of_another_origin_is_let_in_by_default(api: Service) -> None:
    key = Keyed(api)
    for answer in (
        preflight(api),
        key.request("GET", "/api/v1/runs", headers={"Origin": PAGE}),
        api.request("OPTIONS", "/api/v1/runs"),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert problem(preflight(api), 401)


@pytest.mark.parametrize("origins", [[PAGE], ["https://other.example", PAGE], ["*"]])
def test_a_browser_may_ask_first_without_a_key(api: Service, origins: list[str]) -> None:
    Keyed(api)
    let_in(api, *origins)
    for method, path in EVERY:
        answer = preflight(api, path_of((method, path)), **{"Access-Control-Request-Method": method})
        assert answer.status_code == 200
        assert answer.headers[ALLOWED] == ("*" if origins == ["*"] else PAGE)
        assert method.lower() in words(answer, "access-control-allow-methods")
        assert words(answer, "access-control-allow-headers") >= set(
            PREFLIGHT["Access-Control-Request-Headers"].split(",")
        )
        assert "access-control-allow-credentials" not in answer.headers
        assert int(answer.headers["access-control-max-age"]) > 0
        assert ("origin" in words(answer, "vary")) or origins == ["*"]


@pytest.mark.parametrize("origins", [[PAGE], ["*"]])
@pytest.mark.parametrize("route", [route for route in EVERY if not route[1].endswith("/live")])
def test_a_page_may_read_every_answer(api: Service, origins: list[str], route: tuple[str, str]) -> None:
    key = Keyed(api, scopes=["admin"])
    key.create("r")
    let_in(api, *origins)
    answer = key.request(route[0], path_of(route), headers={"Origin": PAGE, "Cookie": "a=b"}, **body_of(route))
    assert answer.headers[ALLOWED] in {"*", PAGE}
    assert words(answer, "access-control-expose-headers") >= {
        "etag",
        "retry-after",
        "idempotency-replayed",
        "electric-handle",
        "electric-offset",
        "electric-schema",
        "electric-cursor",
        "electric-up-to-date",
        "x-trigger-jwt",
        "x-trigger-jwt-claims",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
    }
    assert "access-control-allow-credentials" not in answer.headers
    if origins == [PAGE]:
        assert answer.headers["vary"] == "Origin"


def test_a_page_may_follow_what_goes_on(api: Service) -> None:
    api.create("r")
    let_in(api, PAGE)
    for _ in range(2):  # HEAD, because a live answer never ends.
        answer = api.request("HEAD", "/api/v1/runs/r/metadata/live", headers={"Origin": PAGE})
        assert (answer.status_code, answer.headers.get_list(ALLOWED)) == (200, [PAGE])


def test_a_page_may_read_why_it_was_refused_and_that_the_server_failed(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: Request) -> Any:
        raise RuntimeError("a bug")

    key = Keyed(api, scopes=["read"])
    routes = [Route("/healthz", fail) if route.path == "/healthz" else route for route in application.ROUTES]
    monkeypatch.setattr(application, "ROUTES", routes)
    let_in(api, PAGE)
    page = {"Origin": PAGE}
    answers = {
        401: api.get("/api/v1/runs", page),
        403: key.request("POST", "/api/v1/runs", json={"task": "t"}, headers=page),
        404: key.request("GET", "/api/v3/runs/nobody", headers=page),
        405: key.request("DELETE", "/api/v1/runs", headers=page),
        409: key.request("GET", "/realtime/v1/runs?tags=a&offset=1_0&handle=x", headers=page),
        400: key.request("GET", "/api/v1/runs?x=1", headers=page),
        500: api.get("/healthz", page),
    }
    assert {status: answer.status_code for status, answer in answers.items()} == {one: one for one in answers}
    assert {answer.headers[ALLOWED] for answer in answers.values()} == {PAGE}


def test_a_page_of_an_origin_that_is_not_named_reads_nothing(api: Service) -> None:
    key = Keyed(api)
    let_in(api, PAGE)
    others = ("https://evil.example", "http://app.example", f"{PAGE}:8443", f"{PAGE}.evil.example", "null", "*")
    for origin in others:
        answer = key.request("GET", "/api/v1/runs", headers={"Origin": origin})
        assert answer.status_code == 200  # The key opens it; the browser keeps it from the page.
        assert ALLOWED not in answer.headers
        assert "origin" in words(answer, "vary")
        asked = preflight(api, origin=origin)
        assert asked.status_code == 400
        assert ALLOWED not in asked.headers
    assert "origin" in words(key.get("/api/v1/runs"), "vary")


# --- an open ledger ---


@pytest.mark.parametrize("origins", [[], ["*"], [PAGE]])
def test_an_open_ledger_serves_no_page_of_a_foreign_origin(api: Service, origins: list[str]) -> None:
    api.create("r")
    before = api.contents()
    let_in(api, *origins)
    foreign = ["https://evil.example", "null", "http://127.0.0.1.evil.example", "https://localhost.example", ""]
    for origin in [*foreign, "http://", "file://127.0.0.1", "http://127.0.0.1@evil.example"]:
        for method, path in EVERY:
            answer = api.request(
                method, path_of((method, path)), headers={"Origin": origin}, **body_of((method, path))
            )
            assert problem(answer, 403)["code"] == "foreign-origin"
    assert api.contents() == before


def test_an_open_ledger_serves_pages_of_this_machine_and_of_origins_that_are_named(api: Service) -> None:
    api.create("r")
    let_in(api, PAGE)
    local = ["http://localhost:3000", "http://127.0.0.1:8420", "http://[::1]:5173", "https://localhost"]
    for origin in [PAGE, *local]:
        answer = api.get("/api/v3/runs/r", {"Origin": origin})
        assert answer.status_code == 200
        assert (ALLOWED in answer.headers) == (origin == PAGE)
    assert api.get("/api/v3/runs/r").status_code == 200


# --- the setting ---


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("", ()),
        ("*", ("*",)),
        ("https://app.example", ("https://app.example",)),
        (" https://App.Example , http://localhost:3000,", ("https://app.example", "http://localhost:3000")),
        ("http://[::1]:3000", ("http://[::1]:3000",)),
    ],
)
def test_origins_are_set_as_a_list(monkeypatch: pytest.MonkeyPatch, text: str, origins: tuple[str, ...]) -> None:
    monkeypatch.setenv("RUN_LEDGER_CORS_ORIGINS", text)
    assert load_settings().cors_origins == origins


@pytest.mark.parametrize(
    "text",
    ["app.example", "https://app.example/", "https://", "https://*.example", "null", "ftp://a", "https://a b"],
)
def test_what_is_no_origin_stops_the_start(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("RUN_LEDGER_CORS_ORIGINS", text)
    with pytest.raises(
        BadSettings, match=r"RUN_LEDGER_CORS_ORIGINS.* is no origin; write for example https://app"
    ):
        load_settings()


def test_a_server_lets_in_the_origins_of_its_settings(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "ledger.db", RUN_LEDGER_CORS_ORIGINS="https://app.example") as server,
        server.client() as http,
    ):
        answer = http.get("/api/v1/runs", headers={"Origin": PAGE})
        assert answer.headers[ALLOWED] == PAGE
        assert http.options("/api/v1/runs", headers={"Origin": PAGE, **PREFLIGHT}).status_code == 200
