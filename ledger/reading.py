"""How an engine carries out a read in one of its threads."""

from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


def complete(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a coroutine that waits for nothing but its statements from its beginning to its end."""
    try:
        work.send(None)
    except StopIteration as done:
        result: _Result = done.value
        return result
    work.close()
    raise AssertionError("a read may wait for nothing but its statements")
