"""Pieces of code that are runs."""

import asyncio
from contextlib import suppress

import pytest

from ledger import configure, metadata, run, runs
from ledger.errors import WriteRefused
from ledger.handle.configuration import reporter
from ledger.handle.execution import begin_work
from projections.lifecycle import Status
from tests.handle.places import Place


def test_a_block_completes(place: Place) -> None:
    with run("nightly", metadata={"a": 1}) as r:
        assert run.id == r.id
        assert place.status(r.id) == "EXECUTING"
    assert not run.id
    assert place.statuses(r.id) == [(1, "COMPLETED")]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("why"), "FAILED"),
        (KeyboardInterrupt(), "CANCELED"),
        (asyncio.CancelledError(), "CANCELED"),
        (GeneratorExit(), "CANCELED"),
        (SystemExit(2), "FAILED"),
        (SystemExit(0), "COMPLETED"),
        (SystemExit(), "COMPLETED"),
        (BaseException("odd"), "FAILED"),
    ],
)
def test_what_is_raised_in_a_block_ends_it_and_goes_on(place: Place, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)) as raised, run("t") as r:  # noqa: PT012 - The block is what is tested.
        metadata.set("a", 1)
        raise error
    assert raised.value is error
    assert place.status(r.id) == status
    assert place.metadata(r.id) == {"a": 1}


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("why"), "FAILED"), (asyncio.CancelledError(), "CANCELED"), (BaseException("odd"), "FAILED")],
)
async def test_what_is_raised_in_an_async_block_ends_it_and_goes_on(
    place: Place, error: BaseException, status: str
) -> None:
    with pytest.raises(type(error)) as raised:  # noqa: PT012 - The block is what is tested.
        async with run("t") as r:
            metadata.set("a", 1)
            raise error
    assert raised.value is error
    assert place.status(r.id) == status
    assert place.metadata(r.id) == {"a": 1}


def test_a_block_is_begun_once(place: Place) -> None:
    block = run("t")
    with block as r:
        with pytest.raises(RuntimeError, match="begun already"), block:
            pytest.fail("not reached")
        assert run.id == r.id
    with pytest.raises(RuntimeError, match="begun already"), block:
        pytest.fail("not reached")
    assert place.types(r.id) == ["run.created", "run.status_changed"]


def test_nested_blocks_are_children_and_give_way_in_order(place: Place) -> None:
    with run("a") as a:
        with run("b") as b:
            with run("c") as c:
                metadata.set("x", "c")
            metadata.set("x", "b")
            with pytest.raises(ZeroDivisionError), run("d") as d:
                raise ZeroDivisionError
            assert run.id == b.id
        metadata.set("x", "a")
    assert [place.metadata(one.id) for one in (a, b, c)] == [{"x": "a"}, {"x": "b"}, {"x": "c"}]
    assert [runs.retrieve_sync(one.id).parent for one in (a, b, c, d)] == [None, a.id, b.id, b.id]
    assert [runs.retrieve_sync(one.id).root for one in (a, b, c, d)] == [None, a.id, a.id, a.id]


async def test_blocks_of_tasks_at_the_same_time_do_not_mix(place: Place) -> None:
    both = asyncio.Barrier(2)

    async def work(name: str) -> str:
        async with run(name) as r:
            for number in range(10):
                await both.wait()
                assert run.id == r.id
                metadata.set("x", [name, number])
        assert run.id is None
        return r.id

    ids = await asyncio.gather(work("a"), work("b"))
    assert [place.values(one, "x") for one in ids] == [[[name, n] for n in range(10)] for name in "ab"]


def test_an_id_used_again_is_another_attempt(place: Place) -> None:
    name = "again-" + place.name
    with run("t", id=name, metadata={"a": 1}) as first:
        assert (first.attempt, run.attempt) == (1, 1)
        metadata.set("b", 2)
    with suppress(ZeroDivisionError), run("t", id=name, metadata={"ignored": True}):
        assert run.attempt == 2
        assert metadata.current() == {"a": 1, "b": 2}
        metadata.set("c", 3)
        raise ZeroDivisionError
    with run("t", id=name):
        assert run.attempt == 3
    assert place.statuses(name) == [
        (1, "COMPLETED"),
        (2, "EXECUTING"),
        (2, "FAILED"),
        (3, "EXECUTING"),
        (3, "COMPLETED"),
    ]
    attempts = [
        (event["attempt"], event["data"].get("key")) for event in place.events(name) if "key" in event["data"]
    ]
    assert attempts == [(1, "b"), (2, "c")]


def test_an_attempt_that_never_ended_is_shown_as_crashed(place: Place) -> None:
    name = "crashed-" + place.name
    block = run("t", id=name)
    block.__enter__()
    metadata.set("a", 1).flush()
    block._execution.__exit__(None, None, None)  # type: ignore[union-attr]
    with run("t", id=name) as second:
        assert second.attempt == 2
        metadata.set("a", 2)
    assert place.statuses(name) == [(1, "CRASHED"), (2, "EXECUTING"), (2, "COMPLETED")]
    assert place.values(name, "a") == [1, 2]
    crashed = next(event for event in place.events(name) if event["data"].get("status") == "CRASHED")
    assert "attempt 2 begins" in crashed["data"]["error"]["message"]


def test_a_queued_run_begins_with_its_first_attempt(place: Place) -> None:
    """Another program created it."""
    name = "queued-" + place.name
    _, work = begin_work("t", run_id=name, status=Status.QUEUED, begins_again=False, metadata={"from": "outside"})
    reporter().wait(work)
    with run("t", id=name) as r:
        assert r.attempt == 1
        assert metadata.get("from") == "outside"
    assert place.statuses(name) == [(1, "EXECUTING"), (1, "COMPLETED")]


def test_an_id_of_another_task_is_refused_and_nothing_runs(place: Place) -> None:
    with run("t") as r:
        pass
    with pytest.raises(WriteRefused, match="exists already with task 't'"), run("other", id=r.id):
        pytest.fail("not reached")
    assert not run.id
    with run("t"), pytest.raises(WriteRefused, match="exists already"), run("t", id=r.id):  # Now with a parent.
        pytest.fail("not reached")
    assert len(place.events(r.id)) == 2


def test_first_metadata_that_is_too_large_is_refused_and_nothing_runs(place: Place) -> None:
    with pytest.raises(WriteRefused, match="limit is 4,096"), run("t", metadata={"a": "x" * 4_096}):
        pytest.fail("not reached")
    assert not run.id


def test_ending_reporting_within_a_block_harms_nothing(place: Place, warnings: pytest.LogCaptureFixture) -> None:
    with run("t") as r:
        metadata.set("a", 1)
        configure(None)
        for _ in range(5):
            metadata.set("a", 2).increment("b")
        assert metadata.get("a") in {1, 2}
    assert place.metadata(r.id) == {"a": 1}
    assert warnings.text.count("a report was not kept") == 1


def test_configure_within_a_block_ends_only_what_was(place: Place) -> None:
    with run("t") as r:
        metadata.set("a", 1)
        configure(place.target, spool_dir=place.spool)
        with run("u") as other:
            metadata.set("b", 1)
    assert place.metadata(r.id) == {"a": 1}
    assert place.metadata(other.id) == {"b": 1}
    assert place.status(other.id) == "COMPLETED"
