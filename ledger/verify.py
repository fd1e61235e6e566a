"""
Verify: is the log what was once written, and is everything derived from it what it makes?

Every run is read once in the order of its versions: each commitment and hash is computed anew, the events are
folded, and head and snapshots are held against the result. Then every environment is read once in the order of its
positions. One event is held in memory at a time, and of a run only what was erased from it. All reads are of one
moment, so a server may write meanwhile.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ledger import statements
from ledger.errors import RunNotFound, Unsound
from ledger.faults import Fault, Report, short
from ledger.group import Transaction
from ledger.merkle import CompactRange
from ledger.run_check import PROGRESS_EVERY, Progress, RunCheck


@dataclass(frozen=True, slots=True)
class Claim:
    """
    What a checkpoint says of a log.

    Attributes:
        environment: Which log.
        epoch: Which life of it.
        size: How many events it had.
        root: Merkle root over them.
    """

    environment: str
    epoch: str
    size: int
    root: bytes


def count_events(view: Transaction) -> int:
    """How many events all logs have: half of what `verify_all` reports as progress."""
    return sum(
        view.rows(statements.COUNT_EVENTS, {"environment_id": log["environment_id"]})[0]["count"]
        for log in view.rows(statements.LOGS, {})
    )


def verify_all(view: Transaction, claims: Iterable[Claim] = (), progress: Progress = lambda _: None) -> Report:
    """
    Verify everything.

    Args:
        view: One moment of the database.
        claims: What signed checkpoints say; today's logs have to begin with exactly that.
        progress: Called with a number of events that were read since the last call; every event is read twice.
    """
    report = Report()
    claimed: dict[str, list[Claim]] = defaultdict(list)
    for claim in claims:
        claimed[claim.environment].append(claim)
    for log in view.rows(statements.LOGS, {}):
        environment = log["name"]
        if not isinstance(environment, str):
            report.add([Fault(repr(environment), None, None, "the environment's name is no text")])
            continue
        report.environments.append(environment)
        _verify_runs(view, log, report, progress)
        _verify_log(view, log, claimed.pop(environment, []), report, progress)
    for environment in claimed:
        missing = "a checkpoint was made of it, and there is no such environment any more"
        report.add([Fault(environment, None, None, missing)])
    return report


def verify_run(view: Transaction, environment_id: int, environment: str, run_id: str) -> tuple[int, Report]:
    """
    Verify one run: its chain, its head, its snapshots, its erasures and the tags that it is found by.

    Returns:
        The version that its head has, and what was found.

    Raises:
        RunNotFound: There is no such run.
    """
    where = {"environment_id": environment_id}
    heads = view.rows(statements.ONE_HEAD, {**where, "run_id": run_id})
    if not heads or heads[0]["run_id"] != run_id:
        raise RunNotFound(run_id)
    (head,) = heads
    of_run = {**where, "run_key": head["run_key"]}
    run = RunCheck(environment_id, environment, head)
    report = Report([environment])
    run.read(
        view.stream(statements.ONE_RUNS_EVENTS, of_run),
        view.rows(statements.ONE_RUNS_SNAPSHOTS, of_run),
        view.rows(statements.ONE_RUNS_ERASURES, of_run),
        view.rows(statements.ONE_RUNS_TAGS, of_run),
        lambda _: None,
    )
    run.add_to(report)
    return head["version"], report


# --- run by run ---


def _verify_runs(view: Transaction, log: Any, report: Report, progress: Progress) -> None:
    environment = log["name"]

    def stranger(what: str) -> None:
        report.add([Fault(environment, None, None, what)])

    last_key, last_position = 0, 0
    for head, run in each_run(view, log, progress, stranger):
        run.add_to(report)
        key = head["run_key"]
        if key != last_key + 1:
            stranger(f"the runs between the run keys {last_key} and {key} are gone")
        elif 0 < run.first_position < last_position:
            report.add([Fault(environment, str(head["run_id"]), None, "its run key is out of order")])
        last_key, last_position = key, run.first_position
    if log["epoch"] is not None and log["last_run_key"] != last_key:
        stranger(f"its last run key is {short(log['last_run_key'])}, and the last run has {last_key}")


def each_run(
    view: Transaction, log: Any, progress: Progress, stranger: Callable[[str], None]
) -> Iterator[tuple[Mapping[str, Any], "RunCheck"]]:
    """
    Every run of an environment by its key, read to its end.

    Args:
        view: One moment of the database.
        log: The environment's row of `LOGS`.
        progress: Called with a number of events that were read since the last call.
        stranger: Called with what is wrong about rows that belong to no run.
    """
    where = {"environment_id": log["environment_id"]}
    kinds = {
        "an event": _ByRun(view.stream(statements.ALL_EVENTS, where)),
        "a snapshot": _ByRun(view.stream(statements.ALL_SNAPSHOTS, where)),
        "an erasure": _ByRun(view.stream(statements.ALL_ERASURES, where)),
        "a tag": _ByRun(view.stream(statements.ALL_RUN_TAGS, where)),
    }

    def refuse(kind: str, groups: Iterable[Iterator[Any]]) -> None:
        for rows in groups:
            for row in rows:
                stranger(f"{kind} of a run that does not exist (run key {short(row['run_key'])})")

    for head in view.stream(statements.ALL_HEADS, where):
        key = head["run_key"]
        if not isinstance(key, int):
            stranger(f"the run key {short(key)} is no number")
            continue
        for kind, rows in kinds.items():
            refuse(kind, rows.before(key))
        run = RunCheck(log["environment_id"], log["name"], head)
        events, snapshots, erasures, tags = (rows.of(key) for rows in kinds.values())
        run.read(events, snapshots, erasures, tags, progress)
        yield head, run
    for kind, rows in kinds.items():
        refuse(kind, rows.rest())


class _ByRun:
    """Rows in the order of their run keys, handed out run by run."""

    def __init__(self, rows: Iterator[Any]) -> None:
        self._groups = groupby(rows, key=lambda row: row["run_key"])
        self._next = next(self._groups, None)

    def before(self, key: int) -> Iterator[Iterator[Any]]:
        """The rows of every run with a smaller key."""
        while self._next is not None and isinstance(self._next[0], int | float) and self._next[0] < key:
            yield self._take()

    def of(self, key: int) -> Iterator[Any]:
        """The rows of this run."""
        if self._next is not None and self._next[0] == key and isinstance(self._next[0], int):
            yield from self._take()

    def rest(self) -> Iterator[Iterator[Any]]:
        """The rows of every run that is left."""
        while self._next is not None:
            yield self._take()

    def _take(self) -> Iterator[Any]:
        assert self._next is not None
        _, rows = self._next
        yield from rows
        self._next = next(self._groups, None)


# --- position by position ---


def _verify_log(view: Transaction, log: Any, claims: list[Claim], report: Report, progress: Progress) -> None:
    """Positions without a hole, times that never go back, the log's row, and what checkpoints say of it."""
    environment, where = log["name"], {"environment_id": log["environment_id"]}

    def fault(what: str, row: Any = None) -> None:
        if row is None:
            report.add([Fault(environment, None, None, what)])
            return
        named = view.rows(statements.RUN_ID, {**where, "run_key": row["run_key"]})
        run_id = str(named[0]["run_id"]) if named else None
        report.add([Fault(environment, run_id, row["version"], what)])

    if log["epoch"] is None:
        fault("the environment has no log")
        return
    stored = view.rows(statements.CHECKPOINTS, where)
    marks = _Marks(claims, stored, log, fault)
    tree = CompactRange()
    position, recorded_at, unreported = 0, 0, 0
    marks.check(tree)
    for row in view.stream(statements.POSITIONS, {**where, "after": -(2**62), "last": 2**62}):
        here, moment = row["position"], row["recorded_at"]
        if not isinstance(here, int):  # SQLite reads whatever a damaged file says.
            fault("its position has the wrong type", row)
            here = position + 1
        if here != position + 1:
            gone = (
                f"position {position + 1}" if here == position + 2 else f"positions {position + 1} to {here - 1}"
            )
            fault(f"{gone} of the log is missing before it", row)
        if isinstance(moment, int):
            if moment < recorded_at:
                fault("it was recorded before the event in front of it", row)
            recorded_at = moment
        position = here
        tree.append(row["hash"] if isinstance(row["hash"], bytes) else b"")
        marks.check(tree)
        unreported += 1
        if unreported == PROGRESS_EVERY:
            progress(unreported)
            unreported = 0
    progress(unreported)
    marks.check_rest(tree)
    for column, expected in (("last_position", position), ("last_recorded_at", recorded_at)):
        if log[column] != expected or type(log[column]) is not int:
            fault(f"its {column} is {short(log[column])}, and the last event's is {expected}")


def grow(view: Transaction, log: Mapping[str, Any]) -> tuple[CompactRange, str | None]:
    """
    The Merkle tree of a log, grown from where the last checkpoint left it.

    Args:
        view: One moment of the database.
        log: The environment's row of `LOGS`.

    Returns:
        The tree, and the note that is kept of the same size, None for none.

    Raises:
        Unsound: The log is not what its last checkpoint was made of.
    """
    environment, where = log["name"], {"environment_id": log["environment_id"]}
    tree, note = CompactRange(), None
    for row in view.rows(statements.LAST_CHECKPOINT, where):
        if not row["note"].startswith(f"{origin(environment, log['epoch'])}\n"):
            break  # Of an earlier epoch.
        try:
            tree = CompactRange.load(row["size"], row["compact_range"])
        except (ValueError, TypeError) as error:
            raise Unsound(f"the log of {environment}: its last checkpoint was damaged ({error})") from error
        if tree.root() != row["root"]:
            raise Unsound(f"the log of {environment}: its last checkpoint was damaged")
        note = row["note"]
    begun = tree.size
    for row in view.stream(statements.POSITIONS, {**where, "after": begun, "last": 2**62}):
        if row["position"] != tree.size + 1:
            raise Unsound(f"the log of {environment}: position {tree.size + 1} is missing")
        tree.append(row["hash"])
    if tree.size != log["last_position"]:
        had = f", and its last checkpoint was made of {begun:,}" if begun else ""
        raise Unsound(
            f"the log of {environment}: it says {log['last_position']:,} events and has {tree.size:,}{had}"
            if tree.size > begun
            else f"the log of {environment}: it says {log['last_position']:,} events{had}"
        )
    return tree, note if tree.size == begun else None


class _Marks:
    """The sizes at which some checkpoint says what the root has to be."""

    def __init__(
        self, claims: Iterable[Claim], stored: Iterable[Any], log: Any, fault: Callable[[str], None]
    ) -> None:
        self._fault = fault
        self._roots: dict[int, list[tuple[bytes, str]]] = defaultdict(list)
        self._ranges: dict[int, bytes] = {}
        for claim in claims:
            if claim.epoch != log["epoch"]:
                fault(
                    f"the checkpoint is of its epoch {claim.epoch}, and it is in epoch {short(log['epoch'])} now"
                )
            else:
                self._roots[claim.size].append((claim.root, "the checkpoint"))
        newest = None
        for row in stored:
            self._roots[row["size"]].append((row["root"], "the checkpoint that it keeps"))
            self._ranges[row["size"]] = row["compact_range"]
            newest = row
        if newest is not None and not str(newest["note"]).startswith(f"{origin(log['name'], log['epoch'])}\n"):
            fault("its last checkpoint was made under another epoch or name")

    def check(self, tree: CompactRange) -> None:
        """Hold the tree against what was said of its size."""
        roots = self._roots.pop(tree.size, None)
        if roots is None:
            return
        for root, whose in roots:
            if root != tree.root():
                self._fault(f"its first {tree.size:,} events are not those that {whose} was made of")
        if self._ranges.get(tree.size, tree.dump()) != tree.dump():
            self._fault(f"the compact range that it keeps of its first {tree.size:,} events is not theirs")

    def check_rest(self, tree: CompactRange) -> None:
        """What is left was said of more events than there are."""
        for size, roots in self._roots.items():
            for _, whose in roots:
                self._fault(f"it has {tree.size:,} events, and {whose} was made of {short(size)}")


def origin(environment: str, epoch: str) -> str:
    """The name of a log in a checkpoint: unlike that of any other log, and of the same log restored."""
    return f"run-ledger/{environment}/{epoch}"
