"""
Python values as JSON.

    datetime, date, time    ISO 8601 text; a datetime with a zone in UTC, such as 2026-01-31T14:05:00Z
    timedelta               seconds, a number
    UUID, Path, Decimal     text
    Enum                    its value
    dataclass               an object of its fields
    pydantic model          what model_dump(mode="json", by_alias=True) says
    tuple, namedtuple       a list
    numpy and other scalars the number or truth value they hold

Everything else that JSON does not have is refused where it is given: sets, bytes, NaN, objects.
"""

import dataclasses
import datetime as dt
import decimal
import enum
import pathlib
import sys
import uuid

from projections import values
from projections.errors import BadValue
from projections.size import DEPTH_MAX

_SCALARS = frozenset({str, int, float, bool, type(None)})


def encode(value: object) -> str:
    """
    Compact JSON text of *value*, which may change afterwards without harm.

    Raises:
        BadValue: JSON cannot say it; the text names the place and what to do.
    """
    try:
        return values.dump(values.canonical(value))
    except BadValue:  # Rarely: most values are JSON already, and then nothing more is done.
        return values.dump(values.canonical(_plain(value, DEPTH_MAX)))


def _plain(value: object, levels: int) -> object:
    """*value* with what has a form in JSON in that form; what has none is left, to be refused with its place."""
    if levels < 0:  # Refused here: to walk all that refers to itself would take for ever.
        raise BadValue("", f"nested deeper than {DEPTH_MAX} levels, perhaps because it refers to itself")
    if isinstance(value, enum.Enum):
        return _plain(value.value, levels - 1)
    if isinstance(value, dict):
        return {key: _inside(f".{key}", member, levels) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_inside(f"[{index}]", item, levels) for index, item in enumerate(value)]
    if isinstance(value, dt.datetime):
        return _moment(value)
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, uuid.UUID | pathlib.PurePath | decimal.Decimal):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        members = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _plain(members, levels)
    return _foreign(value, levels)


def _inside(place: str, value: object, levels: int) -> object:
    if type(value) in _SCALARS:
        return value
    try:
        return _plain(value, levels - 1)
    except BadValue as error:
        raise error.inside(place) from None


def _foreign(value: object, levels: int) -> object:
    """Values of libraries that are not loaded for this."""
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(value, pydantic.BaseModel):
        return _plain(value.model_dump(mode="json", by_alias=True), levels - 1)
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", None) == 0:
        return item()
    return value


def _moment(value: dt.datetime) -> str:
    if value.tzinfo is None:
        return value.isoformat()
    return value.astimezone(dt.UTC).replace(tzinfo=None).isoformat() + "Z"
