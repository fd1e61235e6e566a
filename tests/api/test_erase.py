"""Erasing over HTTP: gone from every answer, with a record, and refused where it has to be."""

import sqlite3
from contextlib import closing
from typing import Any

import httpx2
import pytest

from tests.api.keys import Keyed
from tests.api.service import Service, operation, problem

SECRET = "e7c1-unique-text-of-32-bytes-90b"
ERASE = "/api/v1/runs/r/metadata/erase"
ASKED = {"key": "$.user.email", "reason": "asked for"}


@pytest.fixture
def filled(api: Service) -> Service:
    """A run at version 3 that held the secret twice."""
    api.create("r", metadata={"user": {"email": SECRET, "name": "N"}, "$.user.email": 1})
    api.put("r", {"operations": [operation("set", "$.user.email", f"new {SECRET}"), operation("set", "n", 1)]})
    return api


def texts(api: Service) -> str:
    paths = [f"r/{rest}" for rest in ("metadata", "metadata?version=1", "metadata?version=2", "metadata/history")]
    paths += ["r/metadata/explain?key=user", "r/metadata/diff?from=1&to=2", "r/verify"]
    answers = [api.get(f"/api/v1/runs/{path}") for path in paths] + [
        api.get("/api/v3/runs/r"),
        api.get("/api/v1/runs"),
    ]
    assert {answer.status_code for answer in answers} == {200}
    return "".join(answer.text for answer in answers)


def test_what_was_erased_is_gone_from_every_answer_and_the_run_still_verifies(filled: Service) -> None:
    assert SECRET in texts(filled)
    answer = filled.post(ERASE, {**ASKED, "actor": "dpo"})
    assert (answer.status_code, answer.headers["etag"]) == (200, '"4"')
    assert answer.json() == {"runId": "r", "version": 4, "erased": 2}
    assert SECRET not in texts(filled)
    assert filled.metadata() == {"user": {"name": "N"}, "$.user.email": 1, "n": 1}
    told = filled.history()[-1]
    assert (told["type"], told["actor"], told["data"]["reason"]) == ("run.erased", "dpo", "asked for")
    verified = filled.get("/api/v1/runs/r/verify").json()
    assert (verified["verified"], [one["key"] for one in verified["erased"]]) == (True, ["$.user.email"])


def test_a_key_is_taken_literally_on_request(filled: Service) -> None:
    assert filled.post(ERASE, {**ASKED, "literal": True}).json()["erased"] == 1
    assert filled.metadata() == {"user": {"email": f"new {SECRET}", "name": "N"}, "n": 1}


def test_the_actor_is_the_key_and_whom_the_body_names_is_beside_it(filled: Service) -> None:
    key = Keyed(filled, scopes=["read", "erase"], name="dpo")
    assert key.request("POST", ERASE, json={**ASKED, "actor": "ann"}).status_code == 200
    told = key.get("/api/v1/runs/r/metadata/history").json()["data"][-1]
    assert (told["type"], told["actor"], told["headers"]) == ("run.erased", "dpo", {"onBehalfOf": "ann"})


def test_if_match_holds_for_an_erasure(filled: Service) -> None:
    before = filled.contents()
    body = problem(filled.post(ERASE, ASKED, {"If-Match": '"2"'}), 412)
    assert (body["expected"], body["actual"]) == ([2], 3)
    assert filled.contents() == before
    assert filled.post(ERASE, ASKED, {"If-Match": '"3"'}).json()["version"] == 4
    assert filled.post(ERASE, {**ASKED, "key": "n"}, {"If-Match": "*"}).json()["version"] == 5


def test_a_repeat_under_the_same_idempotency_key_gets_the_first_answer_again(filled: Service) -> None:
    first = filled.post(ERASE, ASKED, {"Idempotency-Key": "k"})
    before = filled.contents()
    assert first.json()["erased"] == 2
    # Whatever happened since, and whatever version is expected: the key comes first.
    filled.put("r", {"operations": [{"type": "set", "key": "n", "value": 1}]})
    filled.post(ERASE, {**ASKED, "key": "n"})
    for headers in ({}, {"If-Match": '"1"'}):
        again = filled.post(ERASE, ASKED, {"Idempotency-Key": "k", **headers})
        assert again.json() == first.json()
        assert again.headers["etag"] == first.headers["etag"]
        assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert filled.contents()["idempotency"] == before["idempotency"] == 1
    assert problem(filled.post(ERASE, ASKED), 404)["code"] == "nothing-to-erase"
    other = filled.post(ERASE, {**ASKED, "reason": "another"}, {"Idempotency-Key": "k"})
    assert problem(other, 422)["code"] == "idempotency-key-reused"


def test_an_erasure_that_was_refused_may_be_sent_again_under_its_key(filled: Service) -> None:
    body = {**ASKED, "key": "later"}
    assert problem(filled.post(ERASE, body, {"Idempotency-Key": "k"}), 404)["code"] == "nothing-to-erase"
    assert filled.contents()["idempotency"] == 0
    filled.put("r", {"operations": [{"type": "set", "key": "later", "value": 1}]})
    assert filled.post(ERASE, body, {"Idempotency-Key": "k"}).json()["erased"] == 1


def test_a_repeat_counts_what_one_erasure_took_in_several_events(
    filled: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.erase.REDACTED_MAX", 2)
    monkeypatch.setattr("ledger.history.ERASED_AT_ONCE", 2)
    for key in ("a", "b"):
        operations = [{"type": "set", "key": key, "value": number} for number in range(9)]
        filled.put("r", {"operations": operations})
    answers = [
        filled.post(ERASE, {**ASKED, "key": key}, {"Idempotency-Key": key}).json() for key in ("a", "b", "a", "b")
    ]
    assert [answer["erased"] for answer in answers] == [9, 9, 9, 9]
    assert answers[:2] == answers[2:]


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        ({"key": "zz"}, 404, "nothing-to-erase", "run r holds nothing at zz"),
        ({"key": ""}, 404, "nothing-to-erase", "run r holds nothing at"),
        ({"key": "$."}, 400, "bad-path", "the path names nothing"),
        ({"key": "$.*"}, 400, "bad-path", "wildcards are not supported"),
        ({"key": "__proto__", "literal": True}, 400, "bad-path", "this name is forbidden"),
        ({"key": "k" * 1_025}, 413, "out-of-bounds", "at most 1024"),
        ({"key": 7}, 400, "invalid-body", "key"),
        ({"key": None}, 400, "invalid-body", "key"),
        ({"reason": ""}, 400, "invalid-body", "reason"),
        ({"reason": " "}, 400, "invalid-body", "reason"),
        ({"reason": None}, 400, "invalid-body", "reason"),
        ({"reason": "x" * 1_001}, 422, "out-of-bounds", "reason"),
        ({"literal": 1}, 400, "invalid-body", "literal"),
        ({"actor": ""}, 400, "invalid-body", "actor"),
    ],
)
def test_an_erasure_that_cannot_be_meant_is_refused_and_changes_nothing(
    filled: Service, body: dict[str, Any], status: int, code: str, words: str
) -> None:
    before = filled.contents()
    answer = filled.post(ERASE, {**ASKED, **body})
    found = problem(answer, status)
    assert found["code"] == code
    assert words in found["detail"]
    assert filled.contents() == before
    assert filled.get("/api/v1/runs/r/verify").json()["verified"] is True


@pytest.mark.parametrize("missing", ["key", "reason"])
def test_key_and_reason_are_needed(filled: Service, missing: str) -> None:
    answer = filled.post(ERASE, {name: value for name, value in ASKED.items() if name != missing})
    assert problem(answer, 400)["detail"] == f"{missing}: is missing"


def test_a_run_that_is_not_there_or_does_not_verify_is_left_alone(filled: Service) -> None:
    for run in ("nobody", "a%20b"):
        assert problem(filled.post(ERASE.replace("/r/", f"/{run}/"), ASKED), 404)["code"] == "run-not-found"
    assert problem(filled.post(f"{ERASE}?x=1", ASKED), 400)["code"] == "unknown-parameter"
    with closing(sqlite3.connect(filled.path)) as connection:
        connection.execute("UPDATE runs SET metadata = '{}', size_bytes = 2")
        connection.commit()
    before = filled.contents()
    answer: httpx2.Response = filled.post(ERASE, ASKED)
    assert problem(answer, 422)["code"] == "unsound"
    assert filled.contents() == before
