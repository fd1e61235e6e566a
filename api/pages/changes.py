"""What changed from one value to another, in lines to read."""

from typing import NamedTuple

from pydantic import JsonValue

from api.pages.words import cut, json_text, shown
from projections.diff import changes
from projections.metadata import Absent
from projections.paths import key_of

TEXT_CHARACTERS_MAX = 120  # characters of a value in a line
CONTEXT_CHARACTERS = 16  # characters that are shown on either side of where two long texts differ


class Line(NamedTuple):
    """
    One change.

    Attributes:
        label: Where, as a person writes it.
        key: What names the place in a question, None where no key can.
        before: What stood there, empty where nothing did.
        after: What stands there now, empty where nothing does.
        kind: `add`, `remove` or `replace`; `same` where the value stayed as it was.
    """

    label: str
    key: str | None
    before: str
    after: str
    kind: str


def lines_between(
    names: tuple[str, ...], before: JsonValue | Absent, after: JsonValue | Absent, lines_max: int
) -> tuple[list[Line], int]:
    """
    The changes of the value at *names*, and how many more there are than the *lines_max* that are told.

    Something new is told member by member.
    """
    if isinstance(before, Absent) and isinstance(after, Absent):
        return [], 0
    if isinstance(before, Absent) and isinstance(after, dict) and after:
        before = {}
    if isinstance(before, Absent):
        return [_line(names, "add", before, after)], 0
    if isinstance(after, Absent):
        return [_line(names, "remove", before, after)], 0
    found = changes(before, after)
    if not found:
        return [_line(names, "same", before, after)], 0
    told = [_line((*names, *one.names), one.kind, one.before, one.after) for one in found[:lines_max]]
    return told, len(found) - len(told)


def label_of(names: tuple[str, ...]) -> str:
    """A place as a person writes it, also where no key names it."""
    if not names:
        return "everything"
    return shown(key_of(names) or "$." + ".".join(names))


def _line(names: tuple[str, ...], kind: str, before: JsonValue | Absent, after: JsonValue | Absent) -> Line:
    old, new = json_text(before), json_text(after)
    if kind == "replace":
        old, new = _narrowed(old, new)
    return Line(
        label=label_of(names),
        key=key_of(names) if names else None,
        before=cut(old, TEXT_CHARACTERS_MAX),
        after=cut(new, TEXT_CHARACTERS_MAX),
        kind=kind,
    )


def _narrowed(old: str, new: str) -> tuple[str, str]:
    """Two long texts without most of what they begin and end with alike."""
    if max(len(old), len(new)) <= TEXT_CHARACTERS_MAX // 2:
        return old, new
    most = min(len(old), len(new))
    start = next((place for place in range(most) if old[place] != new[place]), most)
    end = next((place for place in range(most - start) if old[-1 - place] != new[-1 - place]), most - start)
    return _middle(old, start, end), _middle(new, start, end)


def _middle(text: str, start: int, end: int) -> str:
    first = max(0, start - CONTEXT_CHARACTERS)
    last = min(len(text), len(text) - end + CONTEXT_CHARACTERS)
    return ("…" if first else "") + text[first:last] + ("…" if last < len(text) else "")
