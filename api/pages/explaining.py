"""Why a value is what it is, in rows to read."""

from dataclasses import dataclass
from typing import Any

from api.pages.words import cut, json_text, shown
from ledger.log import Log
from projections import values
from projections.events import RunCreated
from projections.metadata import Absent
from projections.operations import MetadataOperation
from projections.paths import Path
from projections.times import Microseconds

STEPS = 25  # events that are told, the last ones
TEXT_CHARACTERS_MAX = 90  # characters of a value in a row


@dataclass(frozen=True, slots=True)
class Cause:
    """
    One event that touched the value.

    Attributes:
        version: Its version.
        verb: What was done.
        asked: With what value, as text; empty where the verb says all.
        after: What the value was afterwards, as text; None where there was none.
        actor: Who did it.
        at: When it was recorded.
        attempt: Which attempt did it.
        source_run: The child run that it came from, None for the run's own.
        wiped_by: The version of the event that made this one count no more, None where it counts.
    """

    version: int
    verb: str
    asked: str
    after: str | None
    actor: str
    at: Microseconds
    attempt: int
    source_run: str | None
    wiped_by: int | None


@dataclass(frozen=True, slots=True)
class ExplanationShown:
    """
    An explanation.

    Attributes:
        key: The value's.
        value: The value as text, None where there is none.
        causes: The last events that touched it, the newest first.
        more: There were more before these.
    """

    key: str
    value: str | None
    causes: list[Cause]
    more: bool


async def explanation_of(log: Log, run_id: str, key: Path | None, version: int) -> ExplanationShown | None:
    """The events that made the value at a key what it was at a version; None where no key is given."""
    if key is None:
        return None
    found = await log.explain(run_id, key, version=version, limit=STEPS)
    causes = []
    for step, wiped_by in zip(found.steps, found.wiped_by, strict=True):
        event = step.event
        headers: Any = values.load(event.headers)
        body = event.body
        asked = getattr(body, "value", None) if isinstance(body, MetadataOperation) else None
        whole = isinstance(body, RunCreated) or event.type == "metadata.updated"
        causes.append(
            Cause(
                version=event.version,
                verb=event.type.rpartition(".")[2],
                asked="" if asked is None or whole else cut(json_text(asked), TEXT_CHARACTERS_MAX),
                after=None if isinstance(step.value, Absent) else cut(json_text(step.value), TEXT_CHARACTERS_MAX),
                actor=shown(event.actor),
                at=event.recorded_at,
                attempt=event.attempt,
                source_run=headers.get("sourceRun"),
                wiped_by=wiped_by,
            )
        )
    value = None if isinstance(found.value, Absent) else cut(json_text(found.value), 3 * TEXT_CHARACTERS_MAX)
    return ExplanationShown(shown(str(key)), value, causes[::-1], found.previous is not None)
