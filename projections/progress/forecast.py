"""
When a run will be complete, as a range: a straight line through its progress, and what its scatter says of that.

Scatter comes in two kinds, and they say different things of the future. *Jitter* is noise around the line: each
report is off by a little, and nothing of it stays. *Wander* adds up: one slow step leaves all later ones late.
Both are told apart by how the scatter of the movement over a span grows with the length of the span: jitter adds
the same to every span, wander adds more to longer ones.

With n points over the time tau behind, the work done h seconds after the last of them is off the line by

    variance(h) = jitter (1 + max(gain, 4 / n)) + (wander + 12 jitter / (n tau)) h
                  + (1.2 wander / tau + 12 jitter / (n tau^2)) h^2

(the variances of the line's end and slope in least squares, under each kind of scatter), and the range holds
every h for which the line is within a Student quantile of completion. This is a quadratic inequality; where it
has no upper end, the slope cannot be told from none and there is no range.

Source: the range for an inverse regression is Fieller's; the slope of least squares through a random walk has
variance 6/5 wander/tau; the gain is that of the steady Kalman filter of a level with noise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

POINTS_MAX = 60  # points of the even grid on which the line is fitted
MOVEMENTS_MIN = 4  # movements below which a line says nothing
CONFIDENCE = 0.9  # of the range, if the run goes on as it did
WIDEST = 6.0  # a range whose later end is this many times as far away as its likeliest moment is no help

_NORMAL = 1.96  # quantile of the normal distribution: 95 %, of which estimated scatter leaves about 90 %


@dataclass(frozen=True, slots=True)
class Forecast:
    """
    When the work will be done, in seconds from the present.

    Attributes:
        earliest: Lower end of the range.
        likeliest: Where the line reaches completion.
        latest: Upper end of the range.
    """

    earliest: float
    likeliest: float
    latest: float


def forecast(times: Sequence[float], work: Sequence[float], now: float) -> Forecast | str:
    """
    The range of times until *work* reaches 1, or in words why there is none.

    Args:
        times: Seconds, never falling, of which the last is not after *now*.
        work: The part that was done at each of *times*.
        now: The present, in the same seconds.
    """
    if len(times) <= MOVEMENTS_MIN:
        return f"it moved {_times(len(times) - 1)}; {MOVEMENTS_MIN} movements are needed to judge its pace"
    behind = times[-1] - times[0]
    if behind <= 0:
        return "all its movements came at one moment, so they show no pace"
    grid = _even(times, work, min(len(times), POINTS_MAX))
    step = behind / (len(grid) - 1)
    slope, end = _line(grid, step)
    if slope <= 0:
        return "it has not moved forward on the whole"
    scatter = _scatter(grid, slope * step)
    residuals = [value - end + slope * (behind - step * place) for place, value in enumerate(grid)]
    level = end + _filtered(residuals, scatter.gain)
    found = _range(1 - level, slope, behind, len(grid), scatter, step)
    if found is None:
        return "its pace varies too much: it cannot be told from standing still"
    waited = now - times[-1]
    # Completion is seen with the report that follows it, which may be one more report away.
    latest = found[1] + behind / (len(times) - 1) - waited
    if latest <= 0:
        return "at its pace it would be complete by now"
    likeliest = max((1 - level) / slope - waited, 0.0)
    farther = latest / max(likeliest, behind / 10)
    if farther > WIDEST:
        return f"its pace varies too much: the end may be {farther:.0f} times as far away as it seems"
    return Forecast(max(found[0] - waited, 0.0), min(likeliest, latest), latest)


class _Scatter(NamedTuple):
    """
    What the points of a grid are off its line.

    Attributes:
        jitter: Variance of what stays with a single point.
        wander: Variance of what adds up, a point.
        gain: How far the last points say where the line ends: 0 for jitter alone, 1 for wander alone.
        quantile: Student's, for the degrees of freedom on which the variances rest.
    """

    jitter: float
    wander: float
    gain: float
    quantile: float


def _range(
    left: float, slope: float, behind: float, points: int, scatter: _Scatter, step: float
) -> tuple[float, float] | None:
    """Seconds from the last point between which the work that is *left* may be done, None without a last one."""
    jitter, wander = scatter.jitter, scatter.wander / step
    square = scatter.quantile**2
    constant = jitter * (1 + max(scatter.gain, 4 / points))
    linear = wander + 12 * jitter / (points * behind)
    quadratic = 1.2 * wander / behind + 12 * jitter / (points * behind**2)
    a = slope**2 - square * quadratic
    b = left * slope + square * linear / 2
    # b^2 - a c, without the difference of nearly equal numbers that it is for a run without scatter.
    root = square * (left * slope * linear + quadratic * left**2 + constant * slope**2)
    root += square**2 * (linear**2 / 4 - constant * quadratic)
    if a <= 0 or root < 0:
        return None
    return (b - math.sqrt(root)) / a, (b + math.sqrt(root)) / a


def _even(times: Sequence[float], work: Sequence[float], points: int) -> list[float]:
    """The work at *points* even times from the first to the last, on straight lines between what was reported."""
    span = times[-1] - times[0]
    found = [work[0]]
    at = 0
    for index in range(1, points - 1):
        moment = times[0] + span * index / (points - 1)
        while times[at + 1] < moment:
            at += 1
        part = (moment - times[at]) / (times[at + 1] - times[at])
        found.append(work[at] + part * (work[at + 1] - work[at]))
    return [*found, work[-1]]


def _line(grid: Sequence[float], step: float) -> tuple[float, float]:
    """Slope a second, and value at the last point, of the line of least squares."""
    count = len(grid)
    middle = (count - 1) / 2
    mean = sum(grid) / count
    slope = sum((index - middle) * (value - mean) for index, value in enumerate(grid))
    slope /= sum((index - middle) ** 2 for index in range(count))
    return slope / step, mean + slope * middle


def _scatter(grid: Sequence[float], advance: float) -> _Scatter:
    """Tell jitter from wander by the spread of movements over one point and over a fifth of all."""
    count = len(grid)
    far = max(2, round(count / 5))
    near = _spread(grid, 1, advance)
    wander = max((_spread(grid, far, advance) - near) / (far - 1), 0.0)
    jitter = max((near - wander) / 2, 0.0)
    # Jitter rests on all points, wander on the few spans that do not overlap.
    share = wander * count / (wander * count + 2 * jitter) if wander > 0 else 0.0
    freedom = max(3.0, share * 1.5 * count / far + (1 - share) * (count - 2))
    return _Scatter(jitter, wander, _gain(wander, jitter), _student(freedom))


def _spread(grid: Sequence[float], lag: int, advance: float) -> float:
    """Mean square by which the movement over *lag* points differs from that of the line."""
    count = len(grid)
    squares = sum((grid[index + lag] - grid[index] - advance * lag) ** 2 for index in range(count - lag))
    return squares / (count - lag) / (1 - lag / count)


def _gain(wander: float, jitter: float) -> float:
    if jitter <= 0:
        return 1.0
    ratio = wander / jitter
    return (math.sqrt(ratio * ratio + 4 * ratio) - ratio) / 2


def _filtered(residuals: Sequence[float], gain: float) -> float:
    level = 0.0
    for residual in residuals:
        level += gain * (residual - level)
    return level


def _student(freedom: float) -> float:
    """The quantile of Student's distribution for CONFIDENCE (Cornish and Fisher's expansion)."""
    z = _NORMAL
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _times(count: int) -> str:
    return {0: "not at all", 1: "only once", 2: "only twice"}.get(count, f"only {count} times")
