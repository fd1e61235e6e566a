"""Ending a run: with the last change of its metadata, or cancelled; and tags, which it may get at any time."""

import json
from typing import Any

import pytest
from hypothesis import given, settings

from tests import strategies
from tests.api.keys import Keyed
from tests.api.service import SECOND, Service, operation, problem, service


def packet(*operations: dict[str, Any], **lists: list[Any]) -> dict[str, Any]:
    """What `stopAndReturnLastFlush` returns."""
    data = {"operations": list(operations), "parentOperations": [], "rootOperations": [], **lists}
    return {"data": json.dumps({"json": data}), "dataType": "application/super+json"}


def increment(key: str = "n", value: float = 1) -> dict[str, Any]:
    return operation("increment", key, value)


# --- the last change ---


def test_the_last_change_comes_before_the_end_in_one_transaction(api: Service) -> None:
    api.create("p")
    api.create("r", parentRunId="p")
    changes = packet(operation("set", "progress", 1), increment(), parentOperations=[increment("done")])
    answer = api.move("r", "COMPLETED", lastFlush=changes, output={"ok": True}, actor="worker", attempt=2)
    assert answer.json() == {"id": "r", "status": "COMPLETED", "version": 4, "unapplied": []}
    assert answer.headers["etag"] == '"4"'
    events = api.history("r")[1:]
    assert [event["type"] for event in events] == ["metadata.set", "metadata.incremented", "run.status_changed"]
    assert {(event["actor"], event["attempt"]) for event in events} == {("worker", 2)}
    (above,) = api.history("p")[1:]
    assert above["position"] - 1 == events[1]["position"]
    assert above["headers"] == {"sourceRun": "r", "sourceAttempt": 2}
    assert (api.metadata("r"), api.metadata("p")) == ({"progress": 1, "n": 1}, {"done": 1})
    assert api.get("/api/v1/runs/r/verify").json()["verified"]


@pytest.mark.parametrize(
    "flush",
    [
        {"data": {"operations": [increment()]}, "dataType": "application/json"},
        {
            "data": '{"operations": [{"type": "increment", "key": "n", "value": 1}]}',
            "dataType": "application/json",
        },
        {"data": '{"metadata": {"n": 1}}', "dataType": "application/json"},
        {"data": {"json": {"operations": [increment()]}, "meta": {}}, "dataType": "application/super+json"},
    ],
)
def test_a_caller_without_the_sdk_may_write_the_change_plainly(api: Service, flush: dict[str, Any]) -> None:
    api.create("r")
    assert api.move("r", "FAILED", lastFlush=flush).status_code == 200
    assert api.metadata("r") == {"n": 1}


@pytest.mark.parametrize(
    "flush",
    [
        None,
        {"dataType": "application/json"},
        {"dataType": "application/super+json", "data": None},
        packet(),
        {"data": "{}", "dataType": "application/json"},
    ],
)
def test_an_empty_packet_changes_nothing_and_may_come_again(api: Service, flush: Any) -> None:
    api.create("r")
    for _ in range(2):
        assert api.move("r", "COMPLETED", lastFlush=flush).json()["version"] == 2
    assert len(api.history("r")) == 2


def test_what_did_not_apply_is_told_also_to_a_retry(api: Service) -> None:
    api.create("r", metadata={"a": 1})
    body = {"status": "COMPLETED", "lastFlush": packet(increment(), operation("remove", "a", 1))}
    key = {"Idempotency-Key": "end"}
    first = api.post("/api/v1/runs/r/status", body, key)
    assert [one["key"] for one in first.json()["unapplied"]] == ["a"]
    again = api.post("/api/v1/runs/r/status", body, key)
    assert (again.json(), again.headers["idempotency-replayed"]) == (first.json(), "true")
    assert api.metadata("r") == {"a": 1, "n": 1}


def test_a_change_that_cannot_be_refuses_the_end_with_it(api: Service) -> None:
    api.create("p")
    api.create("r", parentRunId="p")
    before = api.contents()
    large = operation("set", "t", "x" * 5_000)
    for flush, run in ((packet(increment(), large), "r"), (packet(increment(), parentOperations=[large]), "p")):
        refused = problem(api.move("r", "COMPLETED", lastFlush=flush), 413)
        assert (refused["code"], refused["runId"]) == ("metadata-too-large", run)
    refused = problem(api.move("r", "COMPLETED", lastFlush=packet(increment("$.*.b"))), 400)
    assert refused["code"] == "bad-path"
    assert api.contents() == before
    assert api.get("/api/v3/runs/r").json()["status"] == "QUEUED"
    assert len(api.refusals("r")) == 3


def test_a_change_for_a_run_that_is_over_is_refused_lest_it_count_twice(api: Service) -> None:
    api.create("r")
    assert api.move("r", "COMPLETED", lastFlush=packet(increment())).status_code == 200
    refused = problem(api.move("r", "COMPLETED", lastFlush=packet(increment())), 422)
    assert refused["code"] == "already-finished"
    assert problem(api.move("r", "FAILED", lastFlush=packet(increment())), 422)["code"] == "bad-transition"
    assert api.move("r", "COMPLETED").status_code == 200
    assert (api.metadata("r"), len(api.history("r"))) == ({"n": 1}, 3)


@pytest.mark.parametrize(
    ("flush", "words"),
    [
        ("text", "lastFlush: must be an object with data and dataType"),
        ({}, "lastFlush: dataType must be application/super+json or application/json"),
        ({"dataType": "text/plain", "data": "a"}, "lastFlush: dataType must be"),
        ({"dataType": [], "data": "a"}, "lastFlush: dataType must be"),
        ({"dataType": "application/json", "data": "{"}, "lastFlush: line 1, column 2"),
        ({"dataType": "application/json", "data": "[]"}, "lastFlush: must be an object"),
        ({"dataType": "application/json", "data": 7}, "lastFlush: must be an object"),
        ({"dataType": "application/super+json", "data": "{}"}, "lastFlush: data must be the text of an object"),
        ({"dataType": "application/super+json", "data": '{"json": null}'}, "lastFlush: must be an object"),
        (packet({"type": "set", "key": "a"}), "lastFlush.operations[0].value: is missing"),
        (packet(operation("increment", "a", "NaN")), "lastFlush.operations[0].value"),
    ],
)
def test_a_packet_that_says_nothing_is_refused(api: Service, flush: Any, words: str) -> None:
    api.create("r")
    assert words in problem(api.move("r", "COMPLETED", lastFlush=flush), 400)["detail"]
    assert len(api.history("r")) == 1


def test_a_last_change_goes_with_the_end_only(api: Service) -> None:
    api.create("r")
    refused = problem(api.move("r", "EXECUTING", lastFlush=packet(increment())), 400)
    assert "goes with a status that ends the run" in refused["detail"]
    assert api.metadata("r") == {}


def test_a_last_change_is_judged_by_the_version_that_was_asked_for(api: Service) -> None:
    api.create("r")
    body = {"status": "COMPLETED", "lastFlush": packet(increment())}
    assert api.post("/api/v1/runs/r/status", body, {"If-Match": '"2"'}).status_code == 412
    assert api.post("/api/v1/runs/r/status", body, {"If-Match": '"1"'}).status_code == 200


def test_a_restricted_key_may_not_change_a_parent_at_the_end_either(api: Service) -> None:
    everything = Keyed(api)
    everything.create("p", task="other")
    everything.create("r", task="mine", parentRunId="p")
    key = Keyed(api, scopes=["read", "write:tasks:mine"])
    for lists in ({"parentOperations": [increment()]}, {"rootOperations": [increment()]}):
        body = {"status": "COMPLETED", "lastFlush": packet(**lists)}
        refused = key.request("POST", "/api/v1/runs/r/status", json=body)
        assert problem(refused, 403)["code"] == "restricted-scope"
    body = {"status": "COMPLETED", "lastFlush": packet(increment())}
    assert key.request("POST", "/api/v1/runs/r/status", json=body).status_code == 200


@settings(max_examples=25, deadline=None)
@given(history=strategies.hostile_histories())
def test_a_last_change_leaves_what_the_same_change_leaves_by_itself(
    tmp_path_factory: pytest.TempPathFactory, history: strategies.History
) -> None:
    changes: list[Any] = list(history.wire)
    with service(tmp_path_factory.mktemp("last") / "ledger.db") as api:
        for run in ("a", "b"):
            api.create(run, metadata=history.metadata)
        plain = api.put("a", {"operations": changes})
        ended = api.move("b", "COMPLETED", lastFlush=packet(*changes))
        assert ended.status_code == plain.status_code
        assert api.metadata("b") == api.metadata("a")
        if plain.status_code == 200:
            assert ended.json()["unapplied"] == plain.json()["unapplied"]
            assert api.move("a", "COMPLETED").json()["version"] == len(api.history("b"))


# --- cancel ---


@pytest.mark.parametrize("status", ["QUEUED", "EXECUTING", "WAITING"])
def test_a_run_that_is_not_over_is_cancelled(api: Service, status: str) -> None:
    api.create("r", status=status)
    api.now += SECOND
    answer = api.request("POST", "/api/v2/runs/r/cancel")
    assert (answer.status_code, answer.json()) == (200, {"id": "r", "version": 2})
    shown = api.get("/api/v3/runs/r").json()
    assert (shown["status"], shown["finishedAt"]) == ("CANCELED", "2023-11-14T22:13:21.000000Z")


@pytest.mark.parametrize(
    "status", ["COMPLETED", "CANCELED", "FAILED", "CRASHED", "SYSTEM_FAILURE", "EXPIRED", "TIMED_OUT"]
)
def test_a_run_that_is_over_stays_as_it_is(api: Service, status: str) -> None:
    api.create("r", status=status)
    before = api.get("/api/v3/runs/r").json()
    for _ in range(2):
        assert api.request("POST", "/api/v2/runs/r/cancel").json() == {"id": "r", "version": 1}
    assert api.get("/api/v3/runs/r").json() == before


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"json": {"actor": "me"}}, 200),
        ({"content": b"", "headers": {"Content-Type": "application/json"}}, 200),
        ({"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ({"json": {"actor": 7}}, 400),
        ({"headers": {"If-Match": '"2"'}}, 412),
    ],
)
def test_a_cancellation_may_say_who_asks(api: Service, options: dict[str, Any], status: int) -> None:
    api.create("r")
    assert api.request("POST", "/api/v2/runs/r/cancel", **options).status_code == status
    if "actor" in options.get("json", {}) and status == 200:
        assert api.history("r")[1]["actor"] == "me"


def test_a_cancellation_that_comes_again_gets_its_first_answer(api: Service) -> None:
    api.create("r")
    key = {"x-trigger-request-idempotency-key": "k"}
    first = api.request("POST", "/api/v2/runs/r/cancel", headers=key)
    assert api.move("r", "EXECUTING", attempt=2).status_code == 200
    again = api.request("POST", "/api/v2/runs/r/cancel", headers=key)
    assert (again.json(), again.headers["idempotency-replayed"]) == (first.json(), "true")
    assert api.get("/api/v3/runs/r").json()["status"] == "EXECUTING"


# --- tags ---


def test_new_tags_are_one_event_and_known_ones_none(api: Service) -> None:
    api.create("r", tags=["a"])
    answers = [
        api.post("/api/v1/runs/r/tags", {"tags": tags}).json() for tags in ("b", ["c", "a", " "], ["a"], [])
    ]
    assert [answer["version"] for answer in answers] == [2, 3, 3, 3]
    assert {answer["message"] for answer in answers} == {"the run has these tags"}
    assert [event["data"] for event in api.history("r")[1:]] == [{"tags": ["b"]}, {"tags": ["c"]}]
    assert api.get("/api/v3/runs/r").json()["tags"] == ["a", "b", "c"]
    assert api.get("/api/v1/runs/r/verify").json()["verified"]


def test_the_same_request_for_tags_is_carried_out_once(api: Service) -> None:
    api.create("r")
    key = {"Idempotency-Key": "k"}
    first = api.post("/api/v1/runs/r/tags", {"tags": "a"}, key)
    again = api.post("/api/v1/runs/r/tags", {"tags": "a"}, key)
    assert (again.json(), again.headers["idempotency-replayed"]) == (first.json(), "true")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"tags": 7}, 400),
        ({"tags": [7]}, 400),
        ({"tags": ["x" * 129]}, 422),
        ({"tags": [str(number) for number in range(10)]}, 422),
        ({"tags": [str(number) for number in range(11)]}, 422),
    ],
)
def test_tags_that_a_run_cannot_have_are_refused(api: Service, body: Any, status: int) -> None:
    api.create("r", tags=["a"])
    problem(api.post("/api/v1/runs/r/tags", body), status)
    assert len(api.history("r")) == 1


def test_a_run_that_is_long_over_may_still_be_tagged(api: Service) -> None:
    api.create("r", status="COMPLETED")
    api.now += 100_000 * SECOND
    assert api.post("/api/v1/runs/r/tags", {"tags": "triaged"}).status_code == 200


def test_what_a_ledger_does_not_do_is_said_with_the_reason(api: Service) -> None:
    api.create("r")
    for path, words in (
        ("/api/v1/runs/r/replay", "cannot replay"),
        ("/api/v1/runs/r/reschedule", "cannot reschedule"),
        ("/api/v2/packets/a/b.json", "no store for large payloads"),
    ):
        refused = problem(api.post(path, {}), 404)
        assert refused["code"] == "unsupported"
        assert words in refused["detail"]
