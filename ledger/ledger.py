"""
The ledger: open a database, then work on one environment's log.

    ledger = await Ledger.open("sqlite+aiosqlite:///run-ledger.db")
    log = await ledger.log("dev")
    await log.create(CreateRun(run_id="run_1", task="import", metadata={"rows": 0}))
    await log.change(ChangeMetadata(run_id="run_1", operations=[Increment(key="rows", value=10)]))
    (await log.current("run_1")).text
"""

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ledger import statements
from ledger.audits import Audits
from ledger.errors import RunNotFound
from ledger.group import Transaction
from ledger.keyring import Keyring
from ledger.log import Log
from ledger.rebuild import Discrepancy, repair
from ledger.store import Store, open_store
from ledger.subscriptions import Subscriptions
from ledger.verify import Claim, grow, origin
from ledger.writer import Writer
from ledger.writes import (
    Environment,
    Rules,
)
from projections.size import METADATA_BYTES_DEFAULT, METADATA_BYTES_MAX
from projections.times import Microseconds

if TYPE_CHECKING:
    from ledger.checkpoint import SigningKey

LATE_WRITE_S_DEFAULT = 3_600  # seconds; the reference server's window for the last flush of a run

_ENVIRONMENT = re.compile(r"[a-z][a-z0-9-]{0,31}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """
    A checkpoint that was made now.

    Attributes:
        claim: What it says.
        note: The signed note.
        public_key: The key to verify it with, under the name that the note gives it.
    """

    claim: Claim
    note: str
    public_key: str


class Ledger:
    """
    An open database.

    Use `open` to make one, and `close` when done: it carries out what is waiting.

    Attributes:
        rules: Limits and windows.
        keys: The API keys of all environments.
    """

    def __init__(
        self, store: Store, writer: Writer, rules: Rules, subscriptions: Subscriptions, keys: Keyring
    ) -> None:
        self._store = store
        self._writer = writer
        self._subscriptions = subscriptions
        self._audits = Audits()
        self._logs: dict[str, Log] = {}
        self.rules = rules
        self.keys = keys

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        metadata_bytes_max: int = METADATA_BYTES_DEFAULT,
        late_write_s: int = LATE_WRITE_S_DEFAULT,
        clock: Callable[[], Microseconds] | None = None,
    ) -> "Ledger":
        """
        Open a database. A SQLite file is made if it is not there, and its tables are brought up to date.

        Args:
            url: Such as `sqlite+aiosqlite:///run-ledger.db` or `postgresql://user@host/run_ledger`.
            metadata_bytes_max: Limit of a run's metadata in bytes of compact JSON, at most 262,144.
            late_write_s: Seconds after a run's end during which its metadata may still be changed.
            clock: Microseconds since 1970-01-01 UTC; by default the clock of the database server, or of the system
                where there is none.

        Raises:
            UnusableDatabase: The URL or what it names cannot be used.
            ValueError: A limit out of its range.
        """
        if not 2 <= metadata_bytes_max <= METADATA_BYTES_MAX:
            raise ValueError(f"metadata_bytes_max must lie within 2 and {METADATA_BYTES_MAX:,} bytes")
        if late_write_s < 0:
            raise ValueError("late_write_s must be 0 seconds or more")
        rules = Rules(metadata_bytes_max, late_write_s)
        store = await open_store(url)
        subscriptions = Subscriptions(store)
        writer = Writer(store, rules, clock, subscriptions.publish)
        return cls(store, writer, rules, subscriptions, Keyring(store, clock))

    async def close(self) -> None:
        """Carry out the writes that are waiting, end the subscriptions, then close every connection."""
        await self._writer.close()
        await self._subscriptions.close()
        await self.keys.close()
        await self._store.close()

    async def log(self, environment: str) -> Log:
        """
        The log of an environment, which is made when it is first named.

        Args:
            environment: A name such as `dev`: at most 32 lower-case letters, digits and hyphens, a letter first.

        Raises:
            ValueError: No name for an environment.
            Unavailable: It is new, and nothing can be written; try again.
        """
        if not _ENVIRONMENT.fullmatch(environment):
            raise ValueError(
                f"{environment!r} cannot name an environment; "
                "use at most 32 lower-case letters, digits and hyphens, a letter first"
            )
        known = self._logs.get(environment)
        if known is not None:
            return known
        row = await self._store.read(lambda reader: reader.row(statements.ENVIRONMENT, name=environment))
        if row is None:
            environment_id = await self._store.write(partial(_add_environment, name=environment))
        else:
            environment_id = row["environment_id"]
        return self.log_of(Environment(environment_id, environment))

    def log_of(self, environment: Environment) -> Log:
        """The log of an environment that exists."""
        known = self._logs.get(environment.name)
        if known is None:
            known = self._logs[environment.name] = Log(
                self._store, self._writer, environment, self.rules, self._subscriptions, self._audits
            )
        return known

    async def environments(self) -> list[Environment]:
        """All environments, in the order in which they were first named."""
        rows = await self._store.read(lambda reader: reader.rows(statements.ENVIRONMENTS))
        return [Environment(row["environment_id"], row["name"]) for row in rows]

    async def repair(self, difference: Discrepancy) -> None:
        """
        Put the head and the snapshots of a run right, folded from its events within one write transaction.

        Raises:
            Unsound: Its events do not verify, or some are gone; nothing was changed.
            RunNotFound: There is no such run any more.
            Unavailable: Nothing was written; try again.
        """
        environment = (await self.log(difference.environment)).owner.id
        where = difference.environment, difference.run_id
        await self._store.write(lambda transaction: repair(transaction, environment, *where))
        self._writer.forget_heads()

    async def checkpoint(self, key: "SigningKey") -> list[Checkpoint]:
        """
        Sign the size and Merkle root of every environment's log.

        What was read for the last checkpoint is not read again: the tree goes on from there.

        Raises:
            Unsound: A log is not what its last checkpoint was made of.
            Unavailable: Nothing was written; try again.
        """
        from ledger.checkpoint import verifier_key  # noqa: PLC0415 - Loads cryptography, which few need.

        grown = await self._store.inspect(
            lambda view: [(log, *grow(view, log)) for log in view.rows(statements.LOGS, {})]
        )
        made = []
        for log, tree, earlier in grown:
            claim = Claim(log["name"], log["epoch"], tree.size, tree.root())
            note = key.sign(claim)
            if earlier != note:
                row = {
                    "environment_id": log["environment_id"],
                    "size": tree.size,
                    "root": claim.root,
                    "compact_range": tree.dump(),
                    "note": note,
                    "created_at": time.time_ns() // 1000,
                }
                await self._store.write(partial(_keep_checkpoint, row=row))
            made.append(Checkpoint(claim, note, verifier_key(origin(claim.environment, claim.epoch), key.public)))
        return made

    async def existing_log(self, environment: str, run_id: str) -> Log:
        """
        The log of an environment, which is not made for a run that cannot be in it.

        Raises:
            RunNotFound: There is no such environment.
            ValueError: No name for an environment.
        """
        row = await self._store.read(lambda reader: reader.row(statements.ENVIRONMENT, name=environment))
        if row is None:
            raise RunNotFound(run_id)
        return await self.log(environment)


def _keep_checkpoint(transaction: Transaction, row: dict[str, Any]) -> None:
    which = {"environment": row["environment_id"], "events": row["size"]}
    transaction.send(statements.FORGET_CHECKPOINT, [which])  # Of another key or epoch.
    transaction.send(statements.ADD_CHECKPOINT, [row])


def _add_environment(transaction: Transaction, name: str) -> int:
    transaction.send(statements.ADD_ENVIRONMENT, [{"name": name}])
    environment_id = int(transaction.rows(statements.ENVIRONMENT, {"name": name})[0]["environment_id"])
    log = {
        "environment_id": environment_id,
        "last_position": 0,
        "last_run_key": 0,
        "last_recorded_at": 0,
        "epoch": secrets.token_hex(8),
    }
    transaction.send(statements.ADD_LOG, [log])
    return environment_id
