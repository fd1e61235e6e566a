"""
Celery's tasks as runs.

    from ledger.integrations.celery import install

    app = Celery(...)
    install(app)

Called where the app is made, so that whoever publishes tasks has it as well as the workers. The pools prefork,
threads and solo are supported; in a worker with gevent or eventlet nothing is reported, and a warning says so.

    Celery                              the ledger
    task id, name                       run id, task
    retries + 1, or one more            attempt; a message that is delivered again begins one more
    the task or run that published it   parent
    SUCCESS, FAILURE                    COMPLETED, FAILED
    RETRY                               QUEUED, with the error of the attempt that ended
    REVOKED, expired                    CANCELED, EXPIRED
    a time limit                        TIMED_OUT
    a worker process that is gone       CRASHED

Nothing that happens here makes a task fail: what goes wrong is logged, and the task works without a run.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from functools import partial, wraps
from typing import Any

from celery import Celery, signals, states
from celery.exceptions import Reject, Retry, SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError

from ledger.errors import LedgerError, RunNotFound, WriteRefused
from ledger.handle import configuration, current
from ledger.handle.encoding import encode
from ledger.handle.execution import Execution, begin_work, conclude
from ledger.handle.runs import runs
from projections.errors import BadValue
from projections.lifecycle import Status
from projections.size import PAYLOAD_BYTES_MAX, size_bytes

HEADER = "run_ledger"  # The header of a message in which the publisher says what it knows about the run.
BUILT_IN = "celery.*"  # Tasks that are no work of their own, such as celery.chord_unlock.
SHUTDOWN_S = 5.0  # seconds that a worker waits at its end for what it has to say about tasks whose process is gone
REMIND_S = 0.1  # seconds until a soft time limit that ended before its task began is told to the task
WARNINGS_MAX = 1_000  # different warnings that are logged once each

_logger = logging.getLogger("ledger.integrations.celery")
_warned: set[object] = set()
_conclusions: ThreadPoolExecutor | None = None
_worker_process: int | None = None  # The worker's main process.
_is_supported = True
_installed: dict[int, "_Integration"] = {}


class _Attempt:
    """
    A task that is executed in this thread.

    Attributes:
        task_id: Its id.
        request: What Celery knows about it.
        execution: The attempt of its run; None where it is left out or was refused.
        is_handed_on: Its next attempt was published.
        reminder: Sends a signal again that came too early.
    """

    def __init__(self, task_id: str, request: Any) -> None:
        self.task_id = task_id
        self.request = request
        self.execution: Execution | None = None
        self.is_handed_on = False
        self.reminder: threading.Timer | None = None


class _Here(threading.local):
    """The tasks that are executed in this thread: several where one is applied within another."""

    def __init__(self) -> None:
        self.attempts: list[_Attempt] = []


_here = _Here()


def install(
    app: Celery, *, leave_out: str | Iterable[str] = (), payload: bool = False, output: bool = False
) -> None:
    """
    Make a run of every task of an app. Call it again to choose other options.

    Args:
        app: The app.
        leave_out: Names of tasks that are to be no runs, `*` standing for any text; Celery's own are none anyway.
        payload: Record the arguments as the run's payload. They may hold what nobody else should see.
        output: Record what a task returns as the run's output, likewise.
    """
    app = _object(app)
    patterns = (leave_out,) if isinstance(leave_out, str) else tuple(leave_out)
    uninstall(app)
    if not _installed:
        for sent, receiver in _FOR_ALL.items():
            sent.connect(receiver, weak=False)
    _installed[id(app)] = _Integration(app, (BUILT_IN, *patterns), payload=payload, output=output)


def uninstall(app: Celery) -> None:
    """Make no more runs of an app's tasks."""
    installed = _installed.pop(id(_object(app)), None)
    if installed is not None:
        installed.disconnect()
        if not _installed:
            for sent, receiver in _FOR_ALL.items():
                sent.disconnect(receiver)


def _object(app: Any) -> Celery:
    """The app itself, where there may be a proxy that stands for it."""
    behind = getattr(app, "_get_current_object", None)
    return app if behind is None else behind()


def _safely(handle: Callable[..., None]) -> Callable[..., None]:
    """Let nothing that goes wrong reach the task, and say it once."""

    @wraps(handle)
    def handled(*arguments: Any, **options: Any) -> None:
        try:
            handle(*arguments, **options)
        except Exception as error:  # noqa: BLE001 - Whatever it is, the task goes on.
            _warn_once((type(error), handle), "a task is not reported: %s: %s", type(error).__name__, error)

    return handled


class _Integration:
    """What is done about the tasks of one app."""

    def __init__(self, app: Celery, left_out: tuple[str, ...], *, payload: bool, output: bool) -> None:
        self._app = app
        self._left_out = left_out
        self._payload = payload
        self._output = output
        self._receivers = {
            signals.task_prerun: self._on_prerun,
            signals.task_postrun: self._on_postrun,
            signals.task_failure: self._on_failure,
            signals.task_retry: self._on_retry,
            signals.task_revoked: self._on_revoked,
        }
        for sent, receiver in self._receivers.items():
            sent.connect(receiver, weak=False)

    def disconnect(self) -> None:
        for sent, receiver in self._receivers.items():
            sent.disconnect(receiver)

    def _is_for_us(self, task: Any) -> bool:
        return _is_supported and _object(task.app) is self._app

    def _is_left_out(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self._left_out)

    # --- in the process that executes a task ---

    @_safely
    def _on_prerun(self, task_id: str, task: Any, **_: Any) -> None:
        if not self._is_for_us(task):
            return
        attempt = _Attempt(task_id, task.request)
        _here.attempts.append(attempt)
        if not self._is_left_out(task.name):
            self._begin(task, attempt)
            if attempt.execution is not None:
                attempt.execution.__enter__()

    def _begin(self, task: Any, attempt: _Attempt) -> None:
        """Begin an attempt, unless the ledger does not accept it, which its reporter says."""
        request = attempt.request
        given = _given(request) or {}
        parent, root, is_run = _family(request)
        start = partial(
            begin_work,
            run_id=attempt.task_id,
            attempt=max((request.retries or 0) + 1, given.get("attempt", 1)),
            payload=_arguments(attempt) if self._payload else None,
        )
        try:
            _wait(attempt, start(given.get("task", task.name), parent=parent, root=root, waits_for_parent=is_run))
        except WriteRefused as refusal:
            if refusal.code == "run-exists":
                # It replaced another task, and goes on as its run; or its parent has become known only now.
                known = runs.retrieve_sync(attempt.task_id)
                _wait(attempt, start(known.task, parent=known.parent, root=known.root))

    @_safely
    def _on_postrun(self, task_id: str, task: Any, retval: Any = None, state: str | None = None, **_: Any) -> None:
        if not self._is_for_us(task):
            return
        if not _here.attempts or _here.attempts[-1].task_id != task_id:
            return
        attempt = _here.attempts.pop()
        if attempt.reminder is not None:
            attempt.reminder.cancel()
        if attempt.execution is None:
            return
        attempt.execution.__exit__(None, None, None)
        status, error = _outcome(state, retval, task, attempt)
        output = retval if self._output and state == states.SUCCESS else None
        attempt.execution.finish(status, output, error)

    # --- in the worker's main process ---

    @_safely
    def _on_failure(self, sender: Any, task_id: str, exception: BaseException, **_: Any) -> None:
        """A task failed. Where its own process could say so, it does; else it is gone."""
        if self._is_gone(sender, task_id):
            _concluding().submit(_conclude, task_id, _status_of(exception), exception)

    @_safely
    def _on_retry(self, sender: Any, request: Any, reason: Any, **_: Any) -> None:
        """A task is to be retried, which its own process says too, unless it is gone."""
        if self._is_gone(sender, request.id):
            attempt = (request.retries or 0) + 1
            _concluding().submit(_conclude, request.id, Status.QUEUED, reason.exc or str(reason), attempt=attempt)

    def _is_gone(self, task: Any, task_id: str) -> bool:
        """Whether a task is executed nowhere any more, and this is the worker's main process."""
        if not self._is_for_us(task) or self._is_left_out(task.name) or os.getpid() != _worker_process:
            return False
        return all(attempt.task_id != task_id for attempt in _here.attempts)

    @_safely
    def _on_revoked(
        self, sender: Any, request: Any, terminated: bool = False, expired: bool = False, **_: Any
    ) -> None:
        """A task is not to be executed, or no longer."""
        if not self._is_for_us(sender) or self._is_left_out(sender.name):
            return
        status = Status.EXPIRED if expired else Status.CANCELED
        reason = (
            "the task was terminated" if terminated else "the task expired" if expired else "the task was revoked"
        )
        _concluding().submit(_cancel, sender.name, request, status, reason, begun=terminated)


def _wait(attempt: _Attempt, begun: tuple[Execution, Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """
    Wait until the creation of a run is durable.

    Raises:
        WriteRefused: The run was not accepted.
    """
    execution, work = begun
    try:
        configuration.reporter().wait(work)
    except SoftTimeLimitExceeded:  # It is meant for the task, which it would not reach from here.
        attempt.reminder = threading.Timer(REMIND_S, os.kill, (os.getpid(), signal.SIGUSR1))
        attempt.reminder.start()
    attempt.execution = execution


# --- what a message says ---


@_safely
def _on_publish(headers: Any = None, **_: Any) -> None:
    """Say in the message of a task which run publishes it."""
    if not isinstance(headers, dict) or "id" not in headers:  # The first version of Celery's messages.
        return
    innermost = _here.attempts[-1] if _here.attempts else None
    if innermost is not None and innermost.task_id == headers["id"]:
        header = _hand_on(innermost)
    else:
        header = _child(innermost, headers["id"])
    if header is not None:
        headers[HEADER] = header


def _hand_on(attempt: _Attempt) -> dict[str, Any] | None:
    """The task publishes itself again, or another one in its place. What the next attempt is to know."""
    execution = attempt.execution
    if execution is None:
        return None
    if not attempt.is_handed_on:
        attempt.is_handed_on = True
        # The next attempt may begin before this one is done; its process has to find that this one is over.
        execution.hand_on(sys.exc_info()[1])
    return {
        **_known(execution.parent, execution.root),
        "attempt": (execution.attempt or 1) + 1,
        "task": execution.task,
    }


def _child(publisher: _Attempt | None, task_id: str) -> dict[str, Any] | None:
    execution = current.execution()
    if publisher is not None and execution is publisher.execution:
        if execution is None:  # It is no run: what it publishes belongs to what published it.
            return _given(publisher.request) or {}
        chord = publisher.request.chord
        if chord and (chord.get("options") or {}).get("task_id") == task_id:
            # The last part of a chord happens to publish the body, which is a child of whoever made the chord, as
            # the parts are.
            return _known(execution.parent, execution.root)
    if execution is None:
        return None
    return _known(execution.id, execution.root or (execution.id if execution.parent is None else None))


def _known(parent: str | None, root: str | None) -> dict[str, Any]:
    return {name: value for name, value in (("parent", parent), ("root", root)) if value is not None}


def _given(request: Any) -> dict[str, Any] | None:
    """What the publisher said, as far as it can be used; None where it said nothing."""
    given = getattr(request, HEADER, None)
    if not isinstance(given, Mapping):
        return None
    kinds = {"parent": str, "root": str, "task": str, "attempt": int}
    return {name: given[name] for name, kind in kinds.items() if isinstance(given.get(name), kind)}


def _family(request: Any) -> tuple[str | None, str | None, bool]:
    """A task's parent and root, and whether the parent is a run for certain."""
    if request.is_eager:  # It is applied within whatever run there is.
        return None, None, False
    given = _given(request)
    if given is not None:
        return given.get("parent"), given.get("root"), "parent" in given
    parent = request.parent_id
    return (parent, None, False) if parent and _is_run(parent) else (None, None, False)


def _is_run(task_id: str) -> bool:
    """Whether the ledger knows a task that Celery names as parent, which may be none of ours."""
    try:
        runs.retrieve_sync(task_id)
    except RunNotFound:
        return configuration.reporter().backlog.holds(task_id, "create")
    except LedgerError:
        return False
    return True


def _arguments(attempt: _Attempt) -> object:
    """A task's arguments; None where they cannot be kept, which is no reason for it to have no run."""
    payload = {"args": attempt.request.args, "kwargs": attempt.request.kwargs}
    try:
        size = size_bytes(encode(payload))
    except BadValue as error:
        _logger.warning("the arguments of task %s are not recorded: %s", attempt.task_id, error)
        return None
    if size > PAYLOAD_BYTES_MAX:
        _logger.warning("the arguments of task %s are not recorded: %s bytes", attempt.task_id, size)
        return None
    return payload


# --- how a task ended ---


def _outcome(
    state: str | None, result: Any, task: Any, attempt: _Attempt
) -> tuple[Status | None, BaseException | str | None]:
    """The status of a run whose task ended so, None where it is said elsewhere; and its error."""
    if state == states.REJECTED:
        is_coming = task.acks_late and isinstance(result, Reject) and result.requeue and not attempt.is_handed_on
        return (Status.QUEUED if is_coming else Status.FAILED), f"the message was rejected: {result}"
    if attempt.is_handed_on:
        return None, None
    if state == states.FAILURE:
        return _status_of(result), result
    if state == states.RETRY:
        return Status.QUEUED, (result.exc if isinstance(result, Retry) and result.exc else str(result))
    if state is not None:  # Success; or it chose to be ignored.
        return Status.COMPLETED, None
    error = sys.exc_info()[1]
    if isinstance(
        error, Exception
    ):  # Its result could not be stored, or what it calls next could not be published.
        return _status_of(error), error
    if os.getpid() != _worker_process and _worker_process is not None:
        return None, None  # This process ends, and the worker's main process knows why.
    return Status.CRASHED, error


def _status_of(error: BaseException) -> Status:
    if isinstance(error, TimeLimitExceeded | SoftTimeLimitExceeded):
        return Status.TIMED_OUT
    return Status.CRASHED if isinstance(error, WorkerLostError) else Status.FAILED


@_safely
def _conclude(task_id: str, status: Status, error: BaseException | str, *, attempt: int | None = None) -> None:
    conclude(task_id, status, error, attempt=attempt)


@_safely
def _cancel(name: str, request: Any, status: Status, reason: str, *, begun: bool) -> None:
    """End a run that may never have begun; then it is recorded as one that did not."""
    if not begun and not _is_run(request.id):
        parent, root, is_run = _family(request)
        execution, work = begin_work(
            name,
            run_id=request.id,
            parent=parent,
            root=root,
            status=Status.QUEUED,
            waits_for_parent=is_run,
            begins_again=False,
        )
        configuration.reporter().wait(work)
        execution.finish(status, error=reason)
    else:
        conclude(request.id, status, reason)


# --- the life of a worker ---


@_safely
def _on_worker_init(sender: Any, **_: Any) -> None:
    global _worker_process, _is_supported
    _worker_process = os.getpid()
    pool = str(getattr(sender, "pool_cls", ""))
    _is_supported = "gevent" not in pool and "eventlet" not in pool
    if not _is_supported:
        _logger.warning("the pools gevent and eventlet are not supported: this worker's tasks are no runs")
    else:
        configuration.reporter()  # So that the processes that are forked from this one have it all in memory.


def _concluding() -> ThreadPoolExecutor:
    """The thread that says what the main process knows, which must not wait for the ledger."""
    global _conclusions
    if _conclusions is None:
        _conclusions = ThreadPoolExecutor(1, thread_name_prefix="run-ledger-celery")
    return _conclusions


@_safely
def _on_worker_shutdown(**_: Any) -> None:
    global _conclusions
    pool, _conclusions = _conclusions, None
    if pool is not None:
        done = pool.submit(bool)
        pool.shutdown(wait=False)
        done.result(SHUTDOWN_S)


@_safely
def _on_process_shutdown(**_: Any) -> None:
    """Billiard ends its processes without the usual farewell."""
    if os.getpid() != _worker_process:
        configuration.close()


def _warn_once(subject: object, text: str, *arguments: object) -> None:
    if subject not in _warned and len(_warned) < WARNINGS_MAX:
        _warned.add(subject)
        _logger.warning(text, *arguments)


_FOR_ALL = {
    signals.before_task_publish: _on_publish,
    signals.worker_init: _on_worker_init,
    signals.worker_shutdown: _on_worker_shutdown,
    signals.worker_process_shutdown: _on_process_shutdown,
}
