"""
Where progress stood still: spans without movement that are longer than a threshold.

A report that says the same again is no movement, nor is a total that grew. What is complete cannot stall, and
neither can a run between two attempts. Without a threshold from the caller the run's own rhythm gives one, see
`threshold`.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from projections.progress.series import Pause, Row
from projections.times import Microseconds, format_span

USUAL_GAPS_MIN = 3  # gaps between movements that make a rhythm
WITHOUT_RHYTHM_S = 300  # seconds; the threshold as long as there is no rhythm
FACTOR_MIN = 5  # usual gaps that make a stall
SHORTEST_S = 5  # seconds; nobody looks into a pause shorter than this
COMPLETE = 1 - 1e-9  # fraction from which the work is complete: sums of tenths end just below 1

_SECOND = 1_000_000


class Span(NamedTuple):
    """
    A time without movement.

    Attributes:
        since: The movement, or the start, before it.
        until: The movement or the end after it.
        row: Place of the row that held during it.
        next_row: Place of the row that ended it, None where the end of what is known did.
        touches: Reports in it that said the same again.
    """

    since: Microseconds
    until: Microseconds
    row: int
    next_row: int | None
    touches: int

    @property
    def microseconds(self) -> int:
        """How long it took."""
        return self.until - self.since


class Threshold(NamedTuple):
    """
    How long a stall is at least.

    Attributes:
        seconds: A longer span without movement is a stall.
        is_given: The caller named it.
        basis: In words, where it comes from.
    """

    seconds: float
    is_given: bool
    basis: str


def standstills(
    rows: Sequence[Row], fractions: Sequence[float], pauses: Sequence[Pause], end: Microseconds
) -> Iterator[Span]:
    """
    Every time without movement in which the work was not complete, in order.

    Args:
        rows: The reports that changed something; a row with the value of the row before changed the total only.
        fractions: The part that was done by each row.
        pauses: Times in which nothing ran, in order.
        end: Up to when the run is judged.
    """
    held = 0
    while held < len(rows):
        following = held + 1
        while following < len(rows) and rows[following].value == rows[held].value:
            following += 1
        is_last = following == len(rows)
        moved = end if is_last else rows[following].at
        # A total may grow, and turn what was complete into work that stands still, or shrink.
        incomplete = following
        while incomplete > held and fractions[incomplete - 1] < COMPLETE:
            incomplete -= 1
        if incomplete < following:
            touches = sum(row.touches for row in rows[incomplete:following])
            since = rows[incomplete].at
            yield from _without(Span(since, moved, following - 1, None if is_last else following, touches), pauses)
        held = following


def threshold(spans: Sequence[Span], given_s: float | None) -> Threshold:
    """
    How long a stall is at least: what was given, else five usual gaps between movements.

    The usual gap is the one that three quarters of the gaps do not exceed, so that neither many short gaps nor a
    few stalls decide. The longest of many gaps is long by mere chance: among movements that come at random, one
    gap of n exceeds 0.72 (ln n + 3) such gaps once in twenty runs; where that is more than five, it is the
    factor.
    """
    if given_s is not None:
        return Threshold(given_s, is_given=True, basis="as given")
    gaps = sorted(span.microseconds for span in spans if span.next_row is not None and span.microseconds > 0)
    if len(gaps) < USUAL_GAPS_MIN:
        shortest = gaps[0] / _SECOND if gaps else 0.0
        seconds = max(WITHOUT_RHYTHM_S, FACTOR_MIN * shortest)
        basis = f"{_gaps(len(gaps))} no rhythm of the run's own yet"
        return Threshold(seconds, is_given=False, basis=basis)
    usual = gaps[(len(gaps) - 1) * 3 // 4] / _SECOND
    factor = max(FACTOR_MIN, 0.72 * (math.log(len(gaps)) + 3))
    basis = (
        f"{factor:.2g} times the usual gap of {format_span(usual)}; "
        f"three quarters of the {len(gaps):,} gaps between movements are no longer"
    )
    if factor * usual < SHORTEST_S:
        basis = f"nothing shorter counts, though the usual gap is {format_span(usual)}"
    return Threshold(max(factor * usual, SHORTEST_S), is_given=False, basis=basis)


def _without(span: Span, pauses: Sequence[Pause]) -> Iterator[Span]:
    """The parts of a span in which something ran."""
    since = span.since
    for place in range(bisect_right(pauses, since, key=lambda pause: pause.until), len(pauses)):
        pause = pauses[place]
        if pause.since >= span.until:
            break
        if pause.since > since:
            yield span._replace(since=since, until=pause.since, next_row=None)
        since = pause.until
    if since < span.until or since == span.since:
        yield span._replace(since=since)


def _gaps(count: int) -> str:
    return "one gap between movements shows" if count == 1 else f"{count or 'no'} gaps between movements show"
