"""A plot of one figure as SVG: bars on a logarithmic scale, each with its value."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LABELS, RIGHT = 900, 360, 70  # pixels: of all, of the names, of the values
BAR, GAP, TOP, BOTTOM = 20, 10, 64, 34  # pixels


@dataclass(frozen=True, slots=True)
class Bar:
    """
    One row of the plot.

    Attributes:
        name: What it stands for.
        value: How long it is, more than 0.
        is_own: Whether it is the product's.
    """

    name: str
    value: float
    is_own: bool = False


def draw(title: str, subtitle: str, bars: Sequence[Bar]) -> str:
    """Draw *bars*, at least one, as the text of an SVG document."""
    low = 10 ** math.floor(math.log10(min(bar.value for bar in bars)))
    high = 10 ** math.ceil(math.log10(max(bar.value for bar in bars)))
    span = max(1.0, math.log10(high / low))
    height = TOP + len(bars) * (BAR + GAP) + BOTTOM
    bottom = height - BOTTOM + 4

    def x(value: float) -> float:
        return LABELS + math.log10(value / low) / span * (WIDTH - LABELS - RIGHT)

    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    font = 'font-family="system-ui, sans-serif" font-size="13"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font} role="img" aria-label="{escape(title)}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(16, 26, title, 'font-size="16" font-weight="600"'),
        _text(16, 46, subtitle, 'fill="#57606a"'),
    ]
    for power in range(round(math.log10(low)), round(math.log10(low) + span) + 1):
        at = x(10.0**power)
        parts.append(f'<path d="M{at:.1f} {TOP - 6}V{bottom}" stroke="#d8dee4"/>')
        parts.append(_text(at, bottom + 18, f"{10**power:,}", 'text-anchor="middle" fill="#57606a"'))
    for number, bar in enumerate(bars):
        y = TOP + number * (BAR + GAP)
        colour = "#0969da" if bar.is_own else "#8c959f"
        parts.append(_text(LABELS - 10, y + 15, bar.name, 'text-anchor="end"'))
        width = max(1.0, x(bar.value) - LABELS)
        parts.append(f'<rect x="{LABELS}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>')
        parts.append(_text(x(bar.value) + 6, y + 15, f"{bar.value:,.0f}", 'font-weight="600"'))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, attributes: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" {attributes}>{escape(text)}</text>'
