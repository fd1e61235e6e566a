"""How much is stored, and how much is read to travel in time."""

import random
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

import pytest

from ledger import reads
from ledger.group import EVENT_WEIGHT
from ledger.log import Log
from projections.lifecycle import Status
from projections.operations import Increment, Operation, Set, Update
from projections.size import METADATA_BYTES_MAX
from tests.ledger.support import Database, change, create, move

FLOOR = 4_096

WORKLOADS: dict[str, Callable[[int], list[Operation]]] = {
    "small steps in small metadata": lambda n: [Increment(key="n", value=1)],
    "small steps in large metadata": lambda n: (
        [Set(key="big", value="x" * 60_000)] if n == 0 else [Set(key="n", value=n)]
    ),
    "large steps": lambda n: [Update(value={"a": str(n) * 9_000})],
    "many operations a request": lambda n: [Increment(key=f"n{i}", value=1) for i in range(40)],
    "growing metadata": lambda n: [Set(key=f"k{n}", value="x" * 100)],
}


@pytest.mark.parametrize("name", WORKLOADS)
async def test_storage_stays_within_a_constant_factor_and_time_travel_reads_few_events(
    open_ledger: Callable[..., Any], database: Database, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    log: Log = await (await open_ledger(metadata_bytes_max=METADATA_BYTES_MAX)).log("dev")
    await create(log, "run_1")
    snapshots = [await log.metadata("run_1")]
    for n in range(200):
        snapshots.append((await change(log, "run_1", *WORKLOADS[name](n))).snapshot)
    weight = f"{database.octets('data')} + 100"
    assert EVENT_WEIGHT == 100
    stored = database.value(f"SELECT sum({weight}) FROM events")
    kept = database.rows(f"SELECT version, {database.octets('metadata')} AS bytes FROM snapshots ORDER BY version")
    assert sum(row["bytes"] for row in kept) <= stored

    read: list[int] = []
    original = reads.events_after

    async def counted(*arguments: Any) -> Any:
        found = await original(*arguments)
        read.append(sum(len(event.data.encode()) + EVENT_WEIGHT for event in found))
        return found

    monkeypatch.setattr(reads, "events_after", counted)
    weights = database.rows(f"SELECT {weight} AS bytes FROM events ORDER BY version")
    so_far = [*accumulate(row["bytes"] for row in weights)]
    sums = [so_far[snapshot.version - 1] for snapshot in snapshots]
    one_request = max(after - before for before, after in pairwise(sums))
    for snapshot in random.Random(1).sample(snapshots, 30):
        read.clear()
        assert await log.metadata("run_1", version=snapshot.version) == snapshot
        nearest = max((row["bytes"] for row in kept if row["version"] <= snapshot.version), default=0)
        assert sum(read) <= max(snapshot.size_bytes, nearest, FLOOR) + one_request


async def test_a_short_history_keeps_no_snapshot(log: Log, database: Database) -> None:
    await create(log, "run_1")
    while database.value("SELECT unsnapped_bytes FROM runs") < FLOOR - 200:
        await change(log, "run_1", Increment(key="n", value=1))
    assert database.counts()["snapshots"] == 0
    for _ in range(3):
        await change(log, "run_1", Increment(key="n", value=1))
    assert database.counts()["snapshots"] == 1


async def test_a_snapshot_is_kept_at_the_end_of_a_request_only(log: Log, database: Database) -> None:
    await create(log, "root")
    await create(log, "run", parent="root")
    many = [Increment(key="n", value=1) for _ in range(100)]
    await change(log, "run", *many, parent_operations=many, root_operations=many)
    rows = database.rows(
        """
        SELECT run_id, snapshots.version, snapshots.metadata
        FROM snapshots JOIN runs USING (environment_id, run_key) ORDER BY run_key
        """
    )
    assert rows == [
        {"run_id": "root", "version": 201, "metadata": '{"n":200}'},
        {"run_id": "run", "version": 101, "metadata": '{"n":100}'},
    ]


async def test_payload_output_and_error_are_not_in_the_head(log: Log, database: Database) -> None:
    await create(log, "run_1", payload="PAYLOAD" * 1_000)
    await move(log, "run_1", Status.FAILED, output="OUTPUT", error={"message": "ERROR"})
    head = str(database.rows("SELECT * FROM runs"))
    assert not [word for word in ("PAYLOAD", "OUTPUT", "ERROR") if word in head]
