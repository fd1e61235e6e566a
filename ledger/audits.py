"""
The progress of many runs at once, as a list shows it and filters by it.

A run's progress is folded from its events. What was folded is kept in memory, and goes on from the version it has,
so that asking again costs the events that came since. Where the folds take too much memory the one that was least
lately asked for goes first; an erasure, which changes what was, begins its run's anew.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from ledger import reads
from ledger.finding import Enough, Judge, Search
from ledger.heads import Head
from ledger.reads import Reader
from projections.events import Event, RunErased
from projections.progress import Outlook, ProgressAudit, ProgressFold, ScaleChoice
from projections.runs import Run
from projections.times import Microseconds

KEPT_BYTES_MAX = 64 * 2**20  # bytes that all folds together take, about
FOLD_BYTES = 8_192  # bytes that a fold takes beside its numbers and the metadata it ends with
METADATA_FACTOR = 8  # bytes of memory for each byte of metadata as text
EVENTS_MAX = 20_000  # events that are folded for one request, and then those of one run more
CHUNK = 500  # events that are held in memory at once


@dataclass(frozen=True, slots=True)
class LastEvent:
    """
    The last thing that happened to a run.

    Attributes:
        version: The run's version with it.
        type: What it was, such as `metadata.set`.
        key: The key it was about, None where it was about none.
        actor: Who did it.
        recorded_at: When.
    """

    version: int
    type: str
    key: str | None
    actor: str
    recorded_at: Microseconds


@dataclass(frozen=True, slots=True)
class RunAudit:
    """
    The progress of a run in short.

    Attributes:
        outlook: How far it is, and from when on it stands still.
        is_stalled: It stands still now.
        last: The last thing that happened to it.
    """

    outlook: Outlook
    is_stalled: bool
    last: LastEvent


@dataclass(slots=True)
class Allowance:
    """How many more events may be folded for a request."""

    events: int = EVENTS_MAX


@dataclass(slots=True)
class _Kept:
    """
    A fold, and who works on it.

    Attributes:
        turn: Held by the thread that folds on.
        outlook: Of the events so far.
        last: The last of them, None before the first.
        weight: Bytes that it takes, about.
    """

    turn: Lock = field(default_factory=Lock)
    fold: ProgressFold = field(default_factory=ProgressFold)
    outlook: Outlook = field(default_factory=Outlook)
    last: LastEvent | None = None
    weight: int = 0


class Audits:
    """
    The folds that are kept. Several threads may ask at once; two of them never fold one run at the same time.

    Args:
        bytes_max: What all folds together may take, about.
    """

    def __init__(self, bytes_max: int = KEPT_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._kept: OrderedDict[tuple[int, int], _Kept] = OrderedDict()
        self._lock = Lock()

    async def of(
        self, reader: Reader, environment_id: int, own: Head, now: Microseconds, allowance: Allowance
    ) -> RunAudit:
        """
        The progress of a run. It may be that of a later version than *own* has, where another thread saw one.

        Args:
            reader: A consistent view, whose statements do not make this coroutine wait.
            environment_id: Whose run.
            own: Its head.
            now: The present.
            allowance: What is left of it for this request.

        Raises:
            Enough: There is more to fold than is allowed for one request.
        """
        kept = self._take((environment_id, own.key))
        with kept.turn:
            await self._go_on(reader, environment_id, own, kept, allowance)
            assert kept.last is not None
            return RunAudit(kept.outlook, kept.outlook.is_stalled(now), kept.last)

    async def whole(
        self, reader: Reader, environment_id: int, own: Head, now: Microseconds, **how: Any
    ) -> ProgressAudit:
        """
        The whole progress audit of a run, of its progress key and its last attempt.

        Args:
            reader: As for `of`; all that is yet to be folded is folded.
            environment_id: Whose run.
            own: Its head.
            now: The present.
            how: What `ProgressFold.audit` takes besides.
        """
        kept = self._take((environment_id, own.key))
        with kept.turn:
            await self._go_on(reader, environment_id, own, kept, Allowance(own.run.version))
            return kept.fold.audit(now=now, **how)

    async def _go_on(
        self, reader: Reader, environment_id: int, own: Head, kept: _Kept, allowance: Allowance
    ) -> None:
        """Fold what came since; the caller has its turn."""
        if kept.fold.version >= own.run.version:
            return
        if allowance.events <= 0:
            raise Enough
        try:
            await _fold_on(reader, environment_id, own, kept, allowance)
        except BaseException:
            kept.fold = ProgressFold()  # Half of it is folded, and nothing was said of that.
            raise
        weight = FOLD_BYTES + kept.fold.weight_bytes
        self._weigh((environment_id, own.key), kept, weight + METADATA_FACTOR * own.run.snapshot.size_bytes)

    def _take(self, key: tuple[int, int]) -> _Kept:
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
                return kept
            kept = self._kept[key] = _Kept()
        self._weigh(key, kept, FOLD_BYTES)
        return kept

    def _weigh(self, key: tuple[int, int], kept: _Kept, weight: int) -> None:
        with self._lock:
            if self._kept.get(key) is kept:
                self._bytes += weight - kept.weight
                kept.weight = weight
            while self._bytes > self._bytes_max and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= dropped.weight


async def _fold_on(reader: Reader, environment_id: int, own: Head, kept: _Kept, allowance: Allowance) -> None:
    begun, version = kept.fold.version, kept.fold.version
    last: Event | None = None
    while version < own.run.version:
        for event in await reads.events_after(reader, environment_id, own, version, own.run.version, CHUNK):
            if isinstance(event.body, RunErased) and begun > 0:
                begun, version, kept.fold = 0, 0, ProgressFold()
                break
            kept.fold.add(event)
            allowance.events -= 1
            version, last = event.version, event
    assert last is not None
    key = getattr(last.body, "key", None)
    kept.last = LastEvent(last.version, last.type, key, last.actor, last.recorded_at)
    kept.outlook = kept.fold.outlook()


def judge_by(audits: Audits, clock: Callable[[], Microseconds]) -> Callable[[Search], Judge]:
    """
    Judges that go by the filter and the progress of a run.

    Args:
        audits: Where the progress is folded.
        clock: Shows the present.
    """

    def judge_of(search: Search) -> Judge:
        allowance, now = Allowance(), clock()

        async def judged(own: Head) -> Run | None:
            if not search.holds(own.run):
                return None
            found = await audits.of(search.reader, search.environment_id, own, now, allowance)
            regressed = found.outlook.has_regressed
            return own.run if search.wanted.takes_verdicts(stalled=found.is_stalled, regressed=regressed) else None

        return judged

    return judge_of


async def audits_of(
    reader: Reader, environment_id: int, run_ids: list[str], audits: Audits, now: Microseconds
) -> dict[str, RunAudit | None]:
    """See `Log.audits`."""
    allowance = Allowance()
    found: dict[str, RunAudit | None] = {}
    for own in await reads.heads(reader, environment_id, run_ids):
        try:
            found[own.run.id] = await audits.of(reader, environment_id, own, now, allowance)
        except Enough:
            found[own.run.id] = None
    return found


async def audit_of(
    reader: Reader,
    environment_id: int,
    run_id: str,
    audits: Audits,
    now: Microseconds,
    scale: ScaleChoice | None,
    stall_after_s: float | None,
) -> ProgressAudit:
    """See `Log.progress`."""
    own = await reads.head(reader, environment_id, run_id)
    return await audits.whole(reader, environment_id, own, now, scale=scale, stall_after_s=stall_after_s)
