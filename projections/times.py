"""
Moments: whole microseconds since 1970-01-01 UTC, everywhere below the wire; ISO 8601 in UTC on it.

Integers compare, store and hash alike on every engine, which dates with zones do not.
"""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated

from pydantic import BeforeValidator

Microseconds = int

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LAST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_ISO = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d([.,]\d+)?)?([Zz]|[+-]\d\d(:?\d\d)?)")


def parse_time(value: object) -> Microseconds:
    """
    Read ISO 8601 text with a zone, such as `2026-01-31T14:05:00Z`, or take a datetime that has one.

    Digits beyond the microsecond are cut off.

    Raises:
        ValueError: Anything else, or a moment that lies outside the years 1 to 9999 in UTC.
    """
    if isinstance(value, str) and _ISO.fullmatch(value):
        try:
            value = datetime.fromisoformat(_six_digits(value).upper())
        except ValueError as error:
            raise ValueError(f"{value!s:.40} is not a time: {error!s:.80}") from error
    if isinstance(value, datetime) and value.tzinfo is not None:
        moment = (value - _EPOCH) // _MICROSECOND
        if not _FIRST <= moment <= _LAST:
            raise ValueError("the time lies outside the years 1 to 9999 in UTC")
        return moment
    raise ValueError("not an ISO 8601 time with a zone, such as 2026-01-31T14:05:00Z")


def format_time(moment: Microseconds) -> str:
    """ISO 8601 in UTC with six decimals: `2026-01-31T14:05:00.123456Z`."""
    second, microsecond = divmod(moment, 1_000_000)
    return f"{_format_second(second)}.{microsecond:06}Z"


@lru_cache(maxsize=1_024)
def _format_second(second: int) -> str:
    """Events that are shown together are often of few seconds."""
    return (_EPOCH + timedelta(seconds=second)).replace(tzinfo=None).isoformat()


def format_span(seconds: float) -> str:
    """A length of time for a person, in its two largest units: `2 h 5 min`, `14 min 20 s`, `3.2 s`, `40 ms`."""
    if seconds < 0.9995:
        return f"{round(seconds * 1000)} ms"
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    for unit, inner, size, part in (("d", "h", 86_400, 3_600), ("h", "min", 3_600, 60), ("min", "s", 60, 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size:,} {unit}" + (f" {rest} {inner}" if rest else "")
    return f"{whole} s"


def _six_digits(text: str) -> str:
    return re.sub(r"[.,](\d+)", lambda digits: f".{digits[1]:0<6.6}", text, count=1)


Moment = Annotated[Microseconds, BeforeValidator(parse_time, datetime)]
