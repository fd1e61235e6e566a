"""The progress of many runs: as the audit of each says it, however it was folded, and as a filter."""

import random
from typing import Any

import pytest

from ledger import audits, reads
from ledger.audits import Audits, RunAudit
from ledger.feed import Selection
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.subscriptions import Subscription
from ledger.writes import Caller
from projections.filters import RunFilter, parse_condition
from projections.lifecycle import Status
from projections.operations import Set
from projections.paths import parse_key
from projections.progress import audit_progress
from tests.ledger.support import SECOND, Clock, change, create, move


async def some_progress(log: Log, clock: Clock, count: int = 12) -> None:
    """Runs of which some stall, some go backwards, some do both, and some have no progress at all."""
    for number in range(count):
        await create(log, f"run_{number}", status=Status.EXECUTING)
    for step in range(1, 7):
        clock.advance(10)
        for number in range(count):
            fraction = 0.05 * step - (0.12 if number % 3 == 1 and step == 4 else 0)
            if number % 4 == 2 and step > 4:
                continue
            key = "other" if number % 6 == 5 else "progress"
            await change(log, f"run_{number}", Set(key=key, value="x" if key == "other" else fraction))
    clock.advance(45)
    for number in range(0, count, 2):
        if number % 4 != 2:
            await change(log, f"run_{number}", Set(key="progress", value=0.4), caller=Caller(actor="ann"))
    await move(log, "run_6", Status.FAILED)
    clock.advance(15)


async def check(log: Log, ids: list[str]) -> dict[str, RunAudit]:
    """What is said of the runs at once, held against the audit of each."""
    found: dict[str, RunAudit] = {}
    for run_id, one in (await log.audits(ids)).items():
        assert one is not None
        events = (await log.history(run_id, limit=10_000)).items
        whole, newest = audit_progress(events, now=log.now()), events[-1]
        assert await log.progress(run_id) == whole  # Which goes on from what was folded before, too.
        assert one.is_stalled is (whole.condition == "stalled")
        assert one.outlook.regressions == whole.counts.regressions
        assert one.outlook.key == whole.key
        assert one.outlook.fraction == (whole.current and whole.current.fraction)
        last = one.last
        assert (last.version, last.type, last.actor, last.recorded_at) == (
            newest.version,
            newest.type,
            newest.actor,
            newest.recorded_at,
        )
        assert last.key == getattr(newest.body, "key", None)
        found[run_id] = one
    assert list(found) == ids or {*found} == {*ids}
    return found


IDS = [f"run_{number}" for number in range(12)]


async def test_what_is_said_of_many_runs_is_what_the_audit_of_each_says(
    log: Log, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audits, "CHUNK", 2)
    await some_progress(log, clock)
    found = await check(log, IDS)
    assert {run_id for run_id, one in found.items() if one.is_stalled} >= {"run_2", "run_10"}
    assert {run_id for run_id, one in found.items() if one.outlook.has_regressed} == {
        f"run_{number}" for number in range(12) if number % 3 == 1
    }
    chance = random.Random(2)
    for _ in range(30):
        clock.advance(chance.choice([1, 20, 300]))
        run_id = chance.choice(IDS[:6])
        await change(log, run_id, Set(key="progress", value=chance.random()))
        if chance.random() < 0.3:
            await check(log, chance.sample(IDS, 4))
    await check(log, IDS)


async def test_an_erasure_is_not_forgotten_by_what_was_folded_before(log: Log, clock: Clock) -> None:
    await create(log, "run_1", metadata={"progress": 0.5, "n": 1, "total": 10})
    await change(log, "run_1", Set(key="progress", value=0.2))
    assert (await check(log, ["run_1"]))["run_1"].outlook.regressions == 1
    await log.erase("run_1", parse_key("progress"), "asked")
    found = await check(log, ["run_1"])
    assert (found["run_1"].outlook.key, found["run_1"].outlook.regressions) == ("n", 0)


async def test_runs_that_do_not_exist_are_left_out(log: Log) -> None:
    await create(log, "run_1")
    assert [*(await log.audits(["nobody", "run_1", "run_1"]))] == ["run_1"]
    assert await log.audits([]) == {}


async def test_what_is_folded_is_kept_and_only_goes_on(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    await create(log, "run_1")
    await change(log, "run_1", *[Set(key="progress", value=number) for number in range(50)])
    await log.audits(["run_1"])
    await change(log, "run_1", Set(key="progress", value=50))
    seen: list[int] = []
    original = reads.events_after

    async def counted(*asked: Any) -> Any:
        events = await original(*asked)
        seen.extend(event.version for event in events)
        return events

    monkeypatch.setattr(reads, "events_after", counted)
    for _ in range(3):
        await log.audits(["run_1"])
    assert seen == [52]


async def test_no_more_is_folded_for_a_request_than_is_allowed(
    log: Log, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await some_progress(log, clock)
    monkeypatch.setattr(audits, "EVENTS_MAX", 10)
    monkeypatch.setattr(audits.Allowance.__init__, "__defaults__", (10,))
    first = await log.audits(IDS)
    pending = [run_id for run_id, one in first.items() if one is None]
    assert 8 <= len(pending) < 12
    for _ in range(12):
        found = await log.audits(IDS)
    assert None not in found.values()
    assert found == await check(log, IDS)


@pytest.mark.parametrize("allowed", [1, 15, 10_000])
async def test_verdicts_are_filters(
    log: Log, ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    await some_progress(log, clock)
    monkeypatch.setattr(audits.Allowance.__init__, "__defaults__", (allowed,))
    verdicts = await Everything.of(log)
    for stalled in (None, True, False):
        for regressed in (None, True, False):
            expected = [
                run_id
                for run_id in reversed(IDS)
                if stalled in {None, verdicts.stalled[run_id]} and regressed in {None, verdicts.regressed[run_id]}
            ]
            wanted = RunFilter(stalled=stalled, regressed=regressed)
            log._audits = Audits()
            found: list[str] = []
            cursor, pages = None, 0
            while pages == 0 or cursor is not None:
                page = await log.runs(limit=5, wanted=wanted, after=cursor)
                found += [run.id for run in page.items]
                cursor, pages = page.next, pages + 1
            assert found == expected
    assert any(verdicts.stalled.values())
    assert any(verdicts.regressed.values())


class Everything:
    """The verdicts of the audit itself."""

    def __init__(self) -> None:
        self.stalled: dict[str, bool] = {}
        self.regressed: dict[str, bool] = {}

    @classmethod
    async def of(cls, log: Log) -> "Everything":
        found = cls()
        for run_id in IDS:
            audit = await log.progress(run_id)
            found.stalled[run_id] = audit.condition == "stalled"
            found.regressed[run_id] = audit.counts.regressions > 0
        return found


async def test_the_folds_stay_within_their_bound(log: Log, clock: Clock) -> None:
    await some_progress(log, clock)
    log._audits = Audits(bytes_max=3 * audits.FOLD_BYTES)
    await check(log, IDS)
    kept = log._audits._kept
    assert 1 <= len(kept) <= 3
    assert log._audits._bytes == sum(one.weight for one in kept.values()) <= 3 * audits.FOLD_BYTES
    assert log._audits._bytes > 0
    assert clock.now % SECOND == 0


async def test_a_subscription_is_handed_the_events_of_runs_that_are_wanted_when_they_are_read(
    log: Log, clock: Clock
) -> None:
    await create(log, "run_1", metadata={"state": "off"})
    await create(log, "run_2", metadata={"state": "on"})
    on = Selection(runs=RunFilter(metadata=(parse_condition("state", "eq", "on"),)))
    back = Selection(runs=RunFilter(regressed=True))
    async with (
        await log.subscribe(selection=on, from_start=True) as started,
        await log.subscribe(selection=on) as followed,
        await log.subscribe(selection=back) as fallen,
    ):
        assert await places_of(started) == [("run_2", 1)]
        await change(log, "run_1", Set(key="progress", value=0.5))
        await change(log, "run_2", Set(key="progress", value=0.5))
        assert await places_of(followed) == [("run_2", 2)]
        await change(log, "run_1", Set(key="state", value="on"))
        assert await places_of(started) == [("run_1", 2), ("run_2", 2), ("run_1", 3)]
        assert await places_of(followed) == [("run_1", 3)]
        await change(log, "run_2", Set(key="progress", value=0.1))
        assert ("run_2", 3) in await places_of(fallen)
        await change(log, "run_1", Set(key="state", value="off"))
        assert await places_of(followed) == [("run_2", 3)]


async def places_of(subscription: Subscription) -> list[tuple[str, int]]:
    """Run and version of all that there is for a subscription now."""
    found: list[tuple[str, int]] = []
    while not found or not subscription.is_caught_up:
        found += [(entry.event.run_id, entry.event.version) for entry in await subscription.next(20)]
    return found
