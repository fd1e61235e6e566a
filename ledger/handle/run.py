"""The run that the caller works for, and a way to make one of any piece of code: `from ledger import run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.handle import current

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from types import TracebackType
    from typing import Any

    from ledger.handle.execution import Execution
    from projections.lifecycle import Status


class Run:
    """
    The current run, and how to begin one.

        with run("nightly-import", metadata={"rows": 0}) as r:
            r.metadata.increment("rows", 10)
            run.id, run.attempt                     # the same run, from anywhere below
    """

    __slots__ = ()

    def __call__(
        self,
        task: str,
        *,
        id: str | None = None,  # noqa: A002 - What everybody calls it.
        metadata: object = None,
        tags: Sequence[str] = (),
        payload: object = None,
    ) -> RunBlock:
        """
        A block of code that is a run: `with run("task") as r:`, or `async with`.

        It completes when the block ends. An exception in it ends the run as failed, with its type and message, and
        goes on; cancellation and Ctrl-C end it as canceled. A run that is begun within another one is its child.

        Args:
            task: What it executes, such as `nightly-import`.
            id: The run's id, a new one unless given; the id of a run that exists begins another attempt of it.
            metadata: Its first metadata.
            tags: At most ten.
            payload: What it works on, for whoever looks at the run.

        Raises:
            WriteRefused: When it begins: the run was not accepted.
            ValueError: When it begins: an argument cannot be used.
        """
        return RunBlock(task, run_id=id, metadata=metadata, tags=tags, payload=payload)

    @property
    def id(self) -> str | None:
        """The current run's id, None outside any."""
        execution = current.execution()
        return None if execution is None else execution.id

    @property
    def attempt(self) -> int | None:
        """Which attempt of the current run this is, from 1; None where this process does not know."""
        execution = current.execution()
        return None if execution is None else execution.attempt

    @property
    def task(self) -> str | None:
        """What the current run executes, None where this process does not know."""
        execution = current.execution()
        return None if execution is None else execution.task

    @property
    def parent(self) -> str | None:
        """Id of the run that started the current one, None where none did or this process does not know."""
        execution = current.execution()
        return None if execution is None else execution.parent

    @property
    def root(self) -> str | None:
        """Id of the topmost run above the current one, None where there is none or this process does not know."""
        execution = current.execution()
        return None if execution is None else execution.root


class RunBlock:
    """A block of code that is a run. Use `run(...)` to make one."""

    def __init__(self, task: str, **options: Any) -> None:
        self._task = task
        self._options = options
        self._execution: Execution | None = None

    def __enter__(self) -> Execution:
        """Begin the run."""
        from ledger.handle.configuration import reporter

        execution, work = self._begin()
        reporter().wait(work)
        return self._enter(execution)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run."""
        execution = self._leave(kind, error, trace)
        execution.finish(outcome(error), error=error_of(error))

    async def __aenter__(self) -> Execution:
        """Begin the run."""
        from ledger.handle.configuration import reporter

        execution, work = self._begin()
        await reporter().waited(work)
        return self._enter(execution)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run."""
        execution = self._leave(kind, error, trace)
        await execution.finished(outcome(error), error=error_of(error))

    def _begin(self) -> tuple[Execution, Callable[[], Coroutine[Any, Any, None]]]:
        from ledger.handle.execution import begin_work

        if self._execution is not None:
            raise RuntimeError("this run was begun already; call run(...) again for another one")
        return begin_work(self._task, **self._options)

    def _enter(self, execution: Execution) -> Execution:
        from ledger.handle import configuration

        configuration.executing(execution)
        self._execution = execution
        return execution.__enter__()

    def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Execution:
        assert self._execution is not None, "the block was entered"
        self._execution.__exit__(kind, error, trace)
        return self._execution


def outcome(error: BaseException | None) -> Status:
    """The status of a run whose code ended so."""
    import asyncio

    from projections.lifecycle import Status

    if error_of(error) is None:
        return Status.COMPLETED
    if isinstance(error, asyncio.CancelledError | KeyboardInterrupt | GeneratorExit):
        return Status.CANCELED
    return Status.FAILED


def error_of(error: BaseException | None) -> BaseException | None:
    """What went wrong; `sys.exit(0)` is nothing wrong."""
    return None if isinstance(error, SystemExit) and error.code in {None, 0} else error


run = Run()
