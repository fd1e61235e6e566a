"""The answer of the progress audit, from what its fold gathered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, isnan
from typing import Any, TypeVar

from projections.lifecycle import Status
from projections.paths import Path
from projections.progress.answer import (
    Change,
    Condition,
    Counts,
    Eta,
    Move,
    ProgressAudit,
    Rate,
    Report,
    Stall,
    StallRule,
    States,
    StateTime,
    Touch,
    Touches,
)
from projections.progress.course import SECOND, Course, course_of, rounded
from projections.progress.forecast import CONFIDENCE
from projections.progress.keys import LOOKED_FOR
from projections.progress.scales import ONE, ScaleChoice
from projections.progress.series import Series
from projections.progress.stalls import Span, standstills, threshold
from projections.progress.states import StateTimes
from projections.progress.verdict import verdict
from projections.times import Microseconds, format_span

CHANGES_MAX = 1_000  # changes in an answer; neighbours of a longer history are put together
NOTED_MAX = 100  # stalls, regressions and the like in an answer, the largest of each
LATEST_S = 100 * 365 * 86_400  # seconds; an end that is further away is no use to anybody

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Stretch:
    """
    What is looked at of a run.

    Attributes:
        run_id: The run.
        version: Its version.
        status: Its status.
        attempt: The attempt, None for all.
        last_attempt: The highest attempt so far.
        is_open: More may come.
        end: Up to when it is judged.
        named: The key that the caller named.
        others: Keys that could have been taken instead.
        states: The key that names the state in words.
    """

    run_id: str
    version: int
    status: Status
    attempt: int | None
    last_attempt: int
    is_open: bool
    end: Microseconds
    named: Path | None
    others: tuple[str, ...]
    states: StateTimes | None


def without_key(stretch: Stretch, why: str) -> ProgressAudit:
    """The answer where nothing tells the progress."""
    return ProgressAudit(
        **_common(stretch),
        verdict=why,
        condition="no-key",
        looked_for=(str(stretch.named),) if stretch.named is not None else LOOKED_FOR,
        no_eta_because=why,
    )


def judge(
    series: Series, stretch: Stretch, scale: ScaleChoice | None, stall_after_s: float | None
) -> ProgressAudit:
    """The answer for the key that was taken, of which there is at least one report."""
    course = course_of(series, scale)
    rows = course.rows
    spans = list(standstills(rows, course.fractions, course.pauses, stretch.end))
    limit = threshold(spans, stall_after_s)
    stalls = [_stall(span, course, stretch) for span in spans if span.microseconds > limit.seconds * SECOND]
    condition = _condition(course, stretch, stalls)
    eta = _eta(course, stretch, condition, stalls)
    falls = [place for place in course.moves if rows[place].value < rows[place - 1].value]
    jumps = [
        place for place in course.moves if course.jump_over is not None and course.size(place) > course.jump_over
    ]
    over = [place for place, fraction in enumerate(course.fractions) if fraction > ONE]
    below = [place for place, fraction in enumerate(course.fractions) if fraction < 0]
    touched = sum(row.touches for row in rows)
    end = rows[course.moves[-1]].at if course.is_complete and course.moves else stretch.end
    recent, recent_since = course.recent(end)
    audit = ProgressAudit(
        **_common(stretch),
        condition=condition,
        key=str(series.key.path),
        scale=course.scale,
        start=_report(course, 0),
        current=_report(course, len(rows) - 1),
        net_change=rounded(course.fractions[-1] - course.fractions[0]),
        lost=None if series.lost is None else Touch(**series.lost._asdict()),
        counts=Counts(
            movements=len(course.moves),
            touches=touched,
            total_changes=len(course.total_changes),
            stalls=len(stalls),
            regressions=len(falls),
            jumps=len(jumps),
            over_complete=len(over),
            below_zero=len(below),
        ),
        rate=Rate(overall=course.rate(end), recent=recent, recent_since=recent_since),
        eta=eta if isinstance(eta, Eta) else None,
        no_eta_because=eta if isinstance(eta, str) else None,
        stall_after=StallRule(seconds=rounded(limit.seconds), is_given=limit.is_given, basis=limit.basis),
        stalls=_noted(stalls, lambda stall: stall.seconds),
        regressions=tuple(_move(course, place) for place in _noted(falls, lambda place: -course.size(place))),
        jump_over=course.jump_over,
        jumps=tuple(_move(course, place) for place in _noted(jumps, course.size)),
        over_complete=_reports(course, _noted(over, lambda place: course.fractions[place])),
        below_zero=_reports(course, _noted(below, lambda place: -course.fractions[place])),
        total_changes=tuple(_total_change(course, place) for place in _noted(course.total_changes, float)),
        touches=Touches(
            count=touched, last=None if series.last_touch is None else Touch(**series.last_touch._asdict())
        ),
        changes=_changes(course),
    )
    return audit.model_copy(update={"verdict": verdict(audit)})


def _common(stretch: Stretch) -> dict[str, Any]:
    """What every answer says of the run."""
    return {
        "run_id": stretch.run_id,
        "version": stretch.version,
        "status": stretch.status.value,
        "attempt": stretch.attempt,
        "last_attempt": stretch.last_attempt,
        "key_is_given": stretch.named is not None,
        "other_keys": stretch.others,
        "is_open": stretch.is_open,
        "end": stretch.end,
        "states": _states(stretch),
    }


def _states(stretch: Stretch) -> States | None:
    states = stretch.states
    if states is None:
        return None
    spent = states.until(stretch.end)
    return States(
        key=str(states.key),
        values=tuple(
            StateTime(
                value=text, seconds=one.microseconds / SECOND, times=one.times, is_current=text == states.current
            )
            for text, one in spent.items()
        ),
    )


def _condition(course: Course, stretch: Stretch, stalls: Sequence[Stall]) -> Condition:
    if course.is_complete:
        return "complete"
    if not stretch.is_open:
        return "incomplete"
    if stalls and stalls[-1].is_open:
        return "stalled"
    return "moving" if course.moves else "still"


def _eta(course: Course, stretch: Stretch, condition: Condition, stalls: Sequence[Stall]) -> Eta | str:
    match condition:
        case "complete":
            return "it is complete"
        case "incomplete":
            return "nothing more will come: the run, or this attempt of it, has ended"
        case "stalled":
            return f"it has stood still for {format_span(stalls[-1].seconds)}"
        case _:
            found, movements = course.forecast(stretch.end)
    if isinstance(found, str):
        return found
    if found.latest > LATEST_S:
        return "at its pace it would take more than a hundred years"
    moments = (stretch.end + round(after * SECOND) for after in (found.earliest, found.likeliest, found.latest))
    earliest, likeliest, latest = moments
    return Eta(earliest=earliest, likeliest=likeliest, latest=latest, confidence=CONFIDENCE, movements=movements)


def _report(course: Course, place: int) -> Report:
    row, total = course.rows[place], course.totals[place]
    return Report(
        at=row.at,
        version=row.version,
        value=row.value,
        total=None if isnan(total) else total,
        fraction=course.fractions[place],
        actor=row.actor,
        attempt=row.attempt,
    )


def _reports(course: Course, places: Sequence[int]) -> tuple[Report, ...]:
    return tuple(_report(course, place) for place in places)


def _changes(course: Course) -> tuple[Change, ...]:
    """All changes, each the last of as many neighbours as are put together to keep within bounds."""
    count = len(course.rows)
    together = max(1, ceil((count - 1) / CHANGES_MAX))
    found = []
    for first in range(1, count, together):
        last = min(first + together, count) - 1
        found.append(
            Change(
                **dict(_report(course, last)),
                delta=rounded(course.fractions[last] - course.fractions[first - 1]),
                movements=last - first + 1,
                touches=sum(row.touches for row in course.rows[first : last + 1]),
            )
        )
    return tuple(found)


def _move(course: Course, place: int) -> Move:
    return _between(course, place, course.rows[place - 1].value, course.rows[place].value)


def _total_change(course: Course, place: int) -> Move:
    return _between(course, place, course.totals[place - 1], course.totals[place])


def _between(course: Course, place: int, before: float, after: float) -> Move:
    row = course.rows[place]
    return Move(
        at=row.at,
        version=row.version,
        before=before,
        after=after,
        delta=rounded(course.fractions[place] - course.fractions[place - 1]),
        actor=row.actor,
        attempt=row.attempt,
    )


def _stall(span: Span, course: Course, stretch: Stretch) -> Stall:
    is_open = stretch.is_open and span.next_row is None and span.until == stretch.end
    return Stall(
        since=span.since,
        until=None if is_open else span.until,
        seconds=span.microseconds / SECOND,
        fraction=course.fractions[span.row],
        after_version=course.rows[span.row].version,
        until_version=None if span.next_row is None else course.rows[span.next_row].version,
        touches=span.touches,
        is_open=is_open,
    )


def _noted(items: Sequence[_Item], size: Callable[[_Item], float]) -> tuple[_Item, ...]:
    """The largest of *items*, in the order in which they came."""
    if len(items) <= NOTED_MAX:
        return tuple(items)
    largest = sorted(range(len(items)), key=lambda place: size(items[place]), reverse=True)[:NOTED_MAX]
    return tuple(items[place] for place in sorted(largest))
