"""
What is asked of a database that is not opened as a ledger: nothing is migrated, written or locked.

A server may go on writing meanwhile.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from ledger import statements
from ledger.errors import RunNotFound, StorageFailed, UnusableDatabase
from ledger.faults import Fault, Report
from ledger.group import Transaction
from ledger.rebuild import Discrepancy, compare
from ledger.sqlite import file_faults
from ledger.store import inspect_database, missing_file, sqlite_file
from ledger.verify import Claim, count_events, verify_all, verify_run

Progress = Callable[[int], None]


def existing_file(url: str) -> Path | None:
    """
    The SQLite file that a database URL names, None for another engine.

    Raises:
        UnusableDatabase: It names none that is there.
    """
    missing = missing_file(url)
    if missing is not None:
        raise UnusableDatabase(f"there is no database {missing}; name another with --database-url")
    return sqlite_file(url)


def events_in(url: str) -> int:
    """How many events a database has."""
    return inspect_database(url, count_events)


def verify_database(url: str, claims: Iterable[Claim], progress: Progress) -> Report:
    """
    Verify everything in a database, and the file that it is where it is one.

    Args:
        url: Names it.
        claims: What signed checkpoints say of it.
        progress: Called with a number of events that were read since the last call; every event is read twice.

    Raises:
        UnusableDatabase: It is no database of this release.
    """
    try:
        report = inspect_database(url, lambda view: verify_all(view, claims, progress))
        path = existing_file(url)
        if path is not None:
            report.add(Fault(None, None, None, what) for what in file_faults(path))
    except StorageFailed as error:
        report = Report()
        report.add([Fault(None, None, None, f"it cannot be read to its end: {error.reason}")])
    return report


def verify_one_run(url: str, environment: str, run_id: str) -> tuple[int, Report]:
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

    return inspect_database(url, work)


def compare_database(url: str, progress: Progress) -> list[Discrepancy]:
    """
    Fold every run anew and hold it against what is stored.

    Args:
        url: Names it.
        progress: Called with a number of events that were read since the last call.

    Raises:
        UnusableDatabase: It is no database of this release.
    """
    return inspect_database(url, lambda view: compare(view, progress))
