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
        # Entered again by a signal's handler, which may come while its own thread is in here.
        self._changing = threading.RLock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = False

    def submit(self, work: Coroutine[Any, Any, _Result]) -> "Future[_Result]":
        """Begin *work* in the thread; what is returned is cancelled where the thread has ended for good."""
        with self._changing:
            if self._ended:
                work.close()
                refused: Future[_Result] = Future()
                refused.cancel()
                return refused
            return asyncio.run_coroutine_threadsafe(work, self._running())

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call *function* in the thread, soon."""
        with self._changing:
            if not self._ended:
                self._running().call_soon_threadsafe(function, *arguments)

    def pause(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """
        Do *last* in the thread and end it. What still runs in it is cancelled, and has ended when this returns.

        Whoever wants something done in it waits until `go_on`, which the same thread has to call.
        """
        self._changing.acquire()
        thread, loop = self._thread, self._loop
        if thread is not None and loop is not None:
            asyncio.run_coroutine_threadsafe(last(), loop).result()
            self._thread = self._loop = None
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def go_on(self) -> None:
        """After `pause`: the thread is started again when it is next needed."""
        self._changing.release()

    def end(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """As `pause`, and for good."""
        self.pause(last)
        self._ended = True
        self.go_on()

    @property
    def is_here(self) -> bool:
        """Whether the caller runs in the thread."""
        return threading.current_thread() is self._thread

    def _running(self) -> asyncio.AbstractEventLoop:
        """The thread's event loop. The lock is held."""
        if self._loop is None:
            self._loop = loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=_run, args=(loop,), name=inherit.THREAD, daemon=True)
            self._thread.start()
        return self._loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.get_loop().run_forever()
