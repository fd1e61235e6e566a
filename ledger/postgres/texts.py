"""
How statements and texts are written for PostgreSQL, and read again.

Every text is stored as it is, but for two characters: PostgreSQL holds no NUL, so a text writes it as U+FDD0
U+FDD1, and U+FDD0 itself, which Unicode sets aside for uses like this one, as U+FDD0 U+FDD2.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.string import TextBinaryLoader, TextLoader
from sqlalchemy import BigInteger, ClauseElement, Integer, Text, bindparam, cast, func
from sqlalchemy.dialects.postgresql import ARRAY, psycopg2
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from ledger.dialects import AnyOfValues

STATEMENTS_KEPT = 256  # statements whose text is kept; some dozens are in use
TEXT_KEPT_MAX = 4_000  # characters of such a text; a filter of thousands of values is written anew each time

_NUL, _ESCAPE = "\0", "\ufdd0"

_Slot = str | Sequence[Any]  # the name of a parameter, or the values that the statement was built with

_texts: dict[ClauseElement, tuple[str, list[_Slot]]] = {}


class EscapedText(TextLoader):
    """Text in which a NUL may be written."""

    def load(self, data: Any) -> Any:
        """Read it."""
        text = str(super().load(data))
        return _read_text(text) if _ESCAPE in text else text


class EscapedBinaryText(TextBinaryLoader):
    """The same in the binary format."""

    def load(self, data: Any) -> Any:
        """Read it."""
        text = str(super().load(data))
        return _read_text(text) if _ESCAPE in text else text


def _read_text(text: str) -> str:
    return text.replace(f"{_ESCAPE}\ufdd1", _NUL).replace(f"{_ESCAPE}\ufdd2", _ESCAPE)


def holds_nul(text: str) -> bool:
    """Whether a text is stored otherwise than as it is."""
    return _NUL in text or _ESCAPE in text


def storable(value: Any) -> Any:
    """A value as it is stored: text without NUL, anything else as it is."""
    if type(value) is str and (_NUL in value or _ESCAPE in value):
        return value.replace(_ESCAPE, f"{_ESCAPE}\ufdd2").replace(_NUL, f"{_ESCAPE}\ufdd1")
    return value


@compiles(AnyOfValues, "postgresql")
def _any_of_values(element: AnyOfValues, compiler: SQLCompiler, **options: Any) -> str:
    kind = BigInteger() if isinstance(element.column.type, Integer) else Text()
    listed = cast(bindparam(element.name, type_=ARRAY(kind)), ARRAY(kind))
    return compiler.process(element.column == func.any(listed), **options)


class _Listed(str):
    """The name of a parameter that is a list as JSON text."""

    __slots__ = ()


def ask(
    connection: psycopg.Connection[Any],
    statement: ClauseElement,
    parameters: Mapping[str, Any],
    row_factory: Any = dict_row,
) -> psycopg.Cursor[Any]:
    """Send a statement with its parameters; the answer is read from the cursor."""
    text, slots = written(statement)
    cursor: psycopg.Cursor[Any] = psycopg.RawCursor(connection, row_factory=row_factory)
    prepare = None if len(text) <= TEXT_KEPT_MAX else False  # None: at the second time.
    return cursor.execute(text, values_of(slots, parameters), prepare=prepare, binary=True)


def written(statement: ClauseElement) -> tuple[str, list[_Slot]]:
    """The text of a statement with a number for every value, and what belongs in their places."""
    known = _texts.get(statement)
    if known is None:
        known = _write(statement)
        if len(known[0]) <= TEXT_KEPT_MAX:
            if len(_texts) >= STATEMENTS_KEPT:
                _texts.clear()
            _texts[statement] = known
    return known


def _write(statement: ClauseElement) -> tuple[str, list[_Slot]]:
    compiled = statement.compile(dialect=_dialect())
    assert isinstance(compiled, SQLCompiler)
    text = str(compiled)
    slots: list[_Slot] = []
    for name in compiled.positiontup or ():
        value = compiled.params[name]
        if isinstance(value, list | tuple):  # What stands in IN (...), which SQLAlchemy writes out later.
            text = text.replace(f"__[POSTCOMPILE_{name}]", ", ".join(["%s"] * len(value)) or "NULL")
            slots.append(value)
        elif value is not None:
            slots.append((value,))
        else:
            slots.append(_Listed(name) if isinstance(compiled.binds[name].type, ARRAY) else name)
    first, *rest = text.split("%s")
    numbered = "".join([first, *(f"${number}{part}" for number, part in enumerate(rest, start=1))])
    return numbered.replace("%%", "%"), slots


@cache
def _dialect() -> Any:
    dialect: Any = psycopg2.dialect
    return dialect(paramstyle="format")


def values_of(slots: list[_Slot], parameters: Mapping[str, Any]) -> list[Any]:
    """What is sent for the slots of a text that `written` made."""
    found: list[Any] = []
    for slot in slots:
        if not isinstance(slot, str):
            found.extend(map(storable, slot))
        elif isinstance(slot, _Listed):
            found.append([storable(value) for value in json.loads(parameters[slot])])
        else:
            found.append(storable(parameters[slot]))
    return found
