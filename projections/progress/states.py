"""How long a run spent in each value of a key that names its state in words."""

from dataclasses import dataclass, field

from projections.metadata import value_at
from projections.paths import Path, parse_key
from projections.times import Microseconds
from projections.values import JsonObject

STATE_KEYS = tuple(
    parse_key(key)
    for key in (
        *("status", "state", "$.status.state", "stage", "phase", "step"),
        *("$.status.stage", "$.status.phase", "$.status.step", "$.progress.state", "$.progress.stage"),
    )
)  # The first that ever holds text is taken.
VALUES_MAX = 100  # values of one key that are told apart; text that is new with every report names no state
TEXT_CHARACTERS_MAX = 200  # characters of a value that are kept
OTHERS = "(others)"


@dataclass(slots=True)
class Spent:
    """
    What was spent in one value.

    Attributes:
        microseconds: Altogether.
        times: How often it was taken.
    """

    microseconds: int = 0
    times: int = 0


@dataclass(slots=True)
class StateTimes:
    """
    The values of one state key over time.

    Attributes:
        key: Where the text is.
        spent: By value, in the order in which they were first taken.
        current: The value now, None where there is no text.
    """

    key: Path
    spent: dict[str, Spent] = field(default_factory=dict)
    current: str | None = None
    _since: Microseconds = 0
    _is_soft: bool = False

    def begin(self, at: Microseconds, metadata: JsonObject, *, is_step: bool) -> None:
        """Forget what was: an attempt begins with this metadata."""
        self.spent = {}
        self.current = None
        self._since = at
        self.take(at, metadata)
        self._is_soft = is_step

    def hear(self, at: Microseconds) -> None:
        """An operation on any key: a step before it did not happen later."""
        if self._is_soft:
            self._since = min(self._since, at)
            self._is_soft = False

    def take(self, at: Microseconds, metadata: JsonObject) -> None:
        """The metadata as it stands from this moment on."""
        found = value_at(metadata, self.key)
        text = found[:TEXT_CHARACTERS_MAX] if isinstance(found, str) else None
        if text is not None and text not in self.spent and len(self.spent) >= VALUES_MAX:
            text = OTHERS
        if text == self.current:
            return
        self.close(at)
        self.current = text
        if text is not None:
            self.spent.setdefault(text, Spent()).times += 1

    def close(self, at: Microseconds) -> None:
        """Count the time up to this moment; what follows counts from it."""
        if self.current is not None:
            self.spent[self.current].microseconds += max(0, at - self._since)
        self._since = max(self._since, at)

    def until(self, end: Microseconds) -> dict[str, Spent]:
        """What was spent by a moment at which the current value still holds."""
        found = {text: Spent(one.microseconds, one.times) for text, one in self.spent.items()}
        if self.current is not None:
            found[self.current].microseconds += max(0, end - self._since)
        return found

    def skip(self, until: Microseconds) -> None:
        """Nothing ran up to this moment."""
        self._since = max(self._since, until)
