"""
Group commit: one task takes what is waiting, writes it in one transaction, and answers after the commit.

A lone write waits for nobody; under load the writes that arrive during one commit make up the next. A group is of
one environment; where the engine can, groups of several are written at once, so that none waits for the lock of
another. A caller that goes away cancels only its own waiting: its write is carried out, or not, as if it had
stayed.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from ledger.commit import Committed, commit_group
from ledger.erase import erase
from ledger.errors import Busy, LedgerError, Overloaded, StorageSilent
from ledger.group import Recorded, Transaction
from ledger.known_heads import KnownHeads
from ledger.writes import CreateBatch, Environment, EraseKey, Outcome, Rules, Write
from projections.times import Microseconds

WAITING_MAX = 10_000  # writes that may wait; beyond that callers are told to come back
GROUP_MAX = 512  # writes in one transaction, which bounds how long one holds the lock
ENVIRONMENTS_KNOWN_MAX = 16  # environments of which heads are kept in memory

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class Transactions(Protocol):
    """
    An engine, as far as writing needs it.

    Attributes:
        writes_at_once: Transactions that it can write at once, each on another environment.
    """

    writes_at_once: int

    async def write(self, work: Callable[[Transaction], _Result]) -> _Result:
        """Run *work* in one write transaction and commit it."""


@dataclass(slots=True)
class _Waiting:
    environment: Environment
    write: Write
    answer: asyncio.Future[Outcome]


class Writer:
    """
    The only task that writes.

    Args:
        store: Where transactions run.
        rules: Limits and windows.
        clock: Microseconds since 1970-01-01 UTC; the engine's by default.
        publish: Told what was appended to an environment's log, after the commit and after its callers.
    """

    def __init__(
        self,
        store: Transactions,
        rules: Rules,
        clock: Callable[[], int] | None = None,
        publish: Callable[[Environment, Recorded], None] | None = None,
    ) -> None:
        self._store = store
        self._rules = rules
        self._clock = clock
        self._publish = publish
        self._waiting: dict[Environment, deque[_Waiting]] = {}  # The environment whose turn it is comes first.
        self._count = 0
        self._known: dict[Environment, KnownHeads] = {}  # The environment that was written last comes last.
        self._writing: dict[Environment, asyncio.Task[None]] = {}
        self._arrived = asyncio.Event()
        self._closing = False
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run(), name="ledger-writer")

    @property
    def is_alive(self) -> bool:
        """Whether writes are being taken."""
        return not (self._closing or self._task.done())

    def now(self) -> Microseconds:
        """What the clock shows."""
        return (self._clock or _now)()

    async def submit(self, environment: Environment, write: Write) -> Outcome:
        """
        Hand in a write and wait until it is durable or refused.

        Raises:
            LedgerError: It was not carried out.
            Refusal: It broke a rule of metadata.
        """
        if self._closing or self._task.done():
            raise Busy("the ledger is closing; nothing was written, send the request again")
        if self._count >= WAITING_MAX:
            raise Overloaded(self._count)
        answer: asyncio.Future[Outcome] = self._loop.create_future()
        queue = self._waiting.get(environment)
        if queue is None:
            queue = self._waiting[environment] = deque()
        queue.append(_Waiting(environment, write, answer))
        self._count += 1
        self._arrived.set()
        return await answer  # Cancelled with its caller; the write itself goes on.

    def forget_heads(self) -> None:
        """Read all heads anew: this process itself changed some without an event."""
        self._known.clear()

    async def close(self) -> None:
        """Carry out what is waiting, refuse what comes later, and end the task."""
        self._closing = True
        self._arrived.set()
        await asyncio.wait([self._task])  # Who gives up waiting here does not take the writer down with it.

    async def _run(self) -> None:
        try:
            await self._write_groups()
        finally:
            # Writes are left here only if the task was cancelled; nobody else would answer them.
            self._closing = True
            for queue in self._waiting.values():
                _fail(queue, Busy("the ledger is closing; nothing was written, send the request again"))
            self._waiting.clear()

    async def _write_groups(self) -> None:
        while self._waiting or self._writing or not self._closing:
            if self._next() is None:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            # Requests that have arrived already are read first, so that they share this group's sync.
            await asyncio.sleep(0)
            environment = self._next()
            if environment is None:  # Those who waited were told meanwhile that the database does not answer.
                continue
            # A task of its own, so that callers are answered truly even if this one is cancelled meanwhile.
            task = asyncio.create_task(self._commit_safely(self._take(environment)))
            self._writing[environment] = task
            task.add_done_callback(partial(self._written, environment))

    def _written(self, environment: Environment, _: asyncio.Task[None]) -> None:
        del self._writing[environment]
        self._arrived.set()

    def _next(self) -> Environment | None:
        """The environment that is written next, None while there is none or no room."""
        if len(self._writing) >= self._store.writes_at_once:
            return None
        return next((environment for environment in self._waiting if environment not in self._writing), None)

    def _take(self, environment: Environment) -> list[_Waiting]:
        """
        The writes that have waited longest in an environment; what is left of them has its turn after the others.

        An erasure reads what is stored, so it makes a group of its own.
        """
        queue = self._waiting.pop(environment)
        group = [queue.popleft()]
        if not isinstance(group[0].write.command, EraseKey):
            while queue and len(group) < GROUP_MAX and not isinstance(queue[0].write.command, EraseKey):
                group.append(queue.popleft())
        if queue:
            self._waiting[environment] = queue
        self._count -= len(group)
        return group

    async def _commit_safely(self, group: Sequence[_Waiting]) -> None:
        try:
            await self._commit(group)
        except Exception as error:
            # The writer must outlive whatever happened, or every later write would wait for ever.
            _logger.exception("a group of %d writes failed", len(group))
            _fail(group, error)

    async def _commit(self, group: Sequence[_Waiting]) -> None:
        try:
            outcomes, recorded = await self._transact(group)
        except LedgerError as error:
            _fail(group, error)
            if error.is_silent:
                self._give_up_waiting()
        except Exception:
            if len(group) == 1:
                raise
            # One of them is more than the statements can take. Alone, each harms only itself.
            _logger.exception("a group of %d writes failed; trying each alone", len(group))
            for waiting in group:
                await self._commit_alone(waiting)
        else:
            self._known_heads(group[0].environment).confirm()
            for waiting, outcome in zip(group, outcomes, strict=True):
                _answer(waiting, outcome)
            if self._publish is not None and recorded.rows:
                self._publish(group[0].environment, recorded)

    def _give_up_waiting(self) -> None:
        """The database does not answer: whoever waits has waited as long, and would only be the next in vain."""
        for queue in self._waiting.values():
            _fail(queue, StorageSilent("it does not answer"))
        self._waiting.clear()
        self._count = 0

    async def _commit_alone(self, waiting: _Waiting) -> None:
        try:
            await self._commit([waiting])
        except Exception as error:
            command = waiting.write.command
            _logger.exception(
                "a write to %s failed", command.batch_id if isinstance(command, CreateBatch) else command.run_id
            )
            _fail([waiting], error)

    async def _transact(self, group: Sequence[_Waiting]) -> Committed:
        environment = group[0].environment
        return await self._store.write(
            partial(
                _commit_group,
                environment=environment,
                writes=[waiting.write for waiting in group],
                rules=self._rules,
                clock=self._clock,
                known=self._known_heads(environment),
            )
        )

    def _known_heads(self, environment: Environment) -> KnownHeads:
        known = self._known.pop(environment, None) or KnownHeads(self._rules.metadata_bytes_max)
        self._known[environment] = known
        if len(self._known) > ENVIRONMENTS_KNOWN_MAX:
            del self._known[next(iter(self._known))]
        return known


def _commit_group(
    transaction: Transaction,
    environment: Environment,
    writes: Sequence[Write],
    rules: Rules,
    clock: Callable[[], int] | None,
    known: KnownHeads,
) -> Committed:
    first = writes[0]
    if isinstance(first.command, EraseKey):
        known.forget()  # It reads all anew, and leaves nothing to be confirmed.
        return erase(transaction, environment, first.command, first.caller, first.idempotency, rules, clock)
    return commit_group(transaction, environment, writes, rules, clock, known)


def _answer(waiting: _Waiting, outcome: Outcome | Exception) -> None:
    if waiting.answer.done():  # The caller went away.
        return
    if isinstance(outcome, Exception):
        waiting.answer.set_exception(outcome)
    else:
        waiting.answer.set_result(outcome)


def _fail(group: Iterable[_Waiting], error: Exception) -> None:
    for waiting in group:
        _answer(waiting, error)


def _now() -> int:
    return time.time_ns() // 1000
