"""What a job writes, and what the ledger has of it."""

import asyncio
import datetime as dt
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from ledger import metadata, run, runs, task
from ledger.errors import LedgerError, NotFound, RunNotFound
from tests.handle.places import Place


class Progress(BaseModel):
    state: str
    progress: float = 0


async def test_the_block_of_the_readme_runs_as_written(place: Place) -> None:
    seen: list[Any] = []

    @task
    async def my_task(payload: Any) -> None:
        seen.append((payload, metadata.get("user")))
        metadata.set("status", {"state": "running", "progress": 0.1})
        metadata.set("progress", 0.5).append("logs", "Step 1").increment("rows", 10)
        await metadata.set("status", {"state": "complete", "progress": 1})
        assert run.id is not None
        seen.append(place.metadata(run.id))

    user = {"name": "Eric", "id": "user_1234"}
    handle = await my_task.trigger({"message": "hello"}, metadata={"user": user})
    found = await runs.retrieve(handle.id)
    assert found.metadata["user"] == user
    assert (await handle.wait()).ok
    whole = {
        "user": user,
        "status": {"state": "complete", "progress": 1},
        "progress": 0.5,
        "logs": ["Step 1"],
        "rows": 10,
    }
    assert seen == [({"message": "hello"}, user), whole]
    assert place.metadata(handle.id) == whole
    assert place.types(handle.id) == [
        "run.created",
        "run.status_changed",
        "metadata.set",
        "metadata.set",
        "metadata.appended",
        "metadata.incremented",
        "metadata.set",
        "run.status_changed",
    ]
    ended = await runs.retrieve(handle.id)
    assert (ended.task, ended.status, ended.payload) == ("my_task", "COMPLETED", {"message": "hello"})


def test_every_operation_is_recorded_in_order(place: Place) -> None:
    with run("t", metadata={"l": [1, 2, 1], "gone": 1, "n": 1}) as r:
        same = (
            metadata.set("a.b", 1).set("$.o", {}).set("$.o.x", [0]).append("$.o.x", {"y": 1}).append("new", None)
        )
        same.remove("l", 1).increment("n").increment("n", 2.5).decrement("n").decrement("m", 3).delete("gone")
        assert same is metadata
        expected = {
            "l": [2],
            "n": 3.5,
            "a.b": 1,
            "o": {"x": [0, {"y": 1}]},
            "new": [None],
            "m": -3,
        }
        assert metadata.current() == expected
        metadata.flush()
        assert place.metadata(r.id) == expected
        assert metadata.current() == expected
        metadata.update({"only": True})
        assert metadata.current() == {"only": True}
    assert place.metadata(r.id) == {"only": True}
    assert [(event["type"].removeprefix("metadata."), event["data"].get("key")) for event in place.events(r.id)][
        1:
    ] == [
        ("set", "a.b"),
        ("set", "$.o"),
        ("set", "$.o.x"),
        ("appended", "$.o.x"),
        ("appended", "new"),
        ("removed", "l"),
        ("incremented", "n"),
        ("incremented", "n"),
        ("incremented", "n"),
        ("incremented", "m"),
        ("deleted", "gone"),
        ("updated", None),
        ("run.status_changed", None),
    ]


def test_delete_takes_its_key_literally(place: Place) -> None:
    with run("t", metadata={"a": {"b": 1}, "$.a.b": 2}) as r:
        metadata.delete("$.a.b")
        assert metadata.current() == {"a": {"b": 1}}
    assert place.metadata(r.id) == {"a": {"b": 1}}


def test_an_operation_happened_when_it_was_called(place: Place) -> None:
    before = dt.datetime.now(dt.UTC)
    with run("t") as r:
        metadata.set("a", 1)
        between = dt.datetime.now(dt.UTC)
        metadata.set("a", 2)
        after = dt.datetime.now(dt.UTC)
    first, second = [event.occurred_at for event in runs.history_sync(r.id) if event.type == "metadata.set"]
    assert first is not None
    assert second is not None
    assert before <= first <= between <= second <= after


async def test_what_was_awaited_is_durable(place: Place) -> None:
    async with run("t") as r:
        await metadata.set("a", 1)
        assert place.metadata(r.id) == {"a": 1}
        metadata.set("a", 2)
        await metadata.flush()
        assert place.metadata(r.id) == {"a": 2}
        metadata.set("a", 3)
        await metadata
        assert place.metadata(r.id) == {"a": 3}
        await metadata.parent.increment("a")  # It has none: its own.
        assert place.metadata(r.id) == {"a": 4}


def test_flush_waits_in_ordinary_code(place: Place) -> None:
    with run("t") as r:
        metadata.set("a", 1)
        metadata.flush()
        assert place.metadata(r.id) == {"a": 1}
        metadata.flush(timeout_s=30)
        r.metadata.set("a", 2).flush()
        assert place.metadata(r.id) == {"a": 2}


async def test_flush_can_be_awaited_after_ordinary_code(place: Place) -> None:
    with run("t") as r:
        metadata.set("a", 1)
        await metadata.flush(30)
        assert place.metadata(r.id) == {"a": 1}


def test_get_reads_keys_and_paths_and_hands_out_copies(place: Place) -> None:
    with run("t", metadata={"o": {"l": [{"x": 1}], "none": None}, "a.b": 2, "$.o": 3}):
        assert metadata.get("o") == {"l": [{"x": 1}], "none": None}
        assert metadata.get("$.o.l.0.x") == 1
        assert metadata.get("a.b") == 2
        assert metadata.get("$.o.none", "default") is None
        assert metadata.get("missing") is None
        assert metadata.get("$.o.l.7", "default") == "default"
        metadata.get("o")["l"].append(1)
        metadata.current()["o"]["l"].append(1)
        assert metadata.current()["o"] == {"l": [{"x": 1}], "none": None}


def test_metadata_is_seen_as_a_model(place: Place) -> None:
    with run("t", metadata={"state": "running", "progress": 0.5, "inner": {"state": "x"}}):
        assert metadata.as_model(Progress) == Progress(state="running", progress=0.5)
        assert metadata.as_model(Progress, "inner") == Progress(state="x")
        assert metadata.as_model(Progress, "$.inner") == Progress(state="x")
        with pytest.raises(ValidationError):
            metadata.as_model(Progress, "progress")


def test_what_others_changed_shows_after_refresh_and_after_a_flush(place: Place) -> None:
    with run("t") as r:
        other = r.metadata
        with run("child"):
            metadata.parent.set("from", "child")
        assert other.get("from") is None
        assert other.refresh().get("from") == "child"
        with run("child"):
            metadata.parent.set("from", "another")
        metadata.set("a", 1).flush()
        assert metadata.get("from") == "another"


def test_refresh_keeps_what_is_not_delivered_yet(place: Place) -> None:
    with run("t") as r:
        metadata.set("a", 1).refresh()
        assert metadata.get("a") == 1
        metadata.increment("a").refresh()
        assert metadata.get("a") == 2
    assert place.metadata(r.id) == {"a": 2}


def test_parents_and_roots_are_changed_in_the_name_of_the_child(place: Place) -> None:
    with run("top") as top:
        with run("middle") as middle:
            assert (run.parent, run.root) == (top.id, top.id)
            with run("low") as low:
                assert (run.id, run.parent, run.root) == (low.id, middle.id, top.id)
                metadata.set("own", 1)
                metadata.parent.increment("done").append("by", "low")
                metadata.root.increment("done", 2).set("own", 2)
                metadata.set("own", 3)
            metadata.parent.increment("done", 4)
            metadata.root.increment("done", 8)
        metadata.parent.increment("done", 16)
        metadata.root.increment("done", 32)
    assert place.metadata(low.id) == {"own": 3}
    assert place.metadata(middle.id) == {"done": 1, "by": ["low"]}
    assert place.metadata(top.id) == {"done": 2 + 4 + 8 + 16 + 32, "own": 2}
    sources = [
        (event["data"]["value"], event["headers"].get("sourceRun"), event["headers"].get("sourceAttempt"))
        for event in place.events(top.id)
        if event["data"].get("key") == "done"
    ]
    assert sources == [
        (2, low.id, 1),
        (4, middle.id, 1),
        (8, middle.id, 1),
        (16, None, None),
        (32, None, None),
    ]


def test_the_order_between_a_run_and_its_parent_that_is_its_root_is_kept(place: Place) -> None:
    with run("top") as top, run("child"):
        for number in range(20):
            (metadata.parent if number % 3 else metadata.root).set("last", number)
    assert place.values(top.id, "last") == list(range(20))


def test_the_order_is_kept_where_a_run_has_no_parent(place: Place) -> None:
    with run("top") as top:
        for number in range(30):
            (metadata, metadata.parent, metadata.root)[number % 3].set("last", number)
            assert metadata.get("last") == number
    assert place.values(top.id, "last") == list(range(30))


def test_a_run_knows_itself(place: Place) -> None:
    assert (run.id, run.attempt, run.task, run.parent, run.root) == (None,) * 5
    with run("nightly-import", id="me" + place.name, tags=["a", "b"], payload=[1]) as r:
        assert (r.id, run.id, run.attempt, run.task, run.parent, run.root) == (
            r.id,
            "me" + place.name,
            1,
            "nightly-import",
            None,
            None,
        )
        assert runs.retrieve_sync(r.id).status == "EXECUTING"
    assert run.id is None
    found = runs.retrieve_sync(r.id)
    assert (found.status, found.tags, found.payload) == ("COMPLETED", ("a", "b"), [1])


async def test_runs_are_read_both_ways(place: Place) -> None:
    async with run("readable", metadata={"a": 0}) as r:
        await metadata.set("a", 1)
    changes = await runs.history(r.id)
    assert [change.version for change in changes] == [1, 2, 3]
    assert await runs.history(r.id, after=2) == changes[2:]
    assert await runs.history(r.id, limit=1) == changes[:1]
    assert await asyncio.to_thread(runs.history_sync, r.id) == changes
    assert await runs.metadata(r.id, version=1) == {"a": 0}
    assert await runs.metadata(r.id) == await asyncio.to_thread(runs.metadata_sync, r.id) == {"a": 1}
    assert await runs.metadata(r.id, at=changes[0].recorded_at) == {"a": 0}
    assert await runs.retrieve(r.id) == await asyncio.to_thread(runs.retrieve_sync, r.id)
    (listed,) = await runs.list(task="readable")
    assert listed == (await asyncio.to_thread(runs.list_sync, task=["readable"], status="completed"))[0]
    assert (listed.id, listed.status, listed.version) == (r.id, "COMPLETED", 3)
    assert await runs.list(task="readable", status=["FAILED", "CRASHED"]) == []
    assert await runs.list(task="readable", after=r.id) == []


def test_mistakes_in_reading_are_the_same_everywhere(place: Place) -> None:
    with run("t") as r:
        pass
    for missing in ("nobody", ".", "..", "a/b", "a b", "", "é", "x" * 129):
        with pytest.raises(RunNotFound):
            runs.retrieve_sync(missing)
        with pytest.raises(RunNotFound):
            runs.history_sync(missing)
        with pytest.raises(RunNotFound):
            runs.metadata_sync(missing)

    with pytest.raises(NotFound, match="version"):
        runs.metadata_sync(r.id, version=99)
    with pytest.raises(NotFound):
        runs.metadata_sync(r.id, at=dt.datetime(2001, 1, 1, tzinfo=dt.UTC))
    with pytest.raises(LedgerError):
        runs.list_sync(after="nobody")
    for wrong in (
        lambda: runs.metadata_sync(r.id, version=1, at=dt.datetime.now(dt.UTC)),
        lambda: runs.metadata_sync(r.id, at=dt.datetime.now()),  # noqa: DTZ005 - That is the mistake.
        lambda: runs.metadata_sync(r.id, version=0),
        lambda: runs.list_sync(limit=0),
        lambda: runs.list_sync(limit=101),
        lambda: runs.history_sync(r.id, limit=1_001),
        lambda: runs.history_sync(r.id, after=-1),
        lambda: runs.list_sync(status="lost"),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            wrong()


@pytest.mark.parametrize("run_id", [".", "..", "a:b@c+d=e-f_.", "x" * 128, "..a"])
def test_every_id_that_a_run_may_have_works(place: Place, run_id: str) -> None:
    with run("t", id=run_id):
        metadata.set("a", 1)
    assert place.metadata(run_id) == {"a": 1}
    assert place.status(run_id) == "COMPLETED"
    assert runs.retrieve_sync(run_id).metadata == {"a": 1}
    assert len(runs.history_sync(run_id)) == 3
