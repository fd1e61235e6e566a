"""
Keys of operations.

    key     = literal | path
    literal = any text that does not start with "$."      one top-level member, dots and all
    path    = "$." name *( "." name )                     a list index is a name of digits: $.steps.0.name

Empty names vanish (`$..a.` is `$.a`) and brackets are ordinary characters (`$.a[0]` is the member "a[0]").

Source: the path library of the reference implementation, without its wildcards, slices and escapes.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from projections.errors import BadPath
from projections.size import DEPTH_MAX

FORBIDDEN_LITERAL = "__proto__"
FORBIDDEN_NAMES = frozenset({"__proto__", "constructor", "prototype"})

_SLICE = re.compile(r"\[[0-9]*:(-?[0-9]+)?\]")
_NAME_BREAKS = re.compile(r"""[.\[\]'"\\]""")
_INDEX = re.compile(r"0|[1-9][0-9]*")


@dataclass(frozen=True, slots=True)
class Path:
    """
    Where an operation works: the names from the top of the metadata down.

    Attributes:
        names: At least one.
        literal: The key was no path: a single top-level member, of which null is an ordinary value.
    """

    names: tuple[str, ...]
    literal: bool

    def __str__(self) -> str:
        """As a user would write it."""
        return self.names[0] if self.literal else "$." + ".".join(self.names)

    def overlaps(self, other: "Path") -> bool:
        """Whether a change at one can change the value at the other: one lies within the other."""
        shared = min(len(self.names), len(other.names))
        return self.names[:shared] == other.names[:shared]


def literal(key: str) -> Path:
    """
    The path of a key that is taken literally whatever it looks like, as `delete` does.

    Raises:
        BadPath: The key is `__proto__`.
    """
    if key == FORBIDDEN_LITERAL:
        raise BadPath(key, "this name is forbidden; it would change every object of a JavaScript reader")
    return Path((key,), literal=True)


@lru_cache(maxsize=4096)
def parse_key(key: str) -> Path:
    """
    Read an operation's key.

    Raises:
        BadPath: A wildcard, slice or escape, a forbidden name, or a path without a name.
    """
    if not key.startswith("$."):
        return literal(key)
    if "\\" in key or "~1" in key:
        raise BadPath(key, "escapes are not supported; use the literal key, without $., for odd names")
    if not FORBIDDEN_NAMES.isdisjoint(_NAME_BREAKS.split(key)):
        raise BadPath(key, "__proto__, constructor and prototype are forbidden in a path")
    names = tuple(name for name in key[2:].split(".") if name)
    if not names:
        raise BadPath(key, "the path names nothing; write $.name, or send update to replace everything")
    if len(names) > DEPTH_MAX:
        raise BadPath(
            key, f"a path of {len(names)} names leads deeper than the {DEPTH_MAX} levels that metadata may have"
        )
    if "*" in names:
        raise BadPath(key, "wildcards are not supported; send one operation for each member")
    if any(map(_SLICE.fullmatch, names)):
        raise BadPath(key, "slices are not supported; send one operation for each item")
    return Path(names, literal=False)


def key_of(names: tuple[str, ...]) -> str | None:
    """
    The key that leads to a place when an operation, or a question, names it; None where no key does, such as a
    name with a dot below the top.
    """
    key = names[0] if len(names) == 1 and not names[0].startswith("$.") else "$." + ".".join(names)
    try:
        return key if parse_key(key).names == names else None
    except BadPath:
        return None


def list_index(name: str) -> int | None:
    """The list index that *name* spells, None for any other name (`foo`, `-1` and `01` are none)."""
    return int(name) if _INDEX.fullmatch(name) else None
