"""A second implementation of the chain, written from the text at the top of `ledger/chain.py` alone."""

import hashlib
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any


def expected_commitment(salt: bytes, data: str) -> bytes:
    digest = hashlib.new("sha256")
    digest.update(salt)
    digest.update(data.encode("utf-8"))
    return digest.digest()


def expected_hash(previous: bytes, event: Mapping[str, Any], commitment: bytes) -> bytes:
    digest = hashlib.new("sha256")
    digest.update("run-ledger/event/1".encode("ascii") + b"\x00")

    def field(content: bytes) -> None:
        digest.update(len(content).to_bytes(4, "big"))
        digest.update(content)

    field(previous)
    field(event["environment"].encode("utf-8"))
    field(event["run_id"].encode("utf-8"))
    field(b"%d" % event["version"])
    field(b"%d" % event["position"])
    field(event["type"].encode("utf-8"))
    field(event["actor"].encode("utf-8"))
    field(b"%d" % event["attempt"])
    field(b"" if event["occurred_at"] is None else b"%d" % event["occurred_at"])
    field(b"%d" % event["recorded_at"])
    field(event["headers"].encode("utf-8"))
    field(commitment)
    return digest.digest()


def check_file(path: Path) -> int:
    """
    Hold every event of a database file against the chain, and every head and log against the events.

    Returns:
        How many events there are.
    """
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        assert [tuple(row) for row in connection.execute("PRAGMA integrity_check")] == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        return check_rows(lambda statement: [dict(row) for row in connection.execute(statement)])


def check_rows(ask: Callable[[str], list[dict[str, Any]]]) -> int:
    """The same of any database that can be asked."""
    rows = ask(
        """
        SELECT events.*, environments.name AS environment, runs.run_id
        FROM events JOIN environments USING (environment_id) JOIN runs USING (environment_id, run_key)
        ORDER BY environment_id, position
        """
    )
    heads = ask("SELECT environment_id, run_key, version, hash, updated_at FROM runs")
    logs = ask("SELECT environment_id, last_position, last_recorded_at FROM logs")
    in_all = ask("SELECT count(*) AS count FROM events")[0]["count"]
    assert in_all == len(rows)
    last: dict[tuple[int, int], tuple[int, bytes, int]] = {}
    positions: dict[int, int] = {}
    recorded: dict[int, int] = {}
    for row in rows:
        environment, run = row["environment_id"], (row["environment_id"], row["run_key"])
        version, previous, _ = last.get(run, (0, bytes(32), 0))
        assert row["version"] == version + 1, (
            f"run {row['run_id']} goes from version {version} to {row['version']}"
        )
        assert row["position"] == positions.get(environment, 0) + 1, f"a hole before position {row['position']}"
        assert row["recorded_at"] >= recorded.get(environment, 0), f"time goes back at position {row['position']}"
        commitment = row["commitment"] or expected_commitment(row["salt"], row["data"])
        assert row["hash"] == expected_hash(previous, row, commitment), f"the chain breaks at {tuple(row)}"
        last[run] = row["version"], row["hash"], row["recorded_at"]
        positions[environment] = row["position"]
        recorded[environment] = row["recorded_at"]
    assert {(head["environment_id"], head["run_key"]): tuple(head.values())[2:] for head in heads} == last
    assert {log["environment_id"]: log["last_position"] for log in logs} == {
        log["environment_id"]: positions.get(log["environment_id"], 0) for log in logs
    }
    assert {log["environment_id"]: log["last_recorded_at"] for log in logs} == {
        log["environment_id"]: recorded.get(log["environment_id"], 0) for log in logs
    }
    return len(rows)
