"""
Verify: is the log what was once written, and is everything derived from it what it makes?

Every run is read once in the order of its versions: each commitment and hash is computed anew, the events are
folded, and head and snapshots are held against the result. Then every environment is read once in the order of its
positions. One event is held in memory at a time, and of a run only what was erased from it. All reads are of one
moment, so a server may write meanwhile.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from ledger import statements
from ledger.chain import GENESIS, SALT_BYTES, commitment, event_hash
from ledger.errors import RunNotFound, Unsound
from ledger.group import Transaction
from ledger.heads import new_row
from ledger.merkle import HASH_BYTES, CompactRange
from ledger.refold import Refold, read_event
from projections.errors import Refusal
from projections.events import RunErased
from projections.times import Microseconds

FAULTS_OF_A_RUN = 100  # faults of one run that are put in order
FAULTS_KEPT = 20  # faults that are described; all of them are counted
ERASURES_KEPT = 1_000  # erasures that are described; all of them are counted
PROGRESS_EVERY = 500  # events between two reports of progress

# What reading stored text can raise once somebody has changed it.
_UNREADABLE = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    AssertionError,
    RecursionError,
    OverflowError,
    Refusal,
)

_TYPES: dict[str, tuple[type, ...]] = {
    "environment_id": (int,),
    "position": (int,),
    "run_key": (int,),
    "version": (int,),
    "type": (str,),
    "actor": (str,),
    "attempt": (int,),
    "occurred_at": (int, type(None)),
    "recorded_at": (int,),
    "headers": (str,),
    "data": (str,),
    "salt": (bytes,),
    "commitment": (bytes, type(None)),
    "hash": (bytes,),
}
_GOOD_ROWS: set[tuple[type, ...]] = set()  # The types of whole rows that were found to be right.

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """
    One thing that is not as it has to be.

    Attributes:
        environment: Where, None for a fault of the file itself.
        run_id: The run, None for a fault of the log as a whole.
        version: The event, None for a fault of the run as a whole.
        what: What is wrong, in words.
        is_derived: Only what is folded from the events is wrong: a head or a snapshot, which can be made anew.
    """

    environment: str | None
    run_id: str | None
    version: int | None
    what: str
    is_derived: bool = False

    def __str__(self) -> str:
        """As a person reads it."""
        if self.environment is None:
            return f"the file: {self.what}"
        if self.run_id is None:
            return f"the log of {self.environment}: {self.what}"
        where = f"run {self.run_id} ({self.environment})"
        return f"{where}: {self.what}" if self.version is None else f"{where}, version {self.version}: {self.what}"


@dataclass(frozen=True, slots=True)
class Erasure:
    """
    What was erased from a run on purpose, as its events say.

    Attributes:
        environment: Where.
        run_id: From which run.
        number: 1 for the run's first erasure.
        key: What was erased.
        reason: Why.
        actor: Who did it.
        recorded_at: When.
        events: How many events lost something.
    """

    environment: str
    run_id: str
    number: int
    key: str
    reason: str
    actor: str
    recorded_at: Microseconds
    events: int


@dataclass(slots=True)
class Report:
    """
    What verifying found.

    Attributes:
        environments: Names of those that were read.
        runs: Runs that were read.
        events: Events that were read.
        faults: The first of them, in the order in which they were found: run by run, then the log as a whole.
        fault_count: All of them.
        erasures: What was erased on purpose, the first of them.
        erasure_count: All of them.
    """

    environments: list[str] = field(default_factory=list)
    runs: int = 0
    events: int = 0
    faults: list[Fault] = field(default_factory=list)
    fault_count: int = 0
    erasures: list[Erasure] = field(default_factory=list)
    erasure_count: int = 0

    @property
    def is_sound(self) -> bool:
        """Nothing is wrong."""
        return self.fault_count == 0

    def add(self, faults: Iterable[Fault]) -> None:
        """Count more faults and keep the first."""
        for fault in faults:
            self.fault_count += 1
            if len(self.faults) < FAULTS_KEPT:
                self.faults.append(fault)

    def note(self, erasures: Iterable[Erasure]) -> None:
        """Count more erasures and keep the first."""
        for erasure in erasures:
            self.erasure_count += 1
            if len(self.erasures) < ERASURES_KEPT:
                self.erasures.append(erasure)


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
    Verify one run: its chain, its head, its snapshots and its erasures.

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
        stranger(f"its last run key is {_short(log['last_run_key'])}, and the last run has {last_key}")


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
    }

    def refuse(kind: str, groups: Iterable[Iterator[Any]]) -> None:
        for rows in groups:
            for row in rows:
                stranger(f"{kind} of a run that does not exist (run key {_short(row['run_key'])})")

    for head in view.stream(statements.ALL_HEADS, where):
        key = head["run_key"]
        if not isinstance(key, int):
            stranger(f"the run key {_short(key)} is no number")
            continue
        for kind, rows in kinds.items():
            refuse(kind, rows.before(key))
        run = RunCheck(log["environment_id"], log["name"], head)
        events, snapshots, erasures = (rows.of(key) for rows in kinds.values())
        run.read(events, snapshots, erasures, progress)
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


class RunCheck:
    """
    One run, held against its chain.

    Attributes:
        first_position: Position of its first event, 0 without one.
        faults: What was found, in no order; more than a hundred are only counted.
        fault_count: All of them.
        is_trusted: Its events are sound, whatever is wrong with what is derived from them.
        is_ahead: Its head counts more events than there are.
    """

    def __init__(self, environment_id: int, environment: str, head: Mapping[str, Any]) -> None:
        self._environment_id = environment_id
        self._environment = environment
        self._head = head
        self._id = head["run_id"]
        self.first_position = 0
        self._events = 0
        self._hash = GENESIS
        self._version = 0
        self._fold: Refold | None = Refold()  # None once an event could not be trusted.
        self.faults: list[Fault] = []
        self.fault_count = 0
        self.is_trusted = True
        self.is_ahead = False
        self._redacted: dict[int, bytes] = {}
        self._named: dict[int, str] = {}
        self._erasures: dict[int, Erasure] = {}

    def read(
        self, events: Iterable[Any], snapshots: Iterable[Any], erasures: Iterable[Any], progress: Progress
    ) -> None:
        """Read all there is of the run."""
        kept = iter(snapshots)
        snapshot = next(kept, None)
        unreported = 0
        for row in events:
            version = self._version = self._take(row, self._version)
            while snapshot is not None and _is_behind(snapshot["version"], version):
                self._check_snapshot(snapshot, version)
                snapshot = next(kept, None)
            unreported += 1
            if unreported == PROGRESS_EVERY:
                progress(unreported)
                unreported = 0
        progress(unreported)
        while snapshot is not None:
            self._add_derived(
                None, f"a snapshot stands for version {snapshot['version']!r}, which it does not have"
            )
            snapshot = next(kept, None)
        self._check_redactions()
        self._check_head()
        self._check_erasures(erasures)

    def add_to(self, report: Report) -> None:
        """Report what was found, in the order of the versions."""
        report.runs += 1
        report.events += self._events
        ordered = sorted(self.faults, key=lambda fault: (fault.version is None, fault.version or 0))
        report.add(ordered)
        report.fault_count += self.fault_count - len(ordered)
        report.note(self._erasures.values())

    def _take(self, row: Mapping[str, Any], version: int) -> int:
        """Check one event behind *version*; returns the version it has."""
        self._events += 1
        wrong = _wrong_type(row)
        if wrong:
            self._distrust(version + 1, f"its {wrong} has the wrong type")
            return version + 1
        here: int = row["version"]
        if version == 0:
            self.first_position = row["position"]
        if here != version + 1:
            missing = (
                f"versions {version + 1} to {here - 1} are" if here > version + 2 else f"version {version + 1} is"
            )
            self._distrust(here, f"{missing} missing before it" if here > version else "it comes a second time")
        self._check_chain(row, here)
        self._hash = row["hash"]
        self._follow(row, here)
        return here

    def _check_chain(self, row: Mapping[str, Any], version: int) -> None:
        if len(row["salt"]) != SALT_BYTES or len(row["hash"]) != HASH_BYTES:
            self._distrust(version, "its salt or hash has the wrong length")
            return
        try:
            actual = commitment(row["salt"], row["data"])
            expected = event_hash(
                self._hash,
                self._environment,
                self._id,
                version,
                row["position"],
                row["type"],
                row["actor"],
                row["attempt"],
                row["occurred_at"],
                row["recorded_at"],
                row["headers"],
                actual if row["commitment"] is None else row["commitment"],
            )
        except (UnicodeEncodeError, AttributeError):
            self._distrust(version, "it, or the run's id, holds text that is not UTF-8")
            return
        if row["commitment"] is not None:
            self._redacted[version] = actual
        if expected != row["hash"]:
            self._distrust(version, "its hash is not that of its contents and the event before it")

    def _follow(self, row: Mapping[str, Any], version: int) -> None:
        """Fold the event, as long as all before it could be trusted; what was erased is noted all the same."""
        if self._fold is None and row["type"] != RunErased.event_type:
            return
        try:
            event = read_event(row, self._id)
            if isinstance(event.body, RunErased):
                self._note(event.body, row)
            if self._fold is not None:
                self._fold.take(event)
        except _UNREADABLE as error:
            self._distrust(version, f"it cannot be read: {error or type(error).__name__}")

    def _note(self, body: RunErased, row: Mapping[str, Any]) -> None:
        self._named.update(body.redacted)
        before = self._erasures.get(body.erasure)
        self._erasures[body.erasure] = Erasure(
            self._environment,
            self._id,
            body.erasure,
            body.key,
            body.reason,
            row["actor"],
            row["recorded_at"],
            len(body.redacted) + (0 if before is None else before.events),
        )

    def _check_snapshot(self, row: Mapping[str, Any], version: int) -> None:
        if row["version"] != version:
            self._refuse_snapshot(row)
        elif self._fold is not None:
            self._fold.keep()
            if row["metadata"] != self._fold.snapshot().text:
                self._add_derived(version, "the snapshot kept of it is not what its events make")

    def _refuse_snapshot(self, row: Mapping[str, Any]) -> None:
        self._add_derived(None, f"a snapshot stands for version {_short(row['version'])}, which it does not have")

    def _check_redactions(self) -> None:
        """Data may differ from what was hashed only where a chained event names the very copy that is there."""
        for version, actual in self._redacted.items():
            named = self._named.get(version)
            if named is None:
                self._add(version, "its data was replaced, and no erasure of the run says so")
            elif named != actual.hex():
                self._add(version, "its data is not the redacted copy that its erasure left")
        if self._fold is not None:
            for version in self._named.keys() - self._redacted.keys():
                self._add(version, "an erasure says that it was redacted, and it is not")

    def _check_head(self) -> None:
        head = self._head
        if self._events == 0:
            self._add(None, "it has no events")
            return
        version = head["version"]
        self.is_ahead = isinstance(version, int) and version > self._version
        if head["hash"] != self._hash:
            self._add_derived(None, "its head has another hash than its last event")
        if self._fold is None or self._fold.run is None:
            if version != self._version:
                self._add_derived(None, f"its head is at version {_short(version)}, its events at {self._version}")
            return
        expected = new_row(self._environment_id, self._fold.head(head, self._hash))
        for column, value in expected.items():
            found = head[column]
            if column != "hash" and (found != value or type(found) is not type(value)):
                told = "" if column == "metadata" else f" ({_short(found)} and not {_short(value)})"
                self._add_derived(None, f"its head's {column} is not what its events make{told}")

    def _check_erasures(self, rows: Iterable[Any]) -> None:
        found = {}
        for row in rows:
            found[row["number"]] = (row["key"], row["reason"], row["actor"], row["recorded_at"])
            if row["open"] is not None:
                self._add(None, f"its erasure {row['number']} was left open")
        expected = {
            erasure.number: (erasure.key, erasure.reason, erasure.actor, erasure.recorded_at)
            for erasure in self._erasures.values()
        }
        if self._fold is not None and found != expected:
            self._add(None, "its erasures are not those that its events tell of")

    def _distrust(self, version: int, what: str) -> None:
        self._fold = None
        if not self.faults or self.faults[-1].version != version:
            self._add(version, what)

    def _add_derived(self, version: int | None, what: str) -> None:
        self._add(version, what, is_derived=True)

    def _add(self, version: int | None, what: str, *, is_derived: bool = False) -> None:
        self.fault_count += 1
        self.is_trusted &= is_derived
        if len(self.faults) < FAULTS_OF_A_RUN:
            self.faults.append(Fault(self._environment, str(self._id), version, what, is_derived))


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
            fault(f"its {column} is {_short(log[column])}, and the last event's is {expected}")


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
                    f"the checkpoint is of its epoch {claim.epoch}, and it is in epoch {_short(log['epoch'])} now"
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
                self._fault(f"it has {tree.size:,} events, and {whose} was made of {_short(size)}")


def origin(environment: str, epoch: str) -> str:
    """The name of a log in a checkpoint: unlike that of any other log, and of the same log restored."""
    return f"run-ledger/{environment}/{epoch}"


def _wrong_type(row: Any) -> str | None:
    """The first column that holds another type than it was made for; SQLite lets any column hold any type."""
    types = tuple(map(type, row))
    if types in _GOOD_ROWS:
        return None
    for name, allowed in _TYPES.items():
        if type(row[name]) not in allowed:
            return name
    _GOOD_ROWS.add(types)  # A handful at most: two columns may be null.
    return None


def _is_behind(snapshot_version: object, version: int) -> bool:
    return isinstance(snapshot_version, int) and snapshot_version <= version


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
