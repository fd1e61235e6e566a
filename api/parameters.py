"""
Query parameters: one declaration reads a parameter and describes it in `/openapi.json`.

A handler declares what its query may say once, as a constant, and reads requests with it:

    LIMIT = whole_number("limit", 1, PAGE_MAX, "Events on a page.", default=PAGE_DEFAULT)
    AT = moment("at", "As it stood then.")
    HISTORY = Query(LIMIT, AT)

    query = HISTORY.of(request)     # 400 for what means nothing here, is given twice, or cannot be read
    limit, at = query[LIMIT], query[AT]

The same constant stands in the table of `api.contract`, from which the document is made.
"""

import json
import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast, overload

from starlette.datastructures import QueryParams
from starlette.requests import Request

from api.problems import Problem, bad_request
from ledger.reads import Point
from ledger.run_ids import RUN_ID, RUN_ID_SCHEMA
from projections.errors import BadPath
from projections.paths import Path, parse_key
from projections.times import Microseconds, parse_time

Schema = Mapping[str, Any]
"""A JSON Schema (2020-12)."""

VERSION_MAX = 2**53  # A version is a JSON number.

TIME_SCHEMA: Schema = {"type": "string", "format": "date-time"}

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,19}")
_SPACE_FOR_PLUS = re.compile(r" (?=\d\d(:?\d\d)?$)")

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, eq=False)
class Parameter(Generic[_Value]):
    """
    One query parameter.

    Attributes:
        name: As it stands in the query.
        description: What it means, for whoever reads the document.
        schema: What its text may say.
        read: Makes the value of what was given under its name; raises a `Problem` for what cannot be read.
        default: The value where it is not given.
        is_required: The handler refuses a request without it.
        is_list: It may be given several times; else only once.
        is_family: Its value is given by many names, each this one and a bracket: `filter[metadata][$.state]=x`.
            Then `read` is handed all of them; `schema` is that of an object of what the brackets hold.
    """

    name: str
    description: str
    schema: Schema
    read: Callable[[Sequence[tuple[str, str]]], _Value]
    default: _Value
    is_required: bool = False
    is_list: bool = False
    is_family: bool = False

    def takes(self, name: str) -> bool:
        """Whether what is given under a name is this parameter."""
        return name.startswith(f"{self.name}[") if self.is_family else name == self.name

    @property
    def is_bounded(self) -> bool:
        """Whether a number can be past a bound of it, which is 422 and not 400."""
        return '"maximum"' in json.dumps(self.schema)


class Given:
    """What a query says, by the parameters that were declared for it."""

    __slots__ = ("_given", "_values")

    def __init__(self, values: Mapping[Parameter[Any], Any], given: Container[Parameter[Any]]) -> None:
        self._values = values
        self._given = given

    def __contains__(self, parameter: Parameter[Any]) -> bool:
        """Whether a parameter was given."""
        return parameter in self._given

    def __getitem__(self, parameter: Parameter[_Value]) -> _Value:
        """The value of a parameter, its default where it was not given."""
        return cast("_Value", self._values[parameter])


class Query:
    """
    All that the query of a route may say.

    Args:
        parameters: In the order of the document; where several are wrong, the first is named.
        takes_others: Further parameters are let pass unread: callers of the route send what means nothing here.
    """

    def __init__(self, *parameters: Parameter[Any], takes_others: bool = False) -> None:
        self.parameters = parameters
        self.takes_others = takes_others
        self._defaults = {parameter: parameter.default for parameter in parameters}

    def of(self, request: Request) -> Given:
        """
        Read the query of a request.

        Raises:
            Problem: 400 or 422. What means nothing here would be ignored in silence, so it is refused.
        """
        if not request.scope["query_string"]:
            return Given(self._defaults, ())
        given = self._sorted(request.query_params)
        read = {parameter: parameter.read(given[parameter]) for parameter in self.parameters if parameter in given}
        return Given({**self._defaults, **read}, read)

    def _sorted(self, query: QueryParams) -> dict[Parameter[Any], list[tuple[str, str]]]:
        given: dict[Parameter[Any], list[tuple[str, str]]] = {}
        seen: set[str] = set()
        for name, text in query.multi_items():
            parameter = next((one for one in self.parameters if one.takes(name)), None)
            if parameter is None and self.takes_others:
                continue
            if parameter is None:
                names = ", ".join(sorted(one.name for one in self.parameters))
                allowed = f"there are {names}" if names else "this route takes none"
                raise bad_request("unknown-parameter", f"unknown query parameter {name!r}; {allowed}")
            if name in seen and not parameter.is_list:
                raise bad_request("repeated-parameter", f"the query parameter {name!r} is given twice")
            seen.add(name)
            given.setdefault(parameter, []).append((name, text))
        return given


NO_QUERY = Query()


def parameter(
    name: str,
    read: Callable[[str], _Value],
    schema: Schema,
    description: str,
    *,
    default: _Value,
    is_required: bool = False,
) -> Parameter[_Value]:
    """
    A parameter that is given once.

    Args:
        name: As it stands in the query.
        read: Makes its value of its text.
        schema: What the text may say.
        description: What it means.
        default: The value where it is not given.
        is_required: The handler refuses a request without it.
    """
    return Parameter(name, description, schema, lambda given: read(given[0][1]), default, is_required=is_required)


def text(name: str, description: str) -> Parameter[str | None]:
    """Any text."""
    return parameter(name, str, {"type": "string"}, description, default=None)


def texts(name: str, description: str) -> Parameter[tuple[str, ...]]:
    """Any text, as often as it is given."""
    schema = {"type": "array", "items": {"type": "string"}}
    return Parameter(name, description, schema, lambda given: tuple(one for _, one in given), (), is_list=True)


@overload
def whole_number(
    name: str, low: int, high: int, description: str, *, default: None = None
) -> Parameter[int | None]: ...
@overload
def whole_number(name: str, low: int, high: int, description: str, *, default: int) -> Parameter[int]: ...
def whole_number(
    name: str, low: int, high: int, description: str, *, default: int | None = None
) -> Parameter[int | None] | Parameter[int]:
    """A number that counts something: 400 for what is no number, 422 for one outside *low* to *high*."""
    schema = {"type": "integer", "minimum": low, "maximum": high}
    if default is not None:
        schema["default"] = default
    return parameter(name, lambda text: read_number(name, text, low, high), schema, description, default=default)


def moment(name: str, description: str) -> Parameter[Microseconds | None]:
    """A time."""
    return parameter(name, lambda text: read_moment(name, text), TIME_SCHEMA, description, default=None)


def point(name: str, description: str) -> Parameter[Point]:
    """A state: digits are a version, anything else a time; without it the current one."""
    schema = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": VERSION_MAX}, TIME_SCHEMA]}
    return parameter(name, lambda text: _read_point(name, text), schema, description, default=Point())


def key_path(description: str, *, is_required: bool = False) -> Parameter[Path | None]:
    """The parameter `key`, which reads like the key of an operation."""
    return parameter("key", _read_key, {"type": "string"}, description, default=None, is_required=is_required)


def run_id(name: str, description: str, fault: Callable[[str], Problem]) -> Parameter[str | None]:
    """The id of a run; *fault* says of any other text what is wrong."""

    def read(text: str) -> str:
        if not RUN_ID.fullmatch(text):
            raise fault(text)
        return text

    return parameter(name, read, RUN_ID_SCHEMA, description, default=None)


def one_of(
    name: str, options: Mapping[str, _Value], description: str, *, default: _Value, usual: str | None = None
) -> Parameter[_Value]:
    """
    One of several words.

    Args:
        name: The parameter.
        options: The words and their values.
        description: What it means.
        default: The value where it is not given.
        usual: The word of that value, where it has one.
    """

    def read(text: str) -> _Value:
        if text not in options:
            raise bad_request("bad-parameter", f"{name} must be {' or '.join(options)}, not {text[:40]!r}")
        return options[text]

    schema: dict[str, Any] = {"type": "string", "enum": [*options]}
    if usual is not None:
        schema["default"] = usual
    return parameter(name, read, schema, description, default=default)


def read_number(name: str, text: str, low: int, high: int) -> int:
    """
    Read a whole number.

    Raises:
        Problem: 400 for what is no number, 422 for one outside *low* to *high*.
    """
    if not _WHOLE_NUMBER.fullmatch(text):
        raise bad_request("bad-parameter", f"{name} must be a whole number, not {text[:40]!r}")
    number = int(text)
    if not low <= number <= high:
        raise out_of_bounds(f"{name} must lie within {low} and {high}, not be {number}", high)
    return number


def read_moment(name: str, text: str) -> Microseconds:
    """
    Read a time.

    Raises:
        Problem: 400.
    """
    try:
        return time_of(text)
    except ValueError as error:
        raise bad_request("bad-parameter", f"{name}: {error}") from error


def time_of(text: str) -> Microseconds:
    """
    A time in a query, where a plus sign that was not percent-encoded arrives as a space.

    Raises:
        ValueError: It is none.
    """
    return parse_time(_SPACE_FOR_PLUS.sub("+", text))


def out_of_bounds(detail: str, limit: int) -> Problem:
    """A request that is past a bound."""
    return Problem(422, "out-of-bounds", "The request is past a bound", detail, {"limit": limit})


def _read_point(name: str, text: str) -> Point:
    if re.fullmatch("-?[0-9]+", text):
        return Point(version=read_number(name, text, 1, VERSION_MAX))
    return Point(at=read_moment(name, text))


def _read_key(text: str) -> Path:
    try:
        return parse_key(text)
    except BadPath as error:
        raise bad_request("bad-path", str(error)) from error
