"""Functions whose calls are runs."""

import asyncio
import functools
import logging
import threading
from typing import Any

import pytest

from ledger import configure, metadata, run, runs, task
from ledger.errors import WriteRefused
from ledger.handle import tasks
from ledger.handle.tasks import Handle
from projections.errors import BadValue
from tests.handle.places import Place, until


@task
def double(payload: Any) -> Any:
    metadata.set("seen", payload)
    return payload * 2


@task
async def double_later(payload: Any) -> Any:
    await asyncio.sleep(0)
    await metadata.set("seen", payload)
    return payload * 2


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "ledger.handle")


@pytest.mark.parametrize("work", [double, double_later])
async def test_trigger_starts_and_wait_tells_the_end(place: Place, work: Any) -> None:
    handle = await work.trigger(4, tags=["x"], metadata={"first": 1})
    result = await handle.wait()
    assert (result.id, result.ok, result.output, result.error) == (handle.id, True, 8, None)
    assert result.unwrap() == 8
    found = await runs.retrieve(handle.id)
    assert (found.status, found.output, found.payload, found.tags) == ("COMPLETED", 8, 4, ("x",))
    assert found.metadata == {"first": 1, "seen": 4}
    assert found.task == work.__name__
    assert place.statuses(handle.id) == [(1, "EXECUTING"), (1, "COMPLETED")]
    assert (await work.trigger_and_wait(5)).unwrap() == 10


@pytest.mark.parametrize("work", [double, double_later])
def test_the_twins_without_an_event_loop(place: Place, work: Any) -> None:
    handle = work.trigger_sync(4)
    assert isinstance(handle, Handle)
    assert handle.wait_sync(60).unwrap() == 8
    assert place.status(handle.id) == "COMPLETED"
    result = work.trigger_and_wait_sync(5)
    assert result.unwrap() == 10
    assert place.metadata(result.id) == {"seen": 5}


def test_a_direct_call_is_no_run(place: Place) -> None:
    before = place.rows("SELECT count(*) FROM runs")
    assert double(4) == 8
    assert asyncio.run(double_later(4)) == 8
    assert place.rows("SELECT count(*) FROM runs") == before


def test_the_function_may_ask_for_no_payload(place: Place) -> None:
    @task
    def bare() -> str:
        return "bare"

    @task
    def named_only(*, x: int = 1) -> int:
        return x

    @task
    def anything(*arguments: Any) -> list[Any]:
        return list(arguments)

    partial = task(functools.partial(lambda a, b: [a, b], 1))
    assert partial.trigger_and_wait_sync(2).unwrap() == [1, 2]
    assert bare.trigger_and_wait_sync().unwrap() == "bare"
    assert bare.trigger_and_wait_sync("ignored").unwrap() == "bare"
    assert named_only.trigger_and_wait_sync(7).unwrap() == 1
    assert anything.trigger_and_wait_sync(7).unwrap() == [7]
    assert task(name="other")(lambda payload: payload).trigger_and_wait_sync(3).unwrap() == 3


@task
def fail(payload: Any) -> None:
    metadata.set("before", True)
    raise KeyError("missing é")


@task
async def fail_later(payload: Any) -> None:
    metadata.set("before", True)
    await asyncio.sleep(0)
    raise KeyError("missing é")


@pytest.mark.parametrize("work", [fail, fail_later])
def test_a_function_that_raises_ends_its_run_as_failed(place: Place, work: Any) -> None:
    async def both() -> Any:
        return await work.trigger_and_wait(1)

    for result in (work.trigger_and_wait_sync(1), asyncio.run(both()), work.trigger_sync(1).wait_sync(60)):
        assert not result.ok
        assert isinstance(result.error, KeyError)
        with pytest.raises(KeyError):
            result.unwrap()
        found = runs.retrieve_sync(result.id)
        assert (found.status, found.metadata, found.output) == ("FAILED", {"before": True}, None)
        assert isinstance(found.error, dict)
        assert (found.error["name"], found.error["message"]) == ("KeyError", "'missing é'")
        trace = found.error["stackTrace"]
        assert isinstance(trace, str)
        assert "raise KeyError" in trace
        assert "test_tasks.py" in trace


class Silent(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("half \ud800"), "half \\ud800"),
        (ValueError("x" * 1_000_000 + "end"), "end"),
        (ValueError("\x00"), "\x00"),
        (ValueError(), ""),
        (Silent(), ""),
        (ExceptionGroup("several", [ValueError("a")]), "several"),
    ],
)
def test_whatever_is_raised_ends_the_run(place: Place, error: Exception, message: str) -> None:
    @task
    def work() -> None:
        raise error

    result = work.trigger_and_wait_sync()
    assert result.error is error
    found = runs.retrieve_sync(result.id)
    assert found.status == "FAILED"
    assert isinstance(found.error, dict)
    assert message in str(found.error["message"])
    assert found.error["name"] == type(error).__name__


class Unspeakable:
    """What raises when it is looked at."""

    ndim = 0

    def item(self) -> object:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "output", [{1, 2}, float("nan"), b"x", object(), "x" * 600_000, [[{2**60 + 1}]], Unspeakable()]
)
def test_an_output_that_cannot_be_kept_does_not_make_a_job_fail(
    place: Place, caplog: pytest.LogCaptureFixture, output: Any
) -> None:
    @task
    def work() -> Any:
        return output

    result = work.trigger_and_wait_sync()
    assert result.ok
    assert result.output is output
    found = runs.retrieve_sync(result.id)
    assert (found.status, found.output) == ("COMPLETED", None)
    assert f"the output of run {result.id} is not recorded" in caplog.text


@pytest.mark.parametrize(
    ("code", "status"), [(0, "COMPLETED"), (None, "COMPLETED"), (3, "FAILED"), ("why", "FAILED")]
)
def test_system_exit_in_a_function_ends_its_run(place: Place, code: Any, status: str) -> None:
    @task
    def leave() -> None:
        raise SystemExit(code)

    result = leave.trigger_sync().wait_sync(60)
    assert result.ok == (status == "COMPLETED")
    assert place.status(result.id) == status


async def test_a_task_that_is_cancelled_ends_its_run_as_canceled(place: Place) -> None:
    begun = asyncio.Event()

    @task
    async def forever() -> None:
        await metadata.set("begun", True)
        begun.set()
        await asyncio.Event().wait()

    handle = await forever.trigger()
    await begun.wait()
    (running,) = [one for one in asyncio.all_tasks() if one.get_name() == handle.id]
    running.cancel()
    result = await handle.wait()
    assert isinstance(result.error, asyncio.CancelledError)
    assert place.status(handle.id) == "CANCELED"


def test_an_event_loop_that_ends_cancels_what_runs_in_it(place: Place) -> None:
    handles = []

    @task
    async def forever() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        handles.append(await forever.trigger())
        await asyncio.sleep(0)

    asyncio.run(main())
    assert place.status(handles[0].id) == "CANCELED"


async def test_waiting_may_be_cancelled_and_the_run_goes_on(place: Place) -> None:
    go = asyncio.Event()

    @task
    async def patient() -> str:
        await go.wait()
        return "done"

    handle = await patient.trigger()
    waiting = asyncio.create_task(handle.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(TimeoutError):
        handle.wait_sync(0)
    go.set()
    assert (await handle.wait()).unwrap() == "done"


async def test_awaiting_a_change_may_be_cancelled_and_the_change_is_delivered(place: Place) -> None:
    async with run("t") as r:

        async def change() -> None:
            await metadata.set("a", 1)

        changing = asyncio.create_task(change())
        await asyncio.sleep(0)
        changing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await changing
        assert run.id == r.id
    assert place.metadata(r.id) == {"a": 1}


async def test_a_run_triggered_within_a_run_is_its_child(place: Place) -> None:
    family: dict[str, Any] = {}

    @task
    def low(payload: Any) -> None:
        family["low"] = run.id, run.parent, run.root
        metadata.parent.increment("done")
        metadata.root.increment("all")

    @task
    async def middle(payload: Any) -> None:
        family["middle"] = run.id, run.parent, run.root
        (await low.trigger_and_wait()).unwrap()
        await asyncio.to_thread(low.trigger_and_wait_sync)
        metadata.root.increment("all")

    @task
    async def top(payload: Any) -> None:
        family["top"] = run.id, run.parent, run.root
        handles = [await middle.trigger() for _ in range(3)]
        for handle in handles:
            (await handle.wait()).unwrap()

    handle = await top.trigger()
    (await handle.wait()).unwrap()
    assert family["top"] == (handle.id, None, None)
    assert family["middle"][1:] == (handle.id, handle.id)
    assert family["low"][2] == handle.id
    assert place.metadata(handle.id) == {"all": 9}
    assert place.metadata(family["middle"][0]) == {"done": 2}
    found = await runs.retrieve(family["low"][0])
    assert (found.parent, found.root) == (family["low"][1], handle.id)


async def test_a_parent_is_durable_before_its_child_is_dispatched(place: Place) -> None:
    async with run("top") as top:
        metadata.set("before", 1)
        handle = await double.trigger(1)
        (row,) = place.rows(
            "SELECT p.run_id FROM runs AS c JOIN runs AS p ON p.run_key = c.parent_key "
            "AND p.environment_id = c.environment_id WHERE c.run_id = ?",
            handle.id,
        )
        assert row["run_id"] == top.id
        await handle.wait()


async def test_the_id_of_a_run_that_exists_starts_nothing(place: Place) -> None:
    called: list[Any] = []

    @task
    def once(payload: Any) -> None:
        called.append(payload)

    first = await once.trigger(1, id="once-" + place.name)
    assert not first.is_cached
    assert (await first.wait()).ok
    again = await once.trigger(1, id="once-" + place.name)
    assert again.is_cached
    assert again.id == first.id
    await again.wait()
    assert once.trigger_sync(1, id="once-" + place.name).is_cached
    assert called == [1]
    assert len(await runs.history(first.id)) == 3
    with pytest.raises(WriteRefused, match="another id"):
        await double.trigger(1, id="once-" + place.name)


def test_what_is_too_large_is_refused_before_anything_starts(place: Place) -> None:
    @task
    def work() -> None:
        pytest.fail("not reached")

    with pytest.raises(WriteRefused, match="5,010 bytes"):
        work.trigger_sync(metadata={"big": "x" * 5_000})
    with pytest.raises(BadValue):
        work.trigger_sync({1})


def test_generators_are_refused_where_they_are_decorated() -> None:
    """A call of one runs nothing: the run would be complete with nothing done."""
    with pytest.raises(TypeError, match="generator"):

        @task
        def generator() -> Any:
            yield 1

    with pytest.raises(TypeError, match="generator"):

        @task
        async def asynchronous() -> Any:
            yield 1


def test_many_runs_at_once(place: Place) -> None:
    @task
    def work(payload: int) -> int:
        for step in range(5):
            metadata.set("step", [payload, step])
        return payload

    handles = [work.trigger_sync(number) for number in range(40)]
    for number, handle in enumerate(handles):
        assert handle.wait_sync(60).unwrap() == number
    for number, handle in enumerate(handles):
        assert place.values(handle.id, "step") == [[number, step] for step in range(5)]
        assert place.status(handle.id) == "COMPLETED"


async def test_many_async_runs_at_once_do_not_mix(place: Place) -> None:
    @task
    async def work(payload: int) -> None:
        for step in range(5):
            metadata.set("step", [payload, step])
            await asyncio.sleep(0)
        assert metadata.get("step") == [payload, 4]

    handles = await asyncio.gather(*(work.trigger(number) for number in range(40)))
    for number, handle in enumerate(handles):
        (await handle.wait()).unwrap()
        assert place.values(handle.id, "step") == [[number, step] for step in range(5)]


def test_runs_that_wait_for_runs_do_not_wait_for_each_other(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than there are threads."""
    monkeypatch.setattr(tasks, "THREADS_MAX", 2)

    @task
    def outer(payload: Any) -> Any:
        return double.trigger_and_wait_sync(payload).unwrap()

    handles = [outer.trigger_sync(number) for number in range(6)]
    assert [handle.wait_sync(60).unwrap() for handle in handles] == [0, 2, 4, 6, 8, 10]


def test_a_failed_run_is_logged_with_its_traceback(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    result = fail.trigger_and_wait_sync(1)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert result.id in record.getMessage()


def test_triggered_functions_run_at_the_same_time(place: Place) -> None:
    together = threading.Barrier(3, timeout=60)

    @task
    def meet() -> None:
        together.wait()

    assert all(handle.wait_sync(60).ok for handle in [meet.trigger_sync() for _ in range(3)])


def test_configure_waits_for_what_was_triggered(place: Place) -> None:
    go = threading.Event()

    @task
    def work() -> None:
        go.wait()
        metadata.set("late", True)

    handle = work.trigger_sync()
    until(lambda: place.status(handle.id) == "EXECUTING")
    threading.Timer(0.05, go.set).start()
    configure(None)
    assert place.metadata(handle.id) == {"late": True}
    assert place.status(handle.id) == "COMPLETED"
