"""
What the progress audit answers; its JSON form is the answer over HTTP.

Values are as the key held them; fractions are the part that was done, 1 for complete; deltas are differences of
fractions. Times are microseconds here and ISO 8601 in JSON.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

from projections import values
from projections.times import Microseconds, format_time

Time = Annotated[Microseconds, PlainSerializer(format_time)]

Condition = Literal["no-key", "complete", "moving", "stalled", "still", "incomplete"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


class Scale(_Part):
    """
    How the key was read.

    Attributes:
        kind: Fractions of 1, percentages of 100, a number with its total, or a number of what the caller named.
        full: The value that stands for complete; for a ratio the total as it was last.
        total_key: Where the total is, None unless it is a ratio.
        is_given: The caller said so.
        basis: In words, why it was read like this.
    """

    kind: Literal["fraction", "percent", "ratio", "number"]
    full: float
    total_key: str | None
    is_given: bool
    basis: str


class Report(_Part):
    """What the key said from a moment on. `actor` is None for what an attempt found when it began."""

    at: Time
    version: int
    value: float
    total: float | None
    fraction: float
    actor: str | None
    attempt: int


class Change(Report):
    """
    A report that changed the value or the total.

    Attributes:
        delta: By how much the fraction changed.
        movements: How many changes this stands for: 1, or more where neighbours were put together.
        touches: How many reports after it said the same again.
    """

    delta: float
    movements: int
    touches: int


class Touch(_Part):
    """A report that said the same again, or took the number away."""

    at: Time
    version: int
    actor: str


class Touches(_Part):
    """The reports that said the same again."""

    count: int = 0
    last: Touch | None = None


class Move(_Part):
    """A change worth a look: a value or total *before* and after."""

    at: Time
    version: int
    before: float = Field(alias="from")
    after: float = Field(alias="to")
    delta: float
    actor: str
    attempt: int


class Stall(_Part):
    """
    A span without movement that is longer than the threshold.

    Attributes:
        since: The last movement before it.
        until: The movement or the end after it, None while it lasts.
        seconds: How long it took, or takes by now.
        fraction: Where the run stood.
        after_version: The version that held it.
        until_version: The version that ended it, None where no movement did.
        touches: Reports in it that said the same again.
        is_open: It lasts.
    """

    since: Time = Field(alias="from")
    until: Time | None = Field(alias="to")
    seconds: float
    fraction: float
    after_version: int
    until_version: int | None
    touches: int
    is_open: bool


class StallRule(_Part):
    """How long a span without movement must be to be a stall, and why."""

    seconds: float
    is_given: bool
    basis: str


class Rate(_Part):
    """
    How fast it moves, in fractions of the whole a second.

    Attributes:
        overall: From the first report to the end of the work, or to now.
        recent: Since `recent_since`, which is the first movement in the last quarter of that time; where it has
            fewer than three, over the last three movements.
    """

    overall: float | None = None
    recent: float | None = None
    recent_since: Time | None = None


class Eta(_Part):
    """
    When it will be complete, if it goes on as it did.

    Attributes:
        earliest: Lower end of the range.
        likeliest: Where the line through its movements ends.
        latest: Upper end of the range.
        confidence: How often such a range holds the end.
        movements: How many movements it rests on.
    """

    earliest: Time
    likeliest: Time
    latest: Time
    confidence: float
    movements: int


class StateTime(_Part):
    """How long a run spent in one value of its state key, and how often it took it."""

    value: str
    seconds: float
    times: int
    is_current: bool


class States(_Part):
    """The key that names the run's state in words, and its values in the order in which they came."""

    key: str
    values: tuple[StateTime, ...]


class Counts(_Part):
    """How many there are; the lists hold at most a bounded number of each."""

    movements: int = 0
    touches: int = 0
    total_changes: int = 0
    stalls: int = 0
    regressions: int = 0
    jumps: int = 0
    over_complete: int = 0
    below_zero: int = 0


class ProgressAudit(_Part):
    """
    How a run went: see `docs/progress.md`.

    Attributes:
        verdict: In one line.
        attempt: The attempt that is looked at, None for all.
        last_attempt: The highest attempt so far.
        key: The key that was read, None where there is none.
        key_is_given: The caller named it.
        other_keys: Keys that could have been taken instead.
        looked_for: What was looked for, where no key was found.
        is_open: More may come: it is the last attempt, and the run has not finished.
        end: Up to when the run is judged: now while it is open.
        net_change: From the first fraction to the last; the deltas of `changes` add up to it.
        lost: The event that took the number away, where it is gone.
        no_eta_because: Why there is no `eta`.
        jump_over: A movement forward by more than this is a jump, None where there are too few to tell.
    """

    run_id: str
    version: int
    status: str
    verdict: str = ""
    condition: Condition
    attempt: int | None
    last_attempt: int
    key: str | None = None
    key_is_given: bool
    other_keys: tuple[str, ...]
    looked_for: tuple[str, ...] = ()
    scale: Scale | None = None
    is_open: bool
    end: Time
    start: Report | None = None
    current: Report | None = None
    net_change: float = 0
    lost: Touch | None = None
    counts: Counts = Counts()
    rate: Rate = Rate()
    eta: Eta | None = None
    no_eta_because: str | None = None
    stall_after: StallRule | None = None
    stalls: tuple[Stall, ...] = ()
    regressions: tuple[Move, ...] = ()
    jump_over: float | None = None
    jumps: tuple[Move, ...] = ()
    over_complete: tuple[Report, ...] = ()
    below_zero: tuple[Report, ...] = ()
    total_changes: tuple[Move, ...] = ()
    touches: Touches = Touches()
    states: States | None = None
    changes: tuple[Change, ...] = ()

    def answer(self) -> values.JsonObject:
        """The JSON form."""
        found = values.canonical(self.model_dump(mode="json", by_alias=True))
        assert isinstance(found, dict)
        return found
