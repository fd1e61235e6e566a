"""Reading the events of a run, and the list of runs."""

import random
from typing import Any, Literal

import pytest

from ledger import history as history_of_runs
from ledger import reads, sqlite
from ledger.errors import BadCursor, RunNotFound
from ledger.finding import RunsPage
from ledger.history import JUMP
from ledger.log import Log
from ledger.postgres import texts
from ledger.reads import Page
from projections.events import Event, RunCreated
from projections.filters import RunFilter
from projections.lifecycle import Status
from projections.metadata import ABSENT, Absent, value_at
from projections.operations import Delete, MetadataOperation, Set, Update
from projections.paths import Path, literal, parse_key
from projections.values import dump
from tests.ledger.contract.test_time import some_operation
from tests.ledger.support import ALL, change, create, events, move

KEYS = ["a", "b", "$.b.c", "$.b.list.0", "$.list.1", "list", "d.e", "nowhere"]


def names(key: str, *, is_deleted: bool = False) -> tuple[str, ...]:
    return (key,) if is_deleted or not key.startswith("$.") else tuple(key[2:].split("."))


def spelled(value: Any) -> Any:
    return value if isinstance(value, Absent) else dump(value)


async def about(log: Log, history: list[Event], key: str) -> list[int]:
    """By brute force, from the past states alone: the versions of the events that were about a key."""
    wanted = names(key)
    path = Path(wanted, literal=not key.startswith("$."))
    found = []
    before: Any = ABSENT
    for event in history:
        after = value_at((await log.metadata("run_1", version=event.version)).metadata, path)
        body = event.body
        if isinstance(body, RunCreated | Update):
            if spelled(before) != spelled(after):
                found.append(event.version)
        elif isinstance(body, MetadataOperation):
            there = names(body.key, is_deleted=event.type == "metadata.deleted")
            shared = min(len(there), len(wanted))
            if there[:shared] == wanted[:shared]:
                found.append(event.version)
        before = after
    return found


async def long_history(log: Log, seed: int) -> list[Event]:
    chance = random.Random(seed)
    await create(log, "other")
    await create(log, "run_1", metadata={"list": [1]})
    for step in range(16):
        if step % 5 == 0:
            await move(log, "run_1", chance.choice([Status.EXECUTING, Status.WAITING]))
        await change(log, "run_1", *(some_operation(chance) for _ in range(chance.choice([1, 1, 2]))))
        await change(log, "other", some_operation(chance))
    return await events(log, "run_1")


@pytest.mark.parametrize("chunk", [4, 1_000])
async def test_pages_in_both_orders_and_with_every_key_agree_with_brute_force(
    log: Log, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    history = await long_history(log, chunk)
    assert [event.version for event in history] == list(range(1, len(history) + 1))
    monkeypatch.setattr(reads, "CHUNK", chunk)
    if chunk < JUMP:
        for bound in ("BLOCK", "AHEAD", "JUMP"):
            monkeypatch.setattr(history_of_runs, bound, chunk)
    expected: dict[str | None, list[int]] = {key: await about(log, history, key) for key in KEYS}
    expected[None] = [event.version for event in history]
    assert {len(found) for found in expected.values()} > {0}
    for key, found in expected.items():
        path = None if key is None else parse_key(key)
        await check_pages(log, history, found, path, "asc")
        await check_pages(log, history, found[::-1], path, "desc")


async def check_pages(
    log: Log, history: list[Event], expected: list[int], key: Path | None, order: Literal["asc", "desc"]
) -> None:
    last = len(history)
    whole = [history[version - 1] for version in expected]
    page = await log.history("run_1", limit=ALL, order=order, key=key)
    assert page == Page(whole, has_next=False, has_previous=False)
    for limit in (2, len(expected) or 1):
        pages: list[Event] = []
        after: int | None = None
        while True:
            page = await log.history("run_1", limit=limit, after=after, order=order, key=key)
            pages += page.items
            assert page.has_previous == (after is not None)
            assert page.has_next == (len(pages) < len(whole))
            if not page.has_next:
                break
            assert len(page.items) == limit
            after = page.items[-1].version
        assert pages == whole
    for after in (0, 1, last // 2, last, last + 50):
        page = await log.history("run_1", limit=3, after=after, order=order, key=key)
        rest = [e for e in whole if (e.version > after if order == "asc" else e.version < after)]
        assert page == Page(rest[:3], has_next=len(rest) > 3, has_previous=True)


async def test_an_unknown_run_has_no_history(log: Log) -> None:
    with pytest.raises(RunNotFound):
        await log.history("nobody", limit=1)


async def test_a_key_that_is_a_path_and_one_that_is_literal_are_different(log: Log) -> None:
    await create(log, "run_1", metadata={"a": {}})
    await change(log, "run_1", Set(key="$.a.b", value=1), Set(key="a.b", value=2), Delete(key="$.a.b"))

    async def found(path: Path) -> list[int]:
        return [event.version for event in await events(log, "run_1", path)]

    assert await found(parse_key("$.a.b")) == [2]
    assert await found(parse_key("a")) == [1, 2]
    assert await found(literal("a.b")) == [3]
    assert await found(literal("$.a.b")) == [4]


# --- the list of runs ---


async def some_runs(log: Log) -> list[tuple[str, str, Status]]:
    """Twenty runs, oldest first: id, task, status."""
    chance = random.Random(5)
    found = []
    for n in range(20):
        task, status = chance.choice(["import", "export"]), chance.choice([Status.QUEUED, Status.EXECUTING])
        await create(log, f"run_{n}", task=task, parent=None if n == 0 else chance.choice([None, "run_0"]))
        if status == Status.EXECUTING:
            await move(log, f"run_{n}", status)
        found.append((f"run_{n}", task, status))
    return found


@pytest.mark.parametrize("tasks", [(), ("import",), ("import", "export"), ("unknown",)])
@pytest.mark.parametrize("statuses", [(), (Status.QUEUED,), (Status.EXECUTING, Status.FAILED)])
async def test_pages_of_runs_agree_with_brute_force(
    log: Log, tasks: tuple[str, ...], statuses: tuple[Status, ...]
) -> None:
    runs = await some_runs(log)
    whole = [
        run_id
        for run_id, task, status in reversed(runs)
        if (not tasks or task in tasks) and (not statuses or status in statuses)
    ]

    async def page(limit: int, **cursor: Any) -> tuple[list[str], bool, bool]:
        found = await log.runs(
            limit=limit, wanted=RunFilter(tasks=tuple(tasks), statuses=tuple(statuses)), **cursor
        )
        return [run.id for run in found.items], found.has_previous, found.has_next

    newest_first = [run_id for run_id, *_ in reversed(runs)]
    for limit in (1, 3, 20):
        assert await page(limit) == (whole[:limit], False, len(whole) > limit)
        for index, cursor in enumerate(newest_first):
            older = [run_id for run_id in newest_first[index + 1 :] if run_id in whole]
            newer = [run_id for run_id in newest_first[:index] if run_id in whole]
            newer_than_page = bool(older) and whole[0] != older[0]
            older_than_page = bool(newer) and whole[-1] != newer[-1]
            assert await page(limit, after=cursor) == (older[:limit], newer_than_page, len(older) > limit)
            assert await page(limit, before=cursor) == (newer[-limit:], len(newer) > limit, older_than_page)


async def test_filters_may_hold_many_values_and_no_statement_is_kept_for_them(log: Log) -> None:
    runs = await some_runs(log)
    for count in (21, 1_000, 20_000):
        tasks = ["import", *(f"t{number}" for number in range(count))]
        found = await log.runs(limit=100, wanted=RunFilter(tasks=tuple(tasks), statuses=(Status.EXECUTING,)))
        past = await log.runs_as_of(
            2**60, limit=100, wanted=RunFilter(tasks=tuple(tasks), statuses=(Status.EXECUTING,))
        )
        expected = [run_id for run_id, task, status in runs if (task, status) == ("import", Status.EXECUTING)]
        assert [run.id for run in found.items] == [run.id for run in past.items] == expected[::-1]
    for engine, kept in ((sqlite, sqlite._asked), (texts, texts._texts)):
        assert len(kept) <= engine.STATEMENTS_KEPT
        assert all(len(text) <= engine.TEXT_KEPT_MAX for text, _ in kept.values())


async def test_a_listed_run_is_the_run(log: Log) -> None:
    await some_runs(log)
    listed = (await log.runs(limit=100)).items
    assert listed == [(await log.run(run.id)).run for run in listed]


async def test_a_cursor_that_names_no_run_is_refused(log: Log) -> None:
    await create(log, "run_1")
    cursors: list[dict[str, Any]] = [{"after": "nobody"}, {"before": "nobody"}, {"after": ""}]
    for cursor in cursors:
        with pytest.raises(BadCursor) as refused:
            await log.runs(limit=1, **cursor)
        assert refused.value.cursor == next(iter(cursor.values()))


async def test_an_empty_environment_has_no_runs(log: Log) -> None:
    assert await log.runs(limit=5) == RunsPage([], next=None, previous=None)
