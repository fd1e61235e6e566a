"""Runs, made, read and changed by the official SDK."""

from typing import Any

import httpx2
import pytest

from tests.api.server import Server
from tests.sdk.node import Failed, Node


def history(http: httpx2.Client, run: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = http.get(f"/api/v1/runs/{run}/metadata/history?limit=1000").json()["data"]
    return events


def create(http: httpx2.Client, run: str, **members: Any) -> None:
    assert http.post("/api/v1/runs", json={"id": run, "task": "t", **members}).status_code == 201


def test_a_triggered_run_is_retrieved_with_its_metadata_tags_and_payload(node: Node, server: Server) -> None:
    metadata = {"progress": 0.5, "user": {"id": "u1"}}
    options = {"metadata": metadata, "tags": ["a", "b", "a", " "]}
    payload = {"rows": 3}
    played = node.play(
        "runs.mjs", "trigger", url=server.url, task="imports/daily", payload=payload, options=options
    )
    run = played["run"]
    assert run["id"] == played["handle"]["id"]
    assert (run["taskIdentifier"], run["status"], run["version"]) == ("imports/daily", "QUEUED", "1")
    assert (run["metadata"], run["tags"], run["payload"]) == (metadata, ["a", "b"], payload)
    assert run["relatedRuns"] == {}


def test_every_payload_comes_back_as_its_plain_value(node: Node, server: Server) -> None:
    assert node.play("runs.mjs", "payloads", url=server.url) == [
        {"when": "1970-01-01T00:00:00.000Z", "seen": [1], "nothing": None, "big": [1, "ü", None]},
        "plain text",
        '{"json": 1}',
        7,
        "absent",
        "absent",
        [],
    ]


@pytest.mark.parametrize("ttl", ["60s", "24h", "1d12h", "2hr30m", None])
def test_an_idempotency_key_leads_to_the_first_run_and_is_shown_as_it_was_chosen(
    node: Node, server: Server, http: httpx2.Client, ttl: str | None
) -> None:
    chosen = f"order-{ttl}"
    played = node.play("runs.mjs", "once", url=server.url, name=["order", f"{ttl}"], ttl=ttl)
    first, second, run = played["first"], played["second"], played["run"]
    assert (first["isCached"], second["isCached"]) == (False, True)
    assert first["id"] == second["id"] == run["id"]
    assert (run["metadata"], run["payload"]) == ({"first": True}, {"n": 1})
    assert run["idempotencyKey"] == chosen
    shown = http.get(f"/api/v3/runs/{run['id']}").json()
    assert shown["idempotencyKeyOptions"] == {"key": chosen, "scope": "global"}
    (created,) = history(http, run["id"])
    assert created["data"]["idempotencyKey"] == played["hash"]


def test_options_for_a_server_that_executes_tasks_do_no_harm(node: Node, server: Server) -> None:
    run = node.play("runs.mjs", "ignored", url=server.url)
    assert (run["status"], run["tags"], run["metadata"]) == ("QUEUED", ["one"], {})


def test_the_list_is_walked_by_itself_and_in_both_directions(node: Node, fresh: Server) -> None:
    with fresh.client() as http:
        for number in range(7):
            create(http, f"r{number}", task="ab"[number % 2])
        assert http.post("/api/v1/runs/r3/status", json={"status": "EXECUTING"}).status_code == 200
        create(http, "other", task="c")
    played = node.play("runs.mjs", "list", url=fresh.url, limit=3)
    everything = ["other", *(f"r{number}" for number in reversed(range(7)))]
    pages = [everything[:3], everything[3:6], everything[6:]]
    assert played["itself"] == everything
    assert played["pages"] == pages
    assert played["back"] == pages[::-1]
    assert played["forth"] == pages
    assert played["queued"] == ["r6", "r5", "r4", "r2", "r1", "r0"]


def test_poll_waits_for_the_end_of_a_run(node: Node, server: Server, http: httpx2.Client, run: str) -> None:
    create(http, run)
    play = node.begin("runs.mjs", "poll", url=server.url, run=run)
    assert next(iter(play)) == "polling"
    end = {"status": "COMPLETED", "output": {"rows": 3}}
    assert http.post(f"/api/v1/runs/{run}/status", json=end).status_code == 200
    polled = play.done()
    assert (polled["status"], polled["isSuccess"], polled["output"]) == ("COMPLETED", True, {"rows": 3})


def test_a_run_is_cancelled_once(node: Node, server: Server, http: httpx2.Client, run: str) -> None:
    create(http, run)
    played = node.play("runs.mjs", "cancel", url=server.url, run=run)
    assert played["answers"] == [{"id": run}, {"id": run}]
    found = played["run"]
    assert (found["status"], found["isCancelled"], found["isCompleted"]) == ("CANCELED", True, True)
    assert found["finishedAt"]
    assert [event["type"] for event in history(http, run)] == ["run.created", "run.status_changed"]


def test_tags_are_added_and_too_many_refused(node: Node, server: Server, http: httpx2.Client, run: str) -> None:
    create(http, run, tags=["x"])
    lists = ["y", ["x", " ", "z", "z"], [f"t{number}" for number in range(8)], ["x"]]
    played = node.play("runs.mjs", "tag", url=server.url, run=run, lists=lists)
    assert [answer.get("status", 200) for answer in played["answers"]] == [200, 200, 422, 200]
    assert played["answers"][2]["message"] == "a run has at most 10 tags; this one has 3, and 8 new ones came"
    assert played["run"]["tags"] == ["x", "y", "z"]
    tagged = [event["data"] for event in history(http, run) if event["type"] == "run.tagged"]
    assert tagged == [{"tags": ["y"]}, {"tags": ["z"]}]


def test_what_is_refused_is_readable(node: Node, server: Server, http: httpx2.Client, run: str) -> None:
    create(http, run)
    seen = node.play("runs.mjs", "refusals", url=server.url, run=run)
    assert {name: answer.get("status") for name, answer in seen.items()} == {
        "an unknown run": 404,
        "cancelling an unknown run": 404,
        "an unknown batch": 404,
        "an unknown status": 400,
        "too much metadata": 413,
        "too many tags": 422,
        "a large payload": 404,
        "replay": 404,
        "reschedule": 404,
        "a batch with a wrong item": None,
    }
    messages = {name: answer["message"] for name, answer in seen.items()}
    assert messages["an unknown run"].startswith("there is no run run_absent; create it first")
    assert messages["too much metadata"].startswith("metadata would be 5,011 bytes, the limit is 4,096")
    assert "a ledger records runs and executes none" in messages["replay"]
    assert "a ledger records runs and executes none" in messages["reschedule"]
    assert "there is no store for large payloads" in messages["a large payload"]
    cause = seen["a batch with a wrong item"]["cause"]
    assert cause.startswith("line 2: metadata would be 5,011 bytes, the limit is 4,096")
    assert "1 items were accepted" in cause


def test_a_wrong_key_is_said_to_be_one(node: Node, server: Server) -> None:
    with pytest.raises(Failed, match="this ledger has no API keys") as failed:
        node.play(
            "runs.mjs", "trigger", url=server.url, key="rl_prod_0123456789abcdef_" + "x" * 43, task="t", payload=1
        )
    assert failed.value.error["status"] == 401
