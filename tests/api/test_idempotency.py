"""The same request twice: Idempotency-Key, and the header that the SDK repeats over its retries."""

from pathlib import Path

import httpx2
import pytest

from tests.api.server import serving
from tests.api.service import SECOND, Service, operation, problem

OURS, SDKS = "Idempotency-Key", "x-trigger-request-idempotency-key"
INCREMENT = {"operations": [operation("increment", "n", 1), operation("remove", "x", 1)]}


def replayed(response: httpx2.Response) -> bool:
    said = response.headers.get("idempotency-replayed")
    assert said in {None, "true"}
    return said == "true"


@pytest.mark.parametrize("header", [OURS, SDKS])
def test_put_again_with_the_same_key_writes_once_and_answers_the_same(api: Service, header: str) -> None:
    api.create("r")
    first = api.put("r", INCREMENT, {header: "k"})
    api.put("r", {"operations": [operation("increment", "n", 10)]})
    before = api.contents()
    again = api.put("r", INCREMENT, {header: "k"})
    assert (replayed(first), replayed(again)) == (False, True)
    assert (again.status_code, again.json(), again.headers["etag"]) == (200, first.json(), '"2"')
    assert again.json()["unapplied"] == [
        {"list": "operations", "index": 1, "key": "x", "reason": "there is no list to remove from"}
    ]
    assert api.contents() == before
    assert api.metadata() == {"n": 11}


def test_create_again_with_the_same_key_answers_the_same_run(api: Service) -> None:
    first = api.post("/api/v1/runs", {"task": "t"}, {OURS: "k"})
    again = api.post("/api/v1/runs", {"task": "t"}, {OURS: "k"})
    assert (again.status_code, again.json(), replayed(again)) == (201, first.json(), True)
    assert api.contents()["runs"] == 1


def test_finding_a_run_again_answers_200_again(api: Service) -> None:
    api.create("r")
    body = {"id": "r", "task": "t"}
    first, again = (api.post("/api/v1/runs", body, {OURS: "k"}) for _ in range(2))
    assert (first.status_code, replayed(first)) == (200, False)
    assert (again.status_code, again.json(), replayed(again)) == (200, first.json(), True)


def test_a_retried_trigger_answers_the_first_run_as_new(api: Service) -> None:
    body = {"options": {"idempotencyKey": "user"}}
    first, again = (api.post("/api/v1/tasks/t/trigger", body, {SDKS: "k"}) for _ in range(2))
    assert (again.json(), replayed(again)) == (first.json(), True)
    assert again.json()["isCached"] is False
    other = api.post("/api/v1/tasks/t/trigger", body, {SDKS: "k2"})
    assert (other.json(), replayed(other)) == ({**first.json(), "isCached": True}, False)


def test_status_again_with_the_same_key_answers_the_same_version(api: Service) -> None:
    api.create("r")
    body = {"status": "EXECUTING"}
    first = api.post("/api/v1/runs/r/status", body, {OURS: "k"})
    api.move("r", "COMPLETED")
    again = api.post("/api/v1/runs/r/status", body, {OURS: "k"})
    assert (again.status_code, again.json(), again.headers["etag"]) == (200, first.json(), '"2"')
    assert replayed(again)
    assert api.get("/api/v3/runs/r").json()["status"] == "COMPLETED"


def test_a_key_may_be_quoted_and_is_the_same_key(api: Service) -> None:
    api.create("r")
    for key in ("k", '"k"'):
        api.put("r", INCREMENT, {OURS: key})
    api.put("r", INCREMENT, {SDKS: '"k"'})
    assert api.metadata() == {"n": 1}


def test_our_header_goes_before_that_of_the_sdk(api: Service) -> None:
    api.create("r")
    api.put("r", INCREMENT, {OURS: "a", SDKS: "b"})
    assert replayed(api.put("r", INCREMENT, {OURS: "a", SDKS: "c"}))
    assert not replayed(api.put("r", INCREMENT, {SDKS: "b"}))
    assert api.metadata() == {"n": 2}


def test_another_body_path_or_method_under_the_same_key_is_422(api: Service) -> None:
    api.create("r")
    api.create("s")
    api.put("r", INCREMENT, {OURS: "k"})
    before = api.contents()
    others = [
        api.put("r", {"operations": [operation("increment", "n", 2)]}, {OURS: "k"}),
        api.put("s", INCREMENT, {OURS: "k"}),
        api.post("/api/v1/runs/r/status", {"status": "EXECUTING"}, {OURS: "k"}),
        api.post("/api/v1/runs", {"task": "t"}, {OURS: "k"}),
        api.request(
            "PUT",
            "/api/v1/runs/r/metadata",
            content='{"operations": [{"type": "increment", "key": "n", "value": 1}] }',
            headers={"Content-Type": "application/json", SDKS: "k"},
        ),
    ]
    for response in others:
        body = problem(response, 422)
        assert body["code"] == "idempotency-key-reused"
        assert "'k'" in body["detail"]
    assert api.contents() == before


def test_the_key_is_looked_up_before_the_condition(api: Service) -> None:
    api.create("r")
    headers = {OURS: "k", "If-Match": '"1"'}
    first, again = api.put("r", INCREMENT, headers), api.put("r", INCREMENT, headers)
    assert (again.status_code, again.json()) == (200, first.json())
    assert problem(api.put("r", INCREMENT, {**headers, OURS: "k2"}), 412)["actual"] == 2


def test_what_was_refused_is_not_remembered(api: Service) -> None:
    body = {"operations": [operation("set", "a", 1)]}
    problem(api.put("r", body, {OURS: "k"}), 404)
    api.create("r", metadata={"pad": "x" * 4_081})
    problem(api.put("r", body, {OURS: "k"}), 413)
    problem(api.put("r", body, {OURS: "k", "If-Match": '"9"'}), 412)
    api.put("r", {"metadata": {}})
    assert not replayed(api.put("r", body, {OURS: "k"}))
    assert replayed(api.put("r", body, {OURS: "k"}))


def test_a_request_that_wrote_nothing_is_remembered(api: Service) -> None:
    api.create("r")
    api.put("r", {}, {OURS: "k"})
    api.put("r", {"metadata": {"a": 1}})
    again = api.put("r", {}, {OURS: "k"})
    assert (again.json()["version"], again.json()["metadata"], replayed(again)) == (1, {}, True)


def test_a_key_is_kept_for_seven_days(api: Service) -> None:
    api.create("r")
    api.put("r", INCREMENT, {OURS: "k"})
    api.now += 7 * 86_400 * SECOND - 1
    assert replayed(api.put("r", INCREMENT, {OURS: "k"}))
    api.now += 1
    assert not replayed(api.put("r", INCREMENT, {OURS: "k"}))
    assert api.metadata() == {"n": 2}
    assert api.contents()["idempotency"] == 1


def test_a_key_is_ignored_on_reads(api: Service) -> None:
    api.create("r")
    for path in ("/api/v1/runs/r/metadata", "/api/v3/runs/r", "/api/v1/runs", "/api/v1/runs/r/metadata/history"):
        for key in ("k", "", "x" * 999):
            response = api.get(path, {OURS: key, SDKS: key})
            assert (response.status_code, replayed(response)) == (200, False)
    assert api.contents()["idempotency"] == 0
    assert not replayed(api.put("r", INCREMENT, {OURS: "k"}))


def test_a_key_of_255_characters_is_taken_and_one_more_is_not(api: Service) -> None:
    api.create("r")
    assert api.put("r", INCREMENT, {OURS: "k" * 255}).status_code == 200
    assert api.put("r", INCREMENT, {OURS: f'"{"q" * 255}"'}).status_code == 200
    assert problem(api.put("r", INCREMENT, {OURS: "k" * 256}), 400)["code"] == "bad-idempotency-key"


@pytest.mark.parametrize("header", [OURS, SDKS])
@pytest.mark.parametrize("key", [b"", b'""', b"\x00", b"a\tb", b"\x7f", b"\x85"])
def test_a_key_that_is_none_is_refused_not_ignored(api: Service, header: str, key: bytes) -> None:
    api.create("r")
    response = api.request("PUT", "/api/v1/runs/r/metadata", json=INCREMENT, headers=[(header.encode(), key)])
    assert problem(response, 400)["code"] == "bad-idempotency-key"
    assert api.metadata() == {}


def test_a_key_outlives_the_server(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with serving(path) as server, server.client() as http:
        http.post("/api/v1/runs", json={"id": "r", "task": "t"})
        first = http.put("/api/v1/runs/r/metadata", json=INCREMENT, headers={OURS: "k"})
    with serving(path) as server, server.client() as http:
        again = http.put("/api/v1/runs/r/metadata", json=INCREMENT, headers={OURS: "k"})
        assert (again.json(), replayed(again)) == (first.json(), True)
        assert http.get("/api/v1/runs/r/metadata").json()["metadata"] == {"n": 1}
