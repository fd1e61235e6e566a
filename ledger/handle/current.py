"""
Which run a piece of code works for.

It is known to the code that a run calls, to asyncio tasks (context variables), to threads and processes that the
run starts (`ledger.handle.inherit`), and to programs that it starts (environment variables). Nothing heavy is
imported here: code that runs outside any run pays for nothing.
"""

from __future__ import annotations

import os
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ledger.handle.execution import Execution

RUN_ID = "RUN_LEDGER_RUN_ID"
INHERITED = "_run_ledger_variables"  # Attribute of a multiprocessing process: what it is to know of its run.

_current: ContextVar[Execution | None] = ContextVar("run_ledger_execution", default=None)

_attached: Execution | None = None
_looked = False


def execution() -> Execution | None:
    """The run that the caller works for, None outside any."""
    found = _current.get()
    if found is not None:
        return found if found.is_open else _outer(found)
    return _attached if _looked else _attach()


def enter(entered: Execution | None) -> None:
    """From here on the caller, and what it starts, works for this run; None for none."""
    _current.set(entered)


def entered() -> Execution | None:
    """The run that was entered in this context, whether or not it is over."""
    return _current.get()


def forget() -> None:
    """Look again for the run that this process was started for."""
    global _attached, _looked
    _attached, _looked = None, False


def inherited() -> Mapping[str, str]:
    """Variables that the process which started this one added for its run, where it could not set any."""
    processes = sys.modules.get("multiprocessing.process")
    added: dict[str, str] = getattr(processes.current_process(), INHERITED, {}) if processes else {}
    return added


def _outer(over: Execution) -> Execution | None:
    """The run around one that is over: code may outlive the run that it was started by."""
    around = over.around
    while around is not None and not around.is_open:
        around = around.around
    return around


def _attach() -> Execution | None:
    """The run that this process was started for."""
    global _attached, _looked
    _looked = True
    if RUN_ID in os.environ or RUN_ID in inherited():
        from ledger.handle.execution import attach

        _attached = attach()
    return _attached
