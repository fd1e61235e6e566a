"""
The life of a run: its statuses and the steps between them.

Source: the public status names of the Trigger.dev API; what `is_completed` and the others say is what its
retrieve endpoint answers (there EXPIRED and TIMED_OUT end a run without counting as completed).
"""

from enum import StrEnum

from projections.errors import BadTransition


class Status(StrEnum):
    """Where a run stands, by its public name."""

    PENDING_VERSION = "PENDING_VERSION"
    QUEUED = "QUEUED"
    DELAYED = "DELAYED"
    DEQUEUED = "DEQUEUED"
    EXECUTING = "EXECUTING"
    WAITING = "WAITING"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"
    FAILED = "FAILED"
    CRASHED = "CRASHED"
    SYSTEM_FAILURE = "SYSTEM_FAILURE"
    EXPIRED = "EXPIRED"
    TIMED_OUT = "TIMED_OUT"

    @property
    def is_finished(self) -> bool:
        """The run is over: it has a finished time, and later writes are judged as late."""
        return self in _FINISHED

    @property
    def is_queued(self) -> bool:
        """Waiting for its first start."""
        return self in {Status.QUEUED, Status.DELAYED, Status.PENDING_VERSION}

    @property
    def is_executing(self) -> bool:
        """At work, or about to be."""
        return self in {Status.EXECUTING, Status.DEQUEUED}

    @property
    def is_completed(self) -> bool:
        """Over, as the retrieve endpoint says it."""
        return self in _FINISHED and self not in {Status.EXPIRED, Status.TIMED_OUT}


_FINISHED = frozenset(
    {
        Status.COMPLETED,
        Status.CANCELED,
        Status.FAILED,
        Status.CRASHED,
        Status.SYSTEM_FAILURE,
        Status.EXPIRED,
        Status.TIMED_OUT,
    }
)


def parse_status(value: object) -> Status:
    """
    Read a public status name in any case.

    Raises:
        ValueError: There is no such status; the text lists those there are.
    """
    try:
        name = str(value)
        return Status(name.upper() if name.isascii() else name)  # Other scripts have letters that become ours.
    except ValueError:
        raise ValueError(f"unknown status; there are {', '.join(Status)}") from None


def decide_status(current: Status, attempt: int, wanted: Status, wanted_attempt: int) -> bool:
    """
    Whether the step from *current* to *wanted* is an event; the same status again is none.

    Args:
        current: The run's status.
        attempt: The attempt that gave it.
        wanted: The status asked for.
        wanted_attempt: The attempt that asks.

    Raises:
        BadTransition: The run is over and no later attempt asks, or an attempt asks that is over.
    """
    if wanted == current:
        return False
    if wanted_attempt < attempt:
        raise BadTransition(current, wanted, f"attempt {wanted_attempt} asks, and the run is in attempt {attempt}")
    if current.is_finished and wanted.is_finished:
        raise BadTransition(current, wanted, "it is over; start a new attempt first")
    if current.is_finished and wanted_attempt == attempt:
        raise BadTransition(current, wanted, f"it is over; send an attempt above {attempt} to start it again")
    return True
