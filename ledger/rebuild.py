"""
Rebuild: make what is derived from the events anew, where it is not what they make.

Heads and snapshots are kept so that nobody has to fold; they can always be folded again. Events are never changed,
and a run whose events do not verify is left as it is: to fold it anew would cover up what was done to it.
"""

from dataclasses import dataclass
from typing import Any

from ledger import statements
from ledger.chain import GENESIS
from ledger.errors import RunNotFound, Unsound
from ledger.faults import Fault
from ledger.group import Transaction
from ledger.heads import new_row, tag_rows
from ledger.refold import UNKNOWN_KEY, Refold, read_event
from ledger.run_check import Progress, RunCheck
from ledger.verify import each_run
from projections import values

CHUNK = 100  # events that are held in memory at once; each may be as large as a request


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """
    A run whose stored head or snapshots are not what its events make.

    Attributes:
        environment: Where.
        run_id: The run.
        faults: What differs, the first hundred of it.
        is_repairable: Its events are sound and none of them is gone.
    """

    environment: str
    run_id: str
    faults: tuple[Fault, ...]
    is_repairable: bool


def compare(view: Transaction, progress: Progress = lambda _: None) -> list[Discrepancy]:
    """
    Fold every run anew and hold it against what is stored.

    Args:
        view: One moment of the database.
        progress: Called with a number of events that were read since the last call.
    """
    found: list[Discrepancy] = []
    for log in view.rows(statements.LOGS, {}):
        for head, run in each_run(view, log, progress, lambda _: None):
            if run.fault_count:
                repairable = _is_repairable(view, log["environment_id"], run)
                found.append(Discrepancy(log["name"], str(head["run_id"]), tuple(run.faults), repairable))
    return found


def repair(transaction: Transaction, environment_id: int, environment: str, run_id: str) -> None:
    """
    Put the head and the snapshots of one run right, within *transaction*, which has sent nothing yet.

    Raises:
        RunNotFound: There is no such run.
        Unsound: Its events do not verify, or some are gone.
    """
    where: dict[str, Any] = {"environment_id": environment_id}
    transaction.rows(statements.LOCK_LOG, where)
    found = transaction.rows(statements.ONE_HEAD, {**where, "run_id": run_id})
    if not found:
        raise RunNotFound(run_id)
    head = dict(found[0])
    of_run = {**where, "run_key": head["run_key"]}
    check = RunCheck(environment_id, environment, head)
    check.read(
        transaction.stream(statements.ONE_RUNS_EVENTS, of_run),
        transaction.stream(statements.ONE_RUNS_SNAPSHOTS, of_run),
        transaction.stream(statements.ONE_RUNS_ERASURES, of_run),
        transaction.stream(statements.ONE_RUNS_TAGS, of_run),
        lambda _: None,
    )
    if not check.fault_count:
        return
    if not _is_repairable(transaction, environment_id, check):
        raise Unsound(str(check.faults[0]))
    _refold(transaction, of_run, head)
    transaction.send(statements.TOUCH_LOG, [{"log": environment_id}])


def _is_repairable(view: Transaction, environment_id: int, run: RunCheck) -> bool:
    if not run.is_trusted or run.first_position == 0:
        return False
    if not run.is_ahead:
        return True
    # Either somebody changed the head's version, or took events away; then the log has fewer than it says.
    where = {"environment_id": environment_id}
    counted = view.rows(statements.COUNT_EVENTS, where)[0]["count"]
    return bool(counted == view.rows(statements.LOG, where)[0]["last_position"])


def _refold(transaction: Transaction, of_run: dict[str, Any], head: dict[str, Any]) -> None:
    named = {"environment": of_run["environment_id"], "run": of_run["run_key"]}
    kept = [row["version"] for row in transaction.stream(statements.ONE_RUNS_SNAPSHOTS, of_run)]
    fold, last_hash, after = Refold(), GENESIS, 0
    while rows := transaction.rows(
        statements.STORED_EVENTS, {**of_run, "after": after, "last": 2**62, "count": CHUNK}
    ):
        for row in rows:
            fold.take(read_event(row, head["run_id"]))
            after, last_hash = row["version"], row["hash"]
            if after in kept:
                fold.keep()
                change = {**named, "at": after, "metadata": fold.snapshot().text}
                transaction.send(statements.CHANGE_SNAPSHOT, [change])
    wrong = [version for version in kept if not (isinstance(version, int) and 1 <= version <= after)]
    if wrong:
        transaction.send(statements.DROP_SNAPSHOT, [{**named, "at": version} for version in wrong])
    assert fold.run is not None
    for name, related in (("parent", fold.run.parent), ("root", fold.run.root)):
        row = _run(transaction, of_run["environment_id"], related)
        head[name], head[f"{name}_key"] = related, None if row is None else row["run_key"]
        if name == "parent":
            head["parent_depth"] = None if row is None else row["depth"]
    columns = new_row(of_run["environment_id"], fold.head(head, last_hash))
    assert UNKNOWN_KEY not in {columns["parent_key"], columns["root_key"]}, "its parent or root is gone"
    for name in ("environment_id", "run_key", "run_id"):
        columns.pop(name)
    transaction.send(statements.REPAIR_HEAD, [{**named, **columns}])
    transaction.send(statements.DROP_RUN_TAGS, [named])
    if fold.run.tags:
        rows = tag_rows(of_run["environment_id"], of_run["run_key"], fold.run.tags)
        transaction.send(statements.ADD_RUN_TAGS, rows)


def _run(transaction: Transaction, environment_id: int, run_id: str | None) -> Any | None:
    if run_id is None:
        return None
    rows = transaction.rows(statements.HEADS, {"environment_id": environment_id, "values": values.dump([run_id])})
    return rows[0] if rows else None
