"""The events of a run as rows to read, what was refused between them, the newest first."""

import json
from dataclasses import dataclass, replace
from typing import NamedTuple

from pydantic import JsonValue

from api.pages.changes import Line, label_of, lines_between
from api.pages.words import cut, json_text, shown
from ledger.history import Entry, HistoryPage
from ledger.log import Log
from ledger.writes import Refused
from projections import values
from projections.events import Redacted, RunCreated, RunErased, RunStatusChanged, RunTagged
from projections.history import named_path
from projections.metadata import ABSENT, Absent
from projections.operations import Increment, MetadataOperation
from projections.times import Microseconds

PAGE = 50  # events on a page
LINES_MAX = 6  # changes of one event that are told
BESIDE = 10  # events that are shown above the version that is looked at

VERBS = {
    "run.created": "created",
    "run.status_changed": "status",
    "run.tagged": "tagged",
    "run.erased": "erased",
    "metadata.set": "set",
    "metadata.deleted": "deleted",
    "metadata.appended": "appended",
    "metadata.removed": "removed",
    "metadata.incremented": "incremented",
    "metadata.updated": "replaced all",
}


class Source(NamedTuple):
    """
    Where an event came from.

    Attributes:
        on_behalf_of: Whom the actor acted for, None where nobody was named.
        run: The child run whose job asked for it, None for the run's own.
    """

    on_behalf_of: str | None
    run: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    One event, or one refusal.

    Attributes:
        version: The event's; for a refusal the one that the run had.
        verb: What was done.
        label: To which key, where the lines do not say it.
        about: To what, in words, where neither says it.
        lines: What changed.
        more: How many changes are not told.
        actor: Who did it.
        source: Where it came from.
        at: When it was recorded.
        occurred_at: When it happened by the caller's clock, None where that was not said.
        attempt: Which attempt did it.
        begins_attempt: It is the first event that this page shows of a new attempt.
        is_refusal: It was refused.
        size_bytes: Size of the metadata after it; what a refusal would have made of it.
        limit_bytes: What is allowed, for a refusal that is about the size.
    """

    version: int
    verb: str
    label: str = ""
    about: str = ""
    lines: tuple[Line, ...] = ()
    more: int = 0
    actor: str
    source: Source
    at: Microseconds
    occurred_at: Microseconds | None = None
    attempt: int
    begins_attempt: bool = False
    is_refusal: bool = False
    size_bytes: int | None
    limit_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Timeline:
    """
    A page of rows.

    Attributes:
        rows: The newest first.
        newer: The version with which the page of newer events begins, None on the first.
        older: The version with which the page of older events begins, None on the last.
        recorded_at: When the version that is looked at was recorded, None where it is on another page.
    """

    rows: list[Row]
    newer: int | None
    older: int | None
    recorded_at: Microseconds | None


async def timeline_of(log: Log, run_id: str, last: int, version: int, upto: int | None) -> Timeline:
    """
    The page of events that holds a version, or the one that begins at another.

    Args:
        log: Where the run is.
        run_id: The run.
        last: Its version.
        version: The version that is looked at.
        upto: The version to begin with.
    """
    begin = min(last, version + BESIDE) if upto is None else max(1, min(last, upto))
    page = await log.entries(
        run_id, limit=PAGE, after=None if begin == last else begin + 1, order="desc", refusals=True
    )
    rows = _rows(page)
    versions = [row.version for row in rows if not row.is_refusal]
    older = versions[-1] - 1 if page.next is not None and versions else None
    newer = min(last, begin + PAGE) if begin < last else None
    at = next((row.at for row in rows if row.version == version and not row.is_refusal), None)
    return Timeline(rows, newer, older, at)


def _rows(page: HistoryPage) -> list[Row]:
    rows = [_refusal(item) if isinstance(item, Refused) else _event(item) for item in page.items]
    marked: list[Row] = []
    for row, older in zip(rows, [*rows[1:], None], strict=True):
        begins = older is not None and row.attempt > older.attempt
        marked.append(replace(row, begins_attempt=begins))
    return marked


def _refusal(refused: Refused) -> Row:
    about = f"{shown(refused.key)}: " if refused.key is not None else ""
    return Row(
        version=refused.version,
        verb="refused",
        about=cut(about + shown(refused.reason), 600),
        at=refused.recorded_at,
        is_refusal=True,
        size_bytes=refused.size_bytes,
        limit_bytes=refused.limit_bytes,
        actor=shown(refused.actor),
        attempt=refused.attempt,
        source=_source(refused.headers),
    )


def _event(entry: Entry) -> Row:
    event = entry.event
    names = _named(entry)
    lines, more = _lines(entry, names)
    label = label_of(names) if names else ""
    return Row(
        version=event.version,
        verb=VERBS.get(event.type, event.type),
        label="" if len(lines) == 1 and lines[0].label == label else label,
        about=_about(entry),
        lines=tuple(lines),
        more=more,
        at=event.recorded_at,
        occurred_at=event.occurred_at,
        size_bytes=entry.size_bytes,
        actor=shown(event.actor),
        attempt=event.attempt,
        source=_source(event.headers),
    )


def _source(headers: str) -> Source:
    found = json.loads(headers)
    behalf = found.get("onBehalfOf")
    return Source(None if behalf is None else shown(behalf), found.get("sourceRun"))


def _named(entry: Entry) -> tuple[str, ...]:
    """The names that lead to what an event is about, none where that is everything."""
    body = entry.event.body
    named = named_path(body) if isinstance(body, MetadataOperation | Redacted) else None
    return () if named is None else named.names


def _lines(entry: Entry, names: tuple[str, ...]) -> tuple[list[Line], int]:
    if not isinstance(entry.event.body, MetadataOperation | Redacted | RunCreated):
        return [], 0
    return lines_between(names, _value(entry.before), _value(entry.after), LINES_MAX)


def _value(text: str | None) -> JsonValue | Absent:
    return ABSENT if text is None else values.load(text)


def _about(entry: Entry) -> str:
    match entry.event.body:
        case RunCreated(task=task):
            return f"task {shown(task)}"
        case RunStatusChanged(status=status, output=output, error=error):
            results = (("output", output), ("error", error))
            told = [f"{name} {cut(json_text(value), 200)}" for name, value in results if value is not None]
            return ", ".join([status.value, *told])
        case RunTagged(tags=tags):
            return ", ".join(map(shown, tags))
        case RunErased(key=key, reason=reason, redacted=redacted):
            count = len(redacted)
            return f"{shown(key)} from {count:,} event{'' if count == 1 else 's'}: {shown(reason)}"
        case Increment(value=value):
            return f"by {json_text(value)}" if value != 1 else ""
        case Redacted():
            return "its value was erased"
        case _:
            return ""
