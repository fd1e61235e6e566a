"""How the pages write values, times and sizes. All of it is text; escaping is the templates' affair."""

import re
from collections.abc import Iterable
from urllib.parse import quote

from pydantic import JsonValue

from projections import values
from projections.metadata import Absent
from projections.times import Microseconds, format_span, format_time

# What is invisible, or changes the direction of what stands around it, is written as its escape.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)


def shown(text: object) -> str:
    """Text in which everything can be seen."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", str(text))


def json_text(value: JsonValue | Absent) -> str:
    """A value as compact JSON in which everything can be seen; nothing where there is none."""
    return "" if isinstance(value, Absent) else shown(values.dump(value))


def cut(text: str, characters_max: int) -> str:
    """The beginning of a long text, with its end left out."""
    return text if len(text) <= characters_max else f"{text[: characters_max - 1]}…"


def clock(moment: Microseconds) -> str:
    """A time in UTC, as it is shown until the browser writes it in its own zone."""
    return format_time(moment)[:19].replace("T", " ") + " UTC"


def exact(moment: Microseconds) -> str:
    """A time to the microsecond."""
    return format_time(moment)[:-1].replace("T", " ") + " UTC"


def grouped(number: float) -> str:
    """A number for a person: thousands apart, no more digits than say something."""
    if abs(number) >= 1e15 or (number and abs(number) < 1e-4):
        return f"{number:.4g}"
    if float(number).is_integer():
        return f"{int(number):,}"
    return f"{number:,.4f}".rstrip("0")


def compact(number: float) -> str:
    """A number in few characters, for the side of a chart: `102M`, `1.5k`."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= abs(number) < 1e15:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def percent(fraction: float) -> str:
    """A part of the whole: `12 %`, `99.96 %`; never 100 before it is complete."""
    part = fraction * 100
    text = f"{part:.0f}"
    if (text == "100" and part < 100) or (text == "0" and part > 0):
        text = f"{part:.2f}"
        text = "99.99" if text == "100.00" else text
    return f"{text} %"


def path_part(text: str) -> str:
    """Text as a part of a path or a query."""
    return quote(text, safe="")


def before_query(path: str) -> str:
    """The path of an address, for a form that brings a query of its own."""
    return path.partition("?")[0]


_SHAPES = {
    "queued": ("PENDING_VERSION", "QUEUED", "DELAYED"),
    "running": ("DEQUEUED", "EXECUTING"),
    "waiting": ("WAITING",),
    "done": ("COMPLETED",),
    "failed": ("FAILED", "CRASHED", "SYSTEM_FAILURE", "TIMED_OUT"),
    "stopped": ("CANCELED", "EXPIRED"),
}
_SHAPE_OF = {status: shape for shape, statuses in _SHAPES.items() for status in statuses}


def shape(status: str) -> str:
    """Which of six shapes stands for a status, beside its name."""
    return _SHAPE_OF[status]


def status_word(status: str) -> str:
    """A status as a person says it."""
    return status.lower().replace("_", " ")


def statuses_in_words(statuses: Iterable[str]) -> list[tuple[str, str]]:
    """What a form offers: each status, and how a person says it."""
    return [(status, status_word(status)) for status in statuses]


_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def periods_in_words(periods: Iterable[str]) -> list[tuple[str, str]]:
    """The same for periods such as `24h`."""
    return [
        (period, f"{period[:-1]} {_UNITS[period[-1]]}" if period[:-1] != "1" else f"{period[:-1]} hour")
        for period in periods
    ]


FILTERS = {
    "statuses_in_words": statuses_in_words,
    "periods_in_words": periods_in_words,
    "before_query": before_query,
    "shape": shape,
    "status_word": status_word,
    "shown": shown,
    "json": json_text,
    "cut": cut,
    "clock": clock,
    "exact": exact,
    "iso": format_time,
    "span": format_span,
    "grouped": grouped,
    "percent": percent,
    "quoted": path_part,
}
