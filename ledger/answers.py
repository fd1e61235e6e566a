"""What a log answers: tuples with names, which are what is made most often and costs least to make."""

from typing import NamedTuple

from ledger.faults import Report
from ledger.writes import Batch, UnappliedOperation
from projections.lifecycle import Status
from projections.snapshot import Snapshot


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
    A run as far as the restriction of a key, or the scopes of a token, are judged by it.

    Attributes:
        run_id: Its id.
        task: Its task.
        tags: Its tags.
        batch: Its batch, where that is asked for.
    """

    run_id: str
    task: str
    tags: tuple[str, ...]
    batch: str | None = None


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


class Created(NamedTuple):
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


class Changed(NamedTuple):
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


class Moved(NamedTuple):
    """
    A run after a request for another status.

    Attributes:
        run_id: The run.
        status: The status that was asked for, which it has.
        version: Its version.
        unapplied: Operations of its last change that had nothing to work on.
        is_replay: The same request came before; nothing was written now.
    """

    run_id: str
    status: Status
    version: int
    unapplied: tuple[UnappliedOperation, ...] = ()
    is_replay: bool = False


class Tagged(NamedTuple):
    """
    A run after a request for more tags.

    Attributes:
        version: Its version.
        is_replay: The same request came before; nothing was written now.
    """

    version: int
    is_replay: bool = False


class CreatedBatch(NamedTuple):
    """
    A batch that exists now.

    Attributes:
        batch: The batch.
        is_cached: It existed before this request, and is complete.
        is_replay: The same request came before; nothing was written now.
    """

    batch: Batch
    is_cached: bool
    is_replay: bool = False


class Erased(NamedTuple):
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


class Verified(NamedTuple):
    """
    A run that was verified.

    Attributes:
        version: The version its head has.
        report: What was found.
    """

    version: int
    report: Report
