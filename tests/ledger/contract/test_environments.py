"""Environments know nothing of each other."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from ledger.errors import BadCursor, IdempotencyConflict, RunNotFound, UnknownParent
from ledger.ledger import Ledger
from ledger.log import Log
from projections.lifecycle import Status
from projections.operations import Increment, Set
from projections.paths import literal
from tests.ledger.support import Clock, Database, change, create, events, fields_of, move, once


async def story(log: Log, seed: int) -> list[Any]:
    """Some writes and reads under the same names, as an environment sees them."""
    chance = random.Random(seed)
    seen: list[Any] = [await create(log, "root", metadata={"seed": seed}), await create(log, "run", parent="root")]
    for step in range(12):
        one = [Increment(key="n", value=chance.randint(1, 9))]
        seen.append(
            await change(log, "run", *one, root_operations=one, idempotency=once(f"key{step % 8}", f"{step % 8}"))
        )
        seen.append(await create(log, f"run_{step % 5}", idempotency_key="trigger", idempotency_ttl_s=60))
    try:
        await change(log, "run", Set(key="a", value="x" * (5_000 + seed)))
    except Exception as refusal:
        seen.append(fields_of(refusal))  # type: ignore[arg-type]
    seen.append(await move(log, "run", Status.EXECUTING))
    for run_id in ("root", "run", "run_0"):
        history = await events(log, run_id)
        seen += [[(e.position, e.version, e.data, e.headers, e.recorded_at) for e in history]]
        seen += [(await log.run(run_id)), await log.current(run_id), await log.metadata(run_id, version=1)]
        seen += [await log.metadata(run_id, at=10**17), [r.number for r in await log.refusals(run_id)]]
        seen += [[e.version for e in await events(log, run_id, literal("n"))]]
    seen += [[run.id for run in (await log.runs(limit=9)).items]]
    return seen


async def test_the_same_names_in_many_environments_do_not_meet(
    ledger: Ledger, open_ledger: Callable[..., Any], database: Database, tmp_path_factory: pytest.TempPathFactory
) -> None:
    names = ["dev", "prod", "a", "a" * 32, "x-1", "dev-"]
    logs = [await ledger.log(name) for name in names]
    together = await asyncio.gather(*(story(log, seed) for seed, log in enumerate(logs)))
    for seed, (name, seen) in enumerate(zip(names, together, strict=True)):
        alone = await Ledger.open(
            f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('alone')}/ledger.db", clock=Clock()
        )
        assert seen == await story(await alone.log(name), seed)
        await alone.close()


async def test_what_exists_elsewhere_does_not_exist_here(ledger: Ledger, database: Database) -> None:
    dev, prod = await ledger.log("dev"), await ledger.log("prod")
    await create(dev, "run_1")
    await change(dev, "run_1", Set(key="a", value=1), idempotency=once("key"))
    before = database.counts()
    for read in (prod.metadata, prod.run, prod.refusals):
        with pytest.raises(RunNotFound):
            await read("run_1")
    with pytest.raises(RunNotFound):
        await prod.current("run_1")
    with pytest.raises(RunNotFound):
        await prod.history("run_1", limit=1)
    with pytest.raises(RunNotFound):
        await change(prod, "run_1", Set(key="a", value=1))
    with pytest.raises(RunNotFound):
        await move(prod, "run_1", Status.EXECUTING)
    with pytest.raises(UnknownParent):
        await create(prod, "run_2", parent="run_1")
    with pytest.raises(BadCursor):
        await prod.runs(limit=1, after="run_1")
    assert database.counts() == before


async def test_idempotency_keys_expire_and_conflict_within_their_environment(
    ledger: Ledger, clock: Clock, database: Database
) -> None:
    dev, prod = await ledger.log("dev"), await ledger.log("prod")
    for log in (dev, prod):
        await create(log, "run_1")
        assert not (await change(log, "run_1", idempotency=once("key", log.environment))).is_replay
    with pytest.raises(IdempotencyConflict):
        await change(dev, "run_1", idempotency=once("key", "prod"))
    clock.advance(7 * 86_400)
    await change(prod, "run_1", idempotency=once("other"))
    assert database.rows("SELECT environment_id, key FROM idempotency ORDER BY 1, 2") == [
        {"environment_id": 1, "key": "key"},
        {"environment_id": 2, "key": "other"},
    ]


async def test_positions_and_times_are_counted_for_each_environment(ledger: Ledger, clock: Clock) -> None:
    dev, prod = await ledger.log("dev"), await ledger.log("prod")
    await create(dev, "run_1")
    await change(dev, "run_1", Set(key="a", value=1))
    clock.advance(-100)
    await create(prod, "run_1")
    assert [(event.position, event.recorded_at) for event in await events(prod, "run_1")] == [(1, clock.now)]


@pytest.mark.parametrize(
    "name", ["", "Dev", "1a", "-a", "a" * 33, "a_b", "a b", "é", "a\0", "dev\n", "a.b", "../a"]
)
async def test_a_name_outside_the_alphabet_is_refused(ledger: Ledger, database: Database, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name an environment"):
        await ledger.log(name)
    assert database.rows("SELECT * FROM environments") == []


async def test_one_environment_named_by_many_at_once_is_one(
    open_ledger: Callable[..., Any], database: Database
) -> None:
    ledgers = [await open_ledger(), await open_ledger()]
    logs = await asyncio.gather(*(ledger.log("dev") for ledger in ledgers * 10))
    assert [log.environment for log in logs] == ["dev"] * 20
    assert database.value("SELECT count(*) FROM environments") == database.value("SELECT count(*) FROM logs") == 1
    await asyncio.gather(*(create(log, f"run_{n}") for n, log in enumerate(logs)))
    assert database.rows("SELECT count(*) AS n, max(position) AS last FROM events") == [{"n": 20, "last": 20}]
