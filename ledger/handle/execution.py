"""
One attempt of a run, in the process that executes it.

This is all that is needed to make a run of something that another program starts:

    execution = begin("send-mail", run_id=job.id, attempt=job.tries, parent=job.parent_id)
    with execution:                         # what runs in here works for the run
        ...
    execution.finish(Status.COMPLETED)      # or another status, with an output or an error

`with run(...)`, `@task`, `run-ledger exec` and the integrations are made of it.
"""

import logging
import os
import threading
import traceback
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError

from ledger import bodies
from ledger.errors import LedgerError, RunNotFound, Unreachable
from ledger.handle import configuration, current
from ledger.handle.encoding import encode
from ledger.handle.outbox import Outbox
from ledger.handle.records import RunRecord
from ledger.handle.reporter import Reporter
from ledger.handle.requests import Request, operation
from ledger.run_ids import new_run_id
from ledger.settings import PREFIX, load_settings
from projections import values
from projections.lifecycle import Status
from projections.metadata import Absent, value_at
from projections.paths import parse_key
from projections.size import PAYLOAD_BYTES_MAX, size_bytes
from projections.values import JsonObject

if TYPE_CHECKING:
    from ledger.handle.metadata import Metadata

READ_WAIT_S = 5.0  # seconds that reading metadata may take when the ledger has to be asked
ERROR_CHARACTERS_MAX = 16_384  # characters of an error's message, and of its traceback, from the end

_logger = logging.getLogger("ledger.handle")


class Execution:
    """
    One attempt of a run.

    Use `begin` to make one.

    Attributes:
        is_open: The attempt goes on.
        around: The run that the caller worked for before.
    """

    def __init__(self, reporter: Reporter, outbox: Outbox, *, around: "Execution | None" = None) -> None:
        self._reporter = reporter
        self._outbox = reporter.open(outbox)
        self._process = os.getpid()
        self._thread = threading.current_thread()
        self._before: list[Execution | None] = []
        self.is_open = True
        self.around = around

    @property
    def id(self) -> str:
        """The run's id."""
        return self._outbox.run_id

    @property
    def task(self) -> str | None:
        """What the run executes, None where this process does not know."""
        return self._outbox.task

    @property
    def attempt(self) -> int | None:
        """Which attempt this is, from 1; None where this process does not know."""
        return self._outbox.attempt

    @property
    def parent(self) -> str | None:
        """Id of the run that started this one, None where none did or this process does not know."""
        return self._outbox.parent

    @property
    def root(self) -> str | None:
        """Id of the topmost run above this one, None where there is none or this process does not know."""
        return self._outbox.root

    @property
    def is_cached(self) -> bool | None:
        """Whether the run existed before, None where the ledger did not say so yet."""
        return self._outbox.is_cached

    @property
    def metadata(self) -> "Metadata":
        """The run's metadata."""
        from ledger.handle.metadata import Metadata

        return Metadata(self)

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables by which a program that the run starts knows it."""
        known = {
            "RUN_ID": self.id,
            "RUN_ATTEMPT": self.attempt,
            "RUN_PARENT": self.parent,
            "RUN_ROOT": self.root,
        }
        named = {f"{PREFIX}{name}": str(value) for name, value in known.items() if value is not None}
        return {**self._reporter.variables, **named}

    @property
    def thread_goes_on(self) -> bool:
        """Whether the thread that began it is one that Python waits for at the end of the program."""
        return self._thread.is_alive() and not self._thread.daemon and self._thread is not threading.main_thread()

    # --- reporting ---

    def report(self, target: int, kind: str, key: str | None, value: object = None) -> None:
        """
        Take one operation; it is delivered soon, and nothing here waits.

        Args:
            target: Whose metadata: `OWN`, `PARENT` or `ROOT`.
            kind: `set`, `delete`, `append`, `remove`, `increment`, `decrement` or `update`.
            key: Its key, None for `update`.
            value: Its value; not looked at for `delete`.

        Raises:
            BadValue: JSON cannot say the value.
            BadPath: No operation may use the key.
            TypeError: The key is no text, or the value not of the kind that the operation needs.
        """
        outbox = self._outbox
        reported = operation(outbox.target(target), kind, key, value)
        self._reporter.add(outbox, reported)

    def flush_work(self) -> Coroutine[Any, Any, None]:
        """What delivers everything that was reported so far, for the background thread."""
        return self._reporter.flush(self._outbox)

    def flush(self, timeout_s: float | None = None) -> None:
        """
        Wait until everything that was reported so far is durable, with the ledger or in the spool.

        Raises:
            WriteRefused: The first report that was not accepted since the last flush.
            TimeoutError: It took longer; it goes on.
        """
        self._reporter.wait(self.flush_work, timeout_s)

    async def flushed(self) -> None:
        """
        Await that everything that was reported so far is durable.

        Raises:
            WriteRefused: The first report that was not accepted since the last flush.
        """
        await self._reporter.waited(self.flush_work)

    # --- reading ---

    def read(self) -> JsonObject:
        """The metadata as this process sees it, which the caller must not change."""
        if not self._outbox.view.is_known:
            self._load()
        with self._reporter.lock:
            return self._outbox.view.current()

    def read_at(self, key: str, default: object) -> object:
        """The value at a key or path, *default* where there is none; the caller must not change it."""
        found = value_at(self.read(), parse_key(key))
        return default if isinstance(found, Absent) else found

    def refresh(self) -> None:
        """
        Ask the ledger what the metadata is now.

        Raises:
            RunNotFound: There is no such run.
            Unreachable: There was no answer.
        """
        self._reporter.wait(lambda: self._reporter.load(self._outbox), READ_WAIT_S)

    def _load(self) -> None:
        try:
            self.refresh()
        except (LedgerError, TimeoutError) as error:
            self._outbox.view.is_known = True  # Asked once: a job does not wait for every read.
            _logger.warning("the metadata of run %s is not known here: %s", self.id, error or "no answer in time")

    # --- life ---

    def __enter__(self) -> Self:
        """Let the caller, and what it starts, work for the run."""
        self._before.append(current.entered())
        current.enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the caller work for what it worked for before."""
        current.enter(self._before.pop())

    def starts(self) -> None:
        """The attempt is under way, in the caller's thread."""
        self._thread = threading.current_thread()
        configuration.executing(self)
        self._take_step(Status.EXECUTING)

    def hand_on(self, error: BaseException | str | JsonObject | None = None) -> None:
        """
        The run waits for its next attempt: durable when this returns, before a queue learns of that attempt.

        This attempt may report until it ends, with `finish(None)`.

        Args:
            error: Why there is to be another attempt.
        """
        self._take_step(Status.QUEUED, error=error_members(error))
        with self._undisturbed():
            self._reporter.wait(self.deliver_work)

    def finish(
        self,
        status: Status | None,
        output: object = None,
        error: BaseException | str | JsonObject | None = None,
    ) -> None:
        """
        End the attempt, and wait until all of it is durable. In a copy of the process nothing happens.

        Args:
            status: The run's status from now on; None where somebody else says it, or it was said.
            output: What it returned.
            error: What went wrong.
        """
        if self.end(status, output, error):
            with self._undisturbed():
                self._reporter.wait(self.deliver_work)

    async def finished(
        self,
        status: Status | None,
        output: object = None,
        error: BaseException | str | JsonObject | None = None,
    ) -> None:
        """End the attempt, and await that all of it is durable. In a copy of the process nothing happens."""
        if self.end(status, output, error):
            with self._undisturbed():
                await self._reporter.waited(self.deliver_work)

    def end(
        self,
        status: Status | None,
        output: object = None,
        error: BaseException | str | JsonObject | None = None,
    ) -> bool:
        """End the attempt without waiting; False where it is over, or another process began it."""
        if not self.is_open or self._process != os.getpid():
            return False
        self.is_open = False
        configuration.executed(self)
        if status is not None:
            self._take_step(status, output=self._outcome(output), error=error_members(error))
        return True

    def deliver_work(self) -> Coroutine[Any, Any, None]:
        """What delivers everything that was reported so far and raises nothing, for the background thread."""
        return self._reporter.deliver(self._outbox)

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """The end of a run is no place to fail for a job that is done."""
        try:
            yield
        except LedgerError as error:
            _logger.warning("the end of run %s could not be delivered: %s", self.id, error)

    def crashed(self, reason: str) -> None:
        """End the attempt because the process ends."""
        self.end(Status.CRASHED, error=reason)

    def _take_step(self, status: Status, attempt: int | None = None, **members: str | None) -> None:
        """Ask for a status; *members* are JSON text. Where no attempt is known, the run's current one asks."""
        by = attempt or self.attempt
        body = {
            "status": f'"{status.value}"',
            "attempt": None if by is None else str(by),
            "actor": None if self._reporter.actor is None else values.dump(self._reporter.actor),
            **members,
        }
        text = ",".join(f'"{name}":{value}' for name, value in body.items() if value is not None)
        self._reporter.add_request(self._outbox, Request("status", self.id, f"{{{text}}}"))

    def _outcome(self, output: object) -> str | None:
        """The output as JSON text; None where it cannot be kept, which is no reason for a job to fail."""
        if output is None:
            return None
        try:
            text = encode(output)
        except Exception as error:  # noqa: BLE001 - Values of other libraries may fail in their own ways.
            _logger.warning("the output of run %s is not recorded: %s", self.id, error)
            return None
        if size_bytes(text) > PAYLOAD_BYTES_MAX:
            _logger.warning(
                "the output of run %s is not recorded: %s bytes, at most %s are kept",
                self.id,
                size_bytes(text),
                PAYLOAD_BYTES_MAX,
            )
            return None
        return text

    # --- the beginning, in the background thread ---

    async def _record(self, _: int | None) -> None:
        """
        Deliver the creation of the run.

        Raises:
            WriteRefused: The run was not accepted.
        """
        await self._reporter.flush(self._outbox)
        if self._outbox.is_cached is False and (self.parent is None or self.root is not None):
            self._outbox.know_family(self.parent, self.root)

    async def _begin(self, wanted_attempt: int | None) -> None:
        """
        Deliver the creation of the run. If it existed before, this is one more attempt.

        Raises:
            WriteRefused: The run was not accepted.
        """
        await self._record(wanted_attempt)
        if self._outbox.is_cached is False:
            return
        known = await self._known() if self._outbox.is_cached else None
        if known is None:
            if (wanted_attempt or 1) > 1:  # Should the run exist before this is delivered, it is under way again.
                self._take_step(Status.EXECUTING)
                await self._reporter.deliver(self._outbox)
            return
        self._outbox.know_family(known.parent, known.root)
        self._outbox.view.told(known.metadata, [])
        was_begun = known.is_finished or known.started_at is not None
        self._outbox.attempt = max(wanted_attempt or 1, known.attempt + 1 if was_begun else known.attempt)
        if known.status == Status.EXECUTING:
            reason = f"attempt {known.attempt} ended without a word; attempt {self._outbox.attempt} begins"
            self._take_step(Status.CRASHED, known.attempt, error=error_members(reason))
        self._take_step(Status.EXECUTING)
        await self._reporter.deliver(self._outbox)

    async def _known(self) -> RunRecord | None:
        """The run as the ledger has it; None where it does not answer."""
        try:
            return await self._reporter.backend.retrieve(self.id)
        except LedgerError as error:
            _logger.warning("the state of run %s is not known here: %s", self.id, error)
            return None


def begin_work(
    task: str,
    *,
    run_id: str | None = None,
    attempt: int | None = None,
    parent: str | None = None,
    root: str | None = None,
    metadata: object = None,
    tags: Sequence[str] = (),
    payload: object = None,
    status: Status = Status.EXECUTING,
    waits_for_parent: bool = False,
    begins_again: bool = True,
) -> tuple[Execution, Callable[[], Coroutine[Any, Any, None]]]:
    """
    An execution, and what has to be done in the background thread before it may be used.

    Args and Raises: see `begin`.
    """
    reporter = configuration.reporter()
    around = current.execution()
    if parent is None and around is not None:
        parent, root = around.id, around.root or (around.id if around.parent is None else None)
    body = {
        "id": new_run_id() if run_id is None else run_id,
        "task": task,
        "parentRunId": parent,
        "metadata": values.load(encode({} if metadata is None else metadata)),
        "tags": values.canonical(tags if isinstance(tags, str) else list(tags)),
        "payload": None if payload is None else values.load(encode(payload)),
        "status": status.value,
        "attempt": attempt or 1,
        "actor": reporter.actor,
    }
    body = {name: value for name, value in body.items() if value is not None}
    try:
        checked = bodies.NEW_RUN.validate_python(body)
    except ValidationError as error:
        raise ValueError(_faults(error)) from error
    outbox = Outbox(
        str(body["id"]),
        task=task,
        attempt=attempt or 1,
        parent=parent,
        root=root,
        metadata=checked.metadata,
    )
    outbox.waits_for_parent = waits_for_parent
    execution = Execution(reporter, outbox, around=around)
    text = values.dump(body)
    reporter.add_request(outbox, Request("create", outbox.run_id, text))
    begins = execution._begin if begins_again else execution._record  # noqa: SLF001 - Two halves of one thing.
    return execution, lambda: begins(attempt)


def begin(
    task: str,
    *,
    run_id: str | None = None,
    attempt: int | None = None,
    parent: str | None = None,
    root: str | None = None,
    metadata: object = None,
    tags: Sequence[str] = (),
    payload: object = None,
    waits_for_parent: bool = False,
) -> Execution:
    """
    Begin an attempt of a run; its creation is durable, with the ledger or in the spool, when this returns.

    Args:
        task: What is executed.
        run_id: The run's id, a new one unless given. A run that exists already begins another attempt.
        attempt: Which attempt this is, where the caller knows; else the ledger is asked.
        parent: Id of the run that started it; the run that the caller works for unless given.
        root: Id of the topmost run above it, where the caller knows.
        metadata: Its first metadata.
        tags: At most ten.
        payload: What it was started with.
        waits_for_parent: The parent is a run for certain: what is reported waits until the ledger knows it.

    Raises:
        WriteRefused: The run was not accepted: too large a metadata, an id of another task's run.
        ValueError: An argument cannot be used.
        BadSettings: A setting cannot be used.
    """
    execution, work = begin_work(
        task,
        run_id=run_id,
        attempt=attempt,
        parent=parent,
        root=root,
        metadata=metadata,
        tags=tags,
        payload=payload,
        waits_for_parent=waits_for_parent,
    )
    configuration.reporter().wait(work)
    return execution


def conclude(
    run_id: str,
    status: Status,
    error: BaseException | str | JsonObject | None = None,
    *,
    attempt: int | None = None,
) -> None:
    """
    Say how an attempt ended whose own process cannot say it: it is gone, or was told to go.

    What is said is durable when this returns. Nothing happens where the run is over already, or unknown.

    Args:
        run_id: The run.
        status: The run's status from now on.
        error: What went wrong.
        attempt: The attempt that ended, None for the current one; nothing happens where a later one began.

    Raises:
        BadSettings: A setting cannot be used.
    """
    reporter = configuration.reporter()
    outbox = Outbox(run_id, attempt=attempt)
    try:
        known = reporter.wait(lambda: reporter.backend.retrieve(run_id))
    except RunNotFound:
        if not reporter.backlog.holds(run_id, "create"):
            return
    except Unreachable as reason:
        _logger.warning("the state of run %s is not known here: %s", run_id, reason)
    else:
        if known.is_finished or (attempt is not None and attempt < known.attempt):
            return
        outbox.attempt = known.attempt
    Execution(reporter, outbox).finish(status, error=error)


def attach() -> Execution | None:
    """The run that this process was started for, as the environment variables say; None where they are wrong."""
    try:
        reporter = configuration.reporter()
        inherited = {name.removeprefix(PREFIX).lower(): value for name, value in current.inherited().items()}
        settings = load_settings(**inherited)
    except Exception as error:  # noqa: BLE001 - Whatever it is, the job goes on.
        _logger.warning("nothing is reported about run %s: %s", os.environ.get(current.RUN_ID), error)
        return None
    assert settings.run_id is not None
    configuration.heed_signal()
    outbox = Outbox(
        settings.run_id, attempt=settings.run_attempt, parent=settings.run_parent, root=settings.run_root
    )
    if settings.run_parent is not None and settings.run_root is not None:
        outbox.know_family(settings.run_parent, settings.run_root)
    return Execution(reporter, outbox)


def error_members(error: BaseException | str | JsonObject | None) -> str | None:
    """An error as JSON text: its message, its type, and where it happened."""
    if error is None:
        return None
    if isinstance(error, BaseException):
        trace = "".join(traceback.format_exception(error))
        members: JsonObject = {
            "message": _shown(_text_of(error)),
            "name": type(error).__name__,
            "stackTrace": _shown(trace),
        }
        return values.dump(members)
    return values.dump({"message": _shown(error)} if isinstance(error, str) else error)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - Whatever it is, the run ends.
        return "the error has no text that could be read"


def _shown(text: str) -> str:
    return text[-ERROR_CHARACTERS_MAX:].encode(errors="backslashreplace").decode()


def _faults(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in found[:3])
