"""
What the two engines write differently within a statement that they share.

Each engine's own module says how it writes these; which one a statement is for is known when its text is made.
"""

from typing import Any, Self

from sqlalchemy import Boolean
from sqlalchemy.sql.expression import ColumnElement


class AnyOfValues(ColumnElement[bool]):
    """
    The column equals one value of a list: a single parameter, so that the text never changes with their number.

    Args:
        column: The column.
        name: The parameter; its value is the list as JSON text.
    """

    inherit_cache = False
    type = Boolean()

    def __init__(self, column: ColumnElement[Any], name: str = "values") -> None:
        self.column = column
        self.name = name

    def self_group(self, against: Any = None) -> Self:  # noqa: ARG002 - As SQLAlchemy has it.
        """A condition already: SQLite needs no `= 1` behind it."""
        return self
