"""
The progress audit of a run: how far, how fast, where it stood still, when it went backwards.

It is folded from the run's events alone, in one pass: `ProgressFold.add` each of them, then `ProgressFold.audit`.
What is kept meanwhile are the numbers of at most KEYS_MAX progress keys, 56 bytes a change of each.
"""

from collections.abc import Iterable
from typing import Literal

from projections.events import Event, RunCreated, RunStatusChanged
from projections.history import metadata_after
from projections.lifecycle import Status
from projections.paths import Path
from projections.progress.answer import ProgressAudit
from projections.progress.judgement import Stretch, judge, without_key
from projections.progress.keys import changed_member, keys_in
from projections.progress.outlook import Outlook, outlook_of
from projections.progress.scales import ScaleChoice
from projections.progress.series import Occurrence, Series, occurrence
from projections.progress.states import STATE_KEYS, StateTimes
from projections.times import Microseconds
from projections.values import JsonObject

ROW_BYTES = 56  # bytes of a change of a key
KEYS_MAX = 8  # progress keys that are followed until it is known which one is taken

AttemptChoice = Literal["current", "all"] | int


def audit_progress(
    events: Iterable[Event],
    *,
    now: Microseconds,
    key: Path | None = None,
    scale: ScaleChoice | None = None,
    stall_after_s: float | None = None,
    attempt: AttemptChoice = "current",
) -> ProgressAudit:
    """
    Audit a run, given all its events in order, the first one included.

    Args:
        events: The run's stream.
        now: The present; it matters only while the run is unfinished.
        key: Where the progress is, None to find it.
        scale: How to read it, None to tell from its values.
        stall_after_s: Seconds without movement that make a stall, None to tell from the run's rhythm.
        attempt: The last attempt, all of them as one, or one by its number.
    """
    fold = ProgressFold(key=key, attempt=attempt)
    for event in events:
        fold.add(event)
    return fold.audit(now=now, scale=scale, stall_after_s=stall_after_s)


class ProgressFold:
    """
    The audit while the events come in.

    Args:
        key: Where the progress is, None to find it.
        attempt: The last attempt, all of them as one, or one by its number.
    """

    def __init__(self, *, key: Path | None = None, attempt: AttemptChoice = "current") -> None:
        self._key = key
        self._choice = attempt
        self._metadata: JsonObject = {}
        self._series: dict[tuple[str, ...], Series] = {}
        self._found = 0
        self._states = [StateTimes(state_key) for state_key in STATE_KEYS]
        self._run_id = ""
        self._version = 0
        self._heard: Microseconds = 0  # When the last event was recorded.
        self._status = Status.QUEUED
        self._last_attempt = 0
        self._has_begun = False
        self._finish: Microseconds | None = None  # When the step was recorded that ended what is looked at.
        self._seen: Microseconds | None = None  # The latest operation before that step.
        self._before_finish: Microseconds | None = None

    def add(self, event: Event) -> None:
        """Take the next event of the stream."""
        before, self._metadata = self._metadata, metadata_after(self._metadata, event.body)
        self._run_id, self._version, self._heard = event.run_id, event.version, event.recorded_at
        when = occurrence(event)
        is_new = event.attempt > self._last_attempt
        self._last_attempt = max(self._last_attempt, event.attempt)
        is_ours = self._is_ours(event)
        if is_ours and (not self._has_begun or (is_new and self._choice == "current")):
            self._begin(event, when, before)
        self._find(event)
        if is_ours and not when.is_step:
            self._hear(when)
        self._report(event, when, before, is_ours=is_ours)
        match event.body:
            case RunCreated(status=status) | RunStatusChanged(status=status):
                self._move(event, status)
            case _:
                pass

    def audit(
        self, *, now: Microseconds, scale: ScaleChoice | None = None, stall_after_s: float | None = None
    ) -> ProgressAudit:
        """
        Judge what came in, as at the moment *now*.

        Args:
            now: The present; it matters only while the run is unfinished.
            scale: How to read the key, None to tell from its values.
            stall_after_s: Seconds without movement that make a stall, None to tell from the run's rhythm.
        """
        series, is_open = self._chosen(), self._is_open()
        end = self._end(series, now if is_open else None)
        stretch = Stretch(
            run_id=self._run_id,
            version=self._version,
            status=self._status,
            attempt=self._attempt(),
            last_attempt=self._last_attempt,
            is_open=is_open,
            end=end,
            named=self._key,
            others=tuple(
                str(one.key.path)
                for one in sorted(self._series.values(), key=_preference)
                if one is not series and len(one)
            ),
            states=next((states for states in self._states if states.spent), None),
        )
        if series is None:
            return without_key(stretch, self._why_none())
        return judge(series, stretch, scale, stall_after_s)

    def outlook(self) -> Outlook:
        """What can be said in short, which holds until the next event."""
        series = self._chosen()
        return Outlook() if series is None else outlook_of(series, self._heard, is_open=self._is_open())

    @property
    def version(self) -> int:
        """The version up to which the events came in, 0 before the first."""
        return self._version

    @property
    def weight_bytes(self) -> int:
        """About how many bytes the numbers take that are kept."""
        return sum(ROW_BYTES * len(series) for series in self._series.values())

    def _chosen(self) -> Series | None:
        return min((one for one in self._series.values() if len(one)), key=_preference, default=None)

    def _is_open(self) -> bool:
        is_last = not isinstance(self._choice, int) or self._choice >= self._last_attempt
        return is_last and self._has_begun and not self._status.is_finished

    def _attempt(self) -> int | None:
        match self._choice:
            case "all":
                return None
            case "current":
                return self._last_attempt
            case number:
                return number

    def _why_none(self) -> str:
        if not self._has_begun:
            return f"attempt {self._choice} has made no event; the last attempt is {self._last_attempt}"
        if self._key is not None:
            return f"nothing at {self._key} is a number"
        return "no key tells the progress; name one"

    def _is_ours(self, event: Event) -> bool:
        """Whether the event was made by the attempt that is looked at."""
        return self._choice == "all" or event.attempt == (
            self._last_attempt if self._choice == "current" else self._choice
        )

    def _begin(self, event: Event, when: Occurrence, before: JsonObject) -> None:
        self._has_begun = True
        self._finish = self._seen = self._before_finish = None
        for series in self._series.values():
            series.begin(event, when, before)
        for states in self._states:
            states.begin(when.at, before, is_step=when.is_step)

    def _find(self, event: Event) -> None:
        """Follow the keys that this event shows for the first time."""
        for key in keys_in(self._metadata, event.body, self._key):
            names = key.path.names
            known = self._series.get(names)
            if known is not None:
                if key.kind < known.key.kind:
                    known.follow(key)
                continue
            self._series[names] = Series(key, self._found)
            self._found += 1
            if len(self._series) > KEYS_MAX:
                worst = max(self._series, key=lambda one: _rank(self._series[one]))
                del self._series[worst]

    def _hear(self, when: Occurrence) -> None:
        if self._seen is None:
            for states in self._states:
                states.hear(when.at)
        self._seen = when.at if self._seen is None else max(self._seen, when.at)
        for series in self._series.values():
            series.hear(when)

    def _report(self, event: Event, when: Occurrence, before: JsonObject, *, is_ours: bool) -> None:
        member = changed_member(event.body)
        for series in self._series.values():
            if series.is_about(member, event.body, before, self._metadata):
                reading = series.key.read(self._metadata)
                if reading is not None:
                    series.note(reading)
                if is_ours:
                    series.report(event, when, reading)
        if is_ours and self._metadata is not before:
            for states in self._states:
                if member is None or member == states.key.names[0]:
                    states.take(when.at, self._metadata)

    def _move(self, event: Event, status: Status) -> None:
        """A step of the run's life, which concerns the attempt that is looked at or comes after it."""
        was_finished, self._status = self._status.is_finished, status
        concerns = not isinstance(self._choice, int) or self._choice in {event.attempt, self._last_attempt}
        if not concerns or not self._has_begun:
            return
        if status.is_finished:
            self._finish, self._before_finish = event.recorded_at, self._seen
            return
        if was_finished and self._finish is not None:
            for series in self._series.values():
                series.pause(series.ended(self._finish, self._before_finish), event.recorded_at)
            for states in self._states:
                states.close(self._finish)
                states.skip(event.recorded_at)
        self._finish = None
        if status.is_executing:
            for series in self._series.values():
                series.start(event.recorded_at)

    def _end(self, series: Series | None, now: Microseconds | None) -> Microseconds:
        """Up to when the run is judged."""
        known = [] if series is None else [series.last_at]
        if self._seen is not None:
            known.append(self._seen)
        if now is not None:
            return max([now, *known])
        if self._finish is None:  # A later attempt took over.
            return max(known, default=0)
        if series is None:
            return self._finish
        return series.ended(self._finish, self._before_finish)


def _rank(series: Series) -> tuple[int, int, int]:
    return series.key.kind, len(series.key.path.names), series.order


def _preference(series: Series) -> tuple[bool, int, int, int]:
    """What moved comes before what never did."""
    return (not series.has_moved, *_rank(series))
