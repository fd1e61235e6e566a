"""Finding runs: every filter through SQL and Python, held against one that is written down here and looks at all."""

import asyncio
import json
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import finding, statements
from ledger.errors import BadCursor
from ledger.finding import RunsPage, Sort
from ledger.keys import Reach
from ledger.ledger import Ledger
from ledger.log import Log
from projections import values
from projections.filters import OPERATORS, BadFilter, MetadataCondition, RunFilter, Span, parse_condition
from projections.lifecycle import Status
from projections.operations import Set, Update
from projections.paths import Path as KeyPath
from projections.runs import Run
from projections.size import METADATA_BYTES_DEFAULT, size_bytes
from tests.ledger.support import SECOND, START, Clock, Database, change, check_sound, create, move
from tests.strategies import json_values, metadata_objects, places, scalars

ODD_KEYS = ("a", "%", "_", "!", "a%b", 'a"b', "a\\b", "a.b", "\x00", "ü", "😀", "0", "a][ne", "", "A")
ODD_VALUES: tuple[Any, ...] = (
    *(5, 5.5, "5", 1, 1.0, True, False, None, "true", "null", 0, "", "%", "_", "!%", 'x"y', "x\\y", "\x00", "é"),
    *(1e21, 1e-7, -3, [1, "a"], {"b": 1, "a": [2]}, {"a": [2], "b": 1}, [], {}, "a,b", "É"),
)


def naive(condition: MetadataCondition, metadata: Any) -> bool:
    """What a condition says, once more and in other words."""
    here, there = metadata, True
    for name in condition.path.names:
        if isinstance(here, dict) and name in here:
            here = here[name]
        elif isinstance(here, list) and name in {str(index) for index in range(len(here))}:
            here = here[int(name)]
        else:
            there = False
            break
    value = condition.value
    if condition.operator == "exists":
        return there is value
    if condition.operator == "ne":
        return not there or spelled(here) != spelled(value)
    if not there:
        return False
    if condition.operator == "eq":
        return spelled(here) == spelled(value)
    if condition.operator == "in":
        return spelled(here) in [spelled(one) for one in value]  # type: ignore[union-attr]
    if kind(here) != kind(value) or kind(here) not in {"number", "text"}:
        return False
    left: Any = here if kind(here) == "number" else [*map(ord, here)]
    right: Any = value if kind(here) == "number" else [*map(ord, str(value))]
    sign: int = (left > right) - (left < right)
    return {"gt": sign > 0, "gte": sign >= 0, "lt": sign < 0, "lte": sign <= 0}[condition.operator]


def spelled(value: Any) -> str:
    """A text that only equal values share; Python's encoder, other than ours, sorts members."""
    return json.dumps(_doubles(value), sort_keys=True)


def _doubles(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _doubles(member) for name, member in value.items()}
    if isinstance(value, list):
        return [*map(_doubles, value)]
    return float(value) if kind(value) == "number" else value


def kind(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "other"
    return "number" if isinstance(value, int | float) else "text" if isinstance(value, str) else "other"


odd_objects = st.dictionaries(
    st.sampled_from(ODD_KEYS),
    st.one_of(
        st.sampled_from(ODD_VALUES),
        st.dictionaries(st.sampled_from(ODD_KEYS), st.sampled_from(ODD_VALUES), max_size=3),
        st.lists(st.sampled_from(ODD_VALUES), max_size=3),
    ),
    max_size=4,
)
some_metadata = st.one_of(odd_objects, metadata_objects()).filter(
    lambda metadata: size_bytes(values.dump(values.canonical(metadata))) <= METADATA_BYTES_DEFAULT
)


@st.composite
def conditions(draw: st.DrawFn, states: Sequence[Any]) -> MetadataCondition:
    """A condition on something that some run has, or on anything."""
    state = draw(st.sampled_from(states))
    there = [*places(state)] or [("a",)]
    names = draw(st.one_of(st.sampled_from(there), st.sampled_from(ODD_KEYS).map(lambda name: (name,))))
    is_literal = len(names) == 1 and draw(st.booleans())
    here: Any = state
    for name in names:
        if isinstance(here, dict):
            here = here.get(name)
        elif isinstance(here, list):
            here = here[int(name)] if name.isdecimal() and int(name) < len(here) else None
    other = st.one_of(st.sampled_from(ODD_VALUES), scalars(), json_values())
    value = st.sampled_from([True, True, False]).flatmap(lambda same: st.just(here) if same else other)
    operator = draw(st.sampled_from(OPERATORS))
    wanted: Any
    if operator == "exists":
        wanted = draw(st.booleans())
    elif operator == "in":
        wanted = draw(st.lists(value, min_size=1, max_size=4))
    else:
        wanted = draw(value)
    return MetadataCondition(KeyPath(tuple(names), is_literal), operator, values.canonical(wanted))


@asynccontextmanager
async def opened(empty: Path, clock: Clock) -> AsyncIterator[tuple[Log, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copy(empty, Path(folder) / "ledger.db"))
        ledger = await Ledger.open(Database(path).url, clock=clock)
        try:
            yield await ledger.log("dev"), path
        finally:
            await ledger.close()
        check_sound(path)


quick = settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@quick
@given(data=st.data())
def test_a_metadata_filter_answers_like_a_look_at_every_snapshot(migrated: Path, data: st.DataObject) -> None:
    states = [values.canonical(state) for state in data.draw(st.lists(some_metadata, min_size=1, max_size=8))]
    asked = data.draw(st.lists(st.lists(conditions(states), min_size=1, max_size=2), min_size=12, max_size=12))

    async def check() -> None:
        clock = Clock()
        async with opened(migrated, clock) as (log, _):
            for number, state in enumerate(states):
                assert isinstance(state, dict)
                await create(log, f"run_{number}", metadata=state)
            then = clock.now
            clock.advance(1)
            for number in range(0, len(states), 2):
                await change(log, f"run_{number}", Update(value={"a": number}))
            now = [{"a": n} if n % 2 == 0 else state for n, state in enumerate(states)]
            for some in asked:
                wanted = RunFilter(metadata=tuple(some))
                for known, page in (
                    (now, await log.runs(limit=100, wanted=wanted)),
                    (states, await log.runs_as_of(then, limit=100, wanted=wanted)),
                ):
                    expected = [
                        f"run_{number}"
                        for number, state in enumerate(known)
                        if all(naive(condition, state) for condition in some)
                    ]
                    assert [run.id for run in page.items] == expected[::-1], some

    asyncio.run(check())


# --- all kinds of filters at once, and pages ---

TASKS = ("import", "export", "im%port")
TAGS = ("x", "y", 'q"%', "\x00")
STATUSES = (Status.QUEUED, Status.EXECUTING, Status.COMPLETED)


async def some_family(log: Log, clock: Clock, chance: random.Random, count: int = 40) -> None:
    """Runs of all kinds, some below others, some of which change afterwards."""
    for number in range(count):
        clock.now += chance.choice([0, SECOND])
        parent = f"run_{chance.randrange(number)}" if number and chance.random() < 0.5 else None
        await create(
            log,
            f"run_{number}",
            task=chance.choice(TASKS),
            parent=parent,
            batch=chance.choice([None, None, "batch_1", "batch_2"]),
            tags=tuple(chance.sample(TAGS, chance.randrange(3))),
            status=chance.choice(STATUSES),
            metadata={"n": chance.randrange(4), "s": {"state": chance.choice(["on", "off"])}},
        )
    for _ in range(count):
        clock.now += chance.choice([0, SECOND])
        await some_change(log, chance, count)


async def some_change(log: Log, chance: random.Random, count: int) -> None:
    run_id = f"run_{chance.randrange(count)}"
    if chance.random() < 0.3:
        attempt = (await log.run(run_id)).run.attempt + 1
        if (await log.run(run_id)).run.status == Status.COMPLETED:
            await move(log, run_id, Status.EXECUTING, attempt=attempt)
        else:
            await move(log, run_id, Status.COMPLETED, attempt=attempt)
    else:
        await change(log, run_id, Set(key="n", value=chance.randrange(4)))


def some_filter(chance: random.Random, clock: Clock) -> RunFilter:
    def maybe(odds: float, some: Callable[[], Any], none: Any = ()) -> Any:
        return some() if chance.random() < odds else none

    def span() -> Span:
        since, until = sorted(chance.randrange(START, clock.now + SECOND) for _ in range(2))
        return chance.choice([Span(since), Span(until=until), Span(since, until)])

    return RunFilter(
        statuses=maybe(0.3, lambda: tuple(chance.sample(STATUSES, chance.choice([1, 2])))),
        tasks=maybe(0.3, lambda: tuple(chance.sample(TASKS, chance.choice([1, 2])))),
        tags=maybe(0.3, lambda: tuple(chance.sample(TAGS, chance.choice([1, 2])))),
        parents=maybe(0.15, lambda: tuple(f"run_{chance.randrange(45)}" for _ in range(3))),
        roots=maybe(0.15, lambda: tuple(f"run_{chance.randrange(45)}" for _ in range(3))),
        batches=maybe(0.1, lambda: ("batch_1",)),
        created=maybe(0.2, span, Span()),
        updated=maybe(0.2, span, Span()),
        metadata=maybe(0.4, lambda: (parse_condition("$.s.state", "eq", chance.choice(["on", "off"])),)),
        unknown=maybe(0.03, lambda: ("queue",)),
    )


def takes(wanted: RunFilter, run: Run, reach: Reach | None, runs: dict[str, Run]) -> bool:
    """What a filter says, in other words."""

    def readable(run: Run) -> bool:
        return reach is None or run.task in reach.tasks or any(tag in reach.tags for tag in run.tags)

    def within(span: Span, moment: int) -> bool:
        return (span.since or 0) <= moment <= (span.until or moment)

    return all(
        (
            readable(run),
            not wanted.unknown,
            not wanted.statuses or run.status in wanted.statuses,
            not wanted.tasks or run.task in wanted.tasks,
            not wanted.tags or any(tag in wanted.tags for tag in run.tags),
            not wanted.parents or (run.parent in wanted.parents and readable(runs[str(run.parent)])),
            not wanted.roots or (run.root in wanted.roots and readable(runs[str(run.root)])),
            not wanted.batches or run.batch in wanted.batches,
            within(wanted.created, run.created_at),
            within(wanted.updated, run.updated_at),
            all(naive(condition, run.snapshot.metadata) for condition in wanted.metadata),
        )
    )


@pytest.fixture(params=["small chunks", "large chunks"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "small chunks":
        small = {"CHUNK": 3, "CHUNK_FIRST": 2, "HEADS_MIN": 1, "HEADS_MAX": 2, "COUNTED_MAX": 4, "WINDOW": 5}
        for name, bound in small.items():
            monkeypatch.setattr(finding, name, bound)


async def walk(log: Log, limit: int, start: str | None = None, *, back: bool = False, **asked: Any) -> list[Run]:
    """All runs of a list, page by page, in its order."""
    found: list[Run] = []
    cursor, pages = start, 0
    while pages == 0 or cursor is not None:
        around: dict[str, Any] = {"before" if back else "after": cursor}
        page = await log.runs(limit=limit, **around, **asked)
        assert len(page.items) <= limit
        found = [*page.items, *found] if back else [*found, *page.items]
        cursor = page.previous if back else page.next
        pages += 1
    return found


REACHES = (
    None,
    None,
    Reach(tasks=frozenset({"export"}), tags=frozenset({"x", "\x00"})),
    Reach(tags=frozenset({"y"})),
)


@pytest.mark.parametrize("seed", range(2))
async def test_filters_together_in_every_order_answer_like_a_look_at_every_run(
    log: Log, clock: Clock, chunks: None, seed: int
) -> None:
    chance = random.Random(seed)
    await some_family(log, clock, chance)
    everything = (await log.runs(limit=1_000)).items
    by_id = {run.id: run for run in everything}
    last = {run.id: (await log.history(run.id, limit=1, order="desc")).items[0].position for run in everything}
    shown = 0
    for number in range(30):
        wanted, reach = some_filter(chance, clock), chance.choice(REACHES)
        expected = [run for run in everything if takes(wanted, run, reach, by_id)]
        sort = chance.choice([*Sort])
        if sort.is_by_change:
            expected.sort(key=lambda run: last[run.id], reverse=True)
        if not sort.is_newest_first:
            expected.reverse()
        asked: dict[str, Any] = {"wanted": wanted, "within": reach, "sort": sort}
        assert (await log.runs(limit=1_000, **asked)).items == expected, wanted
        for limit in (1 + number % 3, 7):
            assert await walk(log, limit, **asked) == expected
        if expected and sort in {Sort.CREATED, Sort.NEWEST}:
            back = await walk(log, 2, expected[-1].id, back=True, **asked)
            assert back == expected[:-1]
            first = await log.runs(limit=2, after=expected[0].id, **asked)
            assert first.has_previous is (len(expected) > 1)
        elif len(expected) > 4:
            page = await log.runs(limit=2, **asked)
            page = await log.runs(limit=2, after=page.next, **asked)
            assert (page.items, page.has_previous) == (expected[2:4], True)
            page = await log.runs(limit=5, before=page.previous, **asked)
            assert (page.items, page.has_previous, page.has_next) == (expected[:2], False, True)
        shown += len(expected)
    assert shown > 100


@pytest.mark.parametrize("sort", [*Sort])
@pytest.mark.parametrize("back", [False, True])
async def test_runs_that_change_between_pages_are_shown_once_and_never_twice(
    log: Log, clock: Clock, chunks: None, sort: Sort, back: bool
) -> None:
    chance = random.Random(7)
    await some_family(log, clock, chance)
    everything = (await log.runs(limit=1_000, sort=sort)).items
    first = await log.runs(limit=39, sort=sort)
    cursor = (await log.runs(limit=1, sort=sort, after=first.next)).previous if back else None
    page = await log.runs(limit=3, sort=sort, before=cursor) if back else await log.runs(limit=3, sort=sort)
    shown: list[str] = []
    changed: set[str] = set()
    while True:
        shown += [run.id for run in page.items]
        cursor = page.previous if back else page.next
        if cursor is None:
            break
        for _ in range(2):
            clock.advance(1)
            run_id = f"run_{chance.randrange(40)}"
            changed.add(run_id)
            await change(log, run_id, Set(key="n", value=chance.randrange(4)))
        around: dict[str, Any] = {"before" if back else "after": cursor}
        page = await log.runs(limit=3, sort=sort, **around)
    assert len(shown) == len({*shown})
    ids = {run.id for run in everything[:-1]} if back else {run.id for run in everything}
    assert ids - {*shown} <= (changed if sort.is_by_change else set())


async def test_a_walk_by_change_ends_where_the_log_ended_when_it_began(log: Log, clock: Clock) -> None:
    for number in range(4):
        await create(log, f"run_{number}")
    page = await log.runs(limit=2, sort=Sort.UPDATED)
    assert [run.id for run in page.items] == ["run_0", "run_1"]
    await change(log, "run_0", Set(key="n", value=1))
    await change(log, "run_2", Set(key="n", value=1))
    page = await log.runs(limit=2, sort=Sort.UPDATED, after=page.next)
    assert ([run.id for run in page.items], page.next) == (["run_3"], None)
    newest = await log.runs(limit=4, sort=Sort.CHANGED)
    assert [run.id for run in newest.items] == ["run_2", "run_0", "run_3", "run_1"]


async def test_a_page_that_looked_at_many_runs_in_vain_says_where_to_go_on(
    log: Log, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "LOOKED_AT_MAX", 4)
    for number in range(11):
        await create(log, f"run_{number}", metadata={"n": number})
    wanted = RunFilter(metadata=(parse_condition("n", "lte", "2"),))
    for sort in (Sort.NEWEST, Sort.CHANGED):
        page = await log.runs(limit=5, wanted=wanted, sort=sort)
        assert (page.items, page.has_next, page.has_previous) == ([], True, False)
        assert [run.id for run in await walk(log, 5, wanted=wanted, sort=sort)] == ["run_2", "run_1", "run_0"]
    page = await log.runs(limit=5, wanted=wanted)
    assert page.next == "run_7"


async def test_a_walk_by_change_passes_a_run_with_many_events(
    log: Log, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "COUNTED_MAX", 2)
    for name, bound in {"WINDOW": 10, "PASSED_MAX": 30}.items():
        monkeypatch.setattr(finding, name, bound)
    for number in range(5):
        await create(log, f"run_{number}")
    await change(log, "run_3", *[Set(key="n", value=number) for number in range(100)])
    expected = [f"run_{number}" for number in (3, 4, 2, 1, 0)]
    page = await log.runs(limit=5, sort=Sort.CHANGED)
    assert ([run.id for run in page.items], page.has_next) == (["run_3"], True)
    assert [run.id for run in await walk(log, 2, sort=Sort.CHANGED)] == expected
    assert [run.id for run in await walk(log, 2, sort=Sort.UPDATED)] == expected[::-1]


async def test_a_cursor_of_another_order_or_log_is_refused(log: Log, ledger: Ledger) -> None:
    for number in range(3):
        await create(log, f"run_{number}")
    cursor = (await log.runs(limit=1, sort=Sort.CHANGED)).next
    other = await ledger.log("prod")
    await create(other, "run_1")
    with pytest.raises(BadCursor):
        await other.runs(limit=1, sort=Sort.CHANGED, after=cursor)
    for bad in ("run_1", "", "é", "a" * 300, f"{cursor}=", "Og"):
        with pytest.raises(BadCursor):
            await log.runs(limit=1, sort=Sort.CHANGED, after=bad)
    with pytest.raises(BadCursor):
        await log.runs(limit=1, after=cursor)


async def test_a_parent_that_may_not_be_read_has_no_children_to_show(log: Log) -> None:
    await create(log, "hidden", task="other")
    await create(log, "child", parent="hidden", tags=("mine",))
    reach = Reach(tags=frozenset({"mine"}))
    for wanted in (RunFilter(parents=("hidden",)), RunFilter(roots=("hidden",)), RunFilter(parents=("nobody",))):
        assert await log.runs(limit=5, wanted=wanted, within=reach) == RunsPage([], None, None)
        assert (await log.runs_as_of(START, limit=5, wanted=wanted, within=reach)).items == []
    wanted = RunFilter(parents=("hidden",), roots=("hidden",))
    assert [run.id for run in (await log.runs(limit=5, wanted=wanted)).items] == ["child"]


async def test_filters_as_of_a_moment_are_judged_on_the_runs_of_that_moment(
    log: Log, clock: Clock, chunks: None
) -> None:
    chance = random.Random(3)
    await some_family(log, clock, chance, count=20)
    moments = [START + number * SECOND for number in range((clock.now - START) // SECOND + 1)]
    for at in moments[::4]:
        everything = (await log.runs_as_of(at, limit=1_000)).items
        by_id = {run.id: run for run in everything}
        for _ in range(8):
            wanted, reach = some_filter(chance, clock), chance.choice(REACHES)
            expected = [run for run in everything if takes(wanted, run, reach, by_id)]
            assert (await log.runs_as_of(at, limit=1_000, wanted=wanted, within=reach)).items == expected
            backwards = await log.runs_as_of(at, limit=1_000, wanted=wanted, within=reach, sort=Sort.CREATED)
            assert backwards.items == expected[::-1]
            assert [run.id for run in (await log.runs_as_of(at, limit=1, wanted=wanted, within=reach)).items] == [
                run.id for run in expected[:1]
            ]


async def test_no_statement_is_kept_for_the_values_of_a_filter(log: Log, clock: Clock) -> None:
    await some_family(log, clock, random.Random(1), count=5)
    kept = []
    for number in range(4):
        wanted = RunFilter(tasks=(f"t{number}",), tags=(f"x{number}",), created=Span(number, START + number))
        await log.runs(limit=3, wanted=wanted)
        kept.append(statements.run_keys.cache_info().currsize)
    assert len({*kept[1:]}) == 1


# --- what a condition may say ---


@pytest.mark.parametrize(
    ("operator", "text", "value"),
    [
        ("eq", "5", 5),
        ("eq", "5.0", 5),
        ("eq", '"5"', "5"),
        ("eq", "five", "five"),
        ("eq", "", ""),
        ("eq", "NaN", "NaN"),
        ("eq", "true", True),
        ("eq", "null", None),
        ("eq", " 5 ", 5),
        ("eq", '{"a": [1.0]}', {"a": [1]}),
        ("eq", "{a}", "{a}"),
        ("ne", "[", "["),
        ("in", "a,5,true", ["a", 5, True]),
        ("in", '["a,b",5]', ["a,b", 5]),
        ("in", "5", [5]),
        ("in", '[""]', [""]),
        ("gt", "2026-01-31", "2026-01-31"),
        ("lte", "-1e3", -1000),
        ("exists", "true", True),
        ("exists", "false", False),
    ],
)
def test_a_value_reads_as_json_and_else_as_text(operator: str, text: str, value: Any) -> None:
    condition = parse_condition("a", operator, text)
    assert (condition.path, condition.operator, spelled(condition.value)) == (
        KeyPath(("a",), literal=True),
        operator,
        spelled(value),
    )


@pytest.mark.parametrize(
    ("key", "operator", "text", "words"),
    [
        ("a", "like", "x", "no operator 'like'; there are eq, ne"),
        ("a", "gt", "true", "has no order"),
        ("a", "lt", "null", "has no order"),
        ("a", "gte", "[1]", "has no order"),
        ("a", "exists", "yes", "exists is true or false"),
        ("a", "exists", "1", "exists is true or false"),
        ("a", "in", "", "in takes 1 to 100 values"),
        ("a", "in", "[]", "in takes 1 to 100 values"),
        ("a", "in", ",".join("a" * 101), "this has 101"),
        ("a", "in", "[a]", "no JSON list"),
        ("a", "eq", "9007199254740993", "in double quotes"),
        ("a", "eq", "1e400", "in double quotes"),
        ("a", "eq", "x" * 8_193, "at most 8,192"),
        ("x" * 1_025, "eq", "x", "at most 1,024"),
        ("$.", "eq", "x", "names nothing"),
        ("$.a.*", "eq", "x", "wildcards"),
        ("__proto__", "eq", "x", "forbidden"),
    ],
)
def test_a_bad_condition_says_what_is_wrong(key: str, operator: str, text: str, words: str) -> None:
    with pytest.raises(BadFilter, match=words):
        parse_condition(key, operator, text)
