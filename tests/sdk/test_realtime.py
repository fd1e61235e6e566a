"""The SDK's subscriptions: every version, in order, whatever happens in between."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.api.server import Server, serving
from tests.sdk.node import Node

ADD = {"type": "increment", "key": "n", "value": 1}


class Job:
    """What a run does, over HTTP."""

    def __init__(self, server: Server, key: str | None = None) -> None:
        self._http = server.client()
        if key is not None:
            self._http.headers["Authorization"] = f"Bearer {key}"

    def close(self) -> None:
        self._http.close()

    def create(self, run: str = "r", **members: Any) -> None:
        assert self._http.post("/api/v1/runs", json={"id": run, "task": "t", **members}).status_code == 201

    def write(self, run: str = "r", *operations: Any) -> None:
        answer = self._http.put(f"/api/v1/runs/{run}/metadata", json={"operations": [*operations] or [ADD]})
        assert answer.status_code == 200, answer.text

    def move(self, status: str, run: str = "r", **members: Any) -> None:
        answer = self._http.post(f"/api/v1/runs/{run}/status", json={"status": status, **members})
        assert answer.status_code == 200, answer.text


@pytest.fixture
def job(server: Server) -> Iterator[Job]:
    with closing(Job(server)) as made:
        yield made


def counts(states: list[Any]) -> list[int]:
    return [state["metadata"].get("n", 0) for state in states]


def test_a_subscription_yields_every_version_and_ends_on_completion(node: Node, server: Server, job: Job) -> None:
    job.create("whole", metadata={"n": 0}, tags=["first", 'odd "tag", {x}'], payload={"rows": [1, 2]})
    play = node.begin("realtime.mjs", "followRun", url=server.url, run="whole")
    said = iter(play)
    assert next(said) == {
        "id": "whole",
        "status": "QUEUED",
        "metadata": {"n": 0},
        "tags": ["first", 'odd "tag", {x}'],
        "payload": {"rows": [1, 2]},
        "isCompleted": False,
        "finishedAt": None,
    }
    job.move("EXECUTING", "whole")
    job.write("whole", *[ADD] * 200)  # A burst of one request is 200 versions.
    for _ in range(20):
        job.write("whole")
    job.write("whole", {"type": "set", "key": "n", "value": 1_000})
    job.move("COMPLETED", "whole", output={"rows": 3})
    rest = list(said)
    assert counts(rest) == [0, *range(1, 221), 1_000, 1_000]
    assert [state["status"] for state in rest] == ["EXECUTING"] * 222 + ["COMPLETED"]
    assert rest[-1]["output"] == {"rows": 3}
    assert rest[-1]["isCompleted"]
    assert rest[-1]["finishedAt"]
    assert rest[-1]["payload"] == {"rows": [1, 2]}
    assert play.done() == 224


def test_a_failed_run_says_why(node: Node, server: Server, job: Job) -> None:
    job.create("failed")
    job.move("FAILED", "failed", error={"message": "no space", "name": "OSError", "stackTrace": "at a"})
    job.create("plain")
    job.move("FAILED", "plain", error="no space")
    states = [
        list(node.begin("realtime.mjs", "followRun", url=server.url, run=run))[-1] for run in ("failed", "plain")
    ]
    assert [state["status"] for state in states] == ["FAILED", "FAILED"]
    assert states[0]["error"] == {"message": "no space", "name": "OSError", "stackTrace": "at a"}
    assert states[1]["error"]["message"] == "no space"


def test_nothing_is_missed_while_the_server_is_killed_and_started_again(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with serving(path) as server:
        with closing(Job(server)) as job:
            job.create()
            said = iter(node.begin("realtime.mjs", "followRun", url=server.url, run="r"))
            seen = [next(said)]
            for _ in range(5):
                job.write()
                seen.append(next(said))
        server.kill()
        port = str(server.port)
    with serving(path, "--port", port) as again, closing(Job(again)) as job:
        job.write("r", *[ADD] * 30)
        job.move("COMPLETED")
        seen += said
    assert counts(seen) == [*range(36), 35]


def test_two_readers_see_the_same_while_others_write_at_once(node: Node, server: Server, job: Job) -> None:
    job.create("shared", metadata={"n": 0})
    play = node.begin("realtime.mjs", "followTwice", url=server.url, run="shared")

    def write() -> None:
        with closing(Job(server)) as other:
            for _ in range(25):
                other.write("shared")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    job.move("COMPLETED", "shared")
    for states in play.done():
        seen = [state["n"] for state in states]
        assert seen == [*range(seen[0], 101), 100]  # Each begins with the state as it was when it came.


def test_a_reader_that_comes_late_gets_the_end_and_is_done(node: Node, server: Server, job: Job) -> None:
    job.create("late")
    job.write("late")
    job.move("COMPLETED", "late")
    assert counts(list(node.begin("realtime.mjs", "followRun", url=server.url, run="late"))) == [1]


def test_columns_that_are_not_wanted_are_left_out(node: Node, server: Server, job: Job) -> None:
    job.create("narrow", metadata={"n": 5}, payload={"secret": 1}, tags=["a"])
    job.move("COMPLETED", "narrow", output=1)
    options = {"skipColumns": ["payload", "metadata", "output", "id", "status"]}
    (state,) = node.begin("realtime.mjs", "followRun", url=server.url, run="narrow", options=options)
    assert (state["id"], state["status"], state["tags"]) == ("narrow", "COMPLETED", ["a"])
    assert not {"payload", "metadata", "output"} & state.keys()


def test_runs_with_all_of_some_tags_are_followed_each_version_of_each(
    node: Node, server: Server, job: Job
) -> None:
    for run in ("one", "two"):
        job.create(run, tags=["a", "b", "c"], metadata={"n": 0})
    job.create("other", tags=["a"])
    said = iter(node.begin("realtime.mjs", "followTag", url=server.url, tag=["a", "b"], count=2 + 25 + 2 + 1 + 2))
    assert {next(said)["id"], next(said)["id"]} == {"one", "two"}
    job.write("one", *[ADD] * 20)
    job.write("other")
    for _ in range(5):
        job.write("two")
    job.write("one")
    job.write("two")
    job.create("three", tags=["b", "a"], payload={"rows": 3})
    job.move("COMPLETED", "three")
    job.move("COMPLETED", "two")
    rest = list(said)
    by_run = {run: [state for state in rest if state["id"] == run] for run in ("one", "two", "three")}
    assert counts(by_run["one"]) == [*range(1, 22)]
    assert counts(by_run["two"]) == [*range(1, 7), 6]
    assert [state["status"] for state in by_run["three"]] == ["QUEUED", "COMPLETED"]
    assert by_run["three"][1]["payload"] == {"rows": 3}
    assert len(rest) == 30


def test_more_runs_than_one_answer_holds_are_all_shown(node: Node, server: Server, job: Job) -> None:
    for number in range(230):
        job.create(f"r{number}", tags=["many"], metadata={"n": number})
    states = list(node.begin("realtime.mjs", "followTag", url=server.url, tag="many", count=230))
    assert sorted(counts(states)) == [*range(230)]
