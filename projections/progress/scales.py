"""How the number at a progress key is read: which value stands for complete."""

import math
from collections.abc import Sequence
from typing import Literal

from projections.progress.answer import Scale
from projections.progress.keys import NUMBER_MAX, PERCENTS, TOTAL_MIN
from projections.progress.series import Row, Series

ScaleChoice = Literal["fraction", "percent", "ratio"] | float
"""A word, or the number that stands for complete."""

ONE = 1 + 1e-9  # What exceeds 1 by less does so by rounding: ten tenths may add up to 1.0000000000000002.


def parse_scale(text: str) -> ScaleChoice:
    """
    Read `fraction`, `percent`, `ratio`, or the number that stands for complete.

    Raises:
        ValueError: Anything else.
    """
    match text:
        case "fraction" | "percent" | "ratio":
            return text
        case _:
            try:
                full = float(text)
            except ValueError:
                full = math.nan
            if not TOTAL_MIN <= full <= NUMBER_MAX:
                raise ValueError(
                    f"scale must be fraction, percent, ratio, or the number that means complete such as 250, "
                    f"not {text[:40]!r}"
                )
            return full


def scale_of(series: Series, last_total: float, given: ScaleChoice | None) -> Scale:
    """
    How a key is read: as the caller says; else with its total; else as a percentage if any value exceeds 1.

    Args:
        series: The key and what it ever held, in any attempt.
        last_total: The total as it was last, NaN without one.
        given: What the caller says.
    """
    total_key = None if series.key.total is None else str(series.key.total)
    match given:
        case "fraction":
            return _scale("fraction", 1, "as given", is_given=True)
        case "percent":
            return _scale("percent", 100, "as given", is_given=True)
        case "ratio" if not math.isnan(last_total):
            return _scale("ratio", last_total, "as given", total_key, is_given=True)
        case int() | float():
            return _scale("number", given, "as given", is_given=True)
        case _:
            pass
    if not math.isnan(last_total):
        return _scale("ratio", last_total, f"{series.key.path} counts towards {total_key}", total_key)
    if series.top > ONE:
        basis = f"a value reached {_short(series.top)}, which is above 1, so 100 means complete"
        if series.top > 100 * ONE:
            basis += "; if it counts something, say with the scale which number means complete"
        if given == "ratio":
            basis = f"there is no total beside it to make a ratio; {basis}"
        return _scale("percent", 100, basis)
    basis = "no value was above 1, so 1 means complete"
    if series.key.path.names[-1] in PERCENTS:
        basis += "; say that the scale is percent if 100 does"
    if given == "ratio":
        basis = f"there is no total beside it to make a ratio; {basis}"
    return _scale("fraction", 1, basis)


def totals_of(rows: Sequence[Row]) -> list[float]:
    """The total of each row; where none was known yet, or any more, the nearest one that was."""
    totals = [row.total for row in rows]
    first = next((total for total in totals if not math.isnan(total)), math.nan)
    for place, total in enumerate(totals):
        if math.isnan(total):
            totals[place] = first
        first = totals[place]
    return totals


def _scale(
    kind: Literal["fraction", "percent", "ratio", "number"],
    full: float,
    basis: str,
    total_key: str | None = None,
    *,
    is_given: bool = False,
) -> Scale:
    return Scale(kind=kind, full=full, total_key=total_key, is_given=is_given, basis=basis)


def _short(value: float) -> str:
    return f"{value:,.4f}".rstrip("0").rstrip(".")
