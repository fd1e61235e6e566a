"""
Which runs somebody looks for: conditions on a run and its metadata, all of which have to hold.

    key = value         the value at the key is that value; 1 is 1.0, and no text, truth or null is a number
    ne                  it is another one, or there is none
    gt gte lt lte       it is a number and compares so to a number, or text to text, by code points
    in                  it is one of these values
    exists              there is one, null included; or there is none

Everything that looks for runs uses this one meaning: pages and live updates, on every engine, now and in the past.
"""

from dataclasses import dataclass
from typing import Literal, assert_never, get_args

from pydantic import JsonValue

from projections import values
from projections.errors import BadJson, BadPath, BadValue
from projections.lifecycle import Status
from projections.metadata import Absent, value_at
from projections.paths import Path, parse_key
from projections.runs import Run
from projections.size import KEY_BYTES_MAX, size_bytes
from projections.times import Microseconds
from projections.values import JsonObject

Operator = Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "exists"]
OPERATORS: tuple[Operator, ...] = get_args(Operator)

VALUE_CHARACTERS_MAX = 8_192  # characters of the value of a condition
VALUES_MAX = 100  # values that one condition may name
CONDITIONS_MAX = 20  # conditions on metadata in one filter

_SHOWN_CHARACTERS = 60  # characters of a value that an error repeats


class BadFilter(ValueError):
    """A condition that cannot be understood; the text says why and what to write instead."""


@dataclass(frozen=True, slots=True)
class MetadataCondition:
    """
    A condition on one value of the metadata.

    Attributes:
        path: Where the value is.
        operator: How it is compared.
        value: With what, canonical; a list of values for `in`, true or false for `exists`.
    """

    path: Path
    operator: Operator
    value: JsonValue

    def holds(self, metadata: JsonObject) -> bool:
        """Whether metadata is as the condition wants it."""
        found = value_at(metadata, self.path)
        match self.operator:
            case "exists":
                return isinstance(found, Absent) is not self.value
            case "ne":
                return isinstance(found, Absent) or not values.equal(found, self.value)
            case _ if isinstance(found, Absent):
                return False
            case "eq":
                return values.equal(found, self.value)
            case "in":
                assert isinstance(self.value, list)
                return any(values.equal(found, one) for one in self.value)
            case "gt" | "gte" | "lt" | "lte":
                return _compares(found, self.operator, self.value)
            case _:
                assert_never(self.operator)


@dataclass(frozen=True, slots=True)
class Span:
    """
    A stretch of time, both ends included; None leaves an end open.

    Attributes:
        since: Its first moment.
        until: Its last moment.
    """

    since: Microseconds | None = None
    until: Microseconds | None = None

    def holds(self, moment: Microseconds) -> bool:
        """Whether a moment lies within."""
        return (self.since is None or moment >= self.since) and (self.until is None or moment <= self.until)

    @property
    def is_open(self) -> bool:
        """Every moment lies within."""
        return self.since is None and self.until is None


ALWAYS = Span()


@dataclass(frozen=True, slots=True)
class RunFilter:
    """
    The runs that somebody looks for: those that everything named here applies to.

    Attributes:
        statuses: It has any of these statuses; empty for all, as below.
        tasks: It is of any of these tasks.
        tags: It has any of these tags.
        parents: Any of these runs started it.
        roots: Any of these is the topmost run above it; a run without a parent is below none.
        batches: It was triggered in any of these batches.
        created: When it was created.
        updated: When its last event was recorded.
        metadata: All of these hold.
        stalled: Whether it stands still, as the progress audit has it; None for both.
        regressed: Whether it went backwards, as the progress audit has it; None for both.
        unknown: Properties that no run has; one that is asked for leaves none.
    """

    statuses: tuple[Status, ...] = ()
    tasks: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    batches: tuple[str, ...] = ()
    created: Span = ALWAYS
    updated: Span = ALWAYS
    metadata: tuple[MetadataCondition, ...] = ()
    stalled: bool | None = None
    regressed: bool | None = None
    unknown: tuple[str, ...] = ()

    @property
    def asks_for_verdicts(self) -> bool:
        """Whether it cannot be judged without the progress audit."""
        return self.stalled is not None or self.regressed is not None

    def takes(self, run: Run) -> bool:
        """Whether a run is wanted, as far as that can be told without the progress audit."""
        return (
            not self.unknown
            and _is_any(run.status, self.statuses)
            and _is_any(run.task, self.tasks)
            and (not self.tags or not {*self.tags}.isdisjoint(run.tags))
            and _is_any(run.parent, self.parents)
            and _is_any(run.root, self.roots)
            and _is_any(run.batch, self.batches)
            and self.created.holds(run.created_at)
            and self.updated.holds(run.updated_at)
            and all(condition.holds(run.snapshot.metadata) for condition in self.metadata)
        )

    def takes_verdicts(self, *, stalled: bool, regressed: bool) -> bool:
        """Whether a run of which the progress audit says this is wanted."""
        return self.stalled in {None, stalled} and self.regressed in {None, regressed}


EVERY_RUN = RunFilter()


def parse_condition(key: str, operator: str, text: str) -> MetadataCondition:
    """
    Read one condition on metadata.

    Args:
        key: Reads like the key of an operation.
        operator: One of `OPERATORS`.
        text: Reads as JSON, and else stands for itself; for `in` a JSON list, or values with commas between.

    Raises:
        BadFilter: The operator, the key or the value means nothing.
    """
    if operator not in OPERATORS:
        raise BadFilter(f"there is no operator {_short(operator)}; there are {', '.join(OPERATORS)}")
    if size_bytes(key) > KEY_BYTES_MAX:
        raise BadFilter(f"the key has {size_bytes(key):,} bytes, at most {KEY_BYTES_MAX:,} are allowed")
    if len(text) > VALUE_CHARACTERS_MAX:
        raise BadFilter(f"the value has {len(text):,} characters, at most {VALUE_CHARACTERS_MAX:,} are allowed")
    try:
        path = parse_key(key)
    except BadPath as error:
        raise BadFilter(str(error)) from error
    return MetadataCondition(path, operator, _VALUES.get(operator, _value)(text))


def _value(text: str) -> JsonValue:
    try:
        found = values.parse(text)
    except BadJson:
        return text
    try:
        return values.canonical(found)
    except BadValue as error:
        raise BadFilter(
            f"{_short(text)} is no value that metadata can have ({error.reason}); "
            "to compare with text, put it in double quotes"
        ) from error


def _listed(text: str) -> JsonValue:
    if text.startswith("["):
        found = _value(text)
        if not isinstance(found, list):
            raise BadFilter(f'{_short(text)} is no JSON list; write it like ["a",1], or a,1 without brackets')
    else:
        found = [_value(item) for item in text.split(",")] if text else []
    if not 1 <= len(found) <= VALUES_MAX:
        raise BadFilter(f"in takes 1 to {VALUES_MAX} values, this has {len(found)}")
    return found


def _ordered(text: str) -> JsonValue:
    found = _value(text)
    if isinstance(found, bool) or not isinstance(found, int | float | str):
        raise BadFilter(f"{_short(text)} has no order; compare with a number or a text, or use eq, ne and in")
    return found


def _existing(text: str) -> JsonValue:
    if text not in {"true", "false"}:
        raise BadFilter(f"exists is true or false, not {_short(text)}")
    return text == "true"


_VALUES = {
    "in": _listed,
    "exists": _existing,
    **dict.fromkeys(("gt", "gte", "lt", "lte"), _ordered),
}


def _compares(found: JsonValue, operator: Literal["gt", "gte", "lt", "lte"], value: JsonValue) -> bool:
    if isinstance(found, str) and isinstance(value, str):
        above, below = found > value, found < value
    elif _is_number(found) and _is_number(value):
        above, below = found > value, found < value  # type: ignore[operator]
    else:
        return False
    match operator:
        case "gt":
            return above
        case "gte":
            return not below
        case "lt":
            return below
        case "lte":
            return not above


def _is_number(value: JsonValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_any(value: str | None, wanted: tuple[str, ...]) -> bool:
    return not wanted or value in wanted


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}...")
