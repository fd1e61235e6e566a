"""
Reading the history of a run: pages of events with what each of them did, and why a value is what it is.

Whatever is asked, the fold begins at the nearest kept snapshot, and a page begins at a version; so a page costs
the same wherever it lies. A run is never held in memory as a whole.
"""

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pydantic import JsonValue

from ledger import reads, statements
from ledger.heads import Head
from ledger.reads import Page, Reader
from ledger.writes import Refused
from projections import values
from projections.errors import BadPath
from projections.events import Event, RunErased
from projections.explain import Step, step, wiped_by
from projections.history import effect, grown_bytes, metadata_after, touches
from projections.metadata import Absent, value_at
from projections.paths import Path, parse_key
from projections.size import size_bytes
from projections.times import Microseconds
from projections.values import JsonObject

PAGE_BYTES_MAX = 8_388_608  # bytes of events and their values after which a page ends, so that it fits in memory
BLOCK = 128  # versions that are looked for at once
ERASED_AT_ONCE = 10  # `run.erased` events that are read at once, some 75 KB each
AHEAD = 64  # events that are read at once
JUMP = 8  # versions to pass over from which a look at the kept snapshots is cheaper than to fold them
NEEDLE_CHARACTERS_MAX = 200  # characters of a key that events are searched for; the rest is compared afterwards


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """
    Which events of a run are wanted: those to which all of this applies.

    Attributes:
        key: About the value at this path.
        actor: Made by this actor.
        types: Of one of these types; empty for all.
        attempt: Made by this attempt.
        since: Recorded at or after this moment.
        until: Recorded at or before this moment.
    """

    key: Path | None = None
    actor: str | None = None
    types: tuple[str, ...] = ()
    attempt: int | None = None
    since: Microseconds | None = None
    until: Microseconds | None = None


EVERYTHING = Wanted()


@dataclass(frozen=True, slots=True)
class Entry:
    """
    An event with what it did.

    Attributes:
        event: The event.
        before: JSON text of the value that it named as it was before, None where there was none.
        after: The same afterwards.
        size_bytes: Size of the run's metadata afterwards.
    """

    event: Event
    before: str | None
    after: str | None
    size_bytes: int

    @property
    def bytes(self) -> int:
        """What the entry takes in memory and in an answer, roughly."""
        texts = (self.event.data, self.event.data, self.before, self.after)  # An answer holds the data twice.
        return sum(size_bytes(text) for text in texts if text is not None)


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """
    A part of a run's history.

    Attributes:
        items: Events, and refusals between them, in the order asked for.
        next: The version behind which the history goes on, None at its end.
        previous: The version before which there is more, None at its beginning.
    """

    items: list[Entry | Refused]
    next: int | None
    previous: int | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """
    Why a value is what it is.

    Attributes:
        value: What it is, `ABSENT` where there is none.
        version: The version of the run that this is about.
        steps: The last events that touched it, oldest first.
        wiped_by: For each of them the version of the event that wiped it, None for what still counts.
        previous: The version before which there are more, None when these are all.
    """

    value: JsonValue | Absent
    version: int
    steps: list[Step]
    wiped_by: list[int | None]
    previous: int | None


async def history(
    reader: Reader,
    environment_id: int,
    run_id: str,
    *,
    limit: int,
    after: int | None,
    order: Literal["asc", "desc"],
    key: Path | None,
) -> Page[Event]:
    """See `Log.history`."""
    own = await reads.head(reader, environment_id, run_id)
    backwards = order == "desc"
    span = _Span(1, own.run.version).on_one_side(after, backwards=backwards)
    found: list[Event] = []
    fold = _Fold(reader, environment_id, own)
    source = (
        _plain(fold, span, backwards=backwards, count=min(reads.CHUNK, limit + 1))
        if key is None
        else _replayed(fold, span, Wanted(key=key), backwards=backwards, count=BLOCK)
    )
    async with aclosing(source) as read:
        async for one in read:
            if len(found) == limit:
                return Page(found, has_next=True, has_previous=after is not None)
            found.append(one if isinstance(one, Event) else one.event)
    return Page(found, has_next=False, has_previous=after is not None)


async def count_redacted(reader: Reader, environment_id: int, run_id: str, version: int) -> int:
    """How many events lost something to the erasure whose last `run.erased` is *version* of the run."""
    number: int | None = None
    count = 0
    before = version + 1
    while True:
        page = await history(
            reader, environment_id, run_id, limit=ERASED_AT_ONCE, after=before, order="desc", key=None
        )
        for event in page.items:
            if not isinstance(event.body, RunErased) or event.body.erasure != (number or event.body.erasure):
                return count
            number = event.body.erasure
            count += len(event.body.redacted)
            before = event.version
        if not page.has_next:
            return count


async def entries(
    reader: Reader,
    environment_id: int,
    run_id: str,
    *,
    limit: int,
    after: int | None,
    before: int | None,
    order: Literal["asc", "desc"],
    wanted: Wanted,
    refusals: bool,
) -> HistoryPage:
    """See `Log.entries`."""
    own = await reads.head(reader, environment_id, run_id)
    whole = await _span(reader, environment_id, own, wanted)
    cursor = after if before is None else before
    backwards = (order == "desc") is (before is None)  # The events nearest to the cursor are read first.
    span = whole.on_one_side(cursor, backwards=backwards)
    found: list[Entry] = []
    more = False
    taken = 0
    count = BLOCK if wanted.key else min(BLOCK, limit + 1)
    fold = _Fold(reader, environment_id, own, sized=True)
    async with aclosing(_replayed(fold, span, wanted, backwards=backwards, count=count)) as replayed:
        async for one in replayed:
            if len(found) == limit or taken >= PAGE_BYTES_MAX:
                more = True
                break
            found.append(_entry(one))
            taken += found[-1].bytes
    items: list[Entry | Refused] = [*(found[::-1] if backwards else found)]
    if refusals:
        # Pages share them out by version, so that each is on one page whatever filters apply.
        shown = _Span(0, own.run.version).on_one_side(cursor, backwards=backwards)
        if more:
            end = found[-1].event.version
            shown = shown.beginning(end) if backwards else shown.up_to(end)
        items += [
            refused
            for refused in await reads.refusals(reader, environment_id, run_id)
            if shown.low <= refused.version <= shown.high and _is_wanted(refused, wanted)
        ]
        items.sort(key=_place)
    if order == "desc":
        items.reverse()
    # What lies beyond the cursor is there, whether or not it is wanted too: to know that could cost a scan.
    behind = bool(found) and cursor is not None and (cursor <= whole.high if backwards else cursor >= whole.low)
    first, last = _ends(found, reverse=before is not None)
    has_next, has_previous = (more, behind) if before is None else (behind, more)
    return HistoryPage(items, next=last if has_next else None, previous=first if has_previous else None)


async def explain(
    reader: Reader,
    environment_id: int,
    run_id: str,
    *,
    key: Path,
    version: int | None,
    at: Microseconds | None,
    limit: int,
    before: int | None,
) -> Explanation:
    """See `Log.explain`."""
    state = await reads.metadata(reader, environment_id, run_id, version, at)
    own = await reads.head(reader, environment_id, run_id)
    wanted = Wanted(key=key)
    last = state.version if before is None else min(before - 1, state.version)
    steps: list[Step] = []
    taken = 0
    previous = None
    fold = _Fold(reader, environment_id, own)
    async with aclosing(_replayed(fold, _Span(1, last), wanted, backwards=True, count=BLOCK)) as replayed:
        async for one in replayed:
            touched = step(key, one.event, one.before, one.after)
            assert touched is not None, "an event that was found to be about the key"
            if len(steps) == limit or taken >= PAGE_BYTES_MAX:
                previous = steps[-1].event.version
                break
            steps.append(touched)
            taken += size_bytes(one.event.data)
            taken += 0 if isinstance(touched.value, Absent) else size_bytes(values.dump(touched.value))
    steps.reverse()
    later = None
    if before is not None:
        later = await _first_wipe(_Fold(reader, environment_id, own), _Span(last + 1, state.version), key)
    return Explanation(
        value=value_at(state.metadata, key),
        version=state.version,
        steps=steps,
        wiped_by=wiped_by(steps, later),
        previous=previous,
    )


class _Replayed(NamedTuple):
    """An event with the metadata before and after it, and the size of the latter where it is kept."""

    event: Event
    before: JsonObject
    after: JsonObject
    size_bytes: int


class _Span(NamedTuple):
    """Versions from `low` to `high`, both included; empty when high is below low."""

    low: int
    high: int

    def up_to(self, version: int) -> "_Span":
        return _Span(self.low, min(self.high, version))

    def beginning(self, version: int) -> "_Span":
        return _Span(max(self.low, version), self.high)

    def on_one_side(self, cursor: int | None, *, backwards: bool) -> "_Span":
        """What lies below the cursor, or else above it; all of it without a cursor."""
        if cursor is None:
            return self
        return self.up_to(cursor - 1) if backwards else self.beginning(cursor + 1)


class _Fold:
    """
    The metadata of a run, folded from version to version, upwards only.

    Args:
        sized: Whether to keep the size of the metadata too.
    """

    def __init__(self, reader: Reader, environment_id: int, own: Head, *, sized: bool = False) -> None:
        self.reader = reader
        self.environment_id = environment_id
        self.own = own
        self._sized = sized
        self.restart()

    def restart(self) -> None:
        """Go back to the beginning."""
        self._metadata: JsonObject = {}
        self._version = 0
        self._size_bytes: int | None = None
        self._ahead: deque[Event] = deque()

    async def reach(self, version: int, last: int) -> _Replayed:
        """Fold up to the event of *version*, and read no event behind *last*."""
        if version - 1 - self._version > JUMP:
            await self._jump(version - 1)
            self._size_bytes = None  # To write the metadata down once costs less than to follow it on a long way.
        while True:
            if not self._ahead:
                self._ahead.extend(
                    await reads.events_after(
                        self.reader, self.environment_id, self.own, self._version, last, AHEAD
                    )
                )
            event = self._ahead.popleft()
            before = self._metadata
            self._metadata = metadata_after(before, event.body)
            self._version = event.version
            if self._size_bytes is not None:
                self._size_bytes += grown_bytes(before, self._metadata)
            if event.version == version:
                if self._sized and self._size_bytes is None:
                    self._size_bytes = size_bytes(values.dump(self._metadata))
                return _Replayed(event, before, self._metadata, self._size_bytes or 0)

    async def _jump(self, version: int) -> None:
        """Go on from the newest snapshot that is kept up to *version*, if that is ahead."""
        kept = await reads.kept_snapshot(self.reader, self.environment_id, self.own, version)
        if kept.version > self._version:
            self._metadata, self._version = kept.metadata, kept.version
            self._ahead.clear()


async def _plain(fold: _Fold, span: _Span, *, backwards: bool, count: int) -> AsyncGenerator[Event]:
    """All events of a span, newest first if *backwards*, without a fold; read *count* at a time."""
    while span.low <= span.high:
        low = max(span.high - count + 1, span.low) if backwards else span.low
        found = await reads.events_after(
            fold.reader, fold.environment_id, fold.own, low - 1, min(span.high, low + count - 1), count
        )
        span = span.up_to(low - 1) if backwards else span.beginning(low + count)
        for event in reversed(found) if backwards else found:
            yield event


async def _replayed(
    fold: _Fold, span: _Span, wanted: Wanted, *, backwards: bool, count: int
) -> AsyncGenerator[_Replayed]:
    """The wanted events of a span, newest first if *backwards*; looked for in blocks of *count*."""
    while span.low <= span.high:
        versions = await _versions(fold, span, wanted, backwards=backwards, count=count)
        if not versions:
            return
        span = span.up_to(versions[-1] - 1) if backwards else span.beginning(versions[-1] + 1)
        if backwards:
            fold.restart()
            versions.reverse()
        kept: list[_Replayed] = []
        for version in versions:
            one = await fold.reach(version, versions[-1])
            if wanted.key is None or touches(wanted.key, one.event.body, one.before, one.after):
                if backwards:
                    kept.append(one)
                else:
                    yield one
        for one in reversed(kept):
            yield one
        if len(versions) < count:
            return


async def _versions(fold: _Fold, span: _Span, wanted: Wanted, *, backwards: bool, count: int) -> list[int]:
    """The first versions of a span whose events may be wanted, newest first if *backwards*."""
    if wanted.key is None and wanted.actor is None and wanted.attempt is None and not wanted.types:
        if backwards:
            return list(range(span.high, max(span.high - count, span.low - 1), -1))
        return list(range(span.low, min(span.low + count, span.high + 1)))
    statement = statements.page_of_versions(
        newest_first=backwards,
        types=wanted.types,
        by_actor=wanted.actor is not None,
        by_attempt=wanted.attempt is not None,
        by_name=wanted.key is not None,
    )
    parameters: dict[str, Any] = {"actor": wanted.actor, "attempt": wanted.attempt}
    if wanted.key is not None:
        parameters["pattern"] = _pattern(wanted.key)
    rows = await fold.reader.rows(
        statement,
        environment_id=fold.environment_id,
        run_key=fold.own.key,
        low=span.low,
        high=span.high,
        count=count,
        **{name: value for name, value in parameters.items() if value is not None},
    )
    return [row["version"] for row in rows]


def _pattern(key: Path) -> str:
    """What the data of every operation on the key, on what holds it and on what it holds is LIKE."""
    return statements.like_pattern(values.dump(key.names[0])[1:-1][:NEEDLE_CHARACTERS_MAX])


async def _span(reader: Reader, environment_id: int, own: Head, wanted: Wanted) -> _Span:
    """The versions that were recorded within the time that is wanted."""
    low, high = 1, own.run.version
    if wanted.since is not None:
        low = await reads.version_at(reader, environment_id, own, wanted.since - 1) + 1
    if wanted.until is not None:
        high = await reads.version_at(reader, environment_id, own, wanted.until)
    return _Span(low, high)


async def _first_wipe(fold: _Fold, span: _Span, key: Path) -> int | None:
    async with aclosing(_replayed(fold, span, Wanted(key=key), backwards=False, count=BLOCK)) as replayed:
        async for one in replayed:
            touched = step(key, one.event, one.before, one.after)
            if touched is not None and touched.wipes:
                return one.event.version
    return None


def _entry(one: _Replayed) -> Entry:
    did = effect(one.event.body, one.before, one.after)
    return Entry(one.event, _text(did.before), _text(did.after), one.size_bytes)


def _text(value: JsonValue | Absent) -> str | None:
    return None if isinstance(value, Absent) else values.dump(value)


def _ends(found: list[Entry], *, reverse: bool) -> tuple[int | None, int | None]:
    """The versions of the first and the last entry as they are shown, which were read in reverse or not."""
    if not found:
        return None, None
    ends = found[0].event.version, found[-1].event.version
    return ends[::-1] if reverse else ends


def _place(item: Entry | Refused) -> tuple[int, int]:
    """Where an item stands in the order of the run: a refusal behind the version at which it was refused."""
    return (item.version, item.number) if isinstance(item, Refused) else (item.event.version, 0)


def _is_wanted(refused: Refused, wanted: Wanted) -> bool:
    """Whether a refusal is shown beside the wanted events; which type of event it might have been is not asked."""
    return (
        (wanted.actor is None or refused.actor == wanted.actor)
        and (wanted.attempt is None or refused.attempt == wanted.attempt)
        and (wanted.since is None or refused.recorded_at >= wanted.since)
        and (wanted.until is None or refused.recorded_at <= wanted.until)
        and (wanted.key is None or refused.key is None or _may_concern(refused.key, wanted.key))
    )


def _may_concern(refused: str, wanted: Path) -> bool:
    try:
        return parse_key(refused).overlaps(wanted)
    except BadPath:
        return False
