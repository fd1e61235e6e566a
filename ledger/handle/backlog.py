"""
Deliver what was put on disk because the ledger gave no answer, whichever process put it there.

The order of everything about one run is kept: where one request must wait, those behind it about the same run wait
with it. What is not accepted is split, so that one operation takes no other with it; what remains of that, and
what could count twice if it were sent again, is set aside and said.
"""

import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from ledger.errors import Unreachable, WriteRefused
from ledger.handle.backend import Backend
from ledger.handle.requests import Answer, Kind, Request
from ledger.handle.spool import SENT_AGE_MAX_S, Entry, Spool, all_spools
from projections.times import Microseconds

AT_ONCE = 64  # entries that are read at once
PARENT_WAIT_S = 86_400  # seconds for which a run waits for its parent, which another machine may have to deliver

_logger = logging.getLogger("ledger.handle")


class Backlog:
    """
    The spools of a folder, as far as they are for one destination.

    Args:
        backend: The way to the ledger.
        folder: Where spools are kept.
        bytes_max: Bytes that the spool of this process group may take.
        on_answer: Called with each request that was delivered.
        on_refusal: Called with each that was not accepted.

    Attributes:
        spool: The spool that this process adds to.
        delivered: Requests that were delivered so far.
        set_aside: Requests that were set aside so far.
        is_elsewhere: The last time another process of this group was at it, and nothing was asked of the ledger.
    """

    def __init__(
        self,
        backend: Backend,
        folder: Path,
        bytes_max: int,
        on_answer: Callable[[Request, Answer], None],
        on_refusal: Callable[[Request, WriteRefused], None],
    ) -> None:
        self._backend = backend
        self._folder = folder
        self._bytes_max = bytes_max
        self._on_answer = on_answer
        self._on_refusal = on_refusal
        self._has_warned = False
        self.spool = Spool.of_this_group(folder, bytes_max)
        self.delivered = 0
        self.set_aside = 0
        self.is_elsewhere = False

    def add(self, requests: Sequence[Request]) -> None:
        """
        Keep requests behind all others; they are durable afterwards, all of them.

        Raises:
            SpoolFull: Nothing was kept.
        """
        self.spool.add(self._backend.destination, requests)

    def is_empty(self) -> bool:
        """Whether there is no file at all."""
        return not all_spools(self._folder, self._bytes_max)

    def holds(self, run_id: str, kind: Kind | None = None) -> bool:
        """Whether something about a run waits, which then has to go first; of one kind, if one is given."""
        for spool in all_spools(self._folder, self._bytes_max):
            try:
                if spool.holds(run_id, kind):
                    return True
            except (OSError, sqlite3.Error) as error:
                self._cannot_read(spool, error)
        return False

    def may_come(self, refusal: WriteRefused, since: Microseconds, *, patient: bool) -> bool:
        """
        Whether the run that a request lacks may yet be delivered, so that the request has to wait for it.

        Args:
            refusal: Why the request was not accepted.
            since: When it was made.
            patient: Another machine may have to deliver the run.
        """
        if refusal.missing is None:
            return False
        if self.holds(refusal.missing, "create"):
            return True
        is_young = now() - since < PARENT_WAIT_S * 1_000_000
        return patient and refusal.code == "unknown-parent" and is_young

    async def deliver(self) -> int:
        """
        Send what waits, whoever left it.

        Returns:
            How many requests still wait.

        Raises:
            Unreachable: The ledger gave no answer.
        """
        left = 0
        self.is_elsewhere = False
        for spool in all_spools(self._folder, self._bytes_max):
            try:
                with spool.delivering() as ours:
                    if ours:
                        left += await self._deliver(spool)
                    elif spool.path == self.spool.path:
                        self.is_elsewhere = True
                        left += 1
            except (OSError, sqlite3.Error) as error:
                self._cannot_read(spool, error)
        return left

    def _cannot_read(self, spool: Spool, error: Exception) -> None:
        """One damaged file is in nobody's way; of any number one is named."""
        if not self._has_warned:
            self._has_warned = True
            _logger.warning("the spool %s cannot be read: %s", spool.path, error)

    async def _deliver(self, spool: Spool) -> int:
        """Send what a file holds, in order; say how much of it must wait. Its lock is held."""
        held: set[str] = set()  # Runs of which something must wait, and so all that comes after it.
        left = 0
        after: Entry | None = None
        at_once = 1  # Until one has passed, no others are marked as sent.
        while entries := spool.waiting(self._backend.destination, at_once, after):
            fresh = {entry for entry in entries if entry.request.sent_at is None}
            spool.mark_sent(fresh, now())
            gone: list[Entry] = []
            untried = list(entries)
            try:
                while untried:
                    after = entry = untried[0]
                    outcome = "held" if entry.request.run_id in held else await self._send(spool, entry)
                    untried.pop(0)
                    if outcome == "gone":
                        gone.append(entry)
                    elif outcome == "held":
                        held.add(entry.request.run_id)
                        left += 1
                        spool.mark_sent(fresh & {entry}, None)
                    elif outcome == "split":  # Its halves come next, before the others.
                        break
            except Unreachable as error:
                if not error.certain:
                    untried.pop(0)
                raise
            finally:
                spool.mark_sent(fresh & set(untried), None)
                spool.remove(gone)
                self.delivered += len(gone)
            at_once = AT_ONCE
        return left

    async def _send(self, spool: Spool, entry: Entry) -> Literal["gone", "held", "split", "aside"]:
        request = entry.request
        if request.sent_at is not None and now() - request.sent_at > SENT_AGE_MAX_S * 1_000_000:
            reason = (
                "it was sent without an answer longer ago than the ledger remembers requests; "
                "sent again it could count twice"
            )
            self._set_aside(spool, entry, WriteRefused(request.run_id, "too-old", reason, request.operations))
            return "aside"
        try:
            answer = await self._backend.send(request)
        except Unreachable:
            raise
        except WriteRefused as refusal:
            if self.may_come(refusal, entry.created_at, patient=True):
                return "held"
            if request.operations > 1:
                spool.split(entry, request.halves())
                return "split"
            self._set_aside(spool, entry, refusal)
            return "aside"
        except Exception as error:
            _logger.exception("a report about run %s could not be sent", request.run_id)
            self._set_aside(spool, entry, unforeseen(request, error))
            return "aside"
        self._on_answer(request, answer)
        return "gone"

    def _set_aside(self, spool: Spool, entry: Entry, refusal: WriteRefused) -> None:
        spool.set_aside(entry, f"{refusal.code}: {refusal}")
        self.set_aside += 1
        self._on_refusal(entry.request, refusal)
        _logger.warning(
            "run %s: a report is kept in %s and not sent: %s", entry.request.run_id, spool.path, refusal
        )


def unforeseen(request: Request, error: Exception) -> WriteRefused:
    """What to say of a request that failed in a way nobody foresaw."""
    detail = f"the report failed in a way nobody foresaw: {type(error).__name__}: {error}"
    return WriteRefused(request.run_id, "internal-error", detail, request.operations)


def now() -> Microseconds:
    """The clock of this process."""
    return time.time_ns() // 1000
