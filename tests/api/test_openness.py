"""Routes and methods: what is there, what is not, and how that is said."""

import pytest

from tests.api.service import Service, problem

ROUTES = {
    "/api/v1/tasks/t/trigger": "POST",
    "/api/v1/runs": "GET, HEAD, POST",
    "/api/v3/runs/r": "GET, HEAD",
    "/api/v1/runs/r/status": "POST",
    "/api/v1/runs/r/tags": "POST",
    "/api/v2/runs/r/cancel": "POST",
    "/api/v3/batches": "POST",
    "/api/v2/tasks/batch": "POST",
    "/api/v1/runs/r/metadata": "GET, HEAD, PUT",
    "/api/v1/runs/r/metadata/history": "GET, HEAD",
    "/api/v1/runs/r/verify": "GET, HEAD",
    "/api/v1/runs/r/metadata/progress": "GET, HEAD",
    "/api/v1/events": "GET, HEAD",
    "/healthz": "GET, HEAD",
    "/readyz": "GET, HEAD",
}
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"]


def test_a_live_server_says_so(api: Service) -> None:
    assert [(one.status_code, one.json()) for one in map(api.get, ("/healthz", "/readyz"))] == [
        (200, {"status": "ok"}),
        (200, {"status": "ready"}),
    ]


def test_a_server_that_takes_no_writes_says_so(api: Service) -> None:
    api.create("r")
    api.stop_writing()
    for path in ("/healthz", "/readyz"):
        response = api.get(path)
        assert problem(response, 503)["code"] == "not-ready"
        assert response.headers["retry-after"] == "1"
    response = api.put("r", {"metadata": {"a": 1}})
    assert problem(response, 503)["code"] == "busy"
    assert response.headers["retry-after"] == "1"
    assert api.metadata() == {}


@pytest.mark.parametrize("path", ROUTES)
def test_a_method_that_a_path_does_not_take_is_405_with_all_that_it_takes(api: Service, path: str) -> None:
    api.create("r")
    for method in METHODS:
        response = api.request(method, path)
        if method in ROUTES[path].split(", "):
            assert response.status_code in {200, 415}
            continue
        assert (response.status_code, response.headers["allow"]) == (405, ROUTES[path])
        if method == "HEAD":
            assert response.content == b""
            continue
        body = problem(response, 405)
        assert body["detail"] == f"{method} is not possible here; allowed: {ROUTES[path]}"
        assert body["code"] == "method-not-allowed"


@pytest.mark.parametrize("path", [path for path, methods in ROUTES.items() if "HEAD" in methods])
def test_head_answers_the_headers_of_get_without_a_body(api: Service, path: str) -> None:
    api.create("r", metadata={"a": 1})
    got, head = api.get(path), api.request("HEAD", path)
    assert (head.status_code, head.content) == (200, b"")
    assert dict(head.headers) == dict(got.headers)


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/api/v1/runs/",
        "/api/v1/runs//metadata",
        "/api/v1/runs/r/metadata/",
        "/api/v1/runs/r%2Fs/metadata",
        "/api/v1/runs/r/",
        "/api/v2/runs/r",
        "/api/v3/runs",
        "//api/v1/runs",
        "/API/V1/RUNS",
        "/healthz/",
        "/%00",
        "/%FF%FE",
        "/é",
        "/api/v1/runs/r/metadata/../metadata/nothing",
    ],
)
def test_a_path_that_is_none_is_404_and_nobody_is_sent_elsewhere(api: Service, path: str) -> None:
    for method in ("GET", "PUT", "POST"):
        assert problem(api.request(method, path, json={}), 404)["code"] == "no-such-route"


NO_IDS = [
    "a%00b",
    "a%20b",
    "%C3%A9",
    "%FF",
    "x" * 129,
    "x" * 200,
    "a,b",
    "%22",
    "a%0D%0AX:y",
    "a%5Cb",
    "%25",
    "a;b",
]


@pytest.mark.parametrize(
    "path", ["/api/v3/runs/{}", "/api/v1/runs/{}/metadata", "/api/v1/runs/{}/metadata/history"]
)
def test_what_cannot_be_an_id_is_answered_like_one_that_does_not_exist(api: Service, path: str) -> None:
    for run in NO_IDS:
        body = problem(api.get(path.format(run)), 404)
        assert (body["code"], body["title"]) == ("run-not-found", "No such run")


def test_answers_name_neither_the_server_nor_its_insides(api: Service) -> None:
    response = api.get("/api/v1/runs?page%5Bafter%5D=%27%3B%20DROP%20TABLE%20events")
    body = problem(response, 400)
    assert "sql" not in str(body).lower()
    assert "server" not in response.headers
