"""
What is asked of a database that is not opened as a ledger: nothing is migrated, written or locked.

A server may go on writing meanwhile.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from ledger import statements
from ledger.errors import RunNotFound, StorageFailed, UnusableDatabase
from ledger.faults import Fault, Report
from ledger.group import Transaction
from ledger.rebuild import Discrepancy, compare
from ledger.sqlite import file_faults, file_of, inspect_file
from ledger.verify import Claim, count_events, verify_all, verify_run

Progress = Callable[[int], None]


def database_file(url: str) -> Path:
    """
    The file that a database URL names.

    Raises:
        UnusableDatabase: It names none that is there.
    """
    try:
        return file_of(make_url(url))
    except ArgumentError as error:
        raise UnusableDatabase(
            f"{url!r} is not a database URL; write for example sqlite+aiosqlite:///run-ledger.db"
        ) from error


def events_in(path: Path) -> int:
    """How many events a database has."""
    return inspect_file(path, count_events)


def verify_database(path: Path, claims: Iterable[Claim], progress: Progress) -> Report:
    """
    Verify everything in a database, and the file that it is.

    Args:
        path: The file.
        claims: What signed checkpoints say of it.
        progress: Called with a number of events that were read since the last call; every event is read twice.

    Raises:
        UnusableDatabase: It is no database of this release.
    """
    try:
        report = inspect_file(path, lambda view: verify_all(view, claims, progress))
        report.add(Fault(None, None, None, what) for what in file_faults(path))
    except StorageFailed as error:
        report = Report()
        report.add([Fault(None, None, None, f"it cannot be read to its end: {error.reason}")])
    return report


def verify_one_run(path: Path, environment: str, run_id: str) -> tuple[int, Report]:
    """
    Verify one run.

    Returns:
        The version that its head has, and what was found.

    Raises:
        RunNotFound: There is no such run.
        UnusableDatabase: It is no database of this release.
    """

    def work(view: Transaction) -> tuple[int, Report]:
        found = view.rows(statements.ENVIRONMENT, {"name": environment})
        if not found:
            raise RunNotFound(run_id)
        return verify_run(view, found[0]["environment_id"], environment, run_id)

    return inspect_file(path, work)


def compare_database(path: Path, progress: Progress) -> list[Discrepancy]:
    """
    Fold every run anew and hold it against what is stored.

    Args:
        path: The file.
        progress: Called with a number of events that were read since the last call.

    Raises:
        UnusableDatabase: It is no database of this release.
    """
    return inspect_file(path, lambda view: compare(view, progress))
