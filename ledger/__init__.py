"""
The log of what jobs report about themselves, and the handles that jobs and servers hold on it.

    from ledger import metadata, run, runs, task, configure
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ledger.handle.configuration import configure
    from ledger.handle.metadata import metadata
    from ledger.handle.run import run
    from ledger.handle.runs import runs
    from ledger.handle.tasks import task

__all__ = ["configure", "metadata", "run", "runs", "task"]

_MODULES = {
    "configure": "configuration",
    "metadata": "metadata",
    "run": "run",
    "runs": "runs",
    "task": "tasks",
}


def __getattr__(name: str) -> Any:
    """Load what a job asks for when it asks: a program that reports nothing pays next to nothing."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - As above.

    value = getattr(import_module(f"ledger.handle.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
