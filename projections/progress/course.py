"""The course of a run's progress: its reports read at a scale, how fast they move, and where that leads."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from statistics import median

from projections.progress.answer import Scale
from projections.progress.forecast import Forecast, forecast
from projections.progress.scales import ScaleChoice, scale_of, totals_of
from projections.progress.series import Pause, Row, Series
from projections.progress.stalls import COMPLETE
from projections.times import Microseconds

USUAL_MOVES_MIN = 5  # movements that show which size is usual
UNUSUAL_SPREADS = 8  # median deviations that make a jump or a restart; jitter around a line stays below 6
UNUSUAL_MIN = 0.05  # fraction; nothing smaller is a jump or a restart
JUMP_SIZES = 3  # usual sizes that a jump has at least; two reports in one are none
RECENT_PART = 4  # the recent rate is that of the last quarter
RECENT_MOVES_MIN = 3  # movements in it that show a rate
DIGITS = 12  # decimals of fractions and seconds; what lies behind them is rounding

SECOND = 1_000_000  # microseconds


@dataclass(frozen=True)
class Course:
    """
    The reports of one key, read at a scale.

    Attributes:
        scale: How they are read.
        rows: Those that changed the value, or the total where it matters; the first is where it began.
        totals: The total of each, NaN where there is none.
        fractions: The part that was done by each.
        pauses: Times in which nothing ran.
    """

    scale: Scale
    rows: Sequence[Row]
    totals: Sequence[float]
    fractions: Sequence[float]
    pauses: Sequence[Pause]

    @cached_property
    def moves(self) -> list[int]:
        """Places of the rows that changed the value."""
        return [place for place in range(1, len(self.rows)) if not self._is_total_only(place)]

    @cached_property
    def total_changes(self) -> list[int]:
        """Places of the rows that changed only the total."""
        return [place for place in range(1, len(self.rows)) if self._is_total_only(place)]

    @cached_property
    def jump_over(self) -> float | None:
        """A movement of more than this is a jump, None where too few show what is usual."""
        if self._usual is None:
            return None
        size, spread = self._usual
        return rounded(max(JUMP_SIZES * size, size + max(UNUSUAL_MIN, UNUSUAL_SPREADS * spread)))

    @cached_property
    def restart(self) -> int | None:
        """Place of the last movement that went too far back to be jitter around a line."""
        size, spread = self._usual or (0.0, 0.0)
        below = rounded(min(-UNUSUAL_MIN, size - UNUSUAL_SPREADS * spread))
        return max((place for place in self.moves if self.size(place) < below), default=None)

    @cached_property
    def _paused(self) -> list[int]:
        """Microseconds of the first pauses together, for every number of them."""
        return [0, *accumulate(pause.until - pause.since for pause in self.pauses)]

    @cached_property
    def _usual(self) -> tuple[float, float] | None:
        """The median size of a movement, and the median by which one differs from it."""
        if len(self.moves) < USUAL_MOVES_MIN:
            return None
        sizes = [self.size(place) for place in self.moves]
        middle = median(sizes)
        return middle, median(abs(size - middle) for size in sizes)

    @property
    def is_complete(self) -> bool:
        """The last report says that all is done."""
        return self.fractions[-1] >= COMPLETE

    def size(self, place: int) -> float:
        """How much work a movement is, as a part of the whole as it was last."""
        return rounded((self.rows[place].value - self.rows[place - 1].value) / self.scale.full)

    def seconds(self, at: Microseconds) -> float:
        """Seconds from the first report to a moment, without the times in which nothing ran."""
        if not self.pauses:
            return (at - self.rows[0].at) / SECOND
        over = bisect_left(self.pauses, at, key=lambda pause: pause.since)  # Pauses that began before.
        paused = self._paused[over]
        if over and self.pauses[over - 1].until > at:
            paused -= self.pauses[over - 1].until - at
        return (at - self.rows[0].at - paused) / SECOND

    def rate(self, end: Microseconds) -> float | None:
        """Fractions a second from the first report to *end*, None where that is no time."""
        return self._rate(0, end)

    def recent(self, end: Microseconds) -> tuple[float | None, Microseconds | None]:
        """
        Fractions a second over the last quarter of the time, and from when on.

        It begins with the first movement in that quarter, so that a stall before it is left out; where the quarter
        has too few, it is about the last few of all.
        """
        if not self.moves:
            return None, None
        since = self.seconds(end) * (1 - 1 / RECENT_PART)
        within = [place for place in self.moves if self.seconds(self.rows[place].at) >= since]
        last_few = [0, *self.moves][-RECENT_MOVES_MIN - 1 :]
        start = (within if len(within) >= RECENT_MOVES_MIN else last_few)[0]
        rate = self._rate(start, end)
        return rate, None if rate is None else self.rows[start].at

    def forecast(self, now: Microseconds) -> tuple[Forecast | str, int]:
        """When the work will be done, in working seconds from now, and how many movements say so."""
        start = self.restart or 0
        places = [start, *(place for place in self.moves if place > start)]
        times = [self.seconds(self.rows[place].at) for place in places]
        work = [self.rows[place].value / self.scale.full for place in places]
        return forecast(times, work, self.seconds(now)), len(places) - 1

    def _rate(self, place: int, end: Microseconds) -> float | None:
        took = self.seconds(end) - self.seconds(self.rows[place].at)
        return (self.rows[-1].value - self.rows[place].value) / self.scale.full / took if took > 0 else None

    def _is_total_only(self, place: int) -> bool:
        return self.rows[place].value == self.rows[place - 1].value


def course_of(series: Series, choice: ScaleChoice | None) -> Course:
    """
    Read a series that has rows.

    Args:
        series: What the key said.
        choice: How to read it, None to tell from what it said.
    """
    rows = list(series.rows())
    totals = totals_of(rows)
    scale = scale_of(series, totals[-1], choice)
    if scale.kind == "ratio":
        fractions = [rounded(row.value / total) for row, total in zip(rows, totals, strict=True)]
    else:
        rows = _of_values(rows)
        totals = [math.nan] * len(rows)
        fractions = [rounded(row.value / scale.full) for row in rows]
    return Course(scale, rows, totals, fractions, tuple(series.pauses))


def rounded(number: float) -> float:
    """*number* without what is only rounding."""
    return round(number, DIGITS)


def _of_values(rows: Sequence[Row]) -> list[Row]:
    """*rows* where the total is no matter: those that changed only it count as touches."""
    kept = [rows[0]]
    for row in rows[1:]:
        if row.value == kept[-1].value:
            kept[-1] = kept[-1]._replace(touches=kept[-1].touches + 1 + row.touches)
        else:
            kept.append(row)
    return kept
