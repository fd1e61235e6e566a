"""A thread with an event loop of its own, in which everything that may wait is done for a job."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from ledger.handle import inherit

_Result = TypeVar("_Result")


class Background:
    """
    The thread, started when it is first needed and again after it was stopped.

    It never keeps a process alive.
    """

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, work: Coroutine[Any, Any, _Result]) -> "Future[_Result]":
        """Begin *work* in the thread."""
        return asyncio.run_coroutine_threadsafe(work, self._running())

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call *function* in the thread, soon."""
        self._running().call_soon_threadsafe(function, *arguments)

    def stop(self) -> None:
        """End the thread; what still runs in it is cancelled, and has ended when this returns."""
        with self._starting:
            thread, loop = self._thread, self._loop
            self._thread = self._loop = None
        if thread is not None and loop is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    @property
    def is_running(self) -> bool:
        """Whether the thread was started."""
        return self._loop is not None

    @property
    def is_here(self) -> bool:
        """Whether the caller runs in the thread."""
        return threading.current_thread() is self._thread

    def _running(self) -> asyncio.AbstractEventLoop:
        loop = self._loop
        if loop is not None:
            return loop
        with self._starting:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_run, args=(loop,), name=inherit.THREAD, daemon=True)
                self._thread.start()
                self._loop = loop
            return self._loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.get_loop().run_forever()
