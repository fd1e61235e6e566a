"""An open ledger answers this machine only."""

from pathlib import Path

import pytest

from api.access import is_loopback
from tests.api.server import Call, serving
from tests.api.service import Service, problem


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8420", "localhost", "LocalHost:1", "[::1]", "[::1]:8420", "127.0.0.2:80"]
)
def test_names_of_this_machine_are_answered(api: Service, host: str) -> None:
    assert api.get("/healthz", {"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "localhost.",
        "10.0.0.1",
        "0.0.0.0",
        "[::]",
        "",
        " ",
        "127.0.0.1:x",
        "127.0.0.1:80:80",
        "::1",
        "2130706433",
        "127.1",
        "user@localhost",
        "localhost/x",
        "é",
        "[::1",
    ],
)
def test_other_names_are_not_whatever_the_route(api: Service, host: str) -> None:
    api.create("r")
    for path in ("/healthz", "/api/v1/runs", "/nothing"):
        response = api.request("GET", path, headers=[(b"Host", host.encode("latin-1"))])
        body = problem(response, 421)
        assert body["code"] == "foreign-host"
        assert repr(host) in body["detail"]
        assert body["detail"].endswith("; a ledger without API keys answers this machine only")


@pytest.mark.parametrize(
    "header", ["Forwarded", "X-Forwarded-For", "x-forwarded-host", "X-Forwarded-Proto", "X-Forwarded-"]
)
def test_forwarded_requests_are_refused(api: Service, header: str) -> None:
    response = api.put("r", {"metadata": {}}, {header: "127.0.0.1"})
    body = problem(response, 400)
    assert body["code"] == "forwarded"
    assert f"the header {header.lower()} says that a proxy forwards requests" in body["detail"]


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "", "localhost.example.org", "::ffff:0:0"]
)
def test_an_open_ledger_refuses_to_listen_for_others_in_one_line(call: Call, tmp_path: Path, host: str) -> None:
    done = call("serve", "--host", host, "--port", "0")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        f"run-ledger: --host is {host}: a ledger without API keys answers this machine only; use 127.0.0.1, "
        "or make a key first: run-ledger keys create\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_whatever_it_may_listen_on_it_answers(tmp_path: Path, host: str) -> None:
    with serving(tmp_path / "x.db", "--host", host) as server, server.client() as http:
        assert http.get("/readyz").json() == {"status": "ready"}


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("128.0.0.1", False),
        ("localhost ", False),
        ("", False),
        ("127.0.0.01", False),
    ],
)
def test_what_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
