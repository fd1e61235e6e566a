"""The past: pages with what each event did, diffs, explanations, and the list of runs as it stood."""

import asyncio
import json
import random
from collections.abc import Sequence
from functools import reduce
from typing import Any, Literal

import jsonpatch
import pytest

from ledger import as_of, finding, history
from ledger.errors import BadCursor, LateWrite, RunNotFound, VersionNotFound
from ledger.history import Entry, HistoryPage, Wanted
from ledger.keys import Reach
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.reads import Point
from ledger.writes import Caller, Refused
from projections.errors import BadTransition, TooLarge
from projections.events import EVENT_TYPES, Event
from projections.explain import step, wiped_by
from projections.filters import RunFilter
from projections.history import effect, grown_bytes, metadata_after, touches
from projections.lifecycle import Status
from projections.metadata import ABSENT, Absent, value_at
from projections.operations import Set
from projections.paths import Path, parse_key
from projections.runs import Run, evolve_run
from projections.size import size_bytes
from projections.snapshot import Snapshot
from projections.values import JsonObject, dump
from tests.javascript import exact
from tests.ledger.contract.test_time import some_operation
from tests.ledger.support import ALL, SECOND, Clock, Database, change, create, events, move

KEYS = ["a", "b", "$.b.c", "$.b.list.0", "list", "d.e", "nowhere"]
ACTORS = ["ann", "bob"]


@pytest.fixture(params=["small blocks", "large blocks"])
def log(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, log: Log) -> Log:
    if request.param == "small blocks":
        for name, bound in {"BLOCK": 3, "AHEAD": 2, "JUMP": 2}.items():
            monkeypatch.setattr(history, name, bound)
        monkeypatch.setattr(finding, "CHUNK", 2)
    return log


async def some_past(log: Log, clock: Clock, seed: int, steps: int = 30) -> None:
    """A parent and its child, changed by two actors in several attempts; some of what they ask is refused."""
    chance = random.Random(seed)
    await create(log, "parent", metadata={"list": [1]}, tags=("x",), status=Status.EXECUTING)
    await create(log, "run_1", parent="parent", metadata={"b": {"c": 1}})
    for _ in range(steps):
        clock.now += chance.choice([0, 1, SECOND])
        caller = Caller(actor=chance.choice(ACTORS))
        operations = [some_operation(chance) for _ in range(chance.choice([1, 1, 3]))]
        what = chance.randrange(8)
        if what == 0:
            status = chance.choice([Status.EXECUTING, Status.WAITING, Status.FAILED])
            attempt = (await log.run("run_1")).run.attempt + 1
            await move(log, "run_1", status, attempt=attempt)
        elif what <= 2:
            await change(log, "run_1", parent_operations=operations, caller=caller, attempt=chance.choice([1, 2]))
        elif what == 3:
            with pytest.raises(TooLarge):
                await change(log, "run_1", Set(key="a", value="x" * 5_000), caller=caller)
        else:
            await change(log, "run_1", *operations, caller=caller, attempt=chance.choice([1, 1, 2]))


def states(stream: Sequence[Event]) -> list[JsonObject]:
    """The metadata after each event, and at first that before all."""
    found: list[JsonObject] = [{}]
    for event in stream:
        found.append(metadata_after(found[-1], event.body))
    return found


def spelled(value: Any) -> Any:
    return value if isinstance(value, Absent) else exact(value)


def text(value: Any) -> str | None:
    return None if isinstance(value, Absent) else dump(value)


def by_hand(stream: list[Event], wanted: Wanted) -> list[Entry]:
    """What a history ought to hold, from a fold of the whole run."""
    found = []
    known = states(stream)
    for event, before, after in zip(stream, known, known[1:], strict=False):
        if (
            (wanted.key is None or touches(wanted.key, event.body, before, after))
            and wanted.actor in (None, event.actor)
            and wanted.attempt in (None, event.attempt)
            and (not wanted.types or event.type in wanted.types)
            and (wanted.since is None or event.recorded_at >= wanted.since)
            and (wanted.until is None or event.recorded_at <= wanted.until)
        ):
            did = effect(event.body, before, after)
            found.append(Entry(event, text(did.before), text(did.after), size_bytes(dump(after))))
    return found


def some_filters(stream: list[Event], seed: int) -> list[Wanted]:
    chance = random.Random(seed)
    moments = [event.recorded_at for event in stream]
    found = [Wanted(), *(Wanted(key=parse_key(key)) for key in KEYS)]
    for _ in range(5):
        since, until = sorted(chance.choices(moments, k=2))
        options: dict[str, Any] = {
            "key": parse_key(chance.choice(KEYS)),
            "actor": chance.choice([*ACTORS, "nobody"]),
            "attempt": chance.choice([1, 2, 3, 9]),
            "types": tuple(chance.sample(EVENT_TYPES, 3)),
            "since": since - chance.choice([0, 1]),
            "until": until + chance.choice([-1, 0]),
        }
        found.append(Wanted(**dict(chance.sample(sorted(options.items()), chance.choice([1, 1, 2, 3])))))
    return found


@pytest.mark.parametrize("seed", range(2))
async def test_every_filter_in_both_orders_and_both_ways_agrees_with_a_fold_of_the_whole_run(
    log: Log, clock: Clock, seed: int
) -> None:
    await some_past(log, clock, seed)
    shown = 0
    for run_id in ("run_1", "parent"):
        stream = await events(log, run_id)
        for wanted in some_filters(stream, seed):
            expected = by_hand(stream, wanted)
            shown += len(expected)
            await check_pages(log, run_id, wanted, expected, "asc")
            await check_pages(log, run_id, wanted, expected[::-1], "desc")
    assert shown > 100


async def check_pages(
    log: Log, run_id: str, wanted: Wanted, expected: list[Entry], order: Literal["asc", "desc"]
) -> None:
    async def page(limit: int, **cursor: Any) -> HistoryPage:
        return await log.entries(run_id, limit=limit, order=order, wanted=wanted, **cursor)

    assert await page(ALL) == HistoryPage([*expected], next=None, previous=None)
    for limit in (2, 7):
        onwards: list[Any] = []
        found = await page(limit)
        starts = []
        while True:
            onwards += found.items
            starts.append(found.previous)
            if found.next is None:
                break
            assert len(found.items) == limit
            found = await page(limit, after=found.next)
        assert onwards == expected
        assert starts[0] is None
        if not expected:
            continue
        back: list[Any] = []
        before: int | None = expected[-1].event.version
        while before is not None:
            found = await page(limit, before=before)
            back = [*found.items, *back]
            before = found.previous
            assert found.items == [] or found.next == found.items[-1].event.version  # type: ignore[union-attr]
        assert back == expected[:-1]


async def test_a_page_is_a_page_of_consecutive_versions_wherever_it_begins(log: Log, clock: Clock) -> None:
    await some_past(log, clock, 9)
    stream = await events(log, "run_1")
    whole = by_hand(stream, Wanted())
    for cursor in range(len(stream) + 3):
        for limit in (1, 4):
            after = await log.entries("run_1", limit=limit, after=cursor)
            assert after.items == whole[cursor : cursor + limit]
            below = await log.entries("run_1", limit=limit, before=cursor)
            end = max(min(cursor - 1, len(whole)), 0)
            assert below.items == whole[max(end - limit, 0) : end]
            newer = await log.entries("run_1", limit=limit, before=cursor, order="desc")
            assert newer.items == whole[cursor : cursor + limit][::-1]


async def test_a_page_ends_once_its_values_take_too_much_memory(
    log: Log, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(log, "run_1")
    for number in range(20):
        await change(log, "run_1", Set(key="text", value=f"{number:02}" + "x" * 500))
    whole = by_hand(await events(log, "run_1"), Wanted())
    monkeypatch.setattr(history, "PAGE_BYTES_MAX", 4_000)
    for order in ("asc", "desc"):
        found: list[Any] = []
        pages = 0
        after: int | None = None
        while pages == 0 or after is not None:
            page = await log.entries("run_1", limit=ALL, after=after, order=order)
            found += page.items
            after = page.next
            pages += 1
            assert 1 <= len(page.items) <= 4
        assert found == (whole if order == "asc" else whole[::-1])
    monkeypatch.setattr(history, "PAGE_BYTES_MAX", 1)
    assert len((await log.entries("run_1", limit=ALL)).items) == 1
    assert len((await log.explain("run_1", parse_key("text"), limit=ALL)).steps) == 1


async def test_what_lies_in_front_of_a_page_is_folded_and_not_measured(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(log, "run_1", metadata={"list": [*range(200)]})
    await change(log, "run_1", *[Set(key="n", value=number) for number in range(300)])
    measured: list[object] = []
    original = grown_bytes

    def counted(before: Any, after: Any) -> int:
        measured.append(after)
        return original(before, after)

    monkeypatch.setattr(history, "grown_bytes", counted)
    for order in ("asc", "desc"):
        measured.clear()
        page = await log.entries("run_1", limit=20, after=200, order=order)
        assert [one.size_bytes for one in page.items if isinstance(one, Entry)] == [708] * 20
        assert len(measured) <= 21


# --- refusals ---


@pytest.mark.parametrize("seed", range(2))
async def test_refusals_stand_behind_the_version_at_which_they_were_made(
    log: Log, clock: Clock, seed: int
) -> None:
    await some_past(log, clock, seed, steps=60)
    stream = await events(log, "run_1")
    refused = await log.refusals("run_1")
    assert len(refused) > 3
    whole: list[Any] = sorted(
        [*by_hand(stream, Wanted()), *refused], key=lambda one: (place(one), isinstance(one, Refused), number(one))
    )
    for order, expected in (("asc", whole), ("desc", whole[::-1])):
        page = await log.entries("run_1", limit=ALL, order=order, refusals=True)  # type: ignore[arg-type]
        assert page.items == expected
        times = [one.recorded_at if isinstance(one, Refused) else one.event.recorded_at for one in page.items]
        assert times == sorted(times, reverse=order == "desc")
        for limit in (1, 4):
            found: list[Any] = []
            after: int | None = None
            while True:
                page = await log.entries("run_1", limit=limit, after=after, order=order, refusals=True)  # type: ignore[arg-type]
                found += page.items
                if page.next is None:
                    break
                after = page.next
            assert found == expected
            back: list[Any] = []
            before: int | None = 10**9 if order == "asc" else 0
            while before is not None:
                page = await log.entries("run_1", limit=limit, before=before, order=order, refusals=True)  # type: ignore[arg-type]
                back = [*page.items, *back]
                before = page.previous
            assert back == expected


def place(item: Entry | Refused) -> int:
    return item.version if isinstance(item, Refused) else item.event.version


def number(item: Entry | Refused) -> int:
    return item.number if isinstance(item, Refused) else 0


async def test_filters_hold_for_refusals_too(log: Log, clock: Clock) -> None:
    await create(log, "run_1", status=Status.EXECUTING)
    too_long = Set(key="a", value="x" * 5_000)
    for actor, attempt in (("ann", 1), ("bob", 2)):
        with pytest.raises(TooLarge):
            await change(log, "run_1", too_long, caller=Caller(actor=actor), attempt=attempt)
        clock.advance(10)
    await move(log, "run_1", Status.COMPLETED)
    clock.advance(10_000)
    with pytest.raises(LateWrite):
        await change(log, "run_1", Set(key="b", value=1), caller=Caller(actor="ann"))

    async def found(**fields: Any) -> list[tuple[str, str]]:
        page = await log.entries("run_1", limit=ALL, wanted=Wanted(**fields), refusals=True)
        return [(one.code, one.actor) for one in page.items if isinstance(one, Refused)]

    ann, bob, late = ("metadata-too-large", "ann"), ("metadata-too-large", "bob"), ("late-write", "ann")
    assert await found() == [ann, bob, late]
    assert await found(actor="ann") == [ann, late]
    assert await found(attempt=2) == [bob]
    assert await found(until=clock.now - 10_000 * SECOND) == [ann, bob]
    assert await found(since=clock.now) == [late]
    assert await found(key=parse_key("zzz")) == [ann, bob, late]  # They were about the whole request.
    assert await found(types=("run.created",)) == [ann, bob, late]


# --- diff ---


def applied(state: JsonObject, patch: Any) -> Any:
    return jsonpatch.apply_patch(state, patch)


async def test_the_diff_of_any_two_versions_makes_one_of_the_other(log: Log, clock: Clock) -> None:
    await some_past(log, clock, 4)
    stream = await events(log, "run_1")
    known = states(stream)
    chance = random.Random(1)
    for _ in range(60):
        start, end = chance.choices(range(1, len(stream) + 1), k=2)
        found = await log.diff("run_1", Point(version=start), Point(version=end))
        assert (found.start, found.end) == (start, end)
        assert exact(applied(known[start], found.patch)) == exact(known[end])
    moment = stream[len(stream) // 2].recorded_at
    found = await log.diff("run_1", Point(at=moment), Point())
    assert found.start == max(event.version for event in stream if event.recorded_at <= moment)
    assert exact(applied(known[found.start], found.patch)) == exact(known[-1])


async def test_two_runs_can_be_compared(log: Log) -> None:
    await create(log, "run_1", metadata={"a": 1, "b": 2})
    await create(log, "run_2", metadata={"a": True, "b": 2})
    await change(log, "run_2", Set(key="b", value=3))
    found = await log.diff("run_1", Point(), Point(version=1), "run_2")
    assert (found.patch, found.start, found.end) == ([{"op": "replace", "path": "/a", "value": True}], 1, 1)
    with pytest.raises(RunNotFound, match="run_9"):
        await log.diff("run_1", Point(), Point(), "run_9")
    with pytest.raises(VersionNotFound, match="run run_1 has no version 2"):
        await log.diff("run_1", Point(version=2), Point(version=2), "run_2")


# --- explain ---


@pytest.mark.parametrize("seed", range(2))
async def test_a_value_is_explained_at_every_version_and_page_by_page(log: Log, clock: Clock, seed: int) -> None:
    await some_past(log, clock, seed + 20)
    for run_id in ("run_1", "parent"):
        stream = await events(log, run_id)
        known = states(stream)
        for key in map(parse_key, KEYS):
            for version in (None, len(stream) // 2):
                last = version or len(stream)
                expected = [
                    one
                    for event in stream[:last]
                    if (one := step(key, event, known[event.version - 1], known[event.version])) is not None
                ]
                whole = await log.explain(run_id, key, version=version, limit=ALL)
                assert whole.steps == expected
                assert whole.wiped_by == wiped_by(expected)
                assert (whole.version, whole.previous) == (last, None)
                assert spelled(whole.value) == spelled(value_at(known[last], key))
                assert spelled(whole.value) == spelled(expected[-1].value if expected else ABSENT)
                for limit in (1, 4):
                    await check_explained_pages(log, run_id, key, version, limit, expected)


async def check_explained_pages(
    log: Log, run_id: str, key: Path, version: int | None, limit: int, expected: list[Any]
) -> None:
    found: list[Any] = []
    wipers: list[int | None] = []
    before: int | None = None
    while True:
        page = await log.explain(run_id, key, version=version, limit=limit, before=before)
        found = [*page.steps, *found]
        wipers = [*page.wiped_by, *wipers]
        if page.previous is None:
            break
        assert len(page.steps) == limit
        before = page.previous
    assert found == expected
    assert wipers == wiped_by(expected)


async def test_an_explanation_names_the_child_that_made_a_change(log: Log) -> None:
    await create(log, "parent")
    await create(log, "child", parent="parent")
    await change(log, "child", parent_operations=[Set(key="a", value=1)], attempt=3, caller=Caller(actor="ann"))
    (only,) = (await log.explain("parent", parse_key("a"), limit=5)).steps
    assert json.loads(only.event.headers) == {"sourceRun": "child", "sourceAttempt": 3}
    assert (only.event.actor, only.value) == ("ann", 1)


@pytest.mark.parametrize("name", ["100%", "a_b!", "A", '"\\', "\x00", "ü\u2028", "x" * 3_000])
async def test_keys_with_characters_that_a_search_could_misread_are_found(log: Log, name: str) -> None:
    await create(log, "run_1", metadata={name[:1]: 0})
    lookalikes = [name.upper(), name.lower(), name.replace("_", "x"), "100x", name[:-1] + "z"]
    expected: list[int] = []
    for key in [name[:1_000], *lookalikes, name[:1_000]]:
        answer = await change(log, "run_1", Set(key=key[:1_000], value=len(expected)))
        if key[:1_000] == name[:1_000]:
            expected.append(answer.snapshot.version)
    page = await log.entries("run_1", limit=ALL, wanted=Wanted(key=parse_key(name[:1_000])))
    found = [one.event.version for one in page.items if isinstance(one, Entry)]
    assert found == ([1, *expected] if len(name) == 1 else expected)


# --- the list of runs as it stood ---


async def many_runs(log: Log, clock: Clock, seed: int) -> dict[str, list[Event]]:
    chance = random.Random(seed)
    made: list[str] = []
    for step_number in range(60):
        clock.now += chance.choice([0, 0, 1, SECOND])
        if step_number % 6 == 0:
            made.append(f"run_{len(made)}")
            tags = chance.choice([(), ("x",), ("x", "y")])
            status = chance.choice([Status.QUEUED, Status.EXECUTING, Status.COMPLETED])
            task = chance.choice(["import", "export"])
            await create(log, made[-1], task=task, tags=tags, status=status, attempt=chance.choice([1, 4]))
            continue
        run_id = chance.choice(made)
        if chance.randrange(3) == 0:
            attempt = (await log.run(run_id)).run.attempt + 1
            status = chance.choice([Status.EXECUTING, Status.WAITING, Status.COMPLETED, Status.CRASHED])
            try:
                await move(log, run_id, status, attempt=attempt)
            except BadTransition:
                continue
        else:
            await change(log, run_id, *(some_operation(chance) for _ in range(chance.choice([1, 3, 9]))))
    return {run_id: await events(log, run_id) for run_id in made}


def as_they_stood(streams: dict[str, list[Event]], at: int) -> list[Run]:
    """What the list ought to hold, newest first, from a fold of every run."""
    found = []
    for stream in streams.values():
        run = reduce(evolve_run, (event for event in stream if event.recorded_at <= at), None)
        if run is not None:
            found.append(run)
    return found[::-1]


REACH = Reach(tasks=frozenset({"export"}), tags=frozenset({"y"}))


@pytest.mark.parametrize("seed", range(2))
async def test_the_list_as_it_stood_agrees_with_a_fold_of_every_run(log: Log, clock: Clock, seed: int) -> None:
    streams = await many_runs(log, clock, seed)
    moments = {event.recorded_at + aside for stream in streams.values() for event in stream for aside in (-1, 0)}
    chance = random.Random(seed)
    shown = 0
    for at in sorted({*chance.sample(sorted(moments), 6), max(moments), max(moments) + SECOND, -1}):
        for statuses in ((), (Status.EXECUTING,), (Status.COMPLETED, Status.CRASHED)):
            for tasks, within in (((), None), (("import",), None), ((), REACH), (("import",), REACH)):
                expected = [
                    run
                    for run in as_they_stood(streams, at)
                    if (not statuses or run.status in statuses) and (not tasks or run.task in tasks)
                    if within is None or run.task == "export" or "y" in run.tags
                ]
                shown += len(expected)
                page = await log.runs_as_of(
                    at, limit=ALL, wanted=RunFilter(statuses=statuses, tasks=tasks), within=within
                )
                assert page.items == expected
                assert (page.next, page.previous) == (None, None)
                await check_pages_as_of(log, at, statuses, tasks, within, expected)
    assert shown > 40
    now = (await log.runs(limit=ALL)).items
    assert (await log.runs_as_of(clock.now, limit=ALL)).items == now


async def check_pages_as_of(
    log: Log,
    at: int,
    statuses: tuple[Status, ...],
    tasks: tuple[str, ...],
    within: Reach | None,
    expected: list[Run],
) -> None:
    found: list[Run] = []
    page = await log.runs_as_of(at, limit=2, wanted=RunFilter(statuses=statuses, tasks=tasks), within=within)
    while True:
        found += page.items
        if page.next is None:
            break
        page = await log.runs_as_of(
            at, limit=2, wanted=RunFilter(statuses=statuses, tasks=tasks), within=within, after=page.next
        )
    assert found == expected
    if not expected:
        return
    back: list[Run] = []
    before: str | None = expected[-1].id
    while before is not None:
        page = await log.runs_as_of(
            at, limit=2, wanted=RunFilter(statuses=statuses, tasks=tasks), within=within, before=before
        )
        back = [*page.items, *back]
        before = page.previous
    assert back == expected[:-1]


async def test_a_page_as_of_a_moment_that_looked_at_many_runs_in_vain_says_where_to_go_on(
    log: Log, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(as_of, "EXAMINED_MAX", 3)
    for number in range(10):
        await create(log, f"run_{number}")
    at = clock.now
    clock.advance(1)
    for number in range(10):
        await move(log, f"run_{number}", Status.EXECUTING)
    empty = await log.runs_as_of(at, limit=5, wanted=RunFilter(statuses=(Status.EXECUTING,)))
    assert (empty.items, empty.next, empty.previous) == ([], "run_7", None)
    found, pages, after = [], 0, None
    while pages == 0 or after is not None:
        page = await log.runs_as_of(at, limit=5, wanted=RunFilter(statuses=(Status.QUEUED,)), after=after)
        found += [run.id for run in page.items]
        after = page.next
        pages += 1
    assert (found, pages) == ([f"run_{number}" for number in range(9, -1, -1)], 4)
    upwards = await log.runs_as_of(at, limit=5, wanted=RunFilter(statuses=(Status.EXECUTING,)), before="run_0")
    assert (upwards.items, upwards.next, upwards.previous) == ([], None, "run_3")


async def test_a_cursor_of_a_later_run_begins_at_the_newest_run_of_the_moment(log: Log, clock: Clock) -> None:
    await create(log, "old")
    at = clock.now
    clock.advance(1)
    await create(log, "new")
    assert [run.id for run in (await log.runs_as_of(at, limit=5, after="new")).items] == ["old"]
    assert (await log.runs_as_of(at, limit=5, before="old")).items == []
    with pytest.raises(BadCursor):
        await log.runs_as_of(at, limit=5, after="nobody")


@pytest.mark.altered
async def test_tags_are_those_of_the_moment(log: Log, clock: Clock, database: Database, ledger: Ledger) -> None:
    await create(log, "run_1", tags=("a",))
    before = clock.now
    clock.advance(1)
    tag(database, "run_1", ["b"], clock.now)
    between = clock.now
    clock.advance(1)
    tag(database, "run_1", ["c", "a"], clock.now)
    clock.advance(1)
    await change(log, "run_1", Set(key="a", value=1))
    for at, tags in ((before, ("a",)), (between, ("a", "b")), (clock.now - SECOND, ("a", "b", "c"))):
        (run,) = (await log.runs_as_of(at, limit=5)).items
        assert run.tags == tags
    assert (await log.runs(limit=1)).items[0].tags == ("a", "b", "c")


def tag(database: Database, run_id: str, tags: list[str], now: int) -> None:
    """Record tags as a release will that lets them come later; the chain is not what is asked here."""
    database.rows(
        "INSERT INTO events SELECT environment_id, (SELECT max(position) + 1 FROM events), run_key, version + 1,"
        " 'run.tagged', 'ann', 1, NULL, ?, '{}', ?, ?, NULL, ? FROM runs WHERE run_id = ?",
        (now, json.dumps({"tags": tags}), bytes(16), bytes(32), run_id),
    )
    known = database.value("SELECT tags FROM runs WHERE run_id = ?", (run_id,))
    merged = json.dumps(list(dict.fromkeys([*json.loads(known), *tags])))
    database.rows(
        "UPDATE runs SET version = version + 1, updated_at = ?, tags = ? WHERE run_id = ?",
        (now, merged, run_id),
    )
    database.rows("UPDATE logs SET last_position = last_position + 1, last_recorded_at = ?", (now,))


async def test_reading_the_past_while_others_write_gives_one_consistent_view(log: Log) -> None:
    await create(log, "run_1")

    async def write() -> None:
        for number in range(40):
            await change(log, "run_1", Set(key="n", value=number), Set(key="m", value=number))

    async def read() -> None:
        for _ in range(10):
            page = await log.entries("run_1", limit=ALL)
            versions = [one.event.version for one in page.items if isinstance(one, Entry)]
            assert versions == list(range(1, len(versions) + 1))
            assert len(versions) % 2 == 1

    await asyncio.gather(write(), *(read() for _ in range(3)))
    assert Snapshot.of({"n": 39, "m": 39}, 81) == await log.metadata("run_1")
