"""Sessions and the ways in of the pages, without a browser."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest

from api.app import create_app
from api.pages.assets import assets
from api.pages.routes import PAGES
from api.pages.templates import POLICY
from api.scopes import PAGE_NEEDS
from api.sessions import COOKIE, SESSION_S, Sessions
from ledger.errors import KeyRefused
from tests.api.keys import Keyed
from tests.api.service import MASTER, Service, problem, service

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Service]:
    """An application with an empty log, whose browsers can sign in."""
    with service(tmp_path / "ledger.db") as made:
        yield made


def cookie_in(response: httpx2.Response, name: str) -> str:
    found = [line for line in response.headers.get_list("set-cookie") if line.startswith(f"{name}=")]
    assert len(found) == 1, response.headers
    return found[0]


def value_of(line: str) -> str:
    return line.partition(";")[0].partition("=")[2]


def sign_in(api: Service, key: str, path: str = "/login", **headers: str) -> httpx2.Response:
    form = value_of(cookie_in(api.get("/login"), "run_ledger_form"))
    body = f"key={quote(key)}&token={quote(form)}&next={quote(path, safe='')}"
    return api.request(
        "POST", "/login", content=body, headers={**FORM, "Cookie": f"run_ledger_form={form}", **headers}
    )


def session_of(api: Service, key: Keyed) -> dict[str, str]:
    answer = sign_in(api, key.text)
    assert answer.status_code == 303, answer.text
    return {"Cookie": f"{COOKIE}={value_of(cookie_in(answer, COOKIE))}"}


def test_every_page_is_in_the_table_of_what_it_asks_for() -> None:
    assert sorted(PAGE_NEEDS) == sorted(
        (method, route.path) for route in PAGES for method in route.methods or () if method != "HEAD"
    )


def test_in_an_open_ledger_there_is_nothing_to_sign_in_to(api: Service) -> None:
    api.create("r")
    assert api.get("/login").headers["location"] == "/"
    page = api.get("/runs/r")
    assert page.status_code == 200
    assert "Sign out" not in page.text
    assert "set-cookie" not in page.headers
    assert problem_page(api.get("/runs/r", {"Host": "evil.example"}), 421)
    assert problem_page(api.get("/", {"X-Forwarded-For": "1.2.3.4"}), 400)


def problem_page(response: httpx2.Response, status: int) -> bool:
    assert response.status_code == status
    assert response.headers["content-type"].startswith("text/html")
    return "<h1>" in response.text


def test_a_session_holds_nothing_of_the_key_and_is_for_this_server_only(api: Service) -> None:
    key = Keyed(api)
    answer = sign_in(api, key.text, "/runs/r")
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs/r")
    line = cookie_in(answer, COOKIE)
    assert re.search(r"; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict$", line)
    assert key.text not in line
    assert key.text.rpartition("_")[2] not in line
    secure = sign_in(api, key.text, **{"X-Forwarded-Proto": "https"})
    assert cookie_in(secure, COOKIE).endswith("; Secure")


def test_a_session_opens_what_its_key_opens(api: Service) -> None:
    key = Keyed(api)
    key.create("r", metadata={"a": 1})
    session = session_of(api, key)
    for path in ("/", "/runs/r", "/api/v1/runs", "/api/v1/runs/r/metadata", "/api/v3/runs/r"):
        assert api.get(path, session).status_code == 200, path
    other = Keyed(api, "prod")
    assert api.get("/runs/r", session_of(api, other)).status_code == 404
    narrow = Keyed(api, scopes=("read:tags:none",))
    assert problem_page(api.get("/runs/r", session_of(api, narrow)), 404)
    assert problem(api.get("/api/v1/events", session_of(api, narrow)), 403)["code"] == "restricted-scope"


def test_a_session_ends_with_its_key_and_with_its_time(api: Service) -> None:
    key = Keyed(api)
    key.create("r")
    session = session_of(api, key)
    assert api.get("/runs/r", session).status_code == 200
    key.revoke()
    answer = api.get("/runs/r", session)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2Fruns%2Fr")
    assert "Max-Age=0" in cookie_in(answer, COOKIE)
    assert problem(api.get("/api/v1/runs/r/metadata", session), 401)["code"] == "revoked-key"
    expiring = Keyed(api, expires_at=api.now + 60 * 1_000_000)
    session = session_of(api, expiring)
    assert api.get("/", session).status_code == 200
    api.now += 61 * 1_000_000
    assert api.get("/", session).status_code == 303


def test_a_session_lasts_a_working_day(api: Service) -> None:
    key = Keyed(api)
    now = 1_000_000.0
    sessions = Sessions(api._ledger.keys, lambda: MASTER, clock=lambda: now)
    (known,) = api._runner.run(api._ledger.keys.list(api._log.owner))
    text = sessions.begin(known)
    now += SESSION_S - 1
    assert api._runner.run(sessions.admit(text)).id == key.id
    now += 1
    with pytest.raises(KeyRefused, match="the session is over"):
        api._runner.run(sessions.admit(text))


def test_a_session_that_was_tampered_with_opens_nothing(api: Service) -> None:
    key = Keyed(api)
    key.create("r")
    text = session_of(api, key)["Cookie"].partition("=")[2]
    other = Keyed(api)
    environment, key_id, end, number, mac = text.split(".")
    forged = [
        ".".join((environment, other.id, end, number, mac)),
        ".".join(("prod", key_id, end, number, mac)),
        ".".join((environment, key_id, str(int(end) + 1), number, mac)),
        ".".join((environment, key_id, end, number[::-1], mac)),
        ".".join((environment, key_id, end, number, mac[::-1])),
        ".".join((environment, key_id, end, number, "")),
        text + "=",
        "",
        "x" * 5_000,
        key.text,
    ]
    for one in forged:
        assert api.get("/runs/r", {"Cookie": f"{COOKIE}={one}"}).status_code == 303, one
        assert api.get("/api/v1/runs/r/metadata", {"Cookie": f"{COOKIE}={one}"}).status_code == 401, one
    assert api.get("/runs/r", {"Cookie": f"{COOKIE}={text}; {COOKIE}={text}"}).status_code == 303


def test_another_page_can_make_a_session_change_nothing(api: Service) -> None:
    key = Keyed(api)
    key.create("r")
    session = session_of(api, key)
    body = {"operations": [{"type": "set", "key": "k", "value": 1}]}
    assert problem(api.put("r", body, session), 403)["code"] == "csrf"
    assert problem(api.put("r", body, {**session, "X-CSRF-Token": "guess"}), 403)["code"] == "csrf"
    token = re.search(r'name="token" value="([^"]+)"', api.get("/", session).text)
    assert token is not None
    assert api.put("r", body, {**session, "X-CSRF-Token": token[1]}).status_code == 200
    assert api.get("/api/v1/runs/r/metadata/history", session).json()["data"][-1]["actor"] == key.id
    # Signing out is a change, too.
    refused = api.request("POST", "/logout", content="token=guess", headers={**FORM, **session})
    assert problem_page(refused, 403)
    out = api.request("POST", "/logout", content=f"token={quote(token[1])}", headers={**FORM, **session})
    assert (out.status_code, out.headers["location"]) == (303, "/login")
    assert "Max-Age=0" in cookie_in(out, COOKIE)


def test_a_form_from_elsewhere_signs_nobody_in(api: Service) -> None:
    key = Keyed(api)
    for headers in ({}, {"Cookie": "run_ledger_form=another"}):
        answer = api.request("POST", "/login", content=f"key={key.text}&token=guess", headers={**FORM, **headers})
        assert answer.status_code == 403
        assert COOKIE not in str(answer.headers)
    assert sign_in(api, key.text, **{"Sec-Fetch-Site": "same-site"}).status_code == 403
    assert sign_in(api, key.text, **{"Sec-Fetch-Site": "same-origin"}).status_code == 303
    assert (
        api.request("POST", "/login", content=b"key=1", headers={"Content-Type": "text/plain"}).status_code == 415
    )
    assert api.request("POST", "/login", content=b"x" * 20_000, headers=FORM).status_code == 413
    assert api.request("POST", "/login", content=b"\xff&&&" * 99, headers=FORM).status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "/login",
        "/api/v1/runs",
        "/runs/r\r\nX: 1",
        "runs",
        "",
    ],
)
def test_who_signs_in_is_sent_to_a_page_of_this_server_only(api: Service, path: str) -> None:
    assert sign_in(api, Keyed(api).text, path).headers["location"] == "/"


def test_a_key_that_may_not_read_cannot_sign_in(api: Service) -> None:
    answer = sign_in(api, Keyed(api, scopes=("write",)).text)
    assert answer.status_code == 403
    assert "may not read" in answer.text
    assert COOKIE + "=" not in str(answer.headers)


def test_a_link_from_elsewhere_opens_with_the_session_all_the_same(api: Service) -> None:
    Keyed(api)
    first = api.get("/runs/r?version=2", {"Sec-Fetch-Site": "cross-site"})
    assert first.status_code == 200
    assert '<meta http-equiv="refresh" content="0">' in first.text
    assert api.get("/runs/r?version=2", {"Sec-Fetch-Site": "same-origin"}).status_code == 303


def test_a_session_counts_against_the_rate_of_its_key(tmp_path: Path) -> None:
    with service(tmp_path / "ledger.db") as api:
        app = create_app(api._ledger, api._log, master=lambda: MASTER, rate_limit=1)
        api._http = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=app, raise_app_exceptions=False), base_url="http://127.0.0.1"
        )
        session = session_of(api, Keyed(api))
        answers = [api.get("/", session).status_code for _ in range(14)]
        assert answers[0] == 200
        assert 429 in answers


def test_without_a_master_secret_nobody_signs_in(tmp_path: Path) -> None:
    with service(tmp_path / "ledger.db") as api:
        key = Keyed(api)
        app = create_app(api._ledger, api._log)
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        api._http = httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1")
        assert problem_page(sign_in(api, key.text), 503)


def test_pages_and_assets_carry_what_protects_them(api: Service) -> None:
    api.create("r")
    for path in ("/", "/runs/r", "/runs/none"):
        headers = api.get(path).headers
        assert headers["content-security-policy"] == POLICY
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
    assert "unsafe" not in POLICY
    assert POLICY.startswith("default-src 'none'; ")
    for asset in assets().values():
        answer = api.get(f"/assets/{asset.name}")
        assert (answer.status_code, answer.content) == (200, asset.content)
        assert "immutable" in answer.headers["cache-control"]
    for name in ("page.css", "..%2Frun.py", "page.000000000000.css"):
        assert problem(api.get(f"/assets/{name}"), 404)["code"] == "no-such-route"


def test_the_form_tells_nobody_which_environments_there_are(api: Service) -> None:
    Keyed(api, "prod")
    assert 'class="environment"' not in api.get("/login").text
    assert "prod" not in api.get("/login").text


def test_a_page_refers_to_nothing_elsewhere_and_has_no_inline_code(api: Service) -> None:
    api.create("r", metadata={"progress": 0.5})
    for path in ("/", "/runs/r"):
        text = api.get(path).text
        assert not re.search(r"(src|href|action)=\"(https?:)?//", text)
        assert not re.search(r"<style|<script(?![^>]* src=)|\son\w+=|\sstyle=", text)


def test_a_question_that_means_nothing_is_refused_on_a_page(api: Service) -> None:
    api.create("r")
    for query in ("verson=1", "only=everything", "explain=%24.", "version=x", "version=0", "upto=0", "compare=9"):
        answer = api.get(f"/runs/r?{query}")
        assert answer.status_code in {400, 404, 422}, query
        assert "<h1>" in answer.text
