"""
Let threads and processes that a run starts work for that run.

Python hands context variables to asyncio tasks, not to threads, pools or programs. So while reporting is on, four
methods of the standard library note the current run when something is started, and do nothing where there is none:
`Thread.start`, `ThreadPoolExecutor.submit`, `subprocess.Popen` and the `start` of multiprocessing's processes.
"""

from __future__ import annotations

import functools
import os
import subprocess
import threading
from typing import TYPE_CHECKING, Any

from ledger.handle import current

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.handle.execution import Execution

THREAD = "run-ledger-reporter"  # Name of the thread that delivers reports, for no run of its own.

# What a run tells a program altogether: where to report to, and for whom. What is left of others does not count.
_DECIDED = frozenset(
    f"RUN_LEDGER_{name}"
    for name in (
        *("URL", "DATABASE_URL", "API_KEY", "ENVIRONMENT", "ACTOR", "SPOOL_DIR"),
        *("RUN_ID", "RUN_ATTEMPT", "RUN_PARENT", "RUN_ROOT"),
    )
)

_replaced: list[tuple[Any, str, Any, Any]] = []


def install() -> None:
    """Begin; a second time changes nothing."""
    if _replaced:
        return
    from concurrent.futures import ThreadPoolExecutor
    from multiprocessing.process import BaseProcess

    _replace(threading.Thread, "start", _thread_start)
    _replace(ThreadPoolExecutor, "submit", _pool_submit)
    _replace(subprocess.Popen, "__init__", _program_start)
    _replace(BaseProcess, "start", _process_start)


def uninstall() -> None:
    """Put back what was there; what somebody else replaced since is left alone."""
    while _replaced:
        owner, name, original, ours = _replaced.pop()
        if getattr(owner, name) is ours:
            setattr(owner, name, original)


def _replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    original = getattr(owner, name)
    ours = functools.wraps(original)(make(original))
    setattr(owner, name, ours)
    _replaced.append((owner, name, original, ours))


def _work_for(execution: Execution | None, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call *function*, in another thread, for the run that the caller worked for."""
    before = current.entered()
    current.enter(execution)
    try:
        return function(*arguments, **options)
    finally:
        current.enter(before)


def _thread_start(original: Callable[..., Any]) -> Callable[..., Any]:
    def start(self: threading.Thread) -> None:
        execution = current.entered()
        if execution is not None and self.name != THREAD:
            self.run = functools.partial(_work_for, execution, self.run)  # type: ignore[method-assign]
        original(self)

    return start


def _pool_submit(original: Callable[..., Any]) -> Callable[..., Any]:
    def submit(self: Any, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Any:
        # Also where there is no run: the worker's thread may have been started by one.
        return original(self, _work_for, current.entered(), function, *arguments, **options)

    return submit


def _program_start(original: Callable[..., Any]) -> Callable[..., Any]:
    def start(self: Any, *arguments: Any, **options: Any) -> None:
        execution = current.execution()
        if execution is not None and len(arguments) < 11:  # The eleventh positional argument would be env.
            given = options.get("env")
            inherited = os.environ if given is None else given
            others = {name: value for name, value in inherited.items() if name not in _DECIDED}
            options["env"] = {**others, **execution.variables}
        original(self, *arguments, **options)

    return start


def _process_start(original: Callable[..., Any]) -> Callable[..., Any]:
    def start(self: Any) -> None:
        execution = current.execution()
        if execution is not None:
            setattr(self, current.INHERITED, execution.variables)
        original(self)

    return start
