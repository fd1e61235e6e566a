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
from typing import TypeVar

from starlette.requests import Request

from api.problems import bad_request
from api.requests import time_of
from ledger.finding import Sort
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
from projections.lifecycle import parse_status
from projections.times import Microseconds

PERIOD_MAX_S = 100 * 365 * 86_400  # seconds; nothing is older

_METADATA = "filter[metadata]"
_MILLISECOND = 1_000  # microseconds
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_MILLISECONDS = re.compile(r"-?[0-9]{1,15}")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_PERIOD = re.compile(r"([0-9]{1,9})([smhdw])")


@dataclass(frozen=True, slots=True)
class Parameter:
    """
    A query parameter.

    Attributes:
        name: As it is written; KEY and OPERATOR stand for what a request chooses.
        form: What its value may be.
        meaning: What it does.
    """

    name: str
    form: str
    meaning: str


_LIST = f"1 to {VALUES_MAX} names with commas between, or a JSON list of them where a name holds a comma"
_TIME = "epoch milliseconds, a day such as 2026-01-31 (its beginning, in UTC), or an ISO 8601 time with a zone"
_PERIOD_FORM = "a number with s, m, h, d or w behind it, such as 7d"
_UNKNOWN = "Runs here have no such property, so none matches."

PARAMETERS = (
    Parameter("filter[status]", _LIST, "Runs that have any of these statuses, in any case."),
    Parameter("filter[taskIdentifier]", _LIST, "Runs of any of these tasks."),
    Parameter("filter[tag]", _LIST, "Runs that have any of these tags."),
    Parameter("filter[parent]", _LIST, "Runs that any of these runs started."),
    Parameter("filter[root]", _LIST, "Runs below any of these, which is the topmost run above them."),
    Parameter("filter[batch]", "a batch id", "Runs that were triggered in this batch."),
    Parameter("filter[createdAt][from]", _TIME, "Runs created then or later."),
    Parameter("filter[createdAt][to]", _TIME, "Runs created then or earlier."),
    Parameter(
        "filter[createdAt][period]", _PERIOD_FORM, "Runs created within this time before now, or before asOf."
    ),
    Parameter("filter[updatedAt][from]", _TIME, "Runs whose last event was recorded then or later."),
    Parameter("filter[updatedAt][to]", _TIME, "Runs whose last event was recorded then or earlier."),
    Parameter("filter[updatedAt][period]", _PERIOD_FORM, "Runs whose last event was recorded within this time."),
    Parameter(
        f"{_METADATA}[KEY][OPERATOR]",
        f"JSON, else text; OPERATOR is one of {' '.join(OPERATORS)}, eq when left out; KEY as in an operation",
        f"A condition on the metadata; up to {CONDITIONS_MAX}, all of which have to hold.",
    ),
    Parameter(
        "filter[stalled]", "true or false", "Runs that stand still now, or do not, as the progress audit says."
    ),
    Parameter("filter[regressed]", "true or false", "Runs whose progress went backwards, or did not."),
    Parameter("filter[isTest]", "true or false", "No run here is a test: true matches none, false every run."),
    Parameter("filter[queue]", _LIST, _UNKNOWN),
    Parameter("filter[machine]", _LIST, _UNKNOWN),
    Parameter("filter[region]", _LIST, _UNKNOWN),
    Parameter("filter[version]", _LIST, f"The version of deployed code. {_UNKNOWN}"),
    Parameter("filter[schedule]", "an id", _UNKNOWN),
    Parameter("filter[bulkAction]", "an id", _UNKNOWN),
)

NAMES = frozenset(one.name for one in PARAMETERS if not one.name.startswith(_METADATA))
VERDICTS = frozenset({"filter[stalled]", "filter[regressed]"})

_Query = dict[str, str]
_Item = TypeVar("_Item")


def is_condition(name: str) -> bool:
    """Whether a query parameter is a condition on metadata; several may have one name."""
    return name.startswith(f"{_METADATA}[")


def run_filter(request: Request, now: Callable[[], Microseconds]) -> RunFilter:
    """
    The runs that a request looks for.

    Args:
        request: The request, whose parameters were looked through.
        now: What a period counts back from.

    Raises:
        Problem: 400; it says which parameter is wrong, why, and what to write.
    """
    query = request.query_params
    pairs = query.multi_items()
    conditions = [(name, text) for name, text in pairs if is_condition(name)]
    if len(conditions) > CONDITIONS_MAX:
        raise bad_request(
            "bad-filter",
            f"at most {CONDITIONS_MAX} conditions on metadata are allowed, not {len(conditions)}",
        )
    named = dict(pairs)
    return RunFilter(
        statuses=_each(named, "filter[status]", parse_status),
        tasks=_listed(named, "filter[taskIdentifier]"),
        tags=_listed(named, "filter[tag]"),
        parents=_each(named, "filter[parent]", _run_id),
        roots=_each(named, "filter[root]", _run_id),
        batches=(named["filter[batch]"],) if named.get("filter[batch]") else (),
        created=_span(named, "filter[createdAt]", now),
        updated=_span(named, "filter[updatedAt]", now),
        metadata=tuple(_in_words(name, partial(_condition, name, text)) for name, text in conditions),
        stalled=_truth(named, "filter[stalled]"),
        regressed=_truth(named, "filter[regressed]"),
        unknown=_unknown(named),
    )


def sort_of(request: Request) -> Sort:
    """
    The order of a page, which is newest first unless the request says otherwise.

    Raises:
        Problem: 400.
    """
    text = request.query_params.get("sort", Sort.NEWEST.value)
    try:
        return Sort(text)
    except ValueError:
        raise bad_request("bad-parameter", f"sort is one of {', '.join(Sort)}, not {text[:40]!r}") from None


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


def _each(query: _Query, name: str, parse: Callable[[str], _Item]) -> tuple[_Item, ...]:
    return tuple(_in_words(name, partial(parse, item)) for item in _listed(query, name))


def _listed(query: _Query, name: str) -> tuple[str, ...]:
    """The names in a list; one that holds a comma can be written in a JSON list only."""
    text = query.get(name, "")
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


def _truth(query: _Query, name: str) -> bool | None:
    text = query.get(name)
    if text not in {None, "true", "false"}:
        raise bad_request("bad-filter", f"{name} is true or false, not {str(text)[:40]!r}")
    return None if text is None else text == "true"


def _unknown(query: _Query) -> tuple[str, ...]:
    """What is asked of runs that no run has."""
    names = ("queue", "machine", "region", "version", "schedule", "bulkAction")
    found = [name for name in names if _listed(query, f"filter[{name}]")]
    if _truth(query, "filter[isTest]"):
        found.append("isTest")
    return tuple(found)


def _span(query: _Query, name: str, now: Callable[[], Microseconds]) -> Span:
    start, end, period = (query.get(f"{name}[{part}]") for part in ("from", "to", "period"))
    since = None if start is None else _in_words(f"{name}[from]", lambda: _moment(start, is_end=False))
    until = None if end is None else _in_words(f"{name}[to]", lambda: _moment(end, is_end=True))
    if period is not None:
        if since is not None:
            raise bad_request("bad-filter", f"{name}[from] and {name}[period] both say where it begins; drop one")
        since = now() - _in_words(f"{name}[period]", lambda: _period(period))
    return Span(since, until)


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
