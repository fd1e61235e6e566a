"""Where this process reports to: what `configure` chose, else what the environment variables say."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ledger.handle import current, inherit

if TYPE_CHECKING:
    from ledger.handle.execution import Execution
    from ledger.handle.reporter import Reporter

CLOSE_S = 5.0  # seconds in which the ledger may take what is left when a process ends; the rest goes to the spool
EXIT_POLL_S = 0.02  # seconds between two looks at threads that still execute runs when the program ends
SIGNAL_WAIT_S = 0.05  # seconds after which a signal that came in the middle of a report comes again

_lock = threading.RLock()
_reporter: Reporter | None = None
_chosen: dict[str, Any] = {}
_hooked = False
_executing: set[Execution] = set()


def configure(
    target: str | None,
    *,
    api_key: str | None = None,
    environment: str | None = None,
    actor: str | None = None,
    flush_interval_s: float | None = None,
    spool_dir: str | os.PathLike[str] | None = None,
    spool_bytes_max: int | None = None,
) -> None:
    """
    Choose where this process reports to. Without it the environment variables say so (`RUN_LEDGER_URL` or
    `RUN_LEDGER_DATABASE_URL`), and without those it is the file run-ledger.db.

    What was reported before goes to where it was meant to go: it is delivered, or kept in the spool.

    Args:
        target: Address of a server (`http://127.0.0.1:8420`) or URL of a database
            (`sqlite+aiosqlite:///run-ledger.db`). None ends reporting: no thread, socket or file stays open.
        api_key: Key for the server.
        environment: Environment to report to, `dev` unless set.
        actor: Name under which the history shows this process's changes.
        flush_interval_s: Seconds between two requests about one run, 1 unless set.
        spool_dir: Folder for what could not be delivered yet.
        spool_bytes_max: Bytes that the spool of this process group may take, 64 MiB unless set.

    Raises:
        BadSettings: A value cannot be used, or an environment variable is wrong.
    """
    global _chosen
    given = {
        "api_key": api_key,
        "environment": environment,
        "actor": actor,
        "flush_interval_s": flush_interval_s,
        "spool_dir": spool_dir,
        "spool_bytes_max": spool_bytes_max,
    }
    if target is not None:
        given["url" if target.startswith(("http://", "https://")) else "database_url"] = target
        _check(_load(given))  # Refused before anything is let go of.
    with _lock:
        close()
        _chosen = given if target is not None else {}


def reporter() -> Reporter:
    """
    What delivers this process's reports; made when it is first needed.

    Raises:
        BadSettings: A setting is unknown or cannot be used.
    """
    global _reporter
    made = _reporter
    if made is None:
        with _lock:
            if _reporter is None:
                _reporter = _make()
            made = _reporter
    return made


def close(deadline_s: float = CLOSE_S) -> None:
    """Deliver what was reported within the deadline or put it on disk, and let go of everything."""
    global _reporter
    with _lock:
        tasks = sys.modules.get("ledger.handle.tasks")
        if tasks is not None:
            tasks.close()
        made, _reporter = _reporter, None
        current.forget()  # Who reports from now on waits for the lock and begins anew.
        if made is not None:
            made.close(deadline_s)
        inherit.uninstall()
        _release_signal()


def executing(execution: Execution) -> None:
    """A run is executed by this process from now on, and is crashed if a signal ends the process."""
    _executing.add(execution)
    heed_signal()


def executed(execution: Execution) -> None:
    """It is executed no more."""
    _executing.discard(execution)


def _load(given: dict[str, Any]) -> Any:
    from ledger.settings import PREFIX, load_settings, refuse_other_environment

    inherited = {name.removeprefix(PREFIX).lower(): value for name, value in current.inherited().items()}
    chosen = {name: value for name, value in given.items() if value is not None}
    decided = {**inherited, **chosen}
    settings = load_settings(**decided)
    if "database_url" in decided and "url" not in decided:  # It wins over the environment variables.
        return settings.model_copy(update={"url": None})
    refuse_other_environment(settings)
    return settings


def _check(settings: Any) -> None:
    if settings.url is None:
        from ledger.handle.embedded import absolute

        absolute(settings.database_url)


def _make() -> Reporter:
    from ledger.handle.reporter import Reporter

    settings = _load(_chosen)

    def backend() -> Any:
        if settings.url is not None:
            from ledger.handle.http import HttpBackend

            key = settings.api_key
            return HttpBackend(settings.url, None if key is None else key.get_secret_value(), settings.environment)
        from ledger.handle.embedded import EmbeddedBackend

        return EmbeddedBackend(
            settings.database_url,
            settings.environment,
            metadata_bytes_max=settings.metadata_bytes_max,
            late_write_s=settings.late_write_s,
        )

    made = Reporter(
        backend,
        folder=settings.spool_dir,
        spool_bytes_max=settings.spool_bytes_max,
        interval_s=settings.flush_interval_s,
        actor=settings.actor,
    )
    _hook()
    inherit.install()
    return made


# --- the end of the process, and its copies ---


def _hook() -> None:
    global _hooked
    if _hooked:
        return
    _hooked = True
    # Before a fork and at exit it is called before the pools of concurrent.futures lock and close, which the
    # database and the look-up of names need: the later a function was registered, the earlier it is called.
    import concurrent.futures.thread  # noqa: F401 - So that it is registered before.

    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
    # `atexit` would be too late.
    with suppress(RuntimeError):  # The program is ending, and only now a thread of it reports something.
        threading._register_atexit(_at_exit)  # type: ignore[attr-defined]  # noqa: SLF001 - There is no public way.
    # Threads that Python waits for may have reported since. There is no time and perhaps no thread for more.
    atexit.register(close, 0)


def _at_exit() -> None:
    # Python waits for such threads too, only later.
    while any(execution.thread_goes_on for execution in list(_executing)):
        time.sleep(EXIT_POLL_S)
    for execution in list(_executing):
        execution.crashed("the process ended before the run did")
    close()


def _before_fork() -> None:
    _lock.acquire()
    if _reporter is not None:
        _reporter.suspend()


def _after_fork() -> None:
    if _reporter is not None:
        _reporter.resume()
    _lock.release()


def _in_child() -> None:
    global _lock
    _lock = threading.RLock()
    _executing.clear()
    tasks = sys.modules.get("ledger.handle.tasks")
    if tasks is not None:
        tasks.forget()
    if _reporter is not None:
        _reporter.begin_anew()


def heed_signal() -> None:
    """From here on a process that is told to stop, and has no handler of its own, says so before it goes."""
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, _on_signal)


def _release_signal() -> None:
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is _on_signal:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _on_signal(number: int, _: object) -> None:
    made = _reporter
    if made is not None:
        if not made.lock.acquire(timeout=SIGNAL_WAIT_S):
            # This very thread is in the middle of a report or of reading, and goes on from there.
            again = threading.Timer(SIGNAL_WAIT_S, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            return
        made.lock.release()
    _end(number)


def _end(number: int) -> None:
    """Say what happened, deliver it, and end as the signal would have ended the process."""
    for execution in list(_executing):
        execution.crashed(f"the process was told to stop ({signal.Signals(number).name})")
    made = _reporter
    if made is not None:
        made.close(CLOSE_S)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
