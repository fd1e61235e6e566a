"""One environment's log: what a caller can ask of it, and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from ledger import as_of, feed, history, reads, statements
from ledger.as_of import RunsPage
from ledger.errors import RunNotFound
from ledger.faults import Report
from ledger.feed import WHOLE_FEED, Cursor, FeedPage, Selection
from ledger.heads import read_tags
from ledger.history import EVERYTHING, Explanation, HistoryPage, Wanted
from ledger.keys import Reach
from ledger.reads import Difference, Page, Point, RunDetails
from ledger.sqlite import SqliteStore
from ledger.subscriptions import Subscription, Subscriptions
from ledger.verify import verify_run
from ledger.writer import Writer
from ledger.writes import (
    NOBODY,
    Caller,
    ChangeMetadata,
    ChangeStatus,
    Command,
    CreateRun,
    Environment,
    EraseKey,
    IdempotencyKey,
    Outcome,
    Refused,
    Replayed,
    Rules,
    UnappliedOperation,
    Write,
)
from projections.events import Event
from projections.lifecycle import Status
from projections.paths import Path
from projections.progress import AttemptChoice, ProgressAudit, ProgressFold, ScaleChoice
from projections.runs import Run
from projections.snapshot import Snapshot
from projections.times import Microseconds


class Current(NamedTuple):
    """
    The current metadata of a run.

    Attributes:
        text: Compact JSON.
        version: The run's version.
        size_bytes: Bytes of UTF-8 of the text.
    """

    text: str
    version: int
    size_bytes: int


class Relative(NamedTuple):
    """
    A run as far as a key's restriction is judged by it.

    Attributes:
        run_id: Its id.
        task: Its task.
        tags: Its tags.
    """

    run_id: str
    task: str
    tags: tuple[str, ...]


class Family(NamedTuple):
    """
    A run and those above it.

    Attributes:
        own: The run.
        parent: The run that started it, None without one.
        root: The topmost run above it, None without one.
    """

    own: Relative
    parent: Relative | None
    root: Relative | None


@dataclass(frozen=True, slots=True)
class Created:
    """
    A run that exists now.

    Attributes:
        run_id: Its id: the one asked for, or that of the run the trigger's key leads to.
        version: Its version at that time.
        is_cached: It existed before this request.
        is_replay: The same request came before; nothing was written now.
    """

    run_id: str
    version: int
    is_cached: bool
    is_replay: bool = False


@dataclass(frozen=True, slots=True)
class Changed:
    """
    Metadata after a write.

    Attributes:
        snapshot: The named run's metadata, version and size.
        unapplied: Operations that had nothing to work on.
        is_replay: The same request came before; nothing was written now.
    """

    snapshot: Snapshot
    unapplied: tuple[UnappliedOperation, ...]
    is_replay: bool = False


@dataclass(frozen=True, slots=True)
class Moved:
    """
    A run after a request for another status.

    Attributes:
        run_id: The run.
        status: The status that was asked for, which it has.
        version: Its version.
        is_replay: The same request came before; nothing was written now.
    """

    run_id: str
    status: Status
    version: int
    is_replay: bool = False


@dataclass(frozen=True, slots=True)
class Erased:
    """
    A run after an erasure.

    Attributes:
        run_id: The run.
        version: Its version.
        events: How many events lost something.
        is_replay: The same request came before; nothing was erased now.
    """

    run_id: str
    version: int
    events: int
    is_replay: bool = False


@dataclass(frozen=True, slots=True)
class Verified:
    """
    A run that was verified.

    Attributes:
        version: The version its head has.
        report: What was found.
    """

    version: int
    report: Report


class Log:
    """
    One environment's log: everything below it, and nothing of any other environment.

    Use `Ledger.log` to get one.
    """

    def __init__(
        self,
        store: SqliteStore,
        writer: Writer,
        environment: Environment,
        rules: Rules,
        subscriptions: Subscriptions,
    ) -> None:
        self._store = store
        self._writer = writer
        self._subscriptions = subscriptions
        self._environment = environment
        self.metadata_bytes_max = rules.metadata_bytes_max

    @property
    def environment(self) -> str:
        """The environment's name."""
        return self._environment.name

    @property
    def owner(self) -> Environment:
        """The environment that everything in it belongs to."""
        return self._environment

    @property
    def is_writing(self) -> bool:
        """Whether writes are being taken."""
        return self._writer.is_alive

    async def create(
        self, command: CreateRun, caller: Caller = NOBODY, idempotency: IdempotencyKey | None = None
    ) -> Created:
        """
        Begin a run, or find the one that its id or its trigger's key leads to.

        Raises:
            UnknownParent: The parent does not exist.
            RunExists: The id belongs to a run of another task or parent.
            TooLarge: Its metadata is over the limit.
            IdempotencyConflict: The key was used for another request.
            Unavailable: Nothing was written; try again.
        """
        outcome = await self._write(command, caller, idempotency)
        if isinstance(outcome, Replayed):
            run_key = outcome.run_key
            head = await self._store.read(lambda reader: reads.head_by_key(reader, self._environment.id, run_key))
            return Created(head.run.id, outcome.version, not outcome.created, is_replay=True)
        return Created(outcome.run.id, outcome.run.version, not outcome.created)

    async def change(
        self, command: ChangeMetadata, caller: Caller = NOBODY, idempotency: IdempotencyKey | None = None
    ) -> Changed:
        """
        Change the metadata of a run, its parent and its root: all that was asked for, or nothing.

        Raises:
            RunNotFound: There is no such run.
            WrongExpectedVersion: Another writer was faster.
            LateWrite: The run finished too long ago.
            TooLarge: The metadata of one of the three would be over the limit.
            BadPath: A key that no operation may use.
            OutOfBounds: A result past a bound other than size.
            IdempotencyConflict: The key was used for another request.
            Unavailable: Nothing was written; try again.
        """
        outcome = await self._write(command, caller, idempotency)
        if isinstance(outcome, Replayed):
            snapshot = await self.metadata(command.run_id, version=outcome.version)
            return Changed(snapshot, outcome.unapplied, is_replay=True)
        return Changed(outcome.run.snapshot, outcome.unapplied)

    async def move(
        self, command: ChangeStatus, caller: Caller = NOBODY, idempotency: IdempotencyKey | None = None
    ) -> Moved:
        """
        Give a run another status; the one it has already is no event.

        Raises:
            RunNotFound: There is no such run.
            WrongExpectedVersion: Another writer was faster.
            BadTransition: It cannot take that status from the one it has.
            IdempotencyConflict: The key was used for another request.
            Unavailable: Nothing was written; try again.
        """
        outcome = await self._write(command, caller, idempotency)
        if isinstance(outcome, Replayed):
            return Moved(command.run_id, command.status, outcome.version, is_replay=True)
        return Moved(command.run_id, command.status, outcome.run.version)

    def current(self, run_id: str) -> Current:
        """
        The current metadata of a run, answered at once.

        Raises:
            RunNotFound: There is no such run.
            Unavailable: The database cannot be read.
        """
        found = self._store.current(self._environment.id, run_id)
        if found is None:
            raise RunNotFound(run_id)
        return Current(*found)

    def family(self, run_id: str) -> Family:
        """
        Task and tags of a run and of those above it, answered at once.

        Raises:
            RunNotFound: There is no such run.
            Unavailable: The database cannot be read.
        """
        row = self._store.point(statements.FAMILY, {"environment_id": self._environment.id, "run_id": run_id})
        if row is None:
            raise RunNotFound(run_id)
        own = Relative(run_id, row[0], read_tags(row[1]))
        return Family(own, _relative(row[2:5]), _relative(row[5:8]))

    async def metadata(
        self, run_id: str, *, version: int | None = None, at: Microseconds | None = None
    ) -> Snapshot:
        """
        The metadata of a run as it stood.

        Args:
            run_id: The run.
            version: After this many events; the current one by default.
            at: After the last event recorded at or before this moment, instead.

        Raises:
            RunNotFound: There is no such run.
            VersionNotFound: It has no such version, or did not exist at that moment.
        """
        return await self._store.read(
            lambda reader: reads.metadata(reader, self._environment.id, run_id, version, at)
        )

    async def run(self, run_id: str) -> RunDetails:
        """
        A run with its payload, output and error, and its parent and root.

        Raises:
            RunNotFound: There is no such run.
        """
        return await self._store.read(lambda reader: reads.run_details(reader, self._environment.id, run_id))

    async def runs(
        self,
        *,
        limit: int,
        after: str | None = None,
        before: str | None = None,
        statuses: Sequence[Status] = (),
        tasks: Sequence[str] = (),
        within: Reach | None = None,
    ) -> Page[Run]:
        """
        Runs, newest first.

        Args:
            limit: At most this many.
            after: Only runs older than this run.
            before: Only runs newer than this run, the nearest ones, instead.
            statuses: Any of these; empty for all.
            tasks: Any of these; empty for all.
            within: Only runs that a key may read, None for all.

        Raises:
            BadCursor: `after` or `before` names no run.
        """
        return await self._store.read(
            lambda reader: reads.runs(
                reader,
                self._environment.id,
                limit=limit,
                after=after,
                before=before,
                statuses=tuple(statuses),
                tasks=tuple(tasks),
                within=within,
            )
        )

    async def runs_as_of(
        self,
        at: Microseconds,
        *,
        limit: int,
        after: str | None = None,
        before: str | None = None,
        statuses: Sequence[Status] = (),
        tasks: Sequence[str] = (),
        within: Reach | None = None,
    ) -> RunsPage:
        """
        Runs as they stood at a moment, after the last event recorded by then; newest first.

        Args:
            at: The moment. Runs that were created later are left out.
            limit: At most this many. A page also ends, and says so, once it has looked at 1,000 runs.
            after: Only runs older than this run.
            before: Only runs newer than this run, the nearest ones, instead.
            statuses: That had any of these then; empty for all.
            tasks: Any of these; empty for all.
            within: Only runs that a key may read now, None for all: it may then read their past, too.

        Raises:
            BadCursor: `after` or `before` names no run.
        """
        return await self._store.read(
            lambda reader: as_of.runs(
                reader,
                self._environment.id,
                at,
                limit=limit,
                after=after,
                before=before,
                statuses=tuple(statuses),
                tasks=tuple(tasks),
                within=within,
            )
        )

    async def history(
        self,
        run_id: str,
        *,
        limit: int,
        after: int | None = None,
        order: Literal["asc", "desc"] = "asc",
        key: Path | None = None,
    ) -> Page[Event]:
        """
        The events of a run, without what they did.

        Args:
            run_id: The run.
            limit: At most this many.
            after: Begin behind this version, in the order asked for.
            order: Oldest or newest first.
            key: Only events about the value at this path.

        Raises:
            RunNotFound: There is no such run.
        """
        return await self._store.read(
            lambda reader: history.history(
                reader, self._environment.id, run_id, limit=limit, after=after, order=order, key=key
            )
        )

    async def events(
        self, *, limit: int, after: Cursor | None = None, selection: Selection = WHOLE_FEED
    ) -> FeedPage:
        """
        A page of the feed: the events of all runs, in the order of the log.

        Args:
            limit: At most this many. A page may hold fewer, or none, and yet there are more behind it: it looks
                through a bounded part of the log, and is bounded in bytes.
            after: Begin behind this place; at the first event by default.
            selection: Which events.

        Raises:
            BadCursor: `after` is a place in another log, or one that this log has not reached.
        """
        start = 0 if after is None else after
        return await self._store.read(
            lambda reader: feed.page(reader, self._environment.id, after=start, limit=limit, selection=selection)
        )

    async def subscribe(
        self, *, after: Cursor | None = None, from_start: bool = False, selection: Selection = WHOLE_FEED
    ) -> Subscription:
        """
        Follow the feed: what it holds behind a place, then what is committed, each event once and in order.

        Args:
            after: Begin behind this place; with what is committed from now on by default.
            from_start: Begin with the first event instead.
            selection: Which events.

        Raises:
            BadCursor: `after` is a place in another log, or one that this log has not reached.
            SubscriptionEnded: The ledger is closing.
        """

        async def find(reader: reads.Reader) -> feed.Place:
            found = await feed.place(reader, self._environment.id, after)
            return replace(found, position=0) if from_start else found

        return await self._subscriptions.open(self._environment, find, selection)

    async def follow(self, run_id: str, *, after: int | None = None, key: Path | None = None) -> Subscription:
        """
        Follow one run: its events behind a version, then what is committed, each version once and in order.

        Args:
            run_id: The run.
            after: Begin behind this version, 0 for the first; with what is committed from now on by default.
            key: Only events about the value at this path.

        Returns:
            A subscription whose `run` is the run as it stands; what is committed from now on comes behind that.

        Raises:
            RunNotFound: There is no such run.
            BadCursor: It has no such version.
            SubscriptionEnded: The ledger is closing.
        """
        return await self._subscriptions.open(
            self._environment,
            lambda reader: feed.place_in_run(reader, self._environment.id, run_id, after),
            Selection(run_id=run_id, key=key),
        )

    async def progress(
        self,
        run_id: str,
        *,
        key: Path | None = None,
        scale: ScaleChoice | None = None,
        stall_after_s: float | None = None,
        attempt: AttemptChoice = "current",
    ) -> ProgressAudit:
        """
        How a run went, judged from its events: how far, how fast, where it stood still, when it went backwards.

        Args:
            run_id: The run.
            key: Where its progress is; found by itself by default.
            scale: How to read it; told from its values by default.
            stall_after_s: Seconds without movement that make a stall; told from the run's rhythm by default.
            attempt: The last attempt, all of them as one, or one by its number.

        Raises:
            RunNotFound: There is no such run.
        """
        fold = ProgressFold(key=key, attempt=attempt)
        await self._store.read(lambda reader: reads.fold_progress(reader, self._environment.id, run_id, fold))
        return fold.audit(now=self._writer.now(), scale=scale, stall_after_s=stall_after_s)

    async def entries(
        self,
        run_id: str,
        *,
        limit: int,
        after: int | None = None,
        before: int | None = None,
        order: Literal["asc", "desc"] = "asc",
        wanted: Wanted = EVERYTHING,
        refusals: bool = False,
    ) -> HistoryPage:
        """
        The history of a run: its events with what each of them did.

        Args:
            run_id: The run.
            limit: At most this many events; a page also ends once it holds 8 MiB of them and their values.
            after: Begin behind this version, in the order asked for.
            before: End in front of this version, in the order asked for, instead.
            order: Oldest or newest first.
            wanted: Which events.
            refusals: Show between them what was refused.

        Raises:
            RunNotFound: There is no such run.
        """
        return await self._store.read(
            lambda reader: history.entries(
                reader,
                self._environment.id,
                run_id,
                limit=limit,
                after=after,
                before=before,
                order=order,
                wanted=wanted,
                refusals=refusals,
            )
        )

    async def explain(
        self,
        run_id: str,
        key: Path,
        *,
        version: int | None = None,
        at: Microseconds | None = None,
        limit: int,
        before: int | None = None,
    ) -> Explanation:
        """
        Why a value is what it is, or was at a version or moment: the events that touched it, the last of them.

        Args:
            run_id: The run.
            key: The value.
            version: After this many events; the current one by default.
            at: After the last event recorded at or before this moment, instead.
            limit: At most this many events; fewer once they hold 8 MiB.
            before: Only events in front of this version.

        Raises:
            RunNotFound: There is no such run.
            VersionNotFound: It has no such version, or did not exist at that moment.
        """
        return await self._store.read(
            lambda reader: history.explain(
                reader,
                self._environment.id,
                run_id,
                key=key,
                version=version,
                at=at,
                limit=limit,
                before=before,
            )
        )

    async def diff(self, run_id: str, start: Point, end: Point, to_run: str | None = None) -> Difference:
        """
        What differs between two states: of one run, or of two.

        Args:
            run_id: The run of the first state.
            start: The version or moment of the first state.
            end: That of the second.
            to_run: The run of the second state, the same by default.

        Raises:
            RunNotFound: There is no such run.
            VersionNotFound: A run has no such version, or did not exist at that moment.
        """
        return await self._store.read(
            lambda reader: reads.diff(reader, self._environment.id, run_id, start, to_run or run_id, end)
        )

    async def refusals(self, run_id: str) -> list[Refused]:
        """
        The last refusals of a run, oldest first.

        Raises:
            RunNotFound: There is no such run.
        """
        return await self._store.read(lambda reader: reads.refusals(reader, self._environment.id, run_id))

    async def verify(self, run_id: str) -> Verified:
        """
        Verify the chain, the head, the snapshots and the erasures of a run.

        Raises:
            RunNotFound: There is no such run.
        """
        where = self._environment
        return Verified(*await self._store.inspect(lambda view: verify_run(view, where.id, where.name, run_id)))

    async def erase(
        self,
        run_id: str,
        path: Path,
        reason: str,
        caller: Caller = NOBODY,
        idempotency: IdempotencyKey | None = None,
        *,
        expected: frozenset[int] | None = None,
    ) -> Erased:
        """
        Take what ever stood at a path out of a run's events, its metadata, snapshots and refusals.

        The file still holds it until the engine has written it anew; see `ledger.sqlite.sweep`.

        Raises:
            RunNotFound: There is no such run.
            WrongExpectedVersion: It has none of the *expected* versions, None for any.
            NothingToErase: Nothing ever stood there.
            Unsound: The run does not verify.
            IdempotencyConflict: The key was used for another request.
            ValueError: The reason is empty or too long.
            Unavailable: Nothing was written; try again.
        """
        command = EraseKey(run_id=run_id, path=path, reason=reason, expected=expected)
        outcome = await self._write(command, caller, idempotency)
        if isinstance(outcome, Replayed):
            version = outcome.version
            events = await self._store.read(
                lambda reader: history.count_redacted(reader, self._environment.id, run_id, version)
            )
            return Erased(run_id, version, events, is_replay=True)
        return Erased(run_id, outcome.run.version, outcome.redacted)

    async def _write(self, command: Command, caller: Caller, idempotency: IdempotencyKey | None) -> Outcome:
        return await self._writer.submit(self._environment, Write(command, caller, idempotency))


def _relative(columns: Sequence[str | None]) -> Relative | None:
    run_id, task, tags = columns
    return None if run_id is None or task is None or tags is None else Relative(run_id, task, read_tags(tags))
