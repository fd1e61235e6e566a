"""
Step charts: what a chart shows, in thousandths of its width and height; the template draws it.

A number holds from one event to the next, so the line has steps and no slopes.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from api.pages.words import compact, grouped, percent
from projections.numbers import NumberAt
from projections.progress import ProgressAudit
from projections.times import Microseconds, format_span

POINTS_MAX = 300  # changes that a chart draws; more lie closer together than a screen's dots
FULL = 1_000  # the width and the height


class Band(NamedTuple):
    """A stretch of time: where it begins, how wide it is, and what it means."""

    x: float
    width: float
    title: str


class Mark(NamedTuple):
    """A point of the line that is worth a look."""

    x: float
    y: float
    title: str
    version: int


class Tick(NamedTuple):
    """A line across the chart, and what it stands for."""

    y: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """
    A step chart.

    Attributes:
        title: What it shows, for who cannot see it.
        line: The steps as the data of an SVG path.
        area: The same, closed at the foot.
        ticks: Lines across.
        stalls: Stretches without movement.
        regressions: Steps back.
        eta: When it is expected to end, None where that is unknown or lies too far ahead.
        points: `version:x:y:label` of each step, for the marker that follows the scrubber.
        marker: Where the version stands that is looked at, None before the first step.
        start: Left end.
        end: Right end.
        now: Where the present is, None where the right end is.
        changes: The steps, for a table.
        text: How a value is written.
    """

    title: str
    line: str
    area: str
    ticks: tuple[Tick, ...]
    stalls: tuple[Band, ...] = ()
    regressions: tuple[Mark, ...] = ()
    eta: Band | None = None
    points: str
    marker: Mark | None
    start: Microseconds
    end: Microseconds
    now: float | None = None
    changes: tuple[tuple[int, Microseconds, str], ...] = ()


class _Frame:
    """The moments and values between which everything lies."""

    def __init__(self, start: Microseconds, end: Microseconds, low: float, high: float) -> None:
        self.start = start
        self.end = max(end, start + 1)
        self._low = low
        self._span = (high - low) or 1.0

    def x(self, at: Microseconds) -> float:
        return round(min(max((at - self.start) / (self.end - self.start), 0), 1) * FULL, 1)

    def y(self, value: float) -> float:
        return round(FULL - min(max((value - self._low) / self._span, 0), 1) * FULL, 1)


def progress_chart(audit: ProgressAudit, version: int) -> Chart | None:
    """The chart of a progress audit, None where no progress was reported."""
    if audit.start is None:
        return None
    reports = [NumberAt(one.at, one.version, one.fraction) for one in (audit.start, *audit.changes)]
    start = min(one.at for one in reports)
    end = max(audit.end, *(one.at for one in reports))
    right = end
    if audit.eta is not None and audit.is_open:
        # The future gets at most as much room as the past, or the past could not be read.
        right = max(end, min(audit.eta.latest, end + (end - start)))
    low = min(0.0, *(one.value for one in reports))
    high = max(1.0, *(one.value for one in reports))
    frame = _Frame(start, right, low, high)
    steps = _thinned(reports, POINTS_MAX)
    eta = None
    if audit.eta is not None and right > end and audit.eta.earliest <= right:
        x = frame.x(audit.eta.earliest)
        eta = Band(x, round(frame.x(audit.eta.latest) - x, 1), "expected to be complete in this time")
    return _chart(
        frame,
        steps,
        version,
        end,
        label=percent,
        title=f"Progress over time. {audit.verdict}",
        ticks=tuple(Tick(frame.y(value), percent(value)) for value in (0, 0.5, 1)),
        stalls=tuple(
            Band(
                frame.x(stall.since),
                max(2.0, round(frame.x(stall.until or end) - frame.x(stall.since), 1)),
                f"no movement for {format_span(stall.seconds)} at {percent(stall.fraction)}"
                + (f", {stall.touches:,} reports of the same" if stall.touches else ""),
            )
            for stall in audit.stalls
        ),
        regressions=tuple(
            Mark(
                frame.x(one.at),
                frame.y(_fraction_at(reports, one.version)),
                f"went backwards in version {one.version:,}, from {grouped(one.before)} to {grouped(one.after)}",
                one.version,
            )
            for one in audit.regressions
        ),
        eta=eta,
    )


def number_chart(key: str, changes: Sequence[NumberAt], until: Microseconds, version: int) -> Chart | None:
    """The chart of the numbers that stood at a key, None where there was none."""
    if not changes:
        return None
    low, high = min(one.value for one in changes), max(one.value for one in changes)
    if low == high:
        low, high = min(0.0, low), max(0.0, high) or 1.0
    frame = _Frame(changes[0].at, max(until, changes[-1].at), low, high)
    return _chart(
        frame,
        changes,
        version,
        frame.end,
        label=grouped,
        title=(
            f"{key} over time: from {grouped(changes[0].value)} to {grouped(changes[-1].value)}, "
            f"lowest {grouped(low)}, highest {grouped(high)}"
        ),
        ticks=tuple(Tick(frame.y(value), compact(value)) for value in (low, (low + high) / 2, high)),
    )


def _chart(
    frame: _Frame,
    steps: Sequence[NumberAt],
    version: int,
    end: Microseconds,
    *,
    label: Callable[[float], str],
    title: str,
    ticks: tuple[Tick, ...],
    stalls: tuple[Band, ...] = (),
    regressions: tuple[Mark, ...] = (),
    eta: Band | None = None,
) -> Chart:
    places = [(step.version, frame.x(step.at), frame.y(step.value), label(step.value)) for step in steps]
    _, x, y, _ = places[0]
    line = [f"M{x} {y}"]
    for _, x, y, _ in places[1:]:
        line.append(f"H{x}V{y}")
    right = frame.x(end)
    line.append(f"H{right}")
    path = "".join(line)
    reached = [place for place in places if place[0] <= version]
    return Chart(
        title=title,
        line=path,
        area=f"{path}V{FULL}H{places[0][1]}Z",
        ticks=ticks,
        stalls=stalls,
        regressions=regressions,
        eta=eta,
        points=" ".join(f"{at}:{x}:{y}:{text.replace(' ', '_')}" for at, x, y, text in places),
        marker=Mark(reached[-1][1], reached[-1][2], reached[-1][3], reached[-1][0]) if reached else None,
        start=frame.start,
        end=frame.end,
        now=right if right < FULL else None,
        changes=tuple((step.version, step.at, label(step.value)) for step in steps),
    )


def _fraction_at(reports: Sequence[NumberAt], version: int) -> float:
    """The value that a version gave; of changes that were put together, the one that stands for it."""
    place = bisect_left(reports, version, key=lambda one: one.version)
    return reports[min(place, len(reports) - 1)].value


def _thinned(steps: Sequence[NumberAt], count_max: int) -> list[NumberAt]:
    """As many steps as can be drawn: of each stretch of neighbours the lowest, the highest and the last."""
    if len(steps) <= count_max:
        return [*steps]
    stretch = ceil(3 * len(steps) / count_max)
    kept = [steps[0]]
    for start in range(0, len(steps), stretch):
        near = steps[start : start + stretch]
        chosen = {min(near, key=_value), max(near, key=_value), near[-1]} - {kept[0]}
        kept += sorted(chosen, key=lambda one: one.version)
    return kept


def _value(step: NumberAt) -> float:
    return step.value
