"""
Heads that need not be read again: those that the last groups of an environment left behind.

They are true for as long as nobody else has written. Two things say so, both read behind the lock: the end of
the environment's log, and the engine's mark, which is another one once somebody else has changed the log or
what is made of it. While a group is at work it alone holds the heads, because it changes them before it is
committed; a group that fails takes them with it, and they are read again.
"""

from collections.abc import Hashable, Mapping
from itertools import islice
from typing import NamedTuple

from ledger.heads import Head
from projections.times import Microseconds

KNOWN_BYTES_MAX = 4 * 2**20  # bytes of metadata, at the limit, of the heads of an environment that are kept
KNOWN_MIN = 64  # heads that are kept whatever the limit is


class LogEnd(NamedTuple):
    """
    Where an environment's log ends, as its row says.

    Attributes:
        position: The last event's.
        run_key: The last run's.
        recorded_at: When the last event was recorded.
        mark: The engine's, None where it cannot tell whether anybody else committed.
    """

    position: int
    run_key: int
    recorded_at: Microseconds
    mark: Hashable | None


class KnownHeads:
    """
    The heads of one environment that are known.

    Args:
        metadata_bytes_max: Bytes that the metadata of each may take.
    """

    def __init__(self, metadata_bytes_max: int) -> None:
        self._most = max(KNOWN_MIN, KNOWN_BYTES_MAX // metadata_bytes_max)
        self._end: LogEnd | None = None
        self._heads: dict[str, Head] = {}  # By run id; those that were used last come last.
        self._proposed: tuple[LogEnd, dict[str, Head]] | None = None

    def take(self, end: LogEnd) -> dict[str, Head]:
        """What is known if the log ends there, by run id; it is forgotten here until a commit is confirmed."""
        heads = self._heads if end.mark is not None and end == self._end else {}
        self.forget()
        return heads

    def propose(self, end: LogEnd, known: dict[str, Head], used: Mapping[str, Head]) -> None:
        """
        Say what is to be known once a transaction is committed.

        Args:
            end: Where the log ends then.
            known: What was taken before it.
            used: The heads that it read or made, as it leaves them, by run id.
        """
        for run_id, head in used.items():
            known.pop(run_id, None)
            known[run_id] = head
        for run_id in [*islice(known, max(0, len(known) - self._most))]:
            del known[run_id]
        self._proposed = end, known

    def confirm(self) -> None:
        """It is committed."""
        if self._proposed is not None:
            self._end, self._heads = self._proposed
            self._proposed = None

    def forget(self) -> None:
        """Know nothing any more."""
        self._end, self._heads, self._proposed = None, {}, None
