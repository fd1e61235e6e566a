"""
Rows to write, many of them in one statement.

To run a statement costs the server and the driver far more than one more row in it does. So an insert takes many
rows at once, `VALUES (...), (...)`, and so does an update of rows that are named by their keys:

    UPDATE runs SET version=v.version FROM (VALUES ($1::bigint, $2::bigint), ($3, $4)) AS v (version, run_key)
    WHERE runs.environment_id = $5 AND runs.run_key = v.run_key AND runs.run_key IN ($2, $4)

The environment stands there once and as a parameter, so that Citus sends the statement to one server. IN says
nothing new, but lets the server find the rows by their whole key: joined alone, it reads a whole environment that
it takes for a small one. The number of rows is always a power of two, so that few texts are ever prepared.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from operator import itemgetter
from typing import Any

import psycopg
from psycopg.adapt import Dumper
from psycopg.types.numeric import Int8Dumper
from sqlalchemy import ClauseElement, Column, Insert, Integer, LargeBinary, Table, Text, Update

from ledger.distribute import COLUMN
from ledger.postgres.texts import holds_nul, storable, values_of, written

ROWS_MAX = 64  # rows in one statement
TEXT_MAX = 1_000_000  # characters of the texts in one statement; rows with more go by themselves

_Row = Mapping[str, Any]

# How SQLAlchemy writes the statements that can take many rows. An insert that would change a row on a conflict is
# none of them: it may not meet the same row twice.
_INSERT = re.compile(
    r"(?P<start>INSERT INTO \w+ \((?P<columns>[\w, ]+)\) VALUES )\(\$1(?:, \$\d+)*\)"
    r"(?P<end>| ON CONFLICT DO NOTHING)"
)
_UPDATE = re.compile(
    r"UPDATE (?P<table>\w+) SET (?P<columns>\w+=\$\d+(?:, \w+=\$\d+)*)"
    r" WHERE (?P<keys>(?P=table)\.\w+ = \$\d+(?: AND (?P=table)\.\w+ = \$\d+)*)"
)


class NoNumber:
    """A NULL in the place of a number: of the same type, so that it is the same prepared statement."""


class NoNumberDumper(Dumper):
    """Sends it."""

    oid = Int8Dumper.oid

    def dump(self, obj: Any) -> None:
        """NULL."""


_NO_NUMBER = NoNumber()


class Together:
    """
    A statement that takes many rows.

    Args:
        start: Its text in front of the rows.
        end: Its text behind so many rows.
        columns: What a row has, in order.
        names: The same as the ledger names them.
        casts: Whether the text has to say the types.
        whole: What stands behind the rows, once for all of them, as the ledger names it.
        keys: What names a row that is changed, as the ledger names it.
    """

    def __init__(
        self,
        start: str,
        end: Callable[[int], str],
        columns: Sequence[Column[Any]],
        names: Sequence[str],
        *,
        casts: bool = False,
        whole: str | None = None,
        keys: Sequence[str] = (),
    ) -> None:
        self._start = start
        self._end = end
        self._kinds = [f"::{_kind(column)}" if casts else "" for column in columns]
        self._of_row = itemgetter(*names)
        self._whole = whole
        self._key = itemgetter(*keys) if keys else None
        self._text_places = [place for place, column in enumerate(columns) if isinstance(column.type, Text)]
        self._optional_numbers = [
            place for place, column in enumerate(columns) if isinstance(column.type, Integer) and column.nullable
        ]
        self._texts: dict[int, bytes] = {}

    def takes(self, rows: Sequence[_Row]) -> bool:
        """Whether these rows can go together: a row that is changed twice cannot, nor can two environments."""
        if self._key is None:
            return True
        one = {row[self._whole] for row in rows} if self._whole else {None}
        return len(one) == 1 and len(set(map(self._key, rows))) == len(rows)

    def text(self, count: int) -> bytes:
        """The statement for so many rows; always the same object, whose hash is known."""
        text = self._texts.get(count)
        if text is None:
            width = len(self._kinds)
            # The types of the first row are those of all.
            first = ", ".join(f"${place}{kind}" for place, kind in enumerate(self._kinds, start=1))
            others = (
                ", ".join(f"${place}" for place in range(start, start + width))
                for start in range(width + 1, width * count, width)
            )
            rows = "), (".join([first, *others])
            text = self._texts[count] = f"{self._start}({rows}){self._end(count)}".encode()
        return text

    def values(self, rows: Sequence[_Row]) -> list[Any] | None:
        """What is sent with it; None where that is too much at once."""
        found: list[Any] = [*chain.from_iterable(map(self._of_row, rows))]
        width, size = len(self._kinds), 0
        for place in self._text_places:
            column = found[place::width]
            texts = "".join(filter(None, column))
            size += len(texts)
            if holds_nul(texts):
                found[place::width] = map(storable, column)
        if size > TEXT_MAX:
            return None
        for place in self._optional_numbers:
            column = found[place::width]
            if None in column:
                found[place::width] = [_NO_NUMBER if value is None else value for value in column]
        if self._whole is not None:
            found.append(rows[0][self._whole])
        return found


def send(connection: psycopg.Connection[Any], statement: ClauseElement, rows: Sequence[_Row]) -> None:
    """Run a statement for each of *rows*, in as few statements as can be."""
    form = together(statement) if len(rows) > 1 else None
    if form is None or not form.takes(rows):
        _send_each(connection, statement, rows)
        return
    for some in _parts(rows):
        values = form.values(some) if len(some) > 1 else None
        if values is None:
            _send_each(connection, statement, some)
        else:
            psycopg.RawCursor(connection).execute(form.text(len(some)), values, prepare=True)


def _send_each(connection: psycopg.Connection[Any], statement: ClauseElement, rows: Sequence[_Row]) -> None:
    text, slots = written(statement)
    with psycopg.RawCursor(connection) as cursor:
        cursor.executemany(text, [values_of(slots, row) for row in rows])


def _parts(rows: Sequence[_Row]) -> Iterator[Sequence[_Row]]:
    """All rows in order, in parts of a power of two."""
    start = 0
    while left := len(rows) - start:
        size = min(ROWS_MAX, 1 << (left.bit_length() - 1))
        yield rows[start : start + size]
        start += size


@cache
def together(statement: ClauseElement) -> Together | None:
    """How a statement takes many rows; None where it cannot."""
    if not isinstance(statement, Insert | Update):
        return None
    text, slots = written(statement)
    names = [slot for slot in slots if isinstance(slot, str)]
    table = statement.table
    if len(names) < len(slots) or len(names) < 2 or not isinstance(table, Table):
        return None
    if isinstance(statement, Insert):
        return _of_insert(text, names, table)
    return _of_update(text, names, table)


def _of_insert(text: str, names: list[str], table: Table) -> Together | None:
    found = _INSERT.fullmatch(text)
    if found is None:
        return None
    end = found["end"]
    columns = [table.c[name] for name in found["columns"].split(", ")]
    return Together(found["start"], lambda _: end, columns, names)


def _of_update(text: str, names: list[str], table: Table) -> Together | None:
    found = _UPDATE.fullmatch(text)
    if found is None:
        return None
    changed = [part.partition("=")[0] for part in found["columns"].split(", ")]
    keys = [part.partition(" ")[0].removeprefix(f"{table.name}.") for part in found["keys"].split(" AND ")]
    if COLUMN not in keys or len(keys) < 2:
        return None
    names = names.copy()
    whole = names.pop(len(changed) + keys.index(COLUMN))
    keys.remove(COLUMN)
    row = [*changed, *keys]
    return Together(
        f"UPDATE {table.name} SET {', '.join(f'{name}=v.{name}' for name in changed)} FROM (VALUES ",  # noqa: S608 - Of names that are ours.
        lambda count: _condition(table.name, row, keys, count),
        [table.c[name] for name in row],
        names,
        casts=True,
        whole=whole,
        keys=names[len(changed) :],
    )


def _condition(table: str, row: Sequence[str], keys: Sequence[str], count: int) -> str:
    """What stands behind the rows of an update: which row of the table each of them is for."""
    width = len(row)
    parts = [f"{table}.{COLUMN} = ${width * count + 1}"]
    for name in keys:
        places = range(row.index(name) + 1, width * count + 1, width)
        parts.append(f"{table}.{name} = v.{name}")
        parts.append(f"{table}.{name} IN ({', '.join(f'${place}' for place in places)})")
    return f") AS v ({', '.join(row)}) WHERE {' AND '.join(parts)}"


def _kind(column: Column[Any]) -> str:
    for kind, name in _KINDS.items():
        if isinstance(column.type, kind):
            return name
    raise TypeError(f"{column} has a type that no statement for many rows can name")


_KINDS: dict[type, str] = {Integer: "bigint", Text: "text", LargeBinary: "bytea"}
