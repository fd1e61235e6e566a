"""What request bodies may say. Field names are camelCase on the wire; unknown members are ignored."""

import re
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from ledger.run_ids import RUN_ID, RUN_ID_SCHEMA, new_run_id
from ledger.writes import REASON_CHARACTERS_MAX, ChangeMetadata, ChangeStatus, CreateRun, EraseKey
from projections import values
from projections.events import AnyStatus
from projections.lifecycle import Status
from projections.operations import AnyOperation, Key, Object, Operation, Update, Value
from projections.paths import literal, parse_key
from projections.size import (
    ATTEMPT_MAX,
    NAME_CHARACTERS_MAX,
    OPERATIONS_MAX,
    PAYLOAD_BYTES_MAX,
    TAG_CHARACTERS_MAX,
    TAGS_MAX,
    size_bytes,
)

IDEMPOTENCY_TTL_S_DEFAULT = 30 * 86_400  # seconds; the SDK's documentation: keys are kept for 30 days
IDEMPOTENCY_TTL_S_MAX = 10 * 365 * 86_400  # seconds; ten years, so that the moment it ends can be stored

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def _past_a_bound(message: str) -> PydanticCustomError:
    return PydanticCustomError("out_of_bounds", "{message}", {"message": message})


def _name(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def _run_id(text: str) -> str:
    if not RUN_ID.fullmatch(text):
        raise ValueError("a run id has 1 to 128 of the characters A-Z a-z 0-9 . _ : @ + = -")
    return text


def _payload(value: JsonValue) -> JsonValue:
    size = size_bytes(values.dump(value))
    if size > PAYLOAD_BYTES_MAX:
        raise PydanticCustomError(
            "too_many_bytes",
            "is {size} bytes as JSON, at most {limit} are allowed",
            {"size": size, "limit": PAYLOAD_BYTES_MAX},
        )
    return value


def _tags(value: object) -> object:
    """A single tag may stand alone; blank tags and repeats are dropped, as the reference server does."""
    tags = [value] if isinstance(value, str) else value
    if not isinstance(tags, list | tuple) or not all(isinstance(tag, str) for tag in tags):
        raise ValueError("must be a string or a list of strings")
    return tuple(dict.fromkeys(tag for tag in tags if tag.strip()))


def _tag_bounds(tags: tuple[str, ...]) -> tuple[str, ...]:
    if len(tags) > TAGS_MAX:
        raise _past_a_bound(f"a run has at most {TAGS_MAX} tags, these are {len(tags)}")
    for tag in tags:
        if len(tag) > TAG_CHARACTERS_MAX:
            raise _past_a_bound(f"a tag has at most {TAG_CHARACTERS_MAX} characters, one has {len(tag)}")
    return tags


def _error(value: object) -> object:
    return {"message": value} if isinstance(value, str) else value


def _ttl(value: object) -> int:
    found = re.fullmatch(r"([0-9]{1,9})([smhdw])", value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("must be a duration such as 60s, 15m, 24h or 7d")
    seconds = int(found[1]) * _SECONDS[found[2]]
    if seconds > IDEMPOTENCY_TTL_S_MAX:
        raise _past_a_bound(f"is {seconds:,} seconds, at most {IDEMPOTENCY_TTL_S_MAX:,} are allowed")
    return seconds


# What a validator asks beyond a type is said beside it, for the contract over HTTP.
_Tag = Annotated[str, Field(max_length=TAG_CHARACTERS_MAX)]
_TagsAsSent = Annotated[
    _Tag | list[_Tag],
    Field(description=f"One, or a list; at most {TAGS_MAX}. Blank ones and repeats are dropped."),
]
_NOT_BLANK: JsonDict = {"pattern": r"\S"}

Name = Annotated[str, Field(max_length=NAME_CHARACTERS_MAX, json_schema_extra=_NOT_BLANK), AfterValidator(_name)]
Reason = Annotated[
    str, Field(max_length=REASON_CHARACTERS_MAX, json_schema_extra=_NOT_BLANK), AfterValidator(_name)
]
RunId = Annotated[str, AfterValidator(_run_id), WithJsonSchema({**RUN_ID_SCHEMA})]
Attempt = Annotated[int, Field(ge=1, le=ATTEMPT_MAX)]
Tags = Annotated[tuple[str, ...], AfterValidator(_tag_bounds), BeforeValidator(_tags, _TagsAsSent)]
Payload = Annotated[
    Value,
    AfterValidator(_payload),
    Field(description=f"Any JSON, at most {PAYLOAD_BYTES_MAX:,} bytes; null is the same as nothing."),
]
Duration = Annotated[
    int, BeforeValidator(_ttl, Annotated[str, Field(pattern="^[0-9]{1,9}[smhdw]$", examples=["24h"])])
]
Operations = Annotated[tuple[AnyOperation, ...], Field(max_length=OPERATIONS_MAX, strict=False)]


class _Wire(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=False, strict=True
    )


class NewRun(_Wire):
    """Create a run."""

    id: RunId | None = Field(default=None, description="The id it is to have; made up when left out.")
    task: Name
    metadata: Object = Field(default_factory=dict)
    tags: Tags = ()
    parent_run_id: RunId | None = None
    payload: Payload = None
    status: AnyStatus = Status.QUEUED
    attempt: Attempt = 1
    actor: Name | None = None

    def command(self) -> CreateRun:
        """What it asks of the log."""
        return CreateRun(
            run_id=self.id or new_run_id(),
            task=self.task,
            parent=self.parent_run_id,
            tags=self.tags,
            status=self.status,
            attempt=self.attempt,
            payload=self.payload,
            metadata=self.metadata,
        )


class TriggerOptions(_Wire):
    """Options of a trigger; what is not about metadata is accepted and has no effect here."""

    payload_type: str | None = Field(default=None, max_length=NAME_CHARACTERS_MAX)
    metadata: Object | None = None
    tags: Tags = ()
    idempotency_key: Annotated[str, Field(min_length=1, max_length=2_048, pattern=r"^[^\x00]*$")] | None = None
    idempotency_key_ttl: Duration | None = Field(
        default=IDEMPOTENCY_TTL_S_DEFAULT,
        validation_alias="idempotencyKeyTTL",
        json_schema_extra={"default": "30d"},
    )
    parent_run_id: RunId | None = None


class Trigger(_Wire):
    """Trigger a task, as the Trigger.dev SDK does."""

    payload: Payload = None
    options: TriggerOptions | None = None

    def command(self, task: str) -> CreateRun:
        """What it asks of the log, for a run of *task*."""
        options = self.options or TriggerOptions()
        ttl_s = options.idempotency_key_ttl
        return CreateRun(
            run_id=new_run_id(),
            task=task,
            parent=options.parent_run_id,
            tags=options.tags,
            payload=self.payload,
            payload_type=options.payload_type,
            metadata=options.metadata or {},
            idempotency_key=options.idempotency_key,
            idempotency_ttl_s=IDEMPOTENCY_TTL_S_DEFAULT if ttl_s is None else ttl_s,
        )


class RunError(_Wire):
    """Why a run failed."""

    message: str
    name: str | None = None
    stack_trace: str | None = None

    def members(self) -> values.JsonObject:
        """As it is stored."""
        return self.model_dump(by_alias=True, exclude_none=True)


def _error_bounds(error: RunError) -> RunError:
    _payload(error.members())
    return error


class NewStatus(_Wire):
    """Give a run another status."""

    status: AnyStatus
    attempt: Attempt | None = None
    output: Payload = None
    error: Annotated[RunError, AfterValidator(_error_bounds), BeforeValidator(_error, RunError | str)] | None = (
        None
    )
    actor: Name | None = None

    def command(self, run_id: str, expected: frozenset[int] | None = None) -> ChangeStatus:
        """What it asks of the log for a run that has one of the *expected* versions."""
        return ChangeStatus(
            run_id=run_id,
            status=self.status,
            attempt=self.attempt,
            output=self.output,
            error=None if self.error is None else self.error.members(),
            expected=expected,
        )


class MetadataChange(_Wire):
    """Change metadata: operations, or a whole new object when there is no list of operations."""

    # Null is refused where a list or an object belongs: a caller that sends it means something else.
    metadata: Object = Field(default_factory=dict)
    operations: Operations = ()
    parent_operations: Operations = ()
    root_operations: Operations = ()
    attempt: Attempt | None = None
    actor: Name | None = None

    def command(self, run_id: str, expected: frozenset[int] | None = None) -> ChangeMetadata:
        """What it asks of the log for a run that has one of the *expected* versions."""
        return ChangeMetadata(
            run_id=run_id,
            operations=self._own_operations(),
            parent_operations=self.parent_operations,
            root_operations=self.root_operations,
            attempt=self.attempt,
            expected=expected,
        )

    def _own_operations(self) -> tuple[Operation, ...]:
        """What to do to the run's own metadata; `metadata` is ignored beside a list of operations."""
        from_lists = "operations" in self.model_fields_set or "metadata" not in self.model_fields_set
        return self.operations if from_lists else (Update.model_construct(value=self.metadata),)

    def model_post_init(self, _: Any) -> None:
        """Hold the three lists together against their bound."""
        count = len(self.operations) + len(self.parent_operations) + len(self.root_operations)
        if count > OPERATIONS_MAX:
            raise _past_a_bound(
                f"has {count} operations over its three lists, at most {OPERATIONS_MAX} are allowed"
            )


class Erasure(_Wire):
    """Erase what ever stood at a key, with all below it."""

    key: Key
    reason: Reason = Field(description="Why; it is recorded for ever.")
    literal: bool = Field(default=False, description="The key is no path, although it starts with $. (a dot).")
    actor: Name | None = None

    def command(self, run_id: str, expected: frozenset[int] | None = None) -> EraseKey:
        """
        What it asks of the log for a run that has one of the *expected* versions.

        Raises:
            BadPath: A path that no operation may use.
        """
        path = literal(self.key) if self.literal else parse_key(self.key)
        return EraseKey(run_id=run_id, path=path, reason=self.reason, expected=expected)


NEW_RUN = TypeAdapter(NewRun)
TRIGGER = TypeAdapter(Trigger)
NEW_STATUS = TypeAdapter(NewStatus)
METADATA_CHANGE = TypeAdapter(MetadataChange)
ERASURE = TypeAdapter(Erasure)
