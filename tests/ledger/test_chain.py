"""The hash chain, held against a second implementation and published vectors."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from ledger.chain import GENESIS, commitment, event_hash
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.writes import Caller
from projections.errors import Refusal
from projections.lifecycle import Status
from projections.operations import Set
from tests.ledger.chain_oracle import expected_commitment, expected_hash
from tests.ledger.contract.test_time import some_operation
from tests.ledger.support import Clock, Database, change, check_chain, create, move

VECTORS = [json.loads(line) for line in (Path(__file__).parent / "chain-vectors.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_the_published_vectors_hold_for_both_implementations(vector: dict[str, Any]) -> None:
    salt, previous = bytes.fromhex(vector["salt"]), bytes.fromhex(vector["previous"])
    found = commitment(salt, vector["data"])
    assert found.hex() == expected_commitment(salt, vector["data"]).hex() == vector["commitment"]
    fields = ("version", "position", "type", "actor", "attempt", "occurred_at", "recorded_at", "headers")
    values: dict[str, Any] = {field: vector[field] for field in fields}
    values["event_type"] = values.pop("type")
    hashed = event_hash(previous, vector["environment"], vector["run_id"], data_commitment=found, **values)
    assert hashed.hex() == expected_hash(previous, vector, found).hex() == vector["hash"]


def test_the_vectors_cover_what_may_go_wrong() -> None:
    assert len(VECTORS) >= 6
    assert VECTORS[0]["previous"] == GENESIS.hex() == "00" * 32
    assert VECTORS[1]["previous"] == VECTORS[0]["hash"]
    assert {vector["occurred_at"] is None for vector in VECTORS} == {True, False}
    assert {vector["headers"] == "{}" for vector in VECTORS} == {True, False}
    assert any(not (vector["data"] + vector["actor"]).isascii() for vector in VECTORS)
    assert len({vector["hash"] for vector in VECTORS}) == len(VECTORS)


@pytest.mark.parametrize(
    "field",
    [
        "previous",
        "environment",
        "run_id",
        "version",
        "position",
        "type",
        "actor",
        "attempt",
        "occurred_at",
        "recorded_at",
        "headers",
        "commitment",
    ],
)
@pytest.mark.parametrize("vector", VECTORS[:3], ids=[vector["name"] for vector in VECTORS[:3]])
def test_every_field_is_in_the_hash(vector: dict[str, Any], field: str) -> None:
    def hashed(fields: dict[str, Any]) -> bytes:
        arguments = {
            name: value for name, value in fields.items() if name not in {"name", "salt", "data", "hash", "type"}
        }
        arguments["data_commitment"] = bytes.fromhex(arguments.pop("commitment"))
        arguments["previous"] = bytes.fromhex(arguments["previous"])
        return event_hash(event_type=fields["type"], **arguments)

    value = vector[field]
    if field in {"previous", "commitment"}:
        other = value[:-1] + ("0" if value[-1] != "0" else "1")
    elif value is None or isinstance(value, int):
        other = (value or 0) + 1
    else:
        other = value + "x"
    assert hashed(vector).hex() == vector["hash"]
    assert hashed({**vector, field: other}).hex() != vector["hash"]


def test_text_moved_from_one_field_to_the_next_changes_the_hash() -> None:
    def hashed(environment: str, run_id: str) -> bytes:
        return event_hash(GENESIS, environment, run_id, 1, 1, "t", "a", 1, None, 0, "{}", bytes(32))

    assert hashed("ab", "c") != hashed("a", "bc")


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_event_of_a_random_history_is_chained_as_described(
    ledger: Ledger, clock: Clock, database: Database, seed: int
) -> None:
    chance = random.Random(seed)
    logs = [await ledger.log("dev"), await ledger.log("prod")]
    ids = [f"run.{n}@=+:" for n in range(6)]
    for log in logs:
        for n, run_id in enumerate(ids):
            await create(log, run_id, parent=chance.choice([None, *ids[:n]]), metadata={"list": [1], "ü": "𝄞"})

    async def act() -> None:
        log, run_id = chance.choice(logs), chance.choice(ids)
        caller = Caller(actor=chance.choice(["ci", "ж", ""]), on_behalf_of=chance.choice([None, "ann", "é"]))
        lists = [[some_operation(chance) for _ in range(chance.choice([0, 1, 2]))] for _ in range(3)]
        told = Set.model_validate({"key": "when", "value": 1, "occurredAt": "2020-02-29T12:00:00.5+01:00"})
        if chance.random() < 0.2:
            await move(log, run_id, chance.choice(list(Status)), attempt=chance.randint(1, 4), output="ü")
            return
        own, parent, root = lists
        attempt = chance.choice([None, 7])
        up: dict[str, Any] = {"parent_operations": parent, "root_operations": root}
        await change(log, run_id, told, *own, caller=caller, attempt=attempt, **up)

    for _ in range(25):
        clock.now += chance.randint(-5, 10)
        answers = await asyncio.gather(*(act() for _ in range(chance.choice([1, 5]))), return_exceptions=True)
        unexpected = [
            a for a in answers if isinstance(a, BaseException) and not isinstance(a, Refusal | LedgerError)
        ]
        assert unexpected == []
    assert check_chain(database) > 60


async def test_every_event_has_a_salt_of_its_own(ledger: Ledger, database: Database) -> None:
    log = await ledger.log("dev")
    await create(log, "run_1")
    await change(log, "run_1", *(Set(key="a", value=1) for _ in range(200)))
    await asyncio.gather(*(change(log, "run_1", Set(key="a", value=1)) for _ in range(200)))
    assert database.value("SELECT count(DISTINCT salt) FROM events") == 401
    assert database.value("SELECT count(*) FROM events WHERE salt = ? OR commitment IS NOT NULL", [bytes(16)]) == 0
