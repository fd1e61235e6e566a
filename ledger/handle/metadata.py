"""The metadata of the run that the caller works for: `from ledger import metadata`."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ledger.handle import current

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator
    from typing import Self

    from pydantic import BaseModel

    from ledger.handle.execution import Execution

    _Model = TypeVar("_Model", bound=BaseModel)

_Default = TypeVar("_Default")

_OWN, _PARENT, _ROOT = range(3)  # As in `ledger.handle.outbox`, which is loaded only where there is a run.


class Changes:
    """
    Changes to metadata. Each returns at once and is delivered soon, in order; `await` one to know it durable.

        metadata.set("progress", 0.5).append("logs", "step 1")
        await metadata.set("progress", 1)

    A key that starts with `$.` is a path, such as `$.status.progress`; any other key is a name at the top. Values
    are what JSON can say, and what `ledger.handle.encoding` makes of dates, UUIDs, enums, dataclasses and pydantic
    models; anything else is refused here and now. Outside any run nothing happens.
    """

    __slots__ = ("_execution", "_target")

    def __init__(self, execution: Execution | None = None, target: int = _OWN) -> None:
        self._execution = execution
        self._target = target

    def set(self, key: str, value: object) -> Self:
        """Give a key or path a value."""
        return self._report("set", key, value)

    def delete(self, key: str) -> Self:
        """Remove a key, which is taken literally also when it starts with `$.`."""
        return self._report("delete", key, None)

    def append(self, key: str, value: object) -> Self:
        """Add one item to the end of a list; what is no list becomes one."""
        return self._report("append", key, value)

    def remove(self, key: str, value: object) -> Self:
        """Take every item equal to *value* out of a list."""
        return self._report("remove", key, value)

    def increment(self, key: str, value: float = 1) -> Self:
        """Add to a number; what is no number counts as 0."""
        return self._report("increment", key, value)

    def decrement(self, key: str, value: float = 1) -> Self:
        """Take from a number."""
        return self._report("decrement", key, value)

    def update(self, value: object) -> Self:
        """Replace the whole object; what *value* does not hold is gone."""
        return self._report("update", None, value)

    def flush(self, timeout_s: float | None = None) -> Awaitable[None]:
        """
        Make everything that was reported so far durable: the ledger has it then, or the spool on disk.

        In ordinary code this waits. In a coroutine, where that would stop everything else, await what it returns.

        Raises:
            WriteRefused: The first report about this run that was not accepted since the last flush.
            TimeoutError: It took longer; it goes on.
        """
        import asyncio

        execution = self._of()
        if execution is None:
            return _Done()
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            execution.flush(timeout_s)
            return _Done()
        return asyncio.ensure_future(asyncio.wait_for(execution.flushed(), timeout_s))

    def __await__(self) -> Generator[Any, None, None]:
        """
        Wait until everything that was reported so far is durable.

        Raises:
            WriteRefused: The first report about this run that was not accepted since the last flush.
        """
        execution = self._of()
        if execution is not None:
            yield from execution.flushed().__await__()

    def _report(self, kind: str, key: str | None, value: object) -> Self:
        execution = self._execution or current.execution()
        if execution is not None:
            execution.report(self._target, kind, key, value)
        return self

    def _of(self) -> Execution | None:
        return self._execution or current.execution()


class Metadata(Changes):
    """
    A run's metadata, to read and to change.

    What is read is what the ledger last said with everything on top that this process reported since. What other
    processes changed shows once something was delivered, or after `refresh`.
    """

    __slots__ = ()

    @property
    def parent(self) -> Changes:
        """The metadata of the run that started this one, to change; this one's own where there is none."""
        return Changes(self._execution, _PARENT)

    @property
    def root(self) -> Changes:
        """The metadata of the topmost run above this one, to change; this one's own where there is none."""
        return Changes(self._execution, _ROOT)

    @overload
    def get(self, key: str) -> Any: ...

    @overload
    def get(self, key: str, default: _Default) -> Any | _Default: ...

    def get(self, key: str, default: object = None) -> Any:
        """The value at a key or path, *default* where there is none or outside any run. It is a copy."""
        execution = self._of()
        if execution is None:
            return default
        return copy.deepcopy(execution.read_at(key, default))

    def current(self) -> dict[str, Any]:
        """All of it, as a copy; empty outside any run."""
        execution = self._of()
        return {} if execution is None else copy.deepcopy(execution.read())

    def as_model(self, model: type[_Model], key: str | None = None) -> _Model:
        """
        The metadata, or the value at a key or path, as a pydantic model.

        Raises:
            pydantic.ValidationError: It is not what the model describes; outside any run it is empty.
        """
        return model.model_validate(self.current() if key is None else self.get(key))

    def refresh(self) -> Self:
        """
        Ask the ledger what the metadata is now, for what other processes changed.

        Raises:
            RunNotFound: There is no such run.
            Unreachable: There was no answer.
        """
        execution = self._of()
        if execution is not None:
            execution.refresh()
        return self


class _Done:
    """Something that is done already."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


metadata = Metadata()
