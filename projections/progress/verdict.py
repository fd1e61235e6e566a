"""The verdict of the progress audit: one line for a tired reader."""

from projections.progress.answer import ProgressAudit, Stall
from projections.times import format_span

_SECOND = 1_000_000


def verdict(audit: ProgressAudit) -> str:
    """What matters most about the run, in one line."""
    assert audit.current is not None
    assert audit.start is not None
    at = percent(audit.current.fraction)
    last = audit.stalls[-1] if audit.stalls else None
    match audit.condition:
        case "complete":
            text = f"complete: {at} after {format_span((audit.current.at - audit.start.at) / _SECOND)}"
        case "incomplete":
            text = f"{_ended(audit)} at {at}, {percent(1 - audit.current.fraction)} short"
        case "stalled":
            assert last is not None
            text = f"stalled at {at} for {format_span(last.seconds)}{_under_touches(last)}"
        case "still":
            text = f"at {at}, not moved yet"
        case _:
            text = f"moving: {at}{_left(audit)}"
    return "; ".join([text, *_blemishes(audit)])


def percent(fraction: float) -> str:
    """A fraction as a person says it: `43 %`, `99.95 %`; less than all is never said as 100 %."""
    for digits in (0, 1, 2):
        text = f"{fraction * 100:,.{digits}f}"
        if abs(float(text.replace(",", "")) - fraction * 100) < 0.005 * 10**-digits or digits == 2:
            break
    if fraction < 1 and float(text.replace(",", "")) >= 100:
        return "just under 100 %"
    return f"{text.replace('-0', '0') if float(text.replace(',', '')) == 0 else text} %"


def _ended(audit: ProgressAudit) -> str:
    if audit.attempt is not None and audit.attempt < audit.last_attempt:
        return f"attempt {audit.attempt} ended"
    return audit.status


def _left(audit: ProgressAudit) -> str:
    if audit.eta is None:
        return f", no telling when it ends ({audit.no_eta_because})"
    least, most = ((moment - audit.end) / _SECOND for moment in (audit.eta.earliest, audit.eta.latest))
    return f", {f'{format_span(least)} to' if least >= 1 else 'up to'} {format_span(most)} left"


def _under_touches(stall: Stall) -> str:
    return f" under {_counted(stall.touches, 'touch', 'touches')}" if stall.touches else ""


def _blemishes(audit: ProgressAudit) -> list[str]:
    """What is worth a look besides."""
    counts = audit.counts
    past = [stall for stall in audit.stalls if not stall.is_open]
    found = []
    if past:
        longest = max(past, key=lambda stall: stall.seconds)
        number = counts.stalls - (len(audit.stalls) - len(past))
        span = format_span(longest.seconds)
        found.append(
            f"stood still for {span} at {percent(longest.fraction)}"
            if number == 1
            else f"{number:,} stalls, the longest {span}"
        )
    for number, one, many in (
        (counts.regressions, "regression", "regressions"),
        (counts.jumps, "jump", "jumps"),
        (counts.over_complete, "value over 100 %", "values over 100 %"),
        (counts.below_zero, "value below 0", "values below 0"),
    ):
        if number:
            found.append(_counted(number, one, many))
    if audit.lost is not None:
        found.append(f"the number is gone since version {audit.lost.version}")
    return found


def _counted(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
