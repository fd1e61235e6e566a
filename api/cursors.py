"""
Which way a page of runs is asked for.

The Trigger.dev SDK sends both cursors once it has turned round: it adds the new one to the query it had. The later
one is meant. That is `before`, unless `after` comes from a page that was itself asked for with `before`: such
cursors carry a number, and the higher one is the later.

Source: `CursorPage.getNextPage` and `getPreviousPage` of the SDK, whose `pageFetcher` keeps the parameters it had.
"""

import re
from dataclasses import dataclass

from api.parameters import Given, Parameter, parameter
from ledger.errors import BadCursor
from ledger.run_ids import RUN_ID
from projections.values import JsonObject

_CURSOR = re.compile(rf"({RUN_ID.pattern})(?:~([1-9][0-9]{{0,8}}))?")


def _read(text: str) -> tuple[str, int]:
    """The run that a cursor names, and its number, 0 where it has none."""
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise BadCursor(text[:40])
    return found[1], int(found[2] or 0)


def _cursor(name: str, description: str) -> Parameter[tuple[str | None, int]]:
    schema = {"type": "string", "pattern": f"^{_CURSOR.pattern}$"}
    return parameter(name, _read, schema, description, default=(None, 0))


AFTER = _cursor("page[after]", "The `pagination.next` of the page before.")
BEFORE = _cursor(
    "page[before]", "The `pagination.previous` of the page behind. Where both are sent, the later one is meant."
)


@dataclass(frozen=True, slots=True)
class Cursors:
    """
    The cursors of a request, of which one counts.

    Attributes:
        after: Begin behind this run, None without it.
        before: End in front of this run, instead.
    """

    after: str | None
    before: str | None
    _next_number: int
    _previous_number: int

    def pagination(self, following: str | None, previous: str | None) -> JsonObject:
        """The cursors of the answer; one is left out where there is no such page, because the SDK refuses null."""
        numbered = {"next": (following, self._next_number), "previous": (previous, self._previous_number)}
        return {
            name: f"{cursor}~{number}" if number else cursor
            for name, (cursor, number) in numbered.items()
            if cursor is not None
        }


def cursors_of(query: Given) -> Cursors:
    """The cursors that `page[after]` and `page[before]` name."""
    after, after_number = query[AFTER]
    before, before_number = query[BEFORE]
    if after is not None and before is not None:
        if after_number > before_number:
            return Cursors(after, None, before_number + 1, after_number)
        return Cursors(None, before, before_number + 1, after_number)
    return Cursors(after, before, 0 if before is None else before_number + 1, after_number)
