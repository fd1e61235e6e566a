"""Processes that are killed, and processes that write one database at the same time."""

import asyncio
import json
import random
import signal
from typing import Any

import pytest

from ledger.ledger import Ledger
from ledger.log import Log
from projections.operations import Increment
from tests.api.server import environment
from tests.ledger.support import Database, change, check_chain, create, events, once
from tests.programs import Program

WORKER = """
import asyncio, itertools, sys
from ledger.ledger import Ledger
from ledger.writes import ChangeMetadata, IdempotencyKey
from projections.operations import Increment

ONE = [Increment(key="n", value=1)]

async def main(url, name, at_once, count):
    ledger = await Ledger.open(url)
    log = await ledger.log("dev")
    numbers = iter(range(int(count)))

    async def work():
        for number in numbers:
            key = f"{name}-{number}"
            print("asked", key, flush=True)
            command = ChangeMetadata(run_id="run_1", operations=ONE, parent_operations=ONE * 2)
            answer = await log.change(command, idempotency=IdempotencyKey(key, b"same"))
            print("told", key, answer.snapshot.version, flush=True)

    await asyncio.gather(*(work() for _ in range(int(at_once))))
    await ledger.close()

asyncio.run(main(*sys.argv[1:]))
"""


def worker(database: Database, name: str, at_once: int, count: int) -> Program:
    return Program(database.url, name, str(at_once), str(count), script=WORKER, env=environment())


def read_answers(lines: list[str], asked: list[str], told: dict[str, int]) -> None:
    for line in lines:
        match line.split() if line.endswith("\n") else []:
            case ["asked", key]:
                asked.append(key)
            case ["told", key, version]:
                told[key] = int(version)


async def settle(log: Log, asked: list[str], told: dict[str, int]) -> None:
    """Send again whatever was asked for; what was acknowledged gets the first answer."""
    one = [Increment(key="n", value=1)]
    answers = await asyncio.gather(
        *(change(log, "run_1", *one, parent_operations=one * 2, idempotency=once(key, "same")) for key in asked)
    )
    for key, answer in zip(asked, answers, strict=True):
        if key in told:
            assert (answer.is_replay, answer.snapshot.version) == (True, told[key])
        told[key] = answer.snapshot.version


async def check(log: Log, database: Database, asked: list[str], told: dict[str, int]) -> None:
    count = len(asked)
    assert len(set(asked)) == count
    assert sorted(told.values()) == list(range(2, count + 2))
    assert json.loads((await log.current("run_1")).text) == {"n": count}
    assert json.loads((await log.current("root")).text) == {"n": 2 * count}
    assert [event.version for event in await events(log, "run_1")] == list(range(1, count + 2))
    assert [event.version for event in await events(log, "root")] == list(range(1, 2 * count + 2))
    assert check_chain(database) == 2 + 3 * count


async def family(url: str) -> None:
    ledger = await Ledger.open(url)
    log = await ledger.log("dev")
    await create(log, "root", metadata={"n": 0})
    await create(log, "run_1", parent="root", metadata={"n": 0})
    await ledger.close()


async def test_a_writer_killed_at_any_moment_loses_nothing_it_acknowledged(database: Database) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    await family(database.url)
    asked: list[str] = []
    told: dict[str, int] = {}
    for round_ in range(5 if database.is_postgres else 10):
        process = worker(database, str(round_), chance.choice([1, 3, 20]), 10**6)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(chance.randint(1, 60))]
        process.send_signal(signal.SIGKILL)
        rest, errors = process.rest()
        assert process.returncode == -signal.SIGKILL, errors
        before = len(asked)
        read_answers(lines + rest.splitlines(keepends=True), asked, told)
        assert len(asked) > before
        ledger = await Ledger.open(database.url)
        log = await ledger.log("dev")
        await settle(log, asked[before:], told)
        await check(log, database, asked, told)
        await ledger.close()
    print(len(asked), "increments")


@pytest.mark.parametrize("processes", [2, 3])
async def test_processes_that_write_one_database_at_once_lose_and_repeat_nothing(
    database: Database, processes: int
) -> None:
    await family(database.url)
    workers = [
        worker(database, str(n), at_once, 150) for n, at_once in zip(range(processes), [1, 8, 40], strict=False)
    ]
    asked: list[str] = []
    told: dict[str, int] = {}
    outputs = await asyncio.gather(*(asyncio.to_thread(process.rest, timeout=120) for process in workers))
    for process, (output, errors) in zip(workers, outputs, strict=True):
        assert process.returncode == 0, errors
        read_answers(output.splitlines(keepends=True), asked, told)
    assert len(told) == len(asked) == processes * 150
    ledger = await Ledger.open(database.url)
    log = await ledger.log("dev")
    await check(log, database, asked, dict(told))
    await settle(log, asked, told)
    await check(log, database, asked, told)
    await ledger.close()


async def test_one_killed_while_another_writes_does_not_disturb_it(database: Database) -> None:
    await family(database.url)
    asked: list[str] = []
    told: dict[str, int] = {}
    ledger = await Ledger.open(database.url)
    log = await ledger.log("dev")
    one: Any = [Increment(key="n", value=1)]
    for round_ in range(3):
        process = worker(database, str(round_), 10, 10**6)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(10)]
        for n in range(12):
            key = f"own-{round_}-{n}"
            asked.append(key)
            answer = await change(log, "run_1", *one, parent_operations=one * 2, idempotency=once(key, "same"))
            told[key] = answer.snapshot.version
            if n == 6:
                process.kill()
        rest, _ = process.rest()
        read_answers(lines + rest.splitlines(keepends=True), asked, told)
    await settle(log, asked, told)
    await check(log, database, asked, told)
    await ledger.close()
