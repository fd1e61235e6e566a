"""
Events: what was accepted and recorded. Their names and shapes are on disk for ever.

An event is an operation that was accepted, or a step in the run's life, in an envelope (who, when, where in the
log). Its data is kept as the exact text that was hashed.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue
from pydantic.alias_generators import to_camel
from typing_extensions import TypeIs

from projections import values
from projections.lifecycle import Status, parse_status
from projections.operations import (
    AppendItem,
    Delete,
    Increment,
    MetadataOperation,
    Operation,
    RemoveItem,
    Set,
    Update,
)
from projections.times import Microseconds, format_time, parse_time


def _moment(value: object) -> Microseconds:
    return value if type(value) is int else parse_time(value)


AnyStatus = Annotated[Status, BeforeValidator(parse_status)]


class _Step(BaseModel):
    """A step in a run's life."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    event_type: ClassVar[str]


class RunCreated(_Step):
    """The run exists, with its first metadata. Always version 1."""

    event_type: ClassVar[str] = "run.created"
    task: str
    parent: str | None = None
    root: str | None = None
    batch: str | None = None
    tags: tuple[str, ...] = ()
    status: AnyStatus = Status.QUEUED
    idempotency_key: str | None = None
    payload: JsonValue = None
    payload_type: str | None = None
    metadata: dict[str, JsonValue] = {}
    # Left out of the data where there is no idempotency key, or the caller did not say what it was made of.
    idempotency_expires_at: Annotated[Microseconds, BeforeValidator(_moment)] | None = None
    idempotency_key_options: dict[str, str] | None = None


class RunStatusChanged(_Step):
    """The run has another status, and perhaps an output or an error."""

    event_type: ClassVar[str] = "run.status_changed"
    status: AnyStatus
    output: JsonValue = None
    error: JsonValue = None


class RunTagged(_Step):
    """The run has these tags besides those it had."""

    event_type: ClassVar[str] = "run.tagged"
    tags: tuple[str, ...]


class RunErased(_Step):
    """
    What stood at a path was erased from the events named here, whose data is a redacted copy since.

    One erasure may take several of these events; they carry the same number.
    """

    event_type: ClassVar[str] = "run.erased"
    erasure: int  # 1 for the run's first.
    key: str  # The path as a person writes it.
    path: tuple[str, ...]  # Its names.
    reason: str
    redacted: tuple[tuple[int, str], ...]  # Version, and the commitment of the redacted copy in hexadecimal.


@dataclass(frozen=True, slots=True)
class Redacted:
    """
    An operation whose value was erased.

    Attributes:
        event_type: The type of the event that it was.
        key: Its key, cut short where it led below what was erased.
        removed: Places of the list that a remove took items from; the item it named is erased.
        blank: It leaves null behind, because the places of a list have to stay; else it does nothing.
    """

    event_type: str
    key: str
    removed: tuple[int, ...] = ()
    blank: bool = False


Body = Operation | RunCreated | RunStatusChanged | RunTagged | RunErased
StoredBody = Body | Redacted

_STEPS: dict[str, type[RunCreated | RunStatusChanged | RunTagged | RunErased]] = {
    step.event_type: step for step in (RunCreated, RunStatusChanged, RunTagged, RunErased)
}
_OPERATIONS: dict[str, type[Operation]] = {
    operation.event_type: operation for operation in (Set, Delete, AppendItem, RemoveItem, Increment, Update)
}
EVENT_TYPES = (*_STEPS, *_OPERATIONS)  # every type that an event can have
_OPERATION_KINDS = frozenset(_OPERATIONS.values())


def _without_members(kind: Any) -> Operation:
    blank: Operation = kind.model_construct()
    return blank


# Operations without key and value. To copy one takes a third of the time that pydantic takes to make it.
_BLANKS = {kind: _without_members(operation) for kind, operation in _OPERATIONS.items()}


class NewEvent(NamedTuple):
    """
    An event that was decided and is not recorded yet.

    Attributes:
        type: Such as `metadata.set`.
        data: Compact JSON text, stored and hashed exactly so.
        occurred_at: The caller's clock, None where the caller named no time.
    """

    type: str
    data: str
    occurred_at: Microseconds | None = None


class _Recorded(NamedTuple):
    position: int
    run_id: str
    version: int
    type: str
    data: str
    actor: str
    attempt: int
    headers: str
    occurred_at: Microseconds | None
    recorded_at: Microseconds
    hash: bytes


class Event(_Recorded):
    """
    A recorded event in its envelope.

    Attributes:
        position: Place in the environment's log.
        run_id: The run whose stream it belongs to.
        version: Place in that stream; the first event is version 1.
        type: Such as `metadata.set`.
        data: Compact JSON text.
        actor: Who made the change.
        attempt: The attempt of the run that made it.
        headers: Compact JSON text: `sourceRun`, `sourceAttempt`, `onBehalfOf`, `traceparent` where they apply.
        occurred_at: The caller's clock, None where the caller named no time.
        recorded_at: The ledger's clock; never goes backwards within an environment.
        hash: 32 bytes that depend on this event and all before it in the stream.
    """

    @cached_property
    def body(self) -> StoredBody:
        """What happened, read from the stored data."""
        return load_body(self.type, self.data)


def operation_event(operation: Operation) -> NewEvent:
    """Write down an operation that was accepted, as it will be stored."""
    return NewEvent(operation.event_type, _operation_data(operation), operation.occurred_at)


def new_event(body: Body) -> NewEvent:
    """Write down what happened, as it will be stored."""
    if isinstance(body, MetadataOperation):
        return operation_event(body)
    members: dict[str, Any] = body.model_dump(by_alias=True, mode="json")
    if isinstance(body, RunCreated):
        expires = members.pop("idempotencyExpiresAt")
        options = members.pop("idempotencyKeyOptions")
        if expires is not None:
            members["idempotencyExpiresAt"] = format_time(expires)
        if options is not None:
            members["idempotencyKeyOptions"] = options
    if isinstance(body, RunStatusChanged):
        members = {name: value for name, value in members.items() if value is not None}
    return NewEvent(body.event_type, values.dump(members))


def load_body(event_type: str, data: str) -> StoredBody:
    """Read what `new_event` or an erasure wrote; the time at which it happened stands in the envelope."""
    members: dict[str, Any] = json.loads(data)
    blank = _BLANKS.get(event_type)
    if blank is not None:
        if "erased" in members and "value" not in members:
            return Redacted(
                event_type, members["key"], tuple(members.get("removed", ())), members.get("blank", False)
            )
        return blank.model_copy(update=members)  # Checked when it was accepted.
    return _STEPS[event_type].model_validate(members)


def is_operation(body: StoredBody) -> TypeIs[Operation]:
    """Whether an event was an operation. Classes of pydantic say in Python, slowly, what is none of theirs."""
    return type(body) in _OPERATION_KINDS


def _operation_data(operation: Operation) -> str:
    match operation.type:
        case "delete":
            return values.dump({"key": operation.key})
        case "update":
            return values.dump({"value": operation.value})
        case _:
            return values.dump({"key": operation.key, "value": operation.value})
