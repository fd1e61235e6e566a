"""The progress audit as lines of text, the verdict first."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from projections.progress.verdict import percent
from projections.times import format_span

CHART_COLUMNS = 60  # characters of the chart
SHOWN_MAX = 10  # stalls, regressions and the like of each kind, the last ones; the JSON form has more

_STEPS = "▁▂▃▄▅▆▇█"
_UNITS = ((1, "a second"), (60, "a minute"), (3_600, "an hour"), (86_400, "a day"))
_KINDS = {"fraction": "as fractions", "percent": "as percentages", "ratio": "as a ratio", "number": "as a number"}

_Local = Callable[[str], str]


def audit_lines(audit: dict[str, Any], local: _Local) -> Iterator[str]:
    """
    An answer of the API, line by line.

    Args:
        audit: The answer.
        local: Shows a time of the wire as a date and a time of this machine's zone.
    """
    yield f"{audit['runId']}: {audit['verdict']}"
    if audit["key"] is None:
        yield _line("looked for", ", ".join(audit["lookedFor"]))
        yield from _states(audit)
        return
    yield from _chart(audit, local)
    yield from _reading(audit)
    yield from _pace(audit, local)
    yield from _stalls(audit, local)
    yield from _moves("regressions", audit["regressions"], local)
    yield from _moves("jumps", audit["jumps"], local)
    yield from _moves("total", audit["totalChanges"], local)
    yield from _reports("over 100 %", audit["overComplete"], local)
    yield from _reports("below 0", audit["belowZero"], local)
    yield from _states(audit)


def _line(name: str, text: str) -> str:
    return f"  {name:<12} {text}"


def _chart(audit: dict[str, Any], local: _Local) -> Iterator[str]:
    """What the key said over time, in columns of equal length."""
    reports = [audit["start"], *audit["changes"]]
    begin, end = _seconds(reports[0]["at"]), _seconds(audit["end"])
    if end <= begin:
        return
    columns = []
    place = 0
    for column in range(1, CHART_COLUMNS + 1):
        while place + 1 < len(reports) and _seconds(reports[place + 1]["at"]) <= _at(begin, end, column):
            place += 1
        part = min(max(reports[place]["fraction"], 0), 1)
        columns.append(_STEPS[int(part * (len(_STEPS) - 1))])
    chart = "".join(columns)
    yield _line("chart", f"{percent(audit['start']['fraction'])} {chart} {percent(audit['current']['fraction'])}")
    yield _line("", f"{local(reports[0]['at'])} to {local(audit['end'])}, {format_span(end - begin)}")


def _at(begin: float, end: float, column: int) -> float:
    return end if column == CHART_COLUMNS else begin + (end - begin) * column / CHART_COLUMNS


def _reading(audit: dict[str, Any]) -> Iterator[str]:
    scale, counts = audit["scale"], audit["counts"]
    how = "as named" if audit["keyIsGiven"] else "found by itself"
    yield _line("key", f"{audit['key']}, {how}; read {_KINDS[scale['kind']]}: {scale['basis']}")
    if audit["otherKeys"]:
        yield _line("", f"it could also be {', '.join(audit['otherKeys'])}")
    which = "all attempts" if audit["attempt"] is None else f"attempt {audit['attempt']} of {audit['lastAttempt']}"
    yield _line(
        "reports",
        f"{_counted(counts['movements'], 'movement')}, {counts['touches']:,} that said the same again; "
        f"{which}, {audit['status']}, version {audit['version']}",
    )


def _pace(audit: dict[str, Any], local: _Local) -> Iterator[str]:
    rate, eta = audit["rate"], audit["eta"]
    if rate["overall"] is not None:
        recently = ""
        if rate["recent"] is not None:
            recently = f", {_rate(rate['recent'])} since {local(rate['recentSince'])}"
        yield _line("rate", f"{_rate(rate['overall'])} on the whole{recently}")
    if eta is None:
        yield _line("eta", f"none: {audit['noEtaBecause']}")
        return
    yield _line(
        "eta",
        f"{local(eta['earliest'])} to {local(eta['latest'])}, likeliest {local(eta['likeliest'])}; "
        f"from {_counted(eta['movements'], 'movement')}, {percent(eta['confidence'])} of such ranges hold",
    )


def _stalls(audit: dict[str, Any], local: _Local) -> Iterator[str]:
    rule = audit["stallAfter"]
    number = audit["counts"]["stalls"]
    yield _line("stalls", f"{number or 'none'} of more than {format_span(rule['seconds'])} ({rule['basis']})")
    yield from _left_out("", len(audit["stalls"]))
    for stall in audit["stalls"][-SHOWN_MAX:]:
        until = "now" if stall["isOpen"] else local(stall["to"])
        touches = _counted(stall["touches"], "report") if stall["touches"] else "no report"
        yield _line(
            "",
            f"{local(stall['from'])} to {until}, {format_span(stall['seconds'])} at {percent(stall['fraction'])}, "
            f"{touches} meanwhile, after version {stall['afterVersion']}",
        )


def _moves(name: str, moves: list[dict[str, Any]], local: _Local) -> Iterator[str]:
    yield from _left_out(name, len(moves))
    for place, move in enumerate(moves[-SHOWN_MAX:]):
        yield _line(
            "" if place or len(moves) > SHOWN_MAX else name,
            f"{local(move['at'])}, from {_number(move['from'])} to {_number(move['to'])} "
            f"in version {move['version']} by {move['actor']}",
        )


def _reports(name: str, reports: list[dict[str, Any]], local: _Local) -> Iterator[str]:
    yield from _left_out(name, len(reports))
    for place, report in enumerate(reports[-SHOWN_MAX:]):
        by = "carried over" if report["actor"] is None else f"by {report['actor']}"
        yield _line(
            "" if place or len(reports) > SHOWN_MAX else name,
            f"{local(report['at'])}, {_number(report['value'])} in version {report['version']} {by}",
        )


def _left_out(name: str, number: int) -> Iterator[str]:
    if number > SHOWN_MAX:
        yield _line(name, f"{number - SHOWN_MAX:,} earlier ones, and")


def _states(audit: dict[str, Any]) -> Iterator[str]:
    states = audit["states"]
    if states is None:
        return
    spent = [
        f"{one['value']} {format_span(one['seconds'])}{' (now)' if one['isCurrent'] and audit['isOpen'] else ''}"
        for one in states["values"][:SHOWN_MAX]
    ]
    more = len(states["values"]) - len(spent)
    yield _line("time in", f"{states['key']}: {', '.join(spent)}{f', and {more} more' if more else ''}")


def _rate(rate: float) -> str:
    """A rate in the smallest unit of time in which it is a percent or more."""
    seconds, unit = next((one for one in _UNITS if abs(rate) * one[0] >= 0.01), _UNITS[-1])
    return f"{rate * seconds * 100:.2f}".rstrip("0").rstrip(".") + f" % {unit}"


def _number(value: float) -> str:
    return f"{value:,.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else f"{value:,}"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
