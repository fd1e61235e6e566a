"""
What could not be delivered, kept on disk until it can be.

A spool is one SQLite file for the processes of one process group, in a folder that all processes of a user share.
Whoever holds its lock delivers what is in it, in the order in which it came; the lock goes with the process that
holds it, so what a dead process left is delivered by any later one. A file that holds nothing any more is removed.

    spool-4242.db       the requests
    spool-4242.lock     locked by the process that delivers them

Adding is durable before it returns: a rollback journal with `synchronous=FULL`. An entry whose place was marked as
sent may have been carried out; it is sent again under the same idempotency key for as long as the ledger remembers
that key, and set aside after that.
"""

import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ledger.handle.requests import Kind, Request
from ledger.writes import IDEMPOTENCY_S
from projections.times import Microseconds

BUSY_TIMEOUT_S = 5  # seconds to wait for another process that adds
SENT_AGE_MAX_S = IDEMPOTENCY_S - 3_600  # seconds; an hour less than the ledger remembers, for clocks that differ
ENTRY_BYTES = 400  # bytes that an entry takes beside its body, indexes included

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    number INTEGER NOT NULL,
    part TEXT NOT NULL DEFAULT '',
    destination TEXT NOT NULL,
    kind TEXT NOT NULL,
    run_id TEXT NOT NULL,
    body TEXT NOT NULL,
    operations INTEGER NOT NULL,
    key TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    sent_at INTEGER,
    set_aside TEXT,
    PRIMARY KEY (number, part)
);
CREATE INDEX IF NOT EXISTS entries_by_run ON entries (run_id);
"""

_COLUMNS = "number, part, created_at, kind, run_id, body, operations, key, sent_at"


_logger = logging.getLogger("ledger.handle")


class SpoolFull(Exception):
    """There is no room for another entry; the text says what is full."""


@dataclass(frozen=True, slots=True)
class Entry:
    """
    A request that waits.

    Attributes:
        number: Its place in its file.
        part: Its place among the requests that one was split into.
        created_at: When it was added.
        request: What is to be sent.
    """

    number: int
    part: str
    created_at: Microseconds
    request: Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """
    What a file holds for one destination.

    Attributes:
        file: The file.
        destination: Where it is to go.
        waiting: Requests that wait.
        operations: Operations in them.
        set_aside: Requests that will not be sent by themselves any more, each as (run, reason).
        oldest: When the first of those that wait was added.
        bytes: Bytes of all bodies.
    """

    file: Path
    destination: str
    waiting: int
    operations: int
    set_aside: tuple[tuple[str, str], ...]
    oldest: Microseconds | None
    bytes: int


class Spool:
    """
    One file of requests.

    Args:
        path: The file; it is made when something is added.
        bytes_max: Bytes that the entries may take together.
    """

    def __init__(self, path: Path, bytes_max: int) -> None:
        self.path = path
        self._bytes_max = bytes_max

    @classmethod
    def of_this_group(cls, folder: Path, bytes_max: int) -> Self:
        """The file of this process's group."""
        return cls(folder / f"spool-{os.getpgrp()}.db", bytes_max)

    def add(self, destination: str, requests: Sequence[Request]) -> None:
        """
        Keep requests behind all others; they are durable afterwards, all of them.

        Raises:
            SpoolFull: Nothing was kept.
        """
        try:
            self._make()
            while not self._added(destination, requests):
                self._make()
        except (OSError, sqlite3.Error) as error:
            if self._put_aside_damaged(error):
                self.add(destination, requests)
                return
            raise SpoolFull(f"the spool {self.path} cannot be written: {error}") from error

    def holds(self, run_id: str, kind: Kind | None = None) -> bool:
        """Whether something about a run waits, or something of one kind."""
        query = "SELECT 1 FROM entries WHERE run_id = ? AND kind = coalesce(?, kind) AND set_aside IS NULL LIMIT 1"
        return bool(self._rows(query, run_id, kind))

    def waiting(self, destination: str, limit: int, after: Entry | None = None) -> list[Entry]:
        """The next entries for a destination that wait behind *after*, in order."""
        number, part = (-1, "") if after is None else (after.number, after.part)
        query = (
            f"SELECT {_COLUMNS} FROM entries WHERE destination = ? AND set_aside IS NULL "  # noqa: S608 - Ours.
            "AND (number, part) > (?, ?) ORDER BY number, part LIMIT ?"
        )
        return [_entry(row) for row in self._rows(query, destination, number, part, limit)]

    def mark_sent(self, entries: Iterable[Entry], at: Microseconds | None) -> None:
        """Note when entries were first sent; None takes a mark back: they certainly were not carried out."""
        query = "UPDATE entries SET sent_at = ? WHERE number = ? AND part = ?"
        self._change(query, [(at, entry.number, entry.part) for entry in entries])

    def set_aside(self, entry: Entry, reason: str) -> None:
        """Keep an entry, and send it no more."""
        query = "UPDATE entries SET set_aside = ? WHERE number = ? AND part = ?"
        self._change(query, [(reason, entry.number, entry.part)])

    def remove(self, entries: Iterable[Entry]) -> None:
        """Forget entries that were delivered."""
        query = "DELETE FROM entries WHERE number = ? AND part = ?"
        self._change(query, [(entry.number, entry.part) for entry in entries])

    def split(self, entry: Entry, halves: tuple[Request, Request]) -> tuple[Entry, Entry]:
        """Put two requests in the place of one."""
        first, second = (
            Entry(entry.number, entry.part + digit, entry.created_at, half)
            for digit, half in zip("01", halves, strict=True)
        )
        with self._open() as connection, connection:
            destination, created_at = connection.execute(
                "SELECT destination, created_at FROM entries WHERE number = ? AND part = ?",
                (entry.number, entry.part),
            ).fetchone()
            for half in (first, second):
                _insert(connection, half.number, half.part, destination, created_at, half.request)
            connection.execute("DELETE FROM entries WHERE number = ? AND part = ?", (entry.number, entry.part))
        return first, second

    def counts(self) -> list[Count]:
        """What the file holds, by destination."""
        query = (
            "SELECT destination, count(*) FILTER (WHERE set_aside IS NULL), "
            "coalesce(sum(operations) FILTER (WHERE set_aside IS NULL), 0), "
            "min(created_at) FILTER (WHERE set_aside IS NULL), sum(length(CAST(body AS BLOB))) "
            "FROM entries GROUP BY destination ORDER BY destination"
        )
        aside = (
            "SELECT run_id, set_aside FROM entries WHERE destination = ? AND set_aside IS NOT NULL ORDER BY number"
        )
        return [
            Count(
                file=self.path,
                destination=destination,
                waiting=waiting,
                operations=operations,
                set_aside=tuple(self._rows(aside, destination)),
                oldest=oldest,
                bytes=size,
            )
            for destination, waiting, operations, oldest, size in self._rows(query)
        ]

    def discard_set_aside(self) -> int:
        """Forget what was set aside, and say how much that was."""
        with self.delivering() as ours:
            if not ours:
                return 0
            with self._open() as connection, connection:
                return connection.execute("DELETE FROM entries WHERE set_aside IS NOT NULL").rowcount

    @contextmanager
    def delivering(self) -> Iterator[bool]:
        """Hold the lock of who delivers; False where another process holds it. An empty file is removed after."""
        lock = self.path.with_suffix(".lock")
        descriptor = _locked(lock)
        if descriptor is None:
            yield False
            return
        try:
            yield True
            self._remove_empty(lock)
        finally:
            os.close(descriptor)

    def _make(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.path.exists():  # Made before SQLite makes it: nobody else is to read what jobs report.
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        with self._open() as connection:
            connection.executescript(_SCHEMA)

    def _put_aside_damaged(self, error: Exception) -> bool:
        """Make room for a new file where this one is no database any more; it is kept under another name."""
        if getattr(error, "sqlite_errorcode", None) not in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
            return False
        damaged = self.path.with_suffix(f".damaged-{time.time_ns()}")
        try:
            self.path.rename(damaged)
        except FileNotFoundError:  # Another process was faster.
            return True
        except OSError:
            return False
        _logger.warning("the spool %s is damaged (%s); it is kept as %s", self.path, error, damaged)
        return True

    def _added(self, destination: str, requests: Sequence[Request]) -> bool:
        """Add in one transaction; False where the file was removed meanwhile, and with it what was added."""
        try:
            inode = self.path.stat().st_ino
            with self._open() as connection:
                connection.execute("BEGIN IMMEDIATE")
                self._refuse_more_than_fits(connection, requests)
                (last,) = connection.execute("SELECT coalesce(max(number), 0) FROM entries").fetchone()
                now = time.time_ns() // 1000
                for number, request in enumerate(requests, start=last + 1):
                    _insert(connection, number, "", destination, now, request)
                connection.execute("COMMIT")
            return self.path.stat().st_ino == inode
        except FileNotFoundError:
            return False
        except sqlite3.OperationalError:
            if self.path.exists():
                raise
            return False

    def _refuse_more_than_fits(self, connection: sqlite3.Connection, requests: Sequence[Request]) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        size = (pages - free) * page_bytes
        size += sum(len(request.body.encode()) + ENTRY_BYTES for request in requests)
        if size > self._bytes_max:
            raise SpoolFull(
                f"the spool {self.path} is full: it would take {size:,} bytes, RUN_LEDGER_SPOOL_BYTES_MAX allows "
                f"{self._bytes_max:,}"
            )

    def _rows(self, query: str, *parameters: object) -> list[Any]:
        """Rows of the file; none of a file that is not there."""
        try:
            with self._open() as connection:
                return connection.execute(query, parameters).fetchall()
        except sqlite3.OperationalError as error:
            if self.path.exists() and not _has_no_table(error):
                raise
            return []

    def _change(self, query: str, rows: list[tuple[object, ...]]) -> None:
        with self._open() as connection, connection:
            connection.executemany(query, rows)

    def _remove_empty(self, lock: Path) -> None:
        if not self.path.exists():
            lock.unlink(missing_ok=True)
            return
        with self._open() as connection:
            connection.execute("BEGIN EXCLUSIVE")  # Nobody is adding; who comes later sees that the file is gone.
            if not _has_entries(connection):
                self.path.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)
            connection.execute("ROLLBACK")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection for one use: between uses no file is open, so that forking is safe."""
        uri = f"{self.path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            yield connection


def all_spools(folder: Path, bytes_max: int) -> list[Spool]:
    """Every spool in a folder, the one that was changed longest ago first."""
    found = []
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in folder.glob("spool-*.db"):
            with suppress(FileNotFoundError):
                found.append((path.stat().st_mtime, path))
    return [Spool(path, bytes_max) for _, path in sorted(found)]


def _has_entries(connection: sqlite3.Connection) -> bool:
    try:
        return connection.execute("SELECT 1 FROM entries LIMIT 1").fetchone() is not None
    except sqlite3.OperationalError as error:
        if _has_no_table(error):
            return False
        raise


def _has_no_table(error: sqlite3.OperationalError) -> bool:
    """The process that made the file ended before it made anything in it."""
    return str(error).startswith("no such table")


def _locked(lock: Path) -> int | None:
    """A descriptor of the lock's file, locked; None where another process has it."""
    while True:
        try:
            descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if lock.stat().st_ino == os.fstat(descriptor).st_ino:
                    return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        os.close(descriptor)  # It was removed between opening and locking; there is another one now.


def _insert(
    connection: sqlite3.Connection,
    number: int,
    part: str,
    destination: str,
    created_at: Microseconds,
    request: Request,
) -> None:
    connection.execute(
        "INSERT INTO entries "
        "(number, part, destination, kind, run_id, body, operations, key, created_at, sent_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            number,
            part,
            destination,
            request.kind,
            request.run_id,
            request.body,
            request.operations,
            request.key,
            created_at,
            request.sent_at,
        ),
    )


def _entry(row: tuple[Any, ...]) -> Entry:
    number, part, created_at, *request = row
    return Entry(number, part, created_at, Request(*request))
