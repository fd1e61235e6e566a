"""Functions whose every call is a run: `from ledger import task`."""

from __future__ import annotations

import functools
import inspect
import logging
import threading
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, TypeVar, overload

from ledger.handle import configuration
from ledger.handle.run import error_of, outcome

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Sequence
    from concurrent.futures import Future, ThreadPoolExecutor

    from ledger.handle.execution import Execution

THREADS_MAX = 64  # functions that run in threads at the same time; more wait for their turn

_Arguments = ParamSpec("_Arguments")
_Returned = TypeVar("_Returned")

_logger = logging.getLogger("ledger.handle")
_starting = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_in_loops: set[asyncio.Task[Any]] = set()  # A loop itself holds its tasks by weak references only.


class Result(NamedTuple):
    """
    How a run ended.

    Attributes:
        id: The run's id.
        ok: It completed.
        output: What the function returned.
        error: What it raised, None if it completed.
    """

    id: str
    ok: bool
    output: Any
    error: BaseException | None

    def unwrap(self) -> Any:
        """
        What the function returned.

        Raises:
            BaseException: What it raised.
        """
        if self.error is not None:
            raise self.error
        return self.output


class Handle:
    """
    A run that was triggered.

    Attributes:
        id: Its id.
        is_cached: The run existed before; it was not started again.
    """

    def __init__(self, run_id: str, ended: Future[Result], *, is_cached: bool) -> None:
        self.id = run_id
        self.is_cached = is_cached
        self._ended = ended

    async def wait(self) -> Result:
        """Await the end of the run; what it reported is durable then."""
        import asyncio

        return await asyncio.shield(asyncio.wrap_future(self._ended))

    def wait_sync(self, timeout_s: float | None = None) -> Result:
        """
        Wait for the end of the run; what it reported is durable then.

        Raises:
            TimeoutError: It goes on.
        """
        return self._ended.result(timeout_s)

    def __repr__(self) -> str:
        """Name the run."""
        return f"<Handle of {self.id}>"


class Task(Generic[_Arguments, _Returned]):
    """
    A function whose every call through `trigger` is a run. Called directly it is the function it was.

    Args:
        function: Sync or async; it is given the payload, if it takes an argument.
        name: The task's name, that of the function unless given.

    Raises:
        TypeError: The function is a generator: to call one runs nothing of it.
    """

    def __init__(self, function: Callable[_Arguments, _Returned], name: str | None = None) -> None:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{getattr(function, '__name__', 'it')} is a generator, and a task is a function that runs "
                "to its end; let a task loop over the generator"
            )
        functools.update_wrapper(self, function)
        self.function = function
        self.name: str = name or str(getattr(function, "__name__", "task"))
        self._takes_payload = _takes_an_argument(function)

    def __call__(self, *arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Returned:
        """Call the function; no run is made of it."""
        return self.function(*arguments, **options)

    async def trigger(
        self,
        payload: Any = None,
        *,
        metadata: object = None,
        tags: Sequence[str] = (),
        id: str | None = None,  # noqa: A002 - What everybody calls it.
    ) -> Handle:
        """
        Record a run, start the function for it in this process, and return at once.

        An async function runs in the caller's event loop, another one in a thread. What it raises ends the run as
        failed. Triggered within a run, the new one is its child.

        Args:
            payload: What the function is given; recorded as JSON.
            metadata: The run's first metadata.
            tags: At most ten.
            id: The run's id, a new one unless given. Where a run has it already nothing is started.

        Raises:
            WriteRefused: The run was not accepted.
            ValueError: An argument cannot be used, or JSON cannot say it.
        """
        import asyncio
        from concurrent.futures import Future

        execution, work = self._prepare(payload, metadata, tags, id)
        await configuration.reporter().waited(work)
        if execution.is_cached or not inspect.iscoroutinefunction(self.function):
            return self._start_in_thread(execution, payload)
        ended: Future[Result] = Future()
        context = copy_context()
        running = asyncio.get_running_loop().create_task(
            _execute(execution, self._call(payload), ended), name=execution.id, context=context
        )
        _in_loops.add(running)
        running.add_done_callback(_in_loops.discard)
        return Handle(execution.id, ended, is_cached=False)

    def trigger_sync(
        self,
        payload: Any = None,
        *,
        metadata: object = None,
        tags: Sequence[str] = (),
        id: str | None = None,  # noqa: A002 - As above.
    ) -> Handle:
        """Trigger from code without an event loop: the function runs in a thread, an async one in its own loop."""
        execution, work = self._prepare(payload, metadata, tags, id)
        configuration.reporter().wait(work)
        return self._start_in_thread(execution, payload)

    async def trigger_and_wait(
        self, payload: Any = None, *, metadata: object = None, tags: Sequence[str] = ()
    ) -> Result:
        """Trigger a run and await its end; see `trigger`."""
        return await (await self.trigger(payload, metadata=metadata, tags=tags)).wait()

    def trigger_and_wait_sync(
        self, payload: Any = None, *, metadata: object = None, tags: Sequence[str] = ()
    ) -> Result:
        """Trigger a run and wait for its end, in the caller's thread; see `trigger`."""
        from concurrent.futures import Future

        execution, work = self._prepare(payload, metadata, tags, None)
        configuration.reporter().wait(work)
        ended: Future[Result] = Future()
        # Here and not in the pool, whose every thread may be waiting like this one.
        copy_context().run(_execute_in_thread, execution, self._call(payload), ended)
        return ended.result()

    def _prepare(
        self, payload: Any, metadata: object, tags: Sequence[str], run_id: str | None
    ) -> tuple[Execution, Callable[[], Coroutine[Any, Any, None]]]:
        from ledger.handle.execution import begin_work
        from projections.lifecycle import Status

        configuration.heed_signal()
        return begin_work(
            self.name,
            run_id=run_id,
            metadata=metadata,
            tags=tags,
            payload=payload,
            status=Status.QUEUED,
            begins_again=False,
        )

    def _call(self, payload: Any) -> Callable[[], Any]:
        return functools.partial(self.function, payload) if self._takes_payload else self.function

    def _start_in_thread(self, execution: Execution, payload: Any) -> Handle:
        from concurrent.futures import Future

        ended: Future[Result] = Future()
        if execution.is_cached:
            ended.set_result(Result(execution.id, ok=False, output=None, error=None))
            return Handle(execution.id, ended, is_cached=True)
        _threads().submit(copy_context().run, _execute_in_thread, execution, self._call(payload), ended)
        return Handle(execution.id, ended, is_cached=False)


@overload
def task(function: Callable[_Arguments, _Returned], /) -> Task[_Arguments, _Returned]: ...


@overload
def task(*, name: str) -> Callable[[Callable[_Arguments, _Returned]], Task[_Arguments, _Returned]]: ...


def task(function: Any = None, /, *, name: str | None = None) -> Any:
    """
    Make runs of a function's calls: `@task`, or `@task(name="send-mail")`.

        @task
        async def my_task(payload):
            metadata.set("progress", 0.5)

        handle = await my_task.trigger({"message": "hello"})
    """
    if function is None:
        return lambda decorated: Task(decorated, name)
    return Task(function, name)


def close() -> None:
    """Wait for the functions that run in threads, and let go of the threads."""
    global _pool
    with _starting:
        pool, _pool = _pool, None
    if pool is not None:
        pool.shutdown()


def forget() -> None:
    """In a copy of the process: its threads are not here."""
    global _pool, _starting
    _pool = None
    _starting = threading.Lock()


def _threads() -> ThreadPoolExecutor:
    global _pool
    from concurrent.futures import ThreadPoolExecutor

    with _starting:
        if _pool is None:
            _pool = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="run-ledger-task")
        return _pool


async def _execute(execution: Execution, call: Callable[[], Any], ended: Future[Result]) -> None:
    """Run a function to its end in an event loop, and end its run."""
    import asyncio

    output: Any = None
    error: BaseException | None = None
    execution.starts()
    try:
        with execution:
            output = call()
            if inspect.isawaitable(output):
                output = await output
    except BaseException as raised:  # noqa: BLE001 - Raised again below if it is more than an error.
        error = raised
    try:
        await asyncio.shield(asyncio.ensure_future(_end(execution, output, error)))
    finally:
        _settle(ended, execution, output, error)
    if error is not None and not isinstance(error, Exception):
        raise error


def _execute_in_thread(execution: Execution, call: Callable[[], Any], ended: Future[Result]) -> None:
    """Run a function to its end in this thread, and end its run."""
    import asyncio

    output: Any = None
    error: BaseException | None = None
    execution.starts()
    try:
        with execution:
            output = call()
            if inspect.iscoroutine(output):
                output = asyncio.run(output)
    except BaseException as raised:  # noqa: BLE001 - As above.
        error = raised
    try:
        execution.finish(outcome(error), None if error else output, error_of(error))
    finally:
        _settle(ended, execution, output, error)


async def _end(execution: Execution, output: Any, error: BaseException | None) -> None:
    await execution.finished(outcome(error), None if error else output, error_of(error))


def _settle(ended: Future[Result], execution: Execution, output: Any, error: BaseException | None) -> None:
    wrong = error_of(error)
    if isinstance(wrong, Exception):
        _logger.error("run %s of task %s failed", execution.id, execution.task, exc_info=wrong)
    ended.set_result(Result(execution.id, ok=wrong is None, output=None if error else output, error=wrong))


def _takes_an_argument(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # Some functions written in C do not say.
        return True
    return any(parameter.kind not in {parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD} for parameter in parameters)
