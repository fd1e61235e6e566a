"""
What the ledger says when it does not do what it was asked.

    LedgerError
    ├── NotFound
    │   ├── RunNotFound         no such run in this environment
    │   ├── VersionNotFound     the run has no such version, or did not exist yet at that moment
    │   ├── BatchNotFound       no such batch in this environment
    │   └── KeyNotFound         no such API key
    ├── Conflict
    │   ├── WrongExpectedVersion    another writer was faster
    │   ├── IdempotencyConflict     the key was used for another request
    │   ├── RunExists               the id belongs to a run of another task or parent
    │   ├── UnknownParent           the parent named for a new run does not exist
    │   ├── NoSuchPlace             a batch has no such place
    │   ├── BatchUnfinished         the key leads to a batch of another size that is not complete
    │   └── AlreadyFinished         a last change came for a run that was over
    ├── NothingToErase          nothing ever stood at that key
    ├── Unsound                 what is stored does not verify, so it is not touched
    ├── BadCheckpoint           a checkpoint or its key cannot be trusted or used
    ├── LateWrite               the run finished too long ago
    ├── KeyRefused              an API key is unknown, revoked or expired
    ├── BadCursor               a page was asked for after something that does not exist
    ├── SubscriptionEnded       closed by its reader or with the ledger
    ├── WriteRefused            what a job reported was not accepted, and why
    │   └── NotKept             queue and spool are full: the newest report was not taken
    ├── Unreachable             the ledger gave no answer
    ├── OutcomeUnknown          the database went away in the middle of a commit
    └── Unavailable             nothing was written; the same request may succeed later
        ├── Overloaded          too many writes are waiting
        ├── Busy                another process holds the write lock
        ├── StorageFull         no space is left for the change
        └── StorageFailed       the storage refuses writes for another reason

What the rules of metadata refuse is a `projections.errors.Refusal`.
"""

from projections.times import Microseconds, format_time


class LedgerError(Exception):
    """
    Base of the errors of this package.

    Attributes:
        code: What programs know it by.
        is_silent: The database does not answer at all, so whoever waits for it waits in vain.
    """

    code = "ledger-error"
    is_silent = False


class NotFound(LedgerError):
    """There is no such thing in this environment."""

    code = "not-found"


class RunNotFound(NotFound):
    """
    No such run in this environment.

    Args:
        run_id: The id that was asked for.
    """

    code = "run-not-found"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"there is no run {run_id}; create it first, or check the id and the environment")
        self.run_id = run_id


class VersionNotFound(NotFound):
    """
    The run has no such version.

    Args:
        run_id: The run.
        asked: The version or moment asked for, as text.
        last: The run's last version.
        created_at: When its first version was recorded.
    """

    code = "version-not-found"

    def __init__(self, run_id: str, asked: str, last: int, created_at: Microseconds) -> None:
        super().__init__(
            f"run {run_id} has no {asked}; its versions are 1 to {last}, since {format_time(created_at)}"
        )
        self.run_id = run_id
        self.last = last


class BatchNotFound(NotFound):
    """
    No such batch in this environment.

    Args:
        batch_id: The id that was asked for.
    """

    code = "batch-not-found"

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"there is no batch {batch_id}; create it first, or check the id and the environment")
        self.batch_id = batch_id


class KeyNotFound(NotFound):
    """
    No such API key.

    Args:
        key_id: The id that was asked for.
    """

    code = "key-not-found"

    def __init__(self, key_id: str) -> None:
        super().__init__(f"there is no API key with the id {key_id}; 'run-ledger keys list' shows all")
        self.key_id = key_id


class KeyRefused(LedgerError):
    """
    An API key opens nothing.

    Args:
        code: `unknown-key`, `revoked-key` or `expired-key`.
        reason: In words.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{reason}; make another with 'run-ledger keys create'")
        self.code = code


class TokenSpent(LedgerError):
    """What lets one write through has let one through already; nothing was written."""

    code = "spent-token"

    def __init__(self) -> None:
        super().__init__("this token was for one use, and it was used; ask whoever gave it for another")


class Conflict(LedgerError):
    """The request does not fit what is stored."""

    code = "conflict"


class WrongExpectedVersion(Conflict):
    """
    Another writer was faster; nothing was written.

    Args:
        run_id: The run.
        expected: The versions the writer would have accepted.
        actual: The version the run has.
    """

    code = "wrong-expected-version"

    def __init__(self, run_id: str, expected: frozenset[int], actual: int) -> None:
        wanted = " or ".join(map(str, sorted(expected))) or "no version at all"
        super().__init__(f"run {run_id}: expected version {wanted}, found {actual}; read it again and retry")
        self.run_id = run_id
        self.expected = expected
        self.actual = actual


class IdempotencyConflict(Conflict):
    """
    The idempotency key was used for another request.

    Args:
        key: The key.
    """

    code = "idempotency-key-reused"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"the idempotency key {key!r} was used for another request (method, path or body differ); "
            "make a new key for every new request"
        )
        self.key = key


class RunExists(Conflict):
    """
    The id belongs to a run of another task or parent.

    Args:
        run_id: The id.
        task: The task of the run that has it.
        parent: That run's parent, None for none.
    """

    code = "run-exists"

    def __init__(self, run_id: str, task: str, parent: str | None) -> None:
        family = f"task {task!r}" + (f", parent {parent}" if parent else ", without a parent")
        super().__init__(f"run {run_id} exists already with {family}; choose another id")
        self.run_id = run_id


class UnknownParent(Conflict):
    """
    The parent named for a new run does not exist.

    Args:
        parent: The id that was named.
    """

    code = "unknown-parent"

    def __init__(self, parent: str) -> None:
        super().__init__(f"there is no run {parent} to be the parent; create the parent first")
        self.parent = parent


class NoSuchPlace(Conflict):
    """
    A batch has no such place.

    Args:
        batch_id: The batch.
        item: The place that was named.
        run_count: How many it has.
    """

    code = "no-such-place"

    def __init__(self, batch_id: str, item: int, run_count: int) -> None:
        super().__init__(
            f"batch {batch_id} was created for {run_count:,} runs, so an index is at most {run_count - 1:,}, "
            f"and this one is {item:,}; create the batch with the right runCount"
        )
        self.batch_id = batch_id


class BatchUnfinished(Conflict):
    """
    The idempotency key leads to a batch of another size, which lacks some of its runs.

    Args:
        batch_id: The batch.
        run_count: How many runs it is to hold.
        item_count: How many it holds.
    """

    code = "batch-unfinished"

    def __init__(self, batch_id: str, run_count: int, item_count: int) -> None:
        super().__init__(
            f"the idempotency key leads to batch {batch_id}, which was created for {run_count:,} runs and has "
            f"{item_count:,}; send the items that it lacks, or use another key"
        )
        self.batch_id = batch_id


class AlreadyFinished(Conflict):
    """
    A last change came with the end of a run that was over; nothing was written.

    Args:
        run_id: The run.
        finished_at: When it finished.
    """

    code = "already-finished"

    def __init__(self, run_id: str, finished_at: Microseconds) -> None:
        super().__init__(
            f"run {run_id} finished at {format_time(finished_at)} already, so its lastFlush was not applied, lest "
            "it count twice; give retries one Idempotency-Key, or send the operations to its metadata"
        )
        self.run_id = run_id


class NothingToErase(LedgerError):
    """
    Nothing ever stood at that key, or all of it was erased before; nothing was written.

    Args:
        run_id: The run.
        key: The key.
    """

    code = "nothing-to-erase"

    def __init__(self, run_id: str, key: str) -> None:
        super().__init__(
            f"run {run_id} holds nothing at {key}, now or in its history; nothing was written. "
            "See run-ledger history for the keys there are"
        )
        self.run_id = run_id
        self.key = key


class Unsound(LedgerError):
    """
    What is stored does not verify; nothing was written.

    Args:
        fault: What is wrong, and where.
    """

    code = "unsound"

    def __init__(self, fault: str) -> None:
        super().__init__(f"{fault}; nothing was written. See run-ledger verify")


class BadCheckpoint(LedgerError):
    """A checkpoint or its key cannot be trusted or used; the text says why."""

    code = "bad-checkpoint"


class LateWrite(LedgerError):
    """
    The run finished too long ago.

    Args:
        run_id: The run.
        finished_at: When it finished.
        allowed_s: How long writes are accepted after that, in seconds.
    """

    code = "late-write"

    def __init__(self, run_id: str, finished_at: Microseconds, allowed_s: int) -> None:
        super().__init__(
            f"run {run_id} finished at {format_time(finished_at)}; writes are accepted for {allowed_s} seconds "
            "after that. Start a new attempt, or raise RUN_LEDGER_LATE_WRITE_S"
        )
        self.run_id = run_id
        self.allowed_s = allowed_s


class BadCursor(LedgerError):
    """
    A page was asked for after something that does not exist.

    Args:
        cursor: The cursor.
    """

    code = "bad-cursor"

    def __init__(self, cursor: str) -> None:
        super().__init__(f"there is nothing at the cursor {cursor!r}; begin again without one")
        self.cursor = cursor


class SubscriptionEnded(LedgerError):
    """The subscription was closed, by its reader or with the ledger; go on with a new one from its last cursor."""

    code = "subscription-ended"

    def __init__(self) -> None:
        super().__init__("the subscription has ended; go on with a new one from its last cursor")


class WriteRefused(LedgerError):
    """
    What a job reported was not accepted; its other reports are not touched by that.

    Args:
        run_id: The run that it was about.
        code: Such as `metadata-too-large`, the same as over HTTP.
        detail: What is wrong and how to mend it.
        operations: How many operations that are; 0 for a step in the run's life.
        missing: The id of the run that would have to exist first, None where the reason is another.
    """

    def __init__(
        self, run_id: str, code: str, detail: str, operations: int = 0, missing: str | None = None
    ) -> None:
        super().__init__(detail)
        self.run_id = run_id
        self.code = code
        self.operations = operations
        self.missing = missing


class NotKept(WriteRefused):
    """
    Neither the ledger nor the spool could take the newest report, and it was not kept.

    Args:
        run_id: The run that it was about.
        reason: What is full.
        operations: How many operations that are.
    """

    def __init__(self, run_id: str, reason: str, operations: int) -> None:
        super().__init__(run_id, "not-kept", reason, operations)


class Unreachable(LedgerError):
    """
    The ledger gave no answer.

    Args:
        reason: What happened.
        certain: The request was certainly not carried out; else nobody knows.
    """

    code = "unreachable"

    def __init__(self, reason: str, *, certain: bool) -> None:
        super().__init__(reason)
        self.certain = certain


class Unavailable(LedgerError):
    """
    Nothing was written; the same request may succeed later.

    Attributes:
        retry_after_s: Seconds after which trying again makes sense.
    """

    code = "unavailable"
    retry_after_s = 1


class Overloaded(Unavailable):
    """
    Too many writes are waiting.

    Args:
        waiting: How many.
    """

    code = "overloaded"

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting:,} writes are waiting already; try again in a moment")


class Busy(Unavailable):
    """Another process holds the write lock, or this one is shutting down."""

    code = "busy"


class StorageFull(Unavailable):
    """
    No space is left for the change; nothing of it was written and reads go on.

    Args:
        reason: What the engine said.
    """

    code = "storage-full"
    retry_after_s = 5

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"there is no space left to store this change ({reason}); nothing was written. "
            "Free some space: writes come back by themselves"
        )


class StorageFailed(Unavailable):
    """
    The storage refuses writes.

    Args:
        reason: What the engine said.
    """

    code = "storage-failed"
    retry_after_s = 5

    def __init__(self, reason: str) -> None:
        super().__init__(f"the storage failed ({reason}); nothing was written")
        self.reason = reason


class StorageSilent(StorageFailed):
    """The database does not answer at all: it is frozen, or out of reach."""

    is_silent = True


class OutcomeUnknown(LedgerError):
    """
    The connection to the database broke while a change was being committed: that happened whole, or not at all.

    Args:
        reason: What the driver said.
        is_silent: The database does not answer at all.
    """

    code = "outcome-unknown"
    retry_after_s = 1

    def __init__(self, reason: str, *, is_silent: bool = False) -> None:
        self.is_silent = is_silent
        super().__init__(
            f"the database went away while this was being committed ({reason}); nobody knows whether it was "
            "written. Send it again under the same idempotency key, which has one effect, or read what there is"
        )


class UnusableDatabase(Exception):
    """The database cannot be opened as it is; the text says why and what to do."""
