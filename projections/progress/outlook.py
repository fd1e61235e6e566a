"""What a list says of the progress of each run: the part of the audit that costs little and keeps for a while."""

from math import floor
from typing import NamedTuple

from projections.progress.course import SECOND, course_of
from projections.progress.series import Series
from projections.progress.stalls import standstills, threshold
from projections.times import Microseconds


class Outlook(NamedTuple):
    """
    How far a run is, and from when on it stands still unless something comes.

    Attributes:
        key: The key that tells its progress, None where none does.
        fraction: The part that is done, 1 for complete.
        regressions: How often it went backwards, in this attempt.
        still_since: When it last moved, or began; None where nothing more is to come.
        stalls_after: It stalls once this moment has passed without a movement.
    """

    key: str | None = None
    fraction: float | None = None
    regressions: int = 0
    still_since: Microseconds | None = None
    stalls_after: Microseconds | None = None

    @property
    def has_regressed(self) -> bool:
        """Whether it went backwards."""
        return self.regressions > 0

    def is_stalled(self, now: Microseconds) -> bool:
        """Whether it stands still for too long, as the audit would say at a moment after its last event."""
        return self.stalls_after is not None and now > self.stalls_after


def outlook_of(series: Series, heard: Microseconds, *, is_open: bool) -> Outlook:
    """
    The outlook of a key of which there is at least one report.

    Args:
        series: What the key said.
        heard: When the last event of the run was recorded.
        is_open: More may come.
    """
    course = course_of(series, None)
    rows = course.rows
    since = after = None
    if is_open and not course.is_complete:
        end = heard + 1  # Behind everything, so that the time without movement that lasts is there.
        spans = list(standstills(rows, course.fractions, course.pauses, end))
        last = spans[-1] if spans else None
        if last is not None and last.next_row is None and last.until == end:
            since = last.since
            after = since + floor(threshold(spans, None).seconds * SECOND)
    return Outlook(
        key=str(series.key.path),
        fraction=course.fractions[-1],
        regressions=sum(rows[place].value < rows[place - 1].value for place in course.moves),
        still_since=since,
        stalls_after=after,
    )
