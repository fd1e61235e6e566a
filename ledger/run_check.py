"""One run, held against its chain and against what is derived from it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ledger.chain import GENESIS, SALT_BYTES, commitment, event_hash
from ledger.faults import Erasure, Fault, Report, short
from ledger.heads import new_row, tag_text
from ledger.merkle import HASH_BYTES
from ledger.refold import Refold, read_event
from projections.errors import Refusal
from projections.events import RunErased

FAULTS_OF_A_RUN = 100  # faults of one run that are put in order
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
        self,
        events: Iterable[Any],
        snapshots: Iterable[Any],
        erasures: Iterable[Any],
        tags: Iterable[Any],
        progress: Progress,
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
        self._check_tags(tags)

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
        self._add_derived(None, f"a snapshot stands for version {short(row['version'])}, which it does not have")

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
                self._add_derived(None, f"its head is at version {short(version)}, its events at {self._version}")
            return
        expected = new_row(self._environment_id, self._fold.head(head, self._hash))
        for column, value in expected.items():
            found = head[column]
            if column != "hash" and (found != value or type(found) is not type(value)):
                told = "" if column == "metadata" else f" ({short(found)} and not {short(value)})"
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

    def _check_tags(self, rows: Iterable[Any]) -> None:
        found = [row["tag"] for row in rows]
        if self._fold is not None and self._fold.run is not None:
            expected = {*map(tag_text, self._fold.run.tags)}
            if len(found) != len(expected) or {*found} != expected:
                self._add_derived(None, "the tags that it is found by are not those that its events give it")

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


def _wrong_type(row: Mapping[str, Any]) -> str | None:
    """The first column that holds another type than it was made for; SQLite lets any column hold any type."""
    types = tuple(map(type, row.values()))
    if types in _GOOD_ROWS:
        return None
    for name, allowed in _TYPES.items():
        if type(row[name]) not in allowed:
            return name
    _GOOD_ROWS.add(types)  # A handful at most: two columns may be null.
    return None


def _is_behind(snapshot_version: object, version: int) -> bool:
    return isinstance(snapshot_version, int) and snapshot_version <= version
