"""The feed and its subscriptions: every event once and in order, whatever the pages, writers and interruptions."""

import asyncio
import base64
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import erase as erasing
from ledger import feed, sqlite, subscriptions
from ledger.errors import BadCursor, NothingToErase, RunNotFound, StorageFailed, SubscriptionEnded
from ledger.feed import Cursor, Selection
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.subscriptions import Subscription
from projections.events import Event
from projections.lifecycle import Status
from projections.operations import AppendItem, Increment, Set, Update
from projections.paths import parse_key
from tests.ledger.support import Clock, Database, change, create, events, move
from tests.strategies import thorough

ONE = Increment(key="n", value=1)
PATIENCE_S = 30  # seconds after which what should have come never will


async def whole_feed(log: Log, limit: int = 1_000, **selection: Any) -> list[Event]:
    """All events that are selected, read page by page."""
    found: list[Event] = []
    page = await log.events(limit=limit, selection=Selection(**selection))
    found += [one.event for one in page.entries]
    while page.has_more:
        page = await log.events(limit=limit, after=page.next, selection=Selection(**selection))
        found += [one.event for one in page.entries]
    return found


async def take(subscription: Subscription, count: int) -> list[Event]:
    """The next events, at least so many."""
    found: list[Event] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            found += [one.event for one in await subscription.next()]
    return found


async def rest(subscription: Subscription) -> list[Event]:
    """What comes without waiting: nothing, unless something is missing."""
    found: list[Event] = []
    while True:
        batch = await subscription.next(0)
        found += [one.event for one in batch]
        if not batch and subscription.is_caught_up:
            return found


def unredacted(found: list[Event]) -> list[Event]:
    """Events without the data of those that may have lost some since; their hashes stand for it."""
    return [event._replace(data="") if event.type.startswith("metadata.") else event for event in found]


def positions(found: list[Event]) -> list[int]:
    return [event.position for event in found]


# --- cursors ---


@given(st.text("0123456789abcdef", min_size=1, max_size=64), st.integers(0, 10**19 - 1))
def test_a_cursor_survives_its_text(epoch: str, position: int) -> None:
    cursor = Cursor(epoch, position)
    assert Cursor.parse(str(cursor)) == cursor
    assert str(cursor).isascii()
    assert not set(str(cursor)) & set("+/=:&?# ")


@given(
    st.one_of(
        st.text(), st.text("ABab01-_=:", max_size=30), st.binary().map(lambda raw: base64.b64encode(raw).decode())
    )
)
def test_any_other_text_is_no_cursor(text: str) -> None:
    try:
        cursor = Cursor.parse(text)
    except BadCursor:
        return
    assert str(cursor) == text


@pytest.mark.parametrize(
    "text", ["", "5", "a:5", "A" * 10_000, base64.urlsafe_b64encode(b"ab:05").decode(), "YWI6NQ=="]
)
def test_a_text_that_nobody_was_given_is_refused(text: str) -> None:
    with pytest.raises(BadCursor):
        Cursor.parse(text)


async def test_a_cursor_of_another_log_or_from_its_future_is_refused(log: Log) -> None:
    await create(log, "r")
    page = await log.events(limit=1)
    for wrong in (Cursor("abc", 0), Cursor(page.epoch, page.last + 1)):
        with pytest.raises(BadCursor):
            await log.events(limit=1, after=wrong)
        with pytest.raises(BadCursor):
            await log.subscribe(after=wrong)
    assert (await log.events(limit=1, after=page.next)).entries == []


# --- pages ---


async def test_the_feed_of_an_empty_log_says_where_to_go_on(log: Log) -> None:
    page = await log.events(limit=10)
    assert (page.entries, page.has_more) == ([], False)
    await create(log, "r")
    following = await log.events(limit=10, after=page.next)
    assert [one.event.run_id for one in following.entries] == ["r"]


@dataclass(frozen=True)
class Written:
    """What a filter is held against."""

    task: str
    tags: frozenset[str]


async def fill(log: Log) -> dict[str, Written]:
    """Some runs whose events lie between each other."""
    runs = {
        "a": Written("import", frozenset({"x"})),
        "b": Written("import", frozenset({"x", "y"})),
        "c": Written("export", frozenset({"y"})),
        "d": Written("export", frozenset()),
    }
    for run_id, run in runs.items():
        await create(log, run_id, run.task, tags=tuple(sorted(run.tags)), metadata={"l": [1]})
    for number in range(6):
        for run_id in "abcd":
            await change(log, run_id, Set(key="k" if number % 2 else "o", value=number), ONE)
    await change(
        log, "b", Update(value={"k": 9, "l": [1, 2]}), AppendItem(key="l", value=3), Set(key="$.l.1", value=7)
    )
    await move(log, "c", Status.COMPLETED)
    return runs


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"task": "import"},
        {"task": "none"},
        {"tags": frozenset({"x"})},
        {"tags": frozenset({"x", "y"})},
        {"task": "export", "tags": frozenset({"y"})},
        {"run_id": "b"},
        {"run_id": "b", "task": "export"},
        {"run_id": "absent"},
    ],
)
async def test_a_filtered_feed_is_the_feed_without_the_rest(
    log: Log, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any]
) -> None:
    runs = await fill(log)
    expected = [
        event
        for event in await whole_feed(log)
        if ("task" not in wanted or runs[event.run_id].task == wanted["task"])
        and wanted.get("tags", frozenset()) <= runs[event.run_id].tags
        and wanted.get("run_id", event.run_id) == event.run_id
    ]
    for scan in (1, 4, 1_000):
        monkeypatch.setattr(feed, "SCAN_EVENTS_MAX", scan)
        for limit in (1, 3, 1_000):
            assert await whole_feed(log, limit, **wanted) == expected, (scan, limit)


@pytest.mark.parametrize("key", ["k", "$.l", "$.l.0", "n", "absent"])
async def test_a_feed_about_a_key_is_the_histories_of_that_key(log: Log, key: str) -> None:
    runs = await fill(log)
    path = parse_key(key)
    expected = [event for run_id in runs for event in await events(log, run_id, path)]
    for limit in (1, 4, 1_000):
        assert await whole_feed(log, limit, key=path) == sorted(expected, key=lambda event: event.position)
        assert await whole_feed(log, limit, key=path, run_id="b") == await events(log, "b", path)


async def test_a_page_that_finds_nothing_has_looked_through_a_bounded_part(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(log)
    monkeypatch.setattr(feed, "SCAN_EVENTS_MAX", 10)
    page = await log.events(limit=5, selection=Selection(task="none"))
    assert (page.entries, page.position, page.has_more) == ([], 10, True)


async def test_a_page_ends_before_it_holds_too_many_bytes(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    await create(log, "r")
    for _ in range(5):
        await change(log, "r", Set(key="k", value="x" * 400))
    monkeypatch.setattr(feed, "PAGE_BYTES_MAX", 1_000)
    page = await log.events(limit=100)
    assert [one.event.version for one in page.entries] == [1, 2, 3]
    monkeypatch.setattr(feed, "PAGE_BYTES_MAX", 1)
    assert [event.version for event in await whole_feed(log)] == [1, 2, 3, 4, 5, 6]
    assert [event.version for event in await whole_feed(log, run_id="r")] == [1, 2, 3, 4, 5, 6]


async def test_environments_have_feeds_of_their_own(ledger: Ledger, log: Log) -> None:
    other = await ledger.log("other")
    async with await other.subscribe() as subscription:
        await create(log, "mine")
        await create(other, "theirs")
        assert [event.run_id for event in await take(subscription, 1)] == ["theirs"]
    assert {event.run_id for event in await whole_feed(other)} == {"theirs"}
    assert {event.run_id for event in await whole_feed(log)} == {"mine"}
    with pytest.raises(BadCursor):
        await log.events(limit=1, after=(await other.events(limit=1)).next)


async def test_where_a_run_goes_on_is_found_among_many_versions(log: Log) -> None:
    await create(log, "r")
    await create(log, "s")
    for _ in range(20):
        await change(log, "r", ONE)
        await change(log, "s", ONE, ONE)
    everything = await whole_feed(log)
    for position in range(len(everything) + 1):
        cursor = Cursor((await log.events(limit=1)).epoch, position)
        page = await log.events(limit=100, after=cursor, selection=Selection(run_id="r"))
        assert [one.event for one in page.entries] == [
            event for event in everything if event.run_id == "r" and event.position > position
        ]


# --- subscriptions ---


async def test_a_subscription_begins_where_it_is_told(log: Log) -> None:
    await create(log, "r")
    first = await log.events(limit=1)
    await change(log, "r", ONE)
    async with (
        await log.subscribe() as now,
        await log.subscribe(from_start=True) as start,
        await log.subscribe(after=first.next) as behind,
        await log.follow("r") as run_now,
        await log.follow("r", after=0) as run_start,
        await log.follow("r", after=1) as run_behind,
    ):
        assert run_now.run is not None
        assert run_now.run.version == 2
        await change(log, "r", ONE)
        for subscription, expected in (
            (now, [3]),
            (start, [1, 2, 3]),
            (behind, [2, 3]),
            (run_now, [3]),
            (run_start, [1, 2, 3]),
            (run_behind, [2, 3]),
        ):
            assert [event.version for event in await take(subscription, len(expected))] == expected
            assert await rest(subscription) == []


async def test_a_run_or_version_that_is_not_there_cannot_be_followed(log: Log) -> None:
    with pytest.raises(RunNotFound):
        await log.follow("absent")
    await create(log, "r")
    with pytest.raises(BadCursor):
        await log.follow("r", after=2)
    assert not log._subscriptions._tails


@pytest.mark.parametrize("wanted", [{}, {"run_id": "r"}, {"task": "t"}, {"tags": frozenset({"x"})}])
async def test_who_is_in_step_is_handed_the_event_without_a_read(
    log: Log, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any]
) -> None:
    await create(log, "r", tags=("x",))
    await create(log, "other", "u")

    async def never() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(log._store, "changed", never)
    async with await log.subscribe(selection=Selection(**wanted)) as subscription:
        reads = 0
        read = log._store.read

        async def counted(work: Any) -> Any:
            nonlocal reads
            reads += 1
            return await read(work)

        monkeypatch.setattr(log._store, "read", counted)
        for version in range(2, 7):
            await change(log, "other", ONE)
            waiting = asyncio.create_task(take(subscription, 1))
            await asyncio.sleep(0)
            await change(log, "r", ONE)
            found = [event for event in await waiting if event.run_id == "r"]
            if not wanted and not found:  # The other run's event came on its own.
                found = await take(subscription, 1)
            assert [event.version for event in found] == [version]
        assert reads == 0


async def test_an_event_is_handed_on_only_after_the_commit(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    await create(log, "r")
    committed = []
    write = log._store.write

    async def noted(work: Any) -> Any:
        result = await write(work)
        committed.append((await log.end()).position)
        return result

    monkeypatch.setattr(log._store, "write", noted)
    async with await log.subscribe() as subscription:
        waiting = asyncio.create_task(take(subscription, 1))
        await change(log, "r", ONE)
        assert positions(await waiting) == committed == [2]

        async def failing(work: Any) -> Any:
            def fail(transaction: Any) -> Any:
                work(transaction)
                raise StorageFailed("the test says so")

            return await write(fail)

        monkeypatch.setattr(log._store, "write", failing)
        with pytest.raises(StorageFailed):
            await change(log, "r", ONE)
        assert await rest(subscription) == []


async def test_a_silence_is_an_empty_answer_and_moves_the_cursor_on(log: Log) -> None:
    await create(log, "r")
    await create(log, "s", "other")
    async with await log.subscribe(selection=Selection(task="t")) as subscription:
        before = subscription.cursor.position
        await change(log, "s", ONE)
        assert await subscription.next(0.01) == []
        assert subscription.cursor.position == before + 1


async def test_closing_ends_the_wait_and_leaves_no_task(ledger: Ledger, log: Log) -> None:
    await create(log, "r")
    before = asyncio.all_tasks()
    opened = [await log.follow("r") for _ in range(3)]
    waiting = [asyncio.create_task(one.next()) for one in opened]
    for task in waiting:
        await asyncio.sleep(0)
        assert not task.done()
    opened[0].close()
    with pytest.raises(SubscriptionEnded):
        await waiting[0]
    waiting[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[1]
    opened[1].close()
    await ledger.close()
    with pytest.raises(SubscriptionEnded):
        await waiting[2]
    assert asyncio.all_tasks() <= before
    with pytest.raises(SubscriptionEnded):
        await opened[2].next()


async def test_the_log_is_watched_only_while_somebody_subscribes(log: Log) -> None:
    await create(log, "r")
    (await log.follow("r")).close()
    async with asyncio.timeout(PATIENCE_S):
        while log._subscriptions._watch is not None:  # noqa: ASYNC110 - What is waited for has no event.
            await asyncio.sleep(0)
    assert not log._subscriptions._tails
    async with await log.follow("r") as subscription:
        await change(log, "r", ONE)
        assert [event.version for event in await take(subscription, 1)] == [2]


async def test_a_cancelled_reader_loses_nothing(log: Log) -> None:
    await create(log, "r")
    async with await log.follow("r", after=0) as subscription:
        found: list[Event] = []
        for _ in range(20):
            await change(log, "r", ONE)
            waiting = asyncio.create_task(subscription.next())
            for _ in range(len(found) % 4):
                await asyncio.sleep(0)
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                found += [one.event for one in await waiting]
        found += await rest(subscription)
        assert [event.version for event in found] == list(range(1, 22))


async def test_what_is_read_while_the_log_cannot_be_read_comes_later(
    log: Log, open_ledger: Callable[..., Awaitable[Ledger]], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(subscriptions, "LOOK_S", 0.01)
    await create(log, "r")
    other = await (await open_ledger()).log("dev")
    async with await log.follow("r") as subscription:
        failures = 3
        point = log._store.point

        async def failing(*asked: Any) -> Any:
            nonlocal failures
            failures -= 1
            if failures >= 0:
                raise StorageFailed("the test says so")
            return await point(*asked)

        monkeypatch.setattr(log._store, "point", failing)
        await change(other, "r", ONE)
        assert [event.version for event in await take(subscription, 1)] == [2]
        assert failures < 0
    assert "trying again" in caplog.text


async def test_a_lost_notice_only_delays(
    log: Log, open_ledger: Callable[..., Awaitable[Ledger]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "LOOK_S", 0.01)

    async def never() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(log._store, "changed", never)
    await create(log, "r")
    other = await (await open_ledger()).log("dev")
    async with await log.follow("r") as subscription:
        await change(other, "r", ONE)
        assert [event.version for event in await take(subscription, 1)] == [2]


@pytest.mark.parametrize("wanted", [{}, {"run_id": "r"}])
async def test_who_begins_ahead_of_what_this_process_has_noticed_is_not_sent_back(
    log: Log,
    open_ledger: Callable[..., Awaitable[Ledger]],
    monkeypatch: pytest.MonkeyPatch,
    wanted: dict[str, Any],
) -> None:
    notice_nothing(log, monkeypatch)
    await create(log, "r")
    other = await (await open_ledger()).log("dev")
    async with await log.subscribe() as first:
        await change(other, "r", ONE)
        async with await log.subscribe(selection=Selection(**wanted)) as ahead:
            assert (first.cursor.position, ahead.cursor.position) == (1, 2)
            assert await ahead.next(0) == []
            assert ahead.cursor.position == 2
            waiting = asyncio.create_task(take(ahead, 1))
            await asyncio.sleep(0)
            await change(log, "r", ONE)
            assert [event.version for event in await waiting] == [3]
            assert await rest(ahead) == []
        assert [event.version for event in await take(first, 2)] == [2, 3]


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_an_erasure_is_handed_on_and_what_lies_before_it_is_read_redacted(
    log: Log,
    open_ledger: Callable[..., Awaitable[Ledger]],
    monkeypatch: pytest.MonkeyPatch,
    elsewhere: bool,
) -> None:
    monkeypatch.setattr(erasing, "REDACTED_MAX", 1)  # So that one erasure makes two events.
    secret = parse_key("secret")
    writing = await (await open_ledger()).log("dev") if elsewhere else log
    if not elsewhere:
        notice_nothing(log, monkeypatch)  # What is committed here arrives without a look at the log.
    await create(log, "r")
    async with (
        await log.follow("r") as in_step,
        await log.follow("r") as lagging,
        await log.subscribe(selection=Selection(key=secret)) as about,
        await log.subscribe(selection=Selection(key=parse_key("n"))) as about_another,
    ):
        await change(writing, "r", Set(key="secret", value="old"), ONE, Set(key="secret", value="older"))
        first = await take(in_step, 3)
        assert [json.loads(event.data)["value"] for event in first] == ["old", 1, "older"]
        cursor = in_step.cursor_at(first[0].position)
        await writing.erase("r", secret, "why")
        told = await take(in_step, 2)
        assert [(event.version, event.type) for event in told] == [(5, "run.erased"), (6, "run.erased")]
        assert "old" not in "".join(one.event.data for one in in_step._tail.entries)
        stored = await events(log, "r")
        assert [json.loads(stored[number].data) for number in (1, 3)] == [{"key": "secret", "erased": True}] * 2
        assert await take(lagging, 5) == stored[1:]
        assert await take(about, 4) == [stored[number] for number in (1, 3, 4, 5)]
        assert await take(about_another, 1) == [stored[2]]
        for subscription in (in_step, lagging, about, about_another):
            assert await rest(subscription) == []
    async with await log.follow("r", after=1) as resumed, await log.subscribe(after=cursor) as of_all:
        assert await take(resumed, 5) == stored[1:]
        assert await take(of_all, 4) == stored[2:]
        await change(writing, "r", ONE)
        assert [event.version for event in await take(resumed, 1)] == [7]
    assert await whole_feed(log) == await events(log, "r")


async def test_an_erasure_that_fails_is_handed_on_to_nobody(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    notice_nothing(log, monkeypatch)
    await create(log, "r", metadata={"a": 1})
    async with await log.follow("r") as subscription:
        with pytest.raises(NothingToErase):
            await log.erase("r", parse_key("z"), "why")
        assert await rest(subscription) == []
        await log.erase("r", parse_key("a"), "why")
        assert [event.version for event in await take(subscription, 1)] == [2]


def notice_nothing(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be noticed of the log's growth but what this process is told."""

    async def never() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(log._store, "changed", never)
    monkeypatch.setattr(subscriptions, "LOOK_S", 2 * PATIENCE_S)


@contextmanager
def bounds(tail: int, batch: int) -> Iterator[None]:
    """Other bounds for a while, so that few events already reach them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subscriptions, "TAIL_EVENTS_MAX", tail)
        patch.setattr(subscriptions, "BATCH_EVENTS_MAX", batch)
        patch.setattr(feed, "SCAN_EVENTS_MAX", batch + 1)
        patch.setattr(sqlite, "CHANGE_POLL_S", 0.001)
        yield


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from("abc"), st.integers(0, 1), st.integers(1, 6)),
        st.tuples(st.just("erase"), st.sampled_from("abc"), st.integers(0, 1)),
        st.tuples(st.just("read"), st.integers(0, 3)),
        st.tuples(st.just("page"), st.integers(1, 5)),
        st.tuples(st.just("resume"), st.integers(0, 3)),
        st.tuples(st.just("cancel"), st.integers(0, 3)),
    ),
    max_size=25,
)
WANTED = (
    Selection(),
    Selection(run_id="a"),
    Selection(task="t"),
    Selection(tags=frozenset({"x"}), key=parse_key("n")),
)


@settings(thorough, max_examples=40)
@given(STEPS, st.sampled_from([1, 3, 1_000]), st.sampled_from([1, 2, 100]))
def test_any_mix_of_writes_pages_and_resumes_yields_every_event_once(
    steps: list[tuple[Any, ...]], tail: int, batch: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, bounds(tail, batch):
        asyncio.run(_mixed(Path(shutil.copy(_empty(), Path(folder) / "ledger.db")), steps))


_EMPTY: list[Path] = []


def _empty() -> Path:
    if not _EMPTY:
        made = Database(Path(tempfile.mkdtemp()) / "ledger.db")

        async def make() -> None:
            ledger = await Ledger.open(made.url)
            await ledger.log("dev")
            await ledger.close()

        asyncio.run(make())
        _EMPTY.append(made.path)
    return _EMPTY[0]


async def _mixed(path: Path, steps: list[tuple[Any, ...]]) -> None:
    # Two ledgers on one file stand for two processes: neither hears from the other but through the file.
    ledgers = [await Ledger.open(Database(path).url, clock=Clock()) for _ in range(2)]
    logs = [await ledger.log("dev") for ledger in ledgers]
    for run_id in "abc":
        await create(logs[0], run_id, "u" if run_id == "b" else "t", tags=("x",) if run_id == "c" else ())
    opened = [await logs[n % 2].subscribe(from_start=True, selection=wanted) for n, wanted in enumerate(WANTED)]
    seen: list[list[Event]] = [[] for _ in WANTED]
    paged: list[Event] = []
    cursor: Cursor | None = None
    for step in steps:
        match step:
            case ("write", run_id, node, count):
                await change(logs[node], run_id, *[ONE] * count)
            case ("erase", run_id, node):
                with suppress(NothingToErase):
                    await logs[node].erase(run_id, parse_key("n"), "why")
            case ("read", n):
                seen[n] += [one.event for one in await opened[n].next(0)]
            case ("page", limit):
                page = await logs[0].events(limit=limit, after=cursor)
                paged += [one.event for one in page.entries]
                cursor = page.next
            case ("resume", n):
                after = opened[n].cursor
                opened[n].close()
                opened[n] = await logs[(n + 1) % 2].subscribe(after=after, selection=WANTED[n])
            case ("cancel", n):
                reading = asyncio.create_task(opened[n].next())
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                reading.cancel()
                await asyncio.wait([reading])
                if not reading.cancelled():
                    seen[n] += [one.event for one in reading.result()]
    everything = await whole_feed(logs[0])
    assert positions(everything) == list(range(1, len(everything) + 1))
    while cursor is None or page.has_more or len(paged) < len(everything):
        page = await logs[1].events(limit=7, after=cursor)
        paged += [one.event for one in page.entries]
        cursor = page.next
    assert unredacted(paged) == unredacted(everything)
    for n, wanted in enumerate(WANTED):
        expected = await whole_feed(
            logs[0], task=wanted.task, tags=wanted.tags, run_id=wanted.run_id, key=wanted.key
        )
        async with asyncio.timeout(PATIENCE_S):
            while len(seen[n]) < len(expected):
                seen[n] += [one.event for one in await opened[n].next()]
        seen[n] += await rest(opened[n])
        assert unredacted(seen[n]) == unredacted(expected)
    for ledger in ledgers:
        await ledger.close()


async def test_a_tail_keeps_a_bounded_number_of_events_and_bytes(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "TAIL_EVENTS_MAX", 10)
    monkeypatch.setattr(subscriptions, "TAIL_BYTES_MAX", 2_000)
    await create(log, "r")
    async with await log.follow("r") as stalled:
        for number in range(60):
            await change(log, "r", Set(key="k", value="x" * (number % 3) * 300))
            tail = stalled._tail
            assert len(tail.entries) <= 20
            assert sum(len(one.event.data) for one in tail.entries) <= 4_000
            assert tail._bytes == sum(len(one.event.data) for one in tail.entries)
            assert positions([one.event for one in tail.entries]) == list(range(tail.start + 1, tail.end + 1))
        assert [event.version for event in await take(stalled, 60)] == list(range(2, 62))


WRITER = """
import asyncio, sys
from ledger.ledger import Ledger
from ledger.writes import ChangeMetadata
from projections.operations import Increment

async def main(url, count):
    ledger = await Ledger.open(url)
    log = await ledger.log("dev")
    found = []
    async with await log.subscribe(from_start=True) as subscription:
        async def write():
            for _ in range(count):
                await log.change(ChangeMetadata(run_id="r", operations=(Increment(key="n", value=1),)))
        writing = asyncio.create_task(write())
        while len(found) < 2 * count + 1:
            found += [one.event.version for one in await subscription.next()]
        await writing
    await ledger.close()
    print(found == list(range(1, 2 * count + 2)))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def test_two_processes_that_write_one_file_each_see_every_event_once(
    ledger: Ledger, log: Log, database: Database
) -> None:
    await create(log, "r")
    async with await log.subscribe(from_start=True) as watching:
        writers = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", WRITER, database.url, "100", stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            for _ in range(2)
        ]
        answers = [await asyncio.wait_for(writer.communicate(), 2 * PATIENCE_S) for writer in writers]
        assert [out.decode().strip() for out, _ in answers] == ["True", "True"], answers
        assert [event.version for event in await take(watching, 201)] == list(range(1, 202))
        assert await rest(watching) == []
    assert json.loads((await log.current("r")).text) == {"n": 200}
