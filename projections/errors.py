"""
What the pure core refuses, and why.

    ValueError
    ├── BadJson          text that is not JSON, or JSON that says one thing twice
    └── BadValue         a value that JSON, or a JavaScript number, cannot hold
    Refusal              a request that was understood and not accepted
    ├── TooLarge         the metadata, or one value, is over the limit in bytes
    ├── BadPath          a key that no operation may use
    ├── OutOfBounds      a result past a bound: a double, a list index, the depth of nesting
    └── BadTransition    a status that a run cannot take from the one it has

Every error carries what a caller needs to mend the request as fields; the text says it in words.
"""

from dataclasses import dataclass

PLACE_CHARACTERS_MAX = 200  # characters; enough for any path a person wrote


class BadJson(ValueError):
    """
    Text that is not JSON, or JSON that holds one key twice.

    Args:
        place: Where, as `line 1, column 9` or as a path such as `operations[0].value`.
        reason: What is wrong there.
    """

    def __init__(self, place: str, reason: str) -> None:
        self.place = _short(place)
        self.reason = reason
        super().__init__(f"{self.place}: {reason}" if place else reason)


class BadValue(ValueError):
    """
    A value that JSON, or a JavaScript number, cannot hold.

    Args:
        place: Path to it from the value that was given, such as `.steps[2].rate`; empty for the value itself.
        reason: What is wrong and what to send instead.
    """

    def __init__(self, place: str, reason: str) -> None:
        self.place = _short(place)
        self.reason = reason
        super().__init__(f"at {self.place}: {reason}" if place else reason)

    def inside(self, outer: str) -> "BadValue":
        """The same fault, seen from the container around it, in which it lies at *outer*."""
        return BadValue(_printable(outer) + self.place, self.reason)


def _short(place: str) -> str:
    """Places repeat keys that a caller chose; an error text must not grow with them."""
    return place if len(place) <= PLACE_CHARACTERS_MAX else f"{place[:PLACE_CHARACTERS_MAX]}..."


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


class Refusal(Exception):
    """
    A request that was understood and not accepted; nothing of it is recorded as an event.

    Attributes:
        run_id: The run whose metadata or status stood in the way, once known.
        list: The list of operations that holds the wrong one, once known.
        index: Its place in that list, None where the whole request is meant.
    """

    code = "refused"
    run_id: str | None = None
    list: str | None = None
    index: int | None = None


@dataclass(frozen=True, slots=True)
class KeySize:
    """How much of the metadata one top-level key takes: its compact JSON, key and value, in bytes."""

    key: str
    bytes: int


class TooLarge(Refusal):
    """
    The metadata, or the value of one operation, is over the limit.

    Args:
        size_bytes: What it would be, in bytes of compact JSON.
        limit_bytes: What is allowed.
        largest_keys: The keys that take the most, largest first.
        index: Place of the operation in its list when its own value is too large, else None.
    """

    code = "metadata-too-large"

    def __init__(
        self, size_bytes: int, limit_bytes: int, largest_keys: tuple[KeySize, ...], index: int | None = None
    ) -> None:
        what = "metadata" if index is None else "the value of one operation"
        super().__init__(
            f"{what} would be {size_bytes:,} bytes, the limit is {limit_bytes:,}; "
            "delete or shorten the largest keys first"
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        self.largest_keys = largest_keys
        self.index = index


class BadPath(Refusal):
    """
    A key that no operation may use: a wildcard, a slice, an escape, or a forbidden name.

    Args:
        key: The key as it was sent.
        reason: What is wrong with it and what to use instead.
        index: Place of the operation in its list, once known.
    """

    code = "bad-path"

    def __init__(self, key: str, reason: str, index: int | None = None) -> None:
        super().__init__(f"key {key!r}: {reason}")
        self.key = key
        self.reason = reason
        self.index = index


class OutOfBounds(Refusal):
    """
    A result past a bound other than size.

    Args:
        key: The key of the operation, None when the whole metadata is meant.
        reason: Which bound, its value and what was found.
        limit: The bound, None where it is that of a double.
        index: Place of the operation in its list, once known.
    """

    code = "out-of-bounds"

    def __init__(self, key: str | None, reason: str, limit: int | None = None, index: int | None = None) -> None:
        super().__init__(reason if key is None else f"key {key!r}: {reason}")
        self.key = key
        self.reason = reason
        self.limit = limit
        self.index = index


class BadTransition(Refusal):
    """
    A status that the run cannot take from the one it has.

    Args:
        current: The status it has.
        wanted: The status asked for.
        reason: Which rule forbids it and the way out.
    """

    code = "bad-transition"

    def __init__(self, current: str, wanted: str, reason: str) -> None:
        super().__init__(f"a run that is {current} cannot become {wanted}: {reason}")
        self.current = current
        self.wanted = wanted
