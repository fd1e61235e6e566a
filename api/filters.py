"""
What a request says of the runs that it looks for: one reading for pages, live updates and the command line.

A condition on metadata is `filter[metadata][KEY][OPERATOR]=VALUE`, or `filter[metadata][KEY]=VALUE` for equality.
Only the last pair of brackets can be the operator, so a key may hold brackets: the key `a][ne` is written
`filter[metadata][a][ne][eq]`. A key that holds `][` has to name its operator; else a slip of the pen in one would
quietly become part of the key.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from api.parameters import TIME_SCHEMA, Given, Parameter, Schema, parameter, text, time_of
from api.problems import bad_request
from ledger.run_ids import RUN_ID
from projections import values
from projections.errors import BadJson
from projections.filters import (
    CONDITIONS_MAX,
    OPERATORS,
    VALUES_MAX,
    BadFilter,
    MetadataCondition,
    RunFilter,
    Span,
    parse_condition,
)
from projections.lifecycle import Status, parse_status
from projections.times import Microseconds

PERIOD_MAX_S = 100 * 365 * 86_400  # seconds; nothing is older

_METADATA = "filter[metadata]"
_MILLISECOND = 1_000  # microseconds
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_MILLISECONDS = re.compile(r"-?[0-9]{1,15}")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_PERIOD = re.compile(r"([0-9]{1,9})([smhdw])")


_Item = TypeVar("_Item")

_LIST = f"1 to {VALUES_MAX} names with commas between, or a JSON list of them where a name holds a comma."
_TIME = "Epoch milliseconds, a day such as 2026-01-31 (its beginning, in UTC), or an ISO 8601 time with a zone."
_UNKNOWN = "Runs here have no such property, so none matches."

_NAMES: Schema = {"type": "array", "items": {"type": "string"}}  # No bound: repeats count once, blanks not at all.
_TIME_SCHEMA: Schema = {
    "anyOf": [
        TIME_SCHEMA,
        {"type": "string", "format": "date"},
        {"type": "string", "pattern": f"^{_MILLISECONDS.pattern}$"},
    ]
}
_PERIOD_SCHEMA: Schema = {"type": "string", "pattern": f"^{_PERIOD.pattern}$", "examples": ["7d"]}


def _read_conditions(given: Sequence[tuple[str, str]]) -> tuple[MetadataCondition, ...]:
    if len(given) > CONDITIONS_MAX:
        raise bad_request(
            "bad-filter", f"at most {CONDITIONS_MAX} conditions on metadata are allowed, not {len(given)}"
        )
    return tuple(_in_words(name, partial(_condition, name, text)) for name, text in given)


def _condition(name: str, text: str) -> MetadataCondition:
    inner = name[len(_METADATA) + 1 :]
    if not inner.endswith("]"):
        raise BadFilter(f"a closing bracket is missing; write {_METADATA}[KEY]=VALUE")
    key, between, operator = inner[:-1].rpartition("][")
    if not between:
        return parse_condition(operator, "eq", text)
    if operator not in OPERATORS:
        raise BadFilter(
            f"there is no operator {operator[:40]!r}; there are {', '.join(OPERATORS)}. "
            "A key that holds ][ has to be followed by its operator, such as [eq]"
        )
    return parse_condition(key, operator, text)


def _listed(name: str, text: str) -> tuple[str, ...]:
    """The names in a list; one that holds a comma can be written in a JSON list only."""
    found: Sequence[str] = text.split(",")
    if text.startswith("["):
        try:
            listed = values.parse(text)
        except BadJson:
            listed = None  # Names that begin like a list.
        if isinstance(listed, list) and all(isinstance(one, str) for one in listed):
            found = [str(one) for one in listed]
    found = [*dict.fromkeys(one for one in found if one)]
    if len(found) > VALUES_MAX:
        raise bad_request("bad-filter", f"{name} takes at most {VALUES_MAX} names, these are {len(found)}")
    return tuple(found)


def _run_id(text: str) -> str:
    if not RUN_ID.fullmatch(text):
        raise ValueError(f"{text[:40]!r} cannot be the id of a run")
    return text


def _moment(text: str, *, is_end: bool) -> Microseconds:
    if _MILLISECONDS.fullmatch(text):
        # The end of a millisecond includes all of it: callers that count in them know no finer times.
        return int(text) * _MILLISECOND + (_MILLISECOND - 1 if is_end else 0)
    if _DAY.fullmatch(text):
        text = f"{text}T00:00:00Z"
    try:
        return time_of(text)
    except ValueError as error:
        raise BadFilter(f"{error}; a day such as 2026-01-31 or epoch milliseconds will do, too") from error


def _period(text: str) -> Microseconds:
    found = _PERIOD.fullmatch(text)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 1 <= seconds <= PERIOD_MAX_S:
        raise BadFilter(f"{text[:40]!r} is no period; write a number with s, m, h, d or w behind it, such as 7d")
    return seconds * 1_000_000


def _in_words(name: str, parse: Callable[[], _Item]) -> _Item:
    try:
        return parse()
    except ValueError as error:
        raise bad_request("bad-filter", f"{name[:200]}: {error}") from error


def _names(name: str, read_item: Callable[[str], _Item], meaning: str) -> Parameter[tuple[_Item, ...]]:
    """A parameter that is a list of names."""

    def read(text: str) -> tuple[_Item, ...]:
        return tuple(_in_words(name, partial(read_item, one)) for one in _listed(name, text))

    return parameter(name, read, _NAMES, f"{meaning} {_LIST}", default=())


def _truth(name: str, meaning: str) -> Parameter[bool | None]:
    """A parameter that is true or false."""

    def read(text: str) -> bool:
        if text not in {"true", "false"}:
            raise bad_request("bad-filter", f"{name} is true or false, not {text[:40]!r}")
        return text == "true"

    return parameter(name, read, {"type": "boolean"}, meaning, default=None)


@dataclass(frozen=True, slots=True)
class _SpanParameters:
    """The three parameters that say a span of time."""

    start: Parameter[Microseconds | None]
    end: Parameter[Microseconds | None]
    period: Parameter[Microseconds | None]

    @classmethod
    def of(cls, name: str, what: str) -> "_SpanParameters":
        """Declare them for runs that were, or whose last event was, *what*."""
        start, end, period = (f"{name}[{part}]" for part in ("from", "to", "period"))
        return cls(
            parameter(
                start,
                lambda text: _in_words(start, lambda: _moment(text, is_end=False)),
                _TIME_SCHEMA,
                f"{what} then or later. {_TIME}",
                default=None,
            ),
            parameter(
                end,
                lambda text: _in_words(end, lambda: _moment(text, is_end=True)),
                _TIME_SCHEMA,
                f"{what} then or earlier. {_TIME}",
                default=None,
            ),
            parameter(
                period,
                lambda text: _in_words(period, lambda: _period(text)),
                _PERIOD_SCHEMA,
                f"{what} within this time before now, or before asOf. Not together with `{start}`.",
                default=None,
            ),
        )

    def read(self, query: Given, now: Callable[[], Microseconds]) -> Span:
        """The span that a query says."""
        since, period = query[self.start], query[self.period]
        if period is not None:
            if since is not None:
                raise bad_request(
                    "bad-filter", f"{self.start.name} and {self.period.name} both say where it begins; drop one"
                )
            since = now() - period
        return Span(since, query[self.end])


_STATUSES = _names(
    "filter[status]",
    parse_status,
    f"Runs that have any of these statuses, in any case; there are {', '.join(Status)}.",
)
_TASKS = _names("filter[taskIdentifier]", str, "Runs of any of these tasks.")
_TAGS = _names("filter[tag]", str, "Runs that have any of these tags.")
_PARENTS = _names("filter[parent]", _run_id, "Runs that any of these runs started.")
_ROOTS = _names("filter[root]", _run_id, "Runs below any of these, which is the topmost run above them.")
_BATCH = text("filter[batch]", "Runs that were triggered in the batch with this id.")
_CREATED = _SpanParameters.of("filter[createdAt]", "Runs created")
_UPDATED = _SpanParameters.of("filter[updatedAt]", "Runs whose last event was recorded")
CONDITIONS: Parameter[tuple[MetadataCondition, ...]] = Parameter(
    _METADATA,
    f"Conditions on the metadata, up to {CONDITIONS_MAX}, all of which have to hold: "
    f"`{_METADATA}[KEY][OPERATOR]=VALUE`. KEY reads like the key of an operation; OPERATOR is one of "
    f"{' '.join(OPERATORS)}, eq when left out; VALUE is JSON, else text.",
    {"type": "object", "maxProperties": CONDITIONS_MAX},
    _read_conditions,
    (),
    is_list=True,
    is_family=True,
)
_STALLED = _truth("filter[stalled]", "Runs that stand still now, or do not, as the progress audit says.")
_REGRESSED = _truth("filter[regressed]", "Runs whose progress went backwards, or did not.")
_IS_TEST = _truth("filter[isTest]", "No run here is a test: true matches none, false every run.")
_NEVER: tuple[Parameter[tuple[str, ...]], ...] = tuple(
    _names(f"filter[{name}]", str, meaning)
    for name, meaning in (
        ("queue", _UNKNOWN),
        ("machine", _UNKNOWN),
        ("region", _UNKNOWN),
        ("version", f"The version of deployed code. {_UNKNOWN}"),
        ("schedule", _UNKNOWN),
        ("bulkAction", _UNKNOWN),
    )
)
_SEEKING_NONE: tuple[Parameter[Any], ...] = (*_NEVER, _IS_TEST)

PARAMETERS: tuple[Parameter[Any], ...] = (
    _STATUSES,
    _TASKS,
    _TAGS,
    _PARENTS,
    _ROOTS,
    _BATCH,
    *(_CREATED.start, _CREATED.end, _CREATED.period),
    *(_UPDATED.start, _UPDATED.end, _UPDATED.period),
    CONDITIONS,
    _STALLED,
    _REGRESSED,
    _IS_TEST,
    *_NEVER,
)
"""All of them, for the `Query` of a route that looks for runs."""


def run_filter(query: Given, now: Callable[[], Microseconds]) -> RunFilter:
    """
    The runs that a query looks for.

    Args:
        query: What it says of all `PARAMETERS`.
        now: What a period counts back from.

    Raises:
        Problem: 400; two parameters say the same.
    """
    batch = query[_BATCH]
    return RunFilter(
        statuses=query[_STATUSES],
        tasks=query[_TASKS],
        tags=query[_TAGS],
        parents=query[_PARENTS],
        roots=query[_ROOTS],
        batches=(batch,) if batch else (),
        created=_CREATED.read(query, now),
        updated=_UPDATED.read(query, now),
        metadata=query[CONDITIONS],
        stalled=query[_STALLED],
        regressed=query[_REGRESSED],
        unknown=tuple(one.name for one in _SEEKING_NONE if query[one]),
    )
