"""Histories of progress for tests: events written down one after another, at seconds from a beginning."""

from collections.abc import Sequence
from typing import Any

from projections.events import Body, Event, RunCreated, RunStatusChanged, new_event
from projections.lifecycle import Status
from projections.operations import Set
from projections.paths import parse_key
from projections.progress import ProgressAudit, audit_progress
from projections.times import format_time
from projections.values import JsonObject

SECOND = 1_000_000  # microseconds
MINUTE = 60  # seconds
START = 1_700_000_000 * SECOND  # 2023-11-14T22:13:20Z


class Run:
    """The events of a run, each made at a number of seconds after START."""

    def __init__(
        self, metadata: JsonObject | None = None, status: str = "EXECUTING", at: float = 0, actor: str = "job"
    ) -> None:
        self.events: list[Event] = []
        self.attempt = 1
        self.actor = actor
        self.step(RunCreated(task="t", metadata=metadata or {}, status=Status(status)), at)

    def step(self, body: Body, at: float, *, happened: float | None = None, actor: str | None = None) -> "Run":
        """One event that was recorded at *at*, and happened then or as its caller says."""
        new = new_event(body)
        version = len(self.events) + 1
        self.events.append(
            Event(
                position=version,
                run_id="r",
                version=version,
                type=new.type,
                data=new.data,
                actor=actor or self.actor,
                attempt=self.attempt,
                headers="{}",
                occurred_at=None if happened is None else moment(happened),
                recorded_at=moment(at),
                hash=bytes(32),
            )
        )
        return self

    def set(self, key: str, value: Any, at: float, **options: Any) -> "Run":
        return self.step(Set(key=key, value=value), at, **options)

    def status(self, status: str, at: float) -> "Run":
        return self.step(RunStatusChanged(status=Status(status)), at)

    def audit(self, now: float = 0, *, key: str | None = None, **options: Any) -> ProgressAudit:
        path = None if key is None else parse_key(key)
        return audit_progress(self.events, now=moment(now), key=path, **options)


def reported(values: Sequence[float], times: Sequence[float], key: str = "progress") -> Run:
    """A run that began with the first of *values* and set the others, each at its time."""
    run = Run({key: values[0]}, at=times[0])
    for value, at in zip(values[1:], times[1:], strict=True):
        run.set(key, value, at)
    return run


def moment(seconds: float) -> int:
    return START + round(seconds * SECOND)


def time(seconds: float) -> str:
    """As it stands in an answer."""
    return format_time(moment(seconds))


def stalls(audit: ProgressAudit) -> list[tuple[float, float | None, float]]:
    """From, to and fraction of each stall, in seconds after START."""
    return [(_seconds(one.since), one.until and _seconds(one.until), one.fraction) for one in audit.stalls]


def _seconds(at: int) -> float:
    return (at - START) / SECOND


__all__ = ["MINUTE", "SECOND", "START", "Run", "moment", "reported", "stalls", "time"]
