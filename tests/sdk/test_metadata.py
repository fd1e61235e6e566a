"""Metadata, changed by the manager that runs inside a Trigger.dev worker."""

from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.api.server import Server, run_ledger
from tests.api.service import problem
from tests.handle.proxy import proxy
from tests.sdk.node import Node
from tests.sdk.test_runs import create, history


def held(http: httpx2.Client, run: str) -> Any:
    return http.get(f"/api/v1/runs/{run}/metadata").json()["metadata"]


def test_every_kind_of_change_leaves_what_the_sdk_believes(
    node: Node, server: Server, http: httpx2.Client, run: str
) -> None:
    create(http, run, metadata={"gone": 1, "list": ["a", "b", "a"], "nested": {"n": 1}})
    played = node.play("metadata.mjs", "everyChange", url=server.url, run=run)
    assert played["held"] == played["local"]
    assert played["held"] == {
        "list": ["b"],
        "nested": {"n": 1, "m": [1, 2]},
        "status": {"state": "working"},
        "n": 1.5,
        "log": ["one", "two"],
    }


def test_a_child_changes_its_parent_and_its_root_in_the_same_transaction(
    node: Node, server: Server, http: httpx2.Client, run: str
) -> None:
    root, parent = f"{run}-root", f"{run}-parent"
    create(http, root, metadata={"left": 3})
    create(http, parent, parentRunId=root)
    create(http, run, parentRunId=parent)
    played = node.play("metadata.mjs", "family", url=server.url, run=run, parent=parent, root=root)
    assert played == {
        run: {"step": 2},
        parent: {"children": 1, "seen": [run]},
        root: {"whole": True, "n": 1},
    }
    events = [history(http, one)[1:] for one in (run, parent, root)]
    assert len({event["recordedAt"] for one in events for event in one}) == 1
    for one in events[1:]:
        assert [event["headers"]["sourceRun"] for event in one] == [run] * len(one)
    assert [event["type"] for event in events[2]] == [
        "metadata.incremented",
        "metadata.incremented",
        "metadata.set",
        "metadata.updated",
    ]


def test_the_public_functions_work_with_a_registered_manager(
    node: Node, server: Server, http: httpx2.Client, run: str
) -> None:
    create(http, run)
    played = node.play("metadata.mjs", "functions", url=server.url, run=run)
    assert played["current"] == played["run"]["metadata"] == {"progress": 1}


def test_fifty_managers_that_count_one_thing_make_fifty_events_and_the_right_sum(
    node: Node, server: Server, http: httpx2.Client, run: str
) -> None:
    create(http, run)
    assert node.play("metadata.mjs", "count", url=server.url, run=run, managers=50) == {"count": 50}
    events = history(http, run)
    assert [event["version"] for event in events] == list(range(1, 52))
    assert [event["after"] for event in events[1:]] == list(range(1, 51))


def test_the_last_flush_is_applied_with_the_end_of_the_run_and_before_it(
    node: Node, server: Server, http: httpx2.Client, run: str
) -> None:
    parent = f"{run}-parent"
    create(http, parent)
    create(http, run, parentRunId=parent)
    packets = node.play("metadata.mjs", "lastFlush", url=server.url, run=run)
    assert packets["nothing"] == {"dataType": "application/json"}
    end = {"status": "COMPLETED", "lastFlush": packets["packet"]}
    answer = http.post(f"/api/v1/runs/{run}/status", json=end)
    assert answer.json() == {"id": run, "status": "COMPLETED", "version": 5, "unapplied": []}
    events = history(http, run)[1:]
    assert [event["type"] for event in events] == [*["metadata.set"] * 3, "run.status_changed"]
    above = history(http, parent)[1:]
    assert len({event["recordedAt"] for event in (*events, *above)}) == 1
    assert held(http, run) == {"progress": 1, "when": "1970-01-01T00:00:00.000Z", "text": "x"}
    assert held(http, parent) == {"done": 1, "ended": [run]}


def test_a_last_flush_that_is_too_large_refuses_the_end_too(
    node: Node, server: Server, http: httpx2.Client, run: str
) -> None:
    parent = f"{run}-parent"
    create(http, parent)
    create(http, run, parentRunId=parent)
    packet = node.play("metadata.mjs", "lastFlush", url=server.url, run=run, size=5_000)["packet"]
    end = {"status": "COMPLETED", "lastFlush": packet}
    assert problem(http.post(f"/api/v1/runs/{run}/status", json=end), 413)["code"] == "metadata-too-large"
    assert [len(history(http, one)) for one in (run, parent)] == [1, 1]
    assert http.get(f"/api/v3/runs/{run}").json()["status"] == "QUEUED"
    nothing = {"status": "COMPLETED", "lastFlush": {"dataType": "application/json"}}
    assert http.post(f"/api/v1/runs/{run}/status", json=nothing).status_code == 200


@pytest.mark.parametrize("every", [2, 3])
def test_nothing_is_doubled_when_answers_are_lost(node: Node, fresh: Server, every: int) -> None:
    with proxy(fresh.port) as lossy:
        lossy.mode, lossy.every = "drop answers", every
        made = node.play("metadata.mjs", "writes", url=lossy.url, size=20)
        assert lossy.dropped > 5
    with fresh.client() as http:
        listed = http.get("/api/v1/runs?page[size]=100").json()["data"]
        assert len(listed) == 22
        assert held(http, made["run"]) == {"n": 5, "list": [0, 1, 2, 3, 4], "roots": 5}
        assert held(http, made["child"]) == {"n": 5, "list": [0, 1, 2, 3, 4]}
        types = [event["type"] for event in history(http, made["run"])]
        assert types.count("run.tagged") == 1
        assert len(types) == 1 + 3 * 5 + 1
        assert [event["type"] for event in history(http, made["child"])][-1] == "run.status_changed"
        assert len(history(http, made["child"])) == 1 + 2 * 5 + 1
        batch = http.get(f"/api/v2/batches/{made['batch']}").json()
        shown = [http.get(f"/api/v3/runs/{one}").json() for one in batch["runs"]]
        assert [(one["metadata"], one["payload"], one["batchId"]) for one in shown] == [
            ({"n": number}, {"n": number}, made["batch"]) for number in range(20)
        ]


def test_what_the_sdk_wrote_verifies(node: Node, tmp_path: Path, fresh: Server) -> None:
    made = node.play("metadata.mjs", "writes", url=fresh.url, size=3)
    assert made["batch"]
    fresh.terminate()
    url = f"sqlite+aiosqlite:///{fresh.path}"
    for command in (("verify",), ("rebuild",)):
        done = run_ledger(*command, "--database-url", url, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
