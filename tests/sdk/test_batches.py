"""Batches, triggered by the official SDK."""

import httpx2
import pytest

from tests.api.server import Server
from tests.api.service import contents
from tests.sdk.node import Node
from tests.sdk.test_runs import create


def test_a_batch_of_one_task_is_retrieved_with_its_runs_in_order(
    node: Node, server: Server, http: httpx2.Client
) -> None:
    items = [
        {"payload": {"n": number}, "options": {"metadata": {"n": number}, "tags": f"n{number}"}}
        for number in range(3)
    ]
    played = node.play("runs.mjs", "batchTrigger", url=server.url, task="import/daily", items=items)
    batch = played["batch"]
    assert (played["handle"]["batchId"], played["handle"]["runCount"]) == (batch["id"], 3)
    assert (batch["status"], batch["runCount"], batch["processing"]) == ("PROCESSING", 3, {"errors": []})
    for number, run in enumerate(batch["runs"]):
        shown = http.get(f"/api/v3/runs/{run}").json()
        assert (shown["taskIdentifier"], shown["batchId"]) == ("import/daily", batch["id"])
        assert shown["triggerFunction"] == "batchTrigger"
        assert (shown["payload"], shown["metadata"], shown["tags"]) == (
            {"n": number},
            {"n": number},
            [f"n{number}"],
        )
        end = {"status": "FAILED" if number else "COMPLETED"}
        assert http.post(f"/api/v1/runs/{run}/status", json=end).status_code == 200
    done = http.get(f"/api/v2/batches/{batch['id']}").json()
    assert done["status"] == "COMPLETED"
    assert done["processing"]["completedAt"] == done["updatedAt"]


def test_a_batch_of_several_tasks_has_a_run_of_each(node: Node, server: Server, http: httpx2.Client) -> None:
    items = [{"id": "one", "payload": 1}, {"id": "two", "payload": "text"}]
    batch = node.play("runs.mjs", "batchById", url=server.url, items=items)["batch"]
    shown = [http.get(f"/api/v3/runs/{run}").json() for run in batch["runs"]]
    assert [(run["taskIdentifier"], run["payload"]) for run in shown] == [("one", 1), ("two", "text")]


def test_a_large_batch_is_streamed_and_every_run_is_there(node: Node, server: Server, http: httpx2.Client) -> None:
    items = [{"payload": {"n": number, "text": "ü" * 2_000}} for number in range(1_000)]
    batch = node.play("runs.mjs", "batchTrigger", url=server.url, task="many", items=items)["batch"]
    assert (batch["runCount"], len(set(batch["runs"]))) == (1_000, 1_000)
    last = http.get(f"/api/v3/runs/{batch['runs'][-1]}").json()
    assert last["payload"] == items[-1]["payload"]


def test_an_idempotency_key_leads_to_the_batch_and_creates_nothing(node: Node, server: Server) -> None:
    arguments = {"task": "t", "items": [{"payload": 1}, {"payload": 2}], "options": {"idempotencyKey": "nightly"}}
    first = node.play("runs.mjs", "batchTrigger", url=server.url, **arguments)["batch"]
    before = contents(server.path)
    assert node.play("runs.mjs", "batchTrigger", url=server.url, **arguments)["batch"] == first
    after = contents(server.path)
    assert (after["runs"], after["events"]) == (before["runs"], before["events"])


@pytest.mark.parametrize("parent", [None, "the-parent"])
def test_the_older_form_in_one_request_still_works(
    node: Node, server: Server, http: httpx2.Client, parent: str | None
) -> None:
    if parent is not None:
        create(http, parent)
    options = {"payloadType": "application/json", "parentRunId": parent}
    items = [{"task": "t", "payload": '{"n": 1}', "options": options}]
    played = node.play("runs.mjs", "oldBatch", url=server.url, items=items)
    (run,) = played["batch"]["runs"]
    shown = http.get(f"/api/v3/runs/{run}").json()
    assert shown["payload"] == {"n": 1}
    assert shown["relatedRuns"].get("parent", {}).get("id") == parent
