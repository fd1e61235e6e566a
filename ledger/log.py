"""One environment's log: what a caller can ask of it, and what it answers."""

from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Literal

from ledger import as_of, feed, finding, history, reads, statements, states
from ledger.answers import (
    Changed,
    Created,
    CreatedBatch,
    Current,
    Erased,
    Family,
    Moved,
    Relative,
    Tagged,
    Verified,
)
from ledger.audits import Audits, RunAudit, audit_of, audits_of, judge_by
from ledger.batches import BatchDetails
from ledger.errors import RunNotFound
from ledger.feed import WHOLE_FEED, Cursor, FeedEvent, FeedPage, Selection
from ledger.finding import Listing, RunsPage, Sort
from ledger.heads import read_tags
from ledger.history import EVERYTHING, Explanation, HistoryPage, Wanted
from ledger.keys import Reach
from ledger.reads import Difference, Page, Point, RunDetails
from ledger.states import Folds, Mark, Members, RunState, StatesPage
from ledger.store import Store
from ledger.subscriptions import Subscription, Subscriptions
from ledger.verify import verify_run
from ledger.writer import Writer
from ledger.writes import (
    NOBODY,
    Batch,
    Caller,
    ChangeMetadata,
    ChangeStatus,
    Command,
    CreateBatch,
    CreateRun,
    Environment,
    EraseKey,
    IdempotencyKey,
    KnownItem,
    OneTime,
    Outcome,
    Refused,
    Replayed,
    Rules,
    TagRun,
    Write,
    Written,
    WrittenBatch,
)
from projections.events import Event
from projections.filters import EVERY_RUN, RunFilter
from projections.numbers import NumberFold
from projections.paths import Path
from projections.progress import AttemptChoice, ProgressAudit, ProgressFold, ScaleChoice
from projections.snapshot import Snapshot
from projections.times import Microseconds

MARKS_MAX = 10_000  # runs of which it is remembered where their status comes from


class Log:
    """
    One environment's log: everything below it, and nothing of any other environment.

    Use `Ledger.log` to get one.
    """

    def __init__(
        self,
        store: Store,
        writer: Writer,
        environment: Environment,
        rules: Rules,
        subscriptions: Subscriptions,
        audits: Audits,
    ) -> None:
        self._store = store
        self._writer = writer
        self._subscriptions = subscriptions
        self._environment = environment
        self._marks: dict[str, Mark] = {}
        self._folds = Folds()
        self._audits = audits
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
        self,
        command: CreateRun,
        caller: Caller = NOBODY,
        idempotency: IdempotencyKey | None = None,
        one_time: OneTime | None = None,
    ) -> Created:
        """
        Begin a run, or find the one that its id or its trigger's key leads to.

        Raises:
            UnknownParent: The parent does not exist.
            RunExists: The id belongs to a run of another task or parent.
            TooLarge: Its metadata is over the limit.
            IdempotencyConflict: The key was used for another request.
            TokenSpent: What lets one request through did that already.
            Unavailable: Nothing was written; try again.
        """
        outcome = await self._write(command, caller, idempotency, one_time)
        if isinstance(outcome, Replayed):
            run_key = outcome.run_key
            assert run_key is not None
            head = await self._store.read(lambda reader: reads.head_by_key(reader, self._environment.id, run_key))
            return Created(head.run.id, outcome.version, not outcome.created, is_replay=True)
        assert isinstance(outcome, Written)
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
        assert isinstance(outcome, Written)
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
            return Moved(command.run_id, command.status, outcome.version, outcome.unapplied, is_replay=True)
        assert isinstance(outcome, Written)
        return Moved(command.run_id, command.status, outcome.run.version, outcome.unapplied)

    async def tag(
        self, command: TagRun, caller: Caller = NOBODY, idempotency: IdempotencyKey | None = None
    ) -> Tagged:
        """
        Give a run more tags; those that it has already are no event.

        Raises:
            RunNotFound: There is no such run.
            WrongExpectedVersion: Another writer was faster.
            OutOfBounds: They would be too many.
            IdempotencyConflict: The key was used for another request.
            Unavailable: Nothing was written; try again.
        """
        outcome = await self._write(command, caller, idempotency)
        if isinstance(outcome, Replayed):
            return Tagged(outcome.version, is_replay=True)
        assert isinstance(outcome, Written)
        return Tagged(outcome.run.version)

    async def create_batch(self, command: CreateBatch, idempotency: IdempotencyKey | None = None) -> CreatedBatch:
        """
        Make room for the runs of a batch, or find the batch that its key leads to.

        Raises:
            BatchUnfinished: The key leads to one of another size that lacks some of its runs.
            IdempotencyConflict: The key was used for another request.
            Unavailable: Nothing was written; try again.
        """
        outcome = await self._write(command, NOBODY, idempotency)
        if isinstance(outcome, Replayed):
            assert outcome.batch_id is not None
            return CreatedBatch(await self.batch(outcome.batch_id), not outcome.created, is_replay=True)
        assert isinstance(outcome, WrittenBatch)
        return CreatedBatch(outcome.batch, outcome.is_cached)

    async def create_item(self, command: CreateRun, caller: Caller = NOBODY) -> Created | None:
        """
        Begin a run in a place of a batch.

        Returns:
            The run; None where the place was taken before, which is then left as it is.

        Raises:
            BatchNotFound: There is no such batch.
            NoSuchPlace: It was created for fewer runs.
            LedgerError: See `create`.
        """
        outcome = await self._write(command, caller, None)
        if isinstance(outcome, KnownItem):
            return None
        assert isinstance(outcome, Written)
        return Created(outcome.run.id, outcome.run.version, not outcome.created)

    async def batch(self, batch_id: str) -> Batch:
        """
        A batch without its runs.

        Raises:
            BatchNotFound: There is no such batch.
        """
        return await self._store.read(lambda reader: reads.batch(reader, self._environment.id, batch_id))

    async def batch_details(self, batch_id: str) -> BatchDetails:
        """
        A batch with its runs.

        Raises:
            BatchNotFound: There is no such batch.
        """
        return await self._store.read(lambda reader: reads.batch_details(reader, self._environment.id, batch_id))

    async def current(self, run_id: str) -> Current:
        """
        The current metadata of a run.

        Raises:
            RunNotFound: There is no such run.
            Unavailable: The database cannot be read.
        """
        found = await self._store.point(
            statements.CURRENT, {"environment_id": self._environment.id, "run_id": run_id}
        )
        if found is None:
            raise RunNotFound(run_id)
        return Current(*found)

    async def family(self, run_id: str) -> Family:
        """
        Task and tags of a run and of those above it.

        Raises:
            RunNotFound: There is no such run.
            Unavailable: The database cannot be read.
        """
        row = await self._store.point(
            statements.FAMILY, {"environment_id": self._environment.id, "run_id": run_id}
        )
        if row is None:
            raise RunNotFound(run_id)
        own = Relative(run_id, row[0], read_tags(row[1]), row[8])
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
        wanted: RunFilter = EVERY_RUN,
        sort: Sort = Sort.NEWEST,
        within: Reach | None = None,
    ) -> RunsPage:
        """
        Runs, newest first unless another order is asked for.

        Args:
            limit: At most this many. A page also ends, and says so, once it has looked at 100,000 runs, or folded
                20,000 events to see whether runs stall or went backwards.
            after: Begin behind this cursor, which an earlier page named: a run id in the order of creation.
            before: End in front of this cursor, with the nearest ones, instead.
            wanted: Which runs.
            sort: In which order.
            within: Only runs that a key may read, None for all.

        Raises:
            BadCursor: `after` or `before` leads nowhere.
        """
        listing = Listing(limit=limit, after=after, before=before, wanted=wanted, sort=sort, within=within)
        judge = judge_by(self._audits, self.now) if wanted.asks_for_verdicts else None
        return await self._store.read(lambda reader: finding.runs(reader, self._environment.id, listing, judge))

    async def audits(self, run_ids: Sequence[str]) -> dict[str, RunAudit | None]:
        """
        The progress of some runs in short, by their ids; ids of no run are left out.

        What was folded for it is kept, so that asking again costs little. None stands for a run that has many
        events which are yet to be folded: ask again.

        Args:
            run_ids: At most a few hundred.
        """
        now = self.now()
        return await self._store.read(
            lambda reader: audits_of(reader, self._environment.id, [*run_ids], self._audits, now)
        )

    async def runs_as_of(
        self,
        at: Microseconds,
        *,
        limit: int,
        after: str | None = None,
        before: str | None = None,
        wanted: RunFilter = EVERY_RUN,
        sort: Sort = Sort.NEWEST,
        within: Reach | None = None,
    ) -> RunsPage:
        """
        Runs as they stood at a moment, after the last event recorded by then.

        Args:
            at: The moment. Runs that were created later are left out.
            limit: At most this many. A page also ends, and says so, once it has looked at 1,000 runs.
            after: Only runs behind this run, in the order asked for.
            before: Only runs in front of this run, the nearest ones, instead.
            wanted: Which runs, judged as they stood. The progress audit has no say.
            sort: In which order, which can only be one of creation.
            within: Only runs that a key may read now, None for all: it may then read their past, too.

        Raises:
            BadCursor: `after` or `before` names no run.
        """
        assert not sort.is_by_change, "nothing keeps the order of past changes"
        assert not wanted.asks_for_verdicts, "progress is judged as it is now"
        listing = Listing(limit=limit, after=after, before=before, wanted=wanted, sort=sort, within=within)
        return await self._store.read(lambda reader: as_of.runs(reader, self._environment.id, at, listing))

    def now(self) -> Microseconds:
        """What the ledger's clock shows."""
        return self._writer.now()

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
        judged = self._judged(selection)
        return await self._store.read(
            lambda reader: feed.page(reader, self._environment.id, after=start, limit=limit, selection=judged)
        )

    async def end(self) -> Cursor:
        """
        The place behind the last event.

        Raises:
            Unavailable: The database cannot be read.
        """
        row = await self._store.point(statements.LOG, {"environment_id": self._environment.id})
        return Cursor(row[1], row[0])

    async def state(self, run_id: str) -> RunState:
        """
        A run as it stands, with its payload.

        Raises:
            RunNotFound: There is no such run.
        """
        return await self._store.read(lambda reader: states.current(reader, self._environment.id, run_id))

    async def state_after(self, run_id: str, mark: Mark) -> RunState | None:
        """
        A run as it stood one version after a state of it, which costs the same wherever in its stream that is.

        Args:
            run_id: The run.
            mark: The mark of that state.

        Returns:
            None where that state is the current one.

        Raises:
            RunNotFound: There is no such run.
            BadCursor: It never had that state.
        """
        folded = self._folds.get(run_id, mark.version)
        state = await self._store.read(
            lambda reader: states.after(reader, self._environment.id, run_id, mark, folded)
        )
        if state is not None:
            self._folds.keep(state)
        return state

    async def states_of(self, entries: Sequence[FeedEvent]) -> list[RunState]:
        """The state of a run after each of the first of some events, of different runs; a bounded number."""
        if len(self._marks) > MARKS_MAX:
            self._marks.clear()
        marks = {
            entry.event.run_id: mark
            for entry in entries
            if (mark := self._marks.get(entry.event.run_id)) is not None
        }
        folds = {
            event.run_id: folded
            for event in (entry.event for entry in entries)
            if (folded := self._folds.get(event.run_id, event.version - 1)) is not None
        }
        found = await self._store.read(
            lambda reader: states.of_events(reader, self._environment.id, entries, marks, folds)
        )
        for state in found:
            self._marks[state.run.id] = state.mark
            self._folds.keep(state)
        return found

    async def states(
        self, members: Members, *, position: int | None = None, before: int | None = None
    ) -> StatesPage:
        """
        Runs that belong together, newest first, all as they stood at one place of the log; a bounded number.

        Args:
            members: Which runs.
            position: The place; the end of the log by default.
            before: Only runs with keys below this one: where the page before ended.

        Raises:
            BadCursor: The log has not reached that place.
        """
        return await self._store.read(
            lambda reader: states.page(reader, self._environment.id, members, position, before)
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

        return await self._subscriptions.open(self._environment, find, self._judged(selection))

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
        if (
            key is None and attempt == "current"
        ):  # What most ask for; lists ask for it too, and keep what was folded.
            now = self.now()
            return await self._store.read(
                lambda reader: audit_of(
                    reader, self._environment.id, run_id, self._audits, now, scale, stall_after_s
                )
            )
        fold = ProgressFold(key=key, attempt=attempt)
        await self._store.read(lambda reader: reads.fold_events(reader, self._environment.id, run_id, fold))
        return fold.audit(now=self._writer.now(), scale=scale, stall_after_s=stall_after_s)

    async def numbers(self, run_id: str, key: Path) -> NumberFold:
        """
        The numbers that stood at a path, from the run's first event on.

        Raises:
            RunNotFound: There is no such run.
        """
        fold = NumberFold(key)
        await self._store.read(lambda reader: reads.fold_events(reader, self._environment.id, run_id, fold))
        return fold

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
        assert isinstance(outcome, Written)
        return Erased(run_id, outcome.run.version, outcome.redacted)

    def _judged(self, selection: Selection) -> Selection:
        """A selection that can ask for the progress of runs, where it has to."""
        if selection.runs is None or not selection.runs.asks_for_verdicts:
            return selection
        return replace(selection, judge=judge_by(self._audits, self.now))

    def _write(
        self,
        command: Command,
        caller: Caller,
        idempotency: IdempotencyKey | None,
        one_time: OneTime | None = None,
    ) -> Awaitable[Outcome]:
        return self._writer.submit(self._environment, Write(command, caller, idempotency, one_time))


def _relative(columns: Sequence[str | None]) -> Relative | None:
    run_id, task, tags = columns
    return None if run_id is None or task is None or tags is None else Relative(run_id, task, read_tags(tags))
