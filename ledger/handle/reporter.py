"""
Deliver what jobs report: never in their way, never twice, never lost without a word.

    metadata.set(...)  ->  outbox  ->  request  ->  ledger
                           memory      |  no answer
                                       v
                                     spool  ->  ledger, as soon as it answers again

Everything that waits happens in one background thread. A job only adds to a list; at most once a second (by
default) the list becomes requests. While the ledger gives no answer requests go to the spool on disk, and what is
in there goes out in its order before anything newer about the same run does.
"""

import asyncio
import logging
import random
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from ledger.errors import NotKept, Unreachable, WriteRefused
from ledger.handle.backend import Backend
from ledger.handle.background import Background
from ledger.handle.backlog import Backlog, now, unforeseen
from ledger.handle.outbox import OWN, Outbox
from ledger.handle.requests import Answer, Reported, Request
from ledger.handle.spool import SpoolFull

LINGER_S = 0.02  # seconds that a first report waits for others
QUEUE_OPERATIONS_MAX = 100_000  # operations in memory, ten full requests
QUEUE_BYTES_MAX = 32 * 2**20  # bytes in memory
RETRY_S = 0.25  # seconds before the ledger is asked again, doubled each time
RETRY_MAX_S = 3.0  # seconds

_logger = logging.getLogger("ledger.handle")
_Result = TypeVar("_Result")


class Reporter:
    """
    Delivers the outboxes of this process.

    Args:
        backend: The way to the ledger.
        folder: Where spools are kept.
        spool_bytes_max: Bytes that this process group's spool may take.
        interval_s: Seconds between two requests about one run that nobody waits for.
        actor: In whose name, None for nobody's.

    Attributes:
        backend: The way to the ledger, for use in the background thread.
        backlog: What waits on disk.
        lock: Held while a job adds to a list or a reader looks at one.
        not_kept: Operations that were neither delivered nor kept.
    """

    def __init__(
        self,
        backend: Callable[[], Backend],
        *,
        folder: Path,
        spool_bytes_max: int,
        interval_s: float,
        actor: str | None,
    ) -> None:
        self._make_backend = backend
        self.actor = actor
        self.backend: Backend = backend()
        self._folder = folder
        self._spool_bytes_max = spool_bytes_max
        self._known: WeakValueDictionary[str, Outbox] = WeakValueDictionary()
        self.backlog = self._new_backlog()
        self._interval_s = interval_s
        self._outboxes: dict[int, Outbox] = {}  # Those with something to deliver.
        self._background = Background()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._recovering: asyncio.Task[None] | None = None
        self._away = False  # What is reported goes to the spool at once.
        self._has_said_away = False
        self._closed = False
        self._suspended = False  # What runs has ended, and nothing more begins.
        self._looked = False
        self._queued = 0
        self._queued_bytes = 0
        self._told: set[str] = set()
        self.lock = threading.Lock()
        self.not_kept = 0

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that lead another process to the same ledger and the same spools."""
        actor = {} if self.actor is None else {"RUN_LEDGER_ACTOR": self.actor}
        return {**self.backend.variables, "RUN_LEDGER_SPOOL_DIR": str(self._folder.absolute()), **actor}

    # --- what jobs call, in their threads ---

    def add(self, outbox: Outbox, operation: Reported) -> None:
        """Take an operation; it is on its way within the interval, and nothing here waits."""
        weight = operation.weight
        with self.lock:
            if self._closed:
                self._do_not_keep(outbox, "reporting was ended by configure(None)", 1)
                return
            if self._queued >= QUEUE_OPERATIONS_MAX or self._queued_bytes + weight > QUEUE_BYTES_MAX:
                self._do_not_keep(outbox, "the queue in memory is full, because the ledger is too slow", 1)
                return
            self._queued += 1
            self._queued_bytes += weight
            outbox.items.append(operation)
            if operation.target == OWN:
                outbox.view.add(operation)
            wake = self._note(outbox)
        if wake:
            self._background.call(self._plan, outbox)

    def add_request(self, outbox: Outbox, request: Request) -> None:
        """Take a request that is no operation."""
        with self.lock:
            if self._closed:
                self._do_not_keep(outbox, "reporting was ended by configure(None)", request.operations)
                return
            outbox.items.append(request)
            self._queued += request.operations
            self._queued_bytes += len(request.body)
            wake = self._note(outbox)
        if wake:
            self._background.call(self._plan, outbox)

    def open(self, outbox: Outbox) -> Outbox:
        """Take up an outbox, so that it is told what becomes of its reports later on."""
        self._known[outbox.run_id] = outbox
        return outbox

    async def flush(self, outbox: Outbox) -> None:
        """
        Deliver everything that was reported about a run: the ledger has it then, or the spool.

        Raises:
            WriteRefused: For the first report that was not accepted since the last flush.
        """
        await self.deliver(outbox)
        with self.lock:
            refusal = outbox.take_refusal()
        if refusal is not None:
            raise refusal

    def wait(self, work: Callable[[], Coroutine[Any, Any, _Result]], timeout_s: float | None = None) -> _Result:
        """
        Do *work* in the background thread and wait for it.

        Raises:
            TimeoutError: It is not done yet; it goes on.
        """
        if self._background.is_here:
            raise RuntimeError("the background thread cannot wait for itself")
        while True:
            future = self._submit(work)
            try:
                return future.result(timeout_s)
            except CancelledError:
                self._refuse_closed()  # Else another thread forked: it begins again.

    async def waited(self, work: Callable[[], Coroutine[Any, Any, _Result]]) -> _Result:
        """Do *work* in the background thread and await it; it is carried to its end if the caller is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            future = self._submit(work)
            done = loop.create_future()
            future.add_done_callback(lambda _, done=done: _wake(loop, done))  # type: ignore[misc]
            await done
            try:
                return future.result()
            except CancelledError:
                self._refuse_closed()  # As above.

    def _submit(self, work: Callable[[], Coroutine[Any, Any, _Result]]) -> "Future[_Result]":
        async def tracked() -> _Result:
            if self._suspended:
                raise asyncio.CancelledError
            result: _Result = await self._task(work())
            return result

        self._refuse_closed()
        return self._background.submit(tracked())

    def _refuse_closed(self) -> None:
        if self._closed:
            raise Unreachable("reporting was ended by configure(None)", certain=True)

    async def deliver_spools(self) -> int:
        """Send what waits on disk, and say how many requests still wait; see `Backlog.deliver`."""
        return await self.backlog.deliver()

    def close(self, deadline_s: float) -> None:
        """
        Deliver what there is, keep on disk what the ledger does not take within the deadline, and let go of
        everything: thread, sockets, files.
        """
        with self.lock:
            self._closed = True
        self._background.end(lambda: self._close(deadline_s))

    def suspend(self) -> None:
        """Before a fork: let go of thread, sockets and files, keep what is to be delivered."""
        self._background.pause(self._suspend)
        self.lock.acquire()

    def resume(self) -> None:
        """After a fork, in the process that forked: go on."""
        self._renew()
        self.lock.release()
        self._background.go_on()
        for outbox in list(self._outboxes.values()):
            if outbox.items or outbox.requests:
                self._background.call(self._plan, outbox)

    def begin_anew(self) -> None:
        """After a fork, in the new process: what the other one reported is the other one's to deliver."""
        for outbox in self._outboxes.values():
            outbox.forget()
        self._outboxes.clear()
        self._queued = self._queued_bytes = self.not_kept = 0
        self._told.clear()
        self._background = Background()
        self.lock = threading.Lock()
        self._renew()

    # --- in the background thread ---

    async def deliver(self, outbox: Outbox) -> None:
        """Deliver everything that was reported about a run so far."""
        self._look_around()
        async with outbox.sending:
            self._seal(outbox)
            while outbox.requests:
                await self._deliver_next(outbox)
            outbox.flushed_at = asyncio.get_running_loop().time()
            with self.lock:
                if not outbox.items:
                    self._outboxes.pop(id(outbox), None)

    async def load(self, outbox: Outbox) -> None:
        """
        Ask the ledger what the metadata of a run is.

        Raises:
            RunNotFound: There is no such run.
            Unreachable: There was no answer.
        """
        async with outbox.sending:  # What is on its way could be in the answer or not.
            metadata = await self.backend.metadata(outbox.run_id, None, None)
            with self.lock:
                outbox.view.told(metadata, outbox.own_items())

    def _plan(self, outbox: Outbox) -> None:
        loop = asyncio.get_running_loop()
        due = max(loop.time() + LINGER_S, outbox.flushed_at + self._interval_s)
        if outbox.planned is not None:  # For what a flush took since.
            outbox.planned.cancel()
        outbox.planned = loop.call_at(due, self._begin_delivery, outbox)

    def _begin_delivery(self, outbox: Outbox) -> None:
        if self._suspended or not (outbox.items or outbox.requests):
            return
        if asyncio.get_running_loop().time() + LINGER_S < outbox.flushed_at + self._interval_s:
            self._plan(outbox)  # A flush came between.
        else:
            self._task(self._deliver_safely(outbox))

    async def _deliver_safely(self, outbox: Outbox) -> None:
        try:
            await self.deliver(outbox)
        except Exception:  # Whatever it is, the job goes on.
            _logger.exception("reports about run %s could not be delivered", outbox.run_id)

    def _note(self, outbox: Outbox) -> bool:
        """Whether a flush has to be planned for what was just added. The lock is held."""
        self._outboxes[id(outbox)] = outbox
        if outbox.is_due:
            return False
        outbox.is_due = True
        return True

    def _seal(self, outbox: Outbox) -> None:
        """Make requests of what was reported. Jobs go on reporting meanwhile: the lock is held briefly."""
        with self.lock:
            outbox.is_due = False
            items, outbox.items = outbox.items, []
        made = outbox.requests_of(items, self.actor)
        before = sum(item.weight if isinstance(item, Reported) else len(item.body) for item in items)
        with self.lock:
            outbox.requests.extend(made)
            self._queued_bytes += sum(len(request.body) for request in made) - before

    async def _deliver_next(self, outbox: Outbox) -> None:
        """Send the first request of an outbox, or put all of them on disk where it cannot be sent now."""
        request = outbox.requests[0]
        if self._away or self.backlog.holds(request.run_id):
            self._spool_all(outbox)
            self._recover()
            return
        try:
            answer = await self.backend.send(request)
        except asyncio.CancelledError:
            outbox.requests[0] = request.sent(now())
            raise
        except Unreachable as error:
            if not error.certain:
                outbox.requests[0] = request.sent(now())
            self._went_away(error)
            self._spool_all(outbox)
            self._recover()
        except WriteRefused as refusal:
            self._on_refusal(outbox, request, refusal)
        except Exception as error:
            _logger.exception("a report about run %s could not be sent", outbox.run_id)
            self._on_refusal(outbox, request, unforeseen(request, error))
        else:
            self._came_back()
            self._done(outbox)
            self._acknowledge(outbox, answer)

    def _on_refusal(self, outbox: Outbox, request: Request, refusal: WriteRefused) -> None:
        """One report that is not accepted takes no other with it, although they were sent together."""
        if self.backlog.may_come(refusal, now(), patient=outbox.waits_for_parent):
            self._spool_all(outbox)
            self._recover()
        elif request.operations > 1:
            halves = request.halves()
            outbox.requests.popleft()
            outbox.requests.extendleft(reversed(halves))
            with self.lock:
                self._queued_bytes += sum(len(half.body) for half in halves) - len(request.body)
        else:
            self._done(outbox)
            self._refuse(outbox, refusal)

    def _done(self, outbox: Outbox) -> None:
        """The first request of an outbox needs no more care."""
        request = outbox.requests.popleft()
        with self.lock:
            self._queued -= request.operations
            self._queued_bytes -= len(request.body)

    def _acknowledge(self, outbox: Outbox, answer: Answer) -> None:
        if outbox.is_cached is None:
            outbox.is_cached = answer.is_cached
        if answer.metadata is not None and not outbox.requests:
            with self.lock:
                outbox.view.told(answer.metadata, outbox.own_items())

    def _new_backlog(self) -> Backlog:
        return Backlog(
            self.backend, self._folder, self._spool_bytes_max, self._on_late_answer, self._on_late_refusal
        )

    def _on_late_answer(self, request: Request, answer: Answer) -> None:
        outbox = self._known.get(request.run_id)
        if outbox is not None and outbox.is_cached is None:
            outbox.is_cached = answer.is_cached

    def _on_late_refusal(self, request: Request, refusal: WriteRefused) -> None:
        """Let the next flush raise what became of an earlier report."""
        outbox = self._known.get(request.run_id)
        if outbox is not None:
            with self.lock:
                outbox.refuse(refusal)
                outbox.view.is_known = False

    def _refuse(self, outbox: Outbox, refusal: WriteRefused) -> None:
        with self.lock:
            outbox.refuse(refusal)
            outbox.view.is_known = False  # It shows what was not accepted.
        self._warn(f"{outbox.run_id} {refusal.code}", "run %s: not accepted: %s", outbox.run_id, refusal)

    def _do_not_keep(self, outbox: Outbox, reason: str, operations: int) -> None:
        """The lock is held."""
        self.not_kept += max(operations, 1)
        outbox.refuse(NotKept(outbox.run_id, reason, operations))
        self._warn(f"{outbox.run_id} not kept", "run %s: a report was not kept: %s", outbox.run_id, reason)

    def _warn(self, subject: str, text: str, *arguments: object) -> None:
        """Say something once, not once a call."""
        if subject not in self._told and len(self._told) < 1_000:
            self._told.add(subject)
            _logger.warning(text, *arguments)

    # --- the spool ---

    def _spool_all(self, outbox: Outbox) -> None:
        """Put what an outbox has to send on disk; what finds no room there is given up, and said so."""
        requests = list(outbox.requests)
        try:
            self.backlog.add(requests)
        except SpoolFull:
            for request in requests:  # The oldest may fit yet.
                try:
                    self.backlog.add([request])
                except SpoolFull as error:
                    with self.lock:
                        self._do_not_keep(outbox, str(error), request.operations)
        while outbox.requests:
            self._done(outbox)
        with self.lock:
            outbox.view.current()  # Nobody knows how long this lasts: what was reported is folded, not kept.

    def _look_around(self) -> None:
        """Once: whether a process that died left something."""
        if not self._looked:
            self._looked = True
            if not self.backlog.is_empty():
                self._recover()

    def _went_away(self, error: Unreachable) -> None:
        self._away = True
        if not self._has_said_away:
            self._has_said_away = True
            _logger.warning(
                "%s; what is reported is kept in %s until it can be delivered", error, self.backlog.spool.path
            )

    def _came_back(self) -> None:
        self._away = False
        if self._has_said_away:
            self._has_said_away = False
            _logger.warning("the ledger answers again; what was kept has been delivered")

    def _recover(self) -> None:
        """See to it that the spools are delivered."""
        if self._recovering is None or self._recovering.done():
            self._recovering = self._task(self._deliver_spools_in_time())

    async def _deliver_spools_in_time(self) -> None:
        delay = RETRY_S
        while True:
            before = self.backlog.delivered
            try:
                left = await self.backlog.deliver()
            except Unreachable as error:
                self._went_away(error)
            except Exception:  # Whatever it is, reporting goes on.
                _logger.exception("what waits in %s could not be delivered", self._folder)
            else:
                if not self.backlog.is_elsewhere:  # Else the other process knows.
                    self._away = False
                if self.backlog.delivered > before:
                    self._came_back()
                if not left:
                    return
            await asyncio.sleep(delay * random.uniform(0.8, 1.2))  # noqa: S311 - So that many do not come at once.
            delay = min(delay * 2, RETRY_MAX_S)

    async def _deliver_spools_once(self) -> None:
        """A last attempt, where something was put on disk."""
        if self._recovering is not None and not self._recovering.done():
            self._recovering.cancel()
            with suppress(asyncio.CancelledError):
                await self._recovering
            with suppress(Unreachable):
                await self.backlog.deliver()

    # --- letting go ---

    async def _close(self, deadline_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await asyncio.gather(*map(self._deliver_safely, list(self._outboxes.values())))
                await self._deliver_spools_once()
        await self._cancel()
        for outbox in list(self._outboxes.values()):
            self._seal(outbox)
            if outbox.requests:
                self._spool_all(outbox)
        self._outboxes.clear()
        await self.backend.close()

    async def _suspend(self) -> None:
        self._suspended = True
        await self._cancel()
        await self.backend.close()

    async def _cancel(self) -> None:
        """End what runs here, except for the caller; what was on its way is marked as sent without an answer."""
        while tasks := self._tasks - {asyncio.current_task()}:  # One that ends may begin another.
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _renew(self) -> None:
        """Begin again with nothing open."""
        self.backend = self._make_backend()
        self.backlog = self._new_backlog()
        self._suspended = False
        self._tasks = set()
        self._recovering = None
        self._looked = False
        for outbox in self._known.values():
            outbox.sending = asyncio.Lock()

    def _task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _wake(loop: asyncio.AbstractEventLoop, done: "asyncio.Future[None]") -> None:
    """Tell another thread's event loop that something is done, if the loop is still there."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(lambda: None if done.done() else done.set_result(None))
