"""
What the two engines write differently within a statement that they share.

Each engine's own module says how it writes these; which one a statement is for is known when its text is made.
"""

from collections.abc import Sequence
from typing import Any, Self

from sqlalchemy import Boolean, Column
from sqlalchemy.sql.expression import ColumnElement


class _Condition(ColumnElement[bool]):
    inherit_cache = False
    type = Boolean()

    def self_group(self, against: Any = None) -> Self:  # noqa: ARG002 - As SQLAlchemy has it.
        """A condition already: SQLite needs no `= 1` behind it."""
        return self


class AnyOfValues(_Condition):
    """
    The column equals one of `values`: a single parameter, so that the text never changes with their number.

    Its value is a list as JSON text.
    """

    def __init__(self, column: Column[str] | Column[int]) -> None:
        self.column = column


class AnyOfTags(_Condition):
    """The column, a JSON list of strings, holds one of *tags*."""

    def __init__(self, column: Column[str], tags: Sequence[str]) -> None:
        self.column = column
        self.tags = tags
