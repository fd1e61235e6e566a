"""What request bodies may say. Field names are camelCase on the wire; unknown members are ignored."""

import re
from typing import Annotated, Any, Literal, NotRequired

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
from typing_extensions import TypedDict

from ledger.run_ids import RUN_ID, RUN_ID_SCHEMA, new_batch_id, new_run_id
from ledger.writes import (
    REASON_CHARACTERS_MAX,
    ChangeMetadata,
    ChangeStatus,
    CreateBatch,
    CreateRun,
    EraseKey,
    TagRun,
)
from projections import values
from projections.events import AnyStatus
from projections.lifecycle import Status
from projections.operations import AnyOperation, Key, Object, Operation, Update, Value
from projections.paths import literal, parse_key
from projections.size import (
    ATTEMPT_MAX,
    BATCH_RUNS_MAX,
    NAME_CHARACTERS_MAX,
    OPERATIONS_MAX,
    PAYLOAD_BYTES_MAX,
    TAG_CHARACTERS_MAX,
    TAGS_MAX,
    size_bytes,
)

IDEMPOTENCY_TTL_S_DEFAULT = 30 * 86_400  # seconds; the SDK's documentation: keys are kept for 30 days
IDEMPOTENCY_TTL_S_MAX = 10 * 365 * 86_400  # seconds; ten years, so that the moment it ends can be stored

TOKEN_SCOPES_MAX = 100  # scopes of one public token, which has to fit into a header

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "hr": 3_600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:w|d|hr|h|m|s)){1,5}")


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


def _packet(value: object) -> object:
    """
    What a packet holds, None for an empty one.

    Source: `stopAndReturnLastFlush` of the SDK, which writes `{json, meta}` as text; `json` is the plain value. A
    caller without the SDK may send the plain value, or its text, as `application/json`.
    """
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError("must be an object with data and dataType")  # noqa: TRY004 - pydantic reads ValueError.
    data, kind = value.get("data"), value.get("dataType")
    if kind not in ("application/json", "application/super+json"):  # A list cannot be looked up in a set.
        raise ValueError("dataType must be application/super+json or application/json")
    if data is None:
        return None
    if isinstance(data, str):
        data = values.parse(data)
    if kind == "application/super+json":
        if not isinstance(data, dict) or "json" not in data:
            raise ValueError("data must be the text of an object that has a json")
        data = data["json"]
    if not isinstance(data, dict):
        raise ValueError("must be an object")  # noqa: TRY004 - pydantic reads ValueError.
    return data


def _key_options(value: object) -> object:
    """What the SDK made a key of, for people to read; in another form it says nothing and harms nothing."""
    if not isinstance(value, dict):
        return None
    return {name: value[name][:2_048] for name in ("key", "scope") if isinstance(value.get(name), str)} or None


def _ttl(value: object) -> int:
    parts = re.findall(r"([0-9]+)([a-z]+)", value) if isinstance(value, str) and _DURATION.fullmatch(value) else []
    seconds_of = {_SECONDS[unit]: int(count) * _SECONDS[unit] for count, unit in parts}
    if not parts or len(seconds_of) != len(parts):  # A unit that comes twice means two things.
        raise ValueError("must be a duration such as 60s, 15m, 24h or 7d")
    seconds = sum(seconds_of.values())
    if seconds > IDEMPOTENCY_TTL_S_MAX:
        raise _past_a_bound(f"is {seconds:,} seconds, at most {IDEMPOTENCY_TTL_S_MAX:,} are allowed")
    return seconds


def _task(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError(f"a task has 1 to {NAME_CHARACTERS_MAX} printable characters")
    return text


# What a validator asks beyond a type is said beside it, for the contract over HTTP.
_Tag = Annotated[str, Field(max_length=TAG_CHARACTERS_MAX)]
_TagsAsSent = Annotated[
    _Tag | list[_Tag],
    Field(description=f"One, or a list; at most {TAGS_MAX}. Blank ones and repeats are dropped."),
]
_NOT_BLANK: JsonDict = {"pattern": r"\S"}

Task = Annotated[str, Field(max_length=NAME_CHARACTERS_MAX, json_schema_extra=_NOT_BLANK), AfterValidator(_task)]
TriggerKey = Annotated[str, Field(min_length=1, max_length=2_048, pattern=r"^[^\x00]*$")]
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
    int, BeforeValidator(_ttl, Annotated[str, Field(pattern=f"^{_DURATION.pattern}$", examples=["24h"])])
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
    idempotency_key: TriggerKey | None = None
    idempotency_key_ttl: Duration | None = Field(
        default=IDEMPOTENCY_TTL_S_DEFAULT,
        validation_alias="idempotencyKeyTTL",
        json_schema_extra={"default": "30d"},
    )
    idempotency_key_options: Annotated[
        dict[str, str] | None,
        BeforeValidator(
            _key_options, Annotated[Any, Field(description="What the SDK made the key of: `key` and `scope`.")]
        ),
    ] = None
    parent_run_id: RunId | None = None


class Trigger(_Wire):
    """Trigger a task, as the Trigger.dev SDK does."""

    payload: Payload = None
    options: TriggerOptions | None = None

    def command(self, task: str, *, batch: str | None = None, item: int | None = None) -> CreateRun:
        """What it asks of the log, for a run of *task*, perhaps in a place of a batch."""
        options = self.options or TriggerOptions()
        ttl_s = options.idempotency_key_ttl
        return CreateRun(
            run_id=new_run_id(),
            task=task,
            parent=options.parent_run_id,
            batch=batch,
            item=item,
            tags=options.tags,
            payload=self.payload,
            payload_type=options.payload_type,
            metadata=options.metadata or {},
            idempotency_key=options.idempotency_key,
            idempotency_ttl_s=IDEMPOTENCY_TTL_S_DEFAULT if ttl_s is None else ttl_s,
            idempotency_key_options=options.idempotency_key_options if options.idempotency_key else None,
        )


class BatchItem(Trigger):
    """One run of a batch."""

    index: Annotated[int, Field(ge=0, lt=BATCH_RUNS_MAX)]
    task: Task

    def in_batch(self, batch: str) -> CreateRun:
        """What it asks of the log."""
        return self.command(self.task, batch=batch, item=self.index)


class NewBatch(_Wire):
    """Make room for the runs of a batch."""

    run_count: Annotated[int, Field(ge=1, json_schema_extra={"maximum": BATCH_RUNS_MAX})]
    task_identifiers: list[Name] = Field(default_factory=list, description="The tasks that it is to hold runs of.")
    idempotency_key: TriggerKey | None = None

    def command(self) -> CreateBatch:
        """What it asks of the log."""
        return CreateBatch(
            batch_id=new_batch_id(),
            run_count=self.run_count,
            idempotency_key=self.idempotency_key,
            idempotency_ttl_s=IDEMPOTENCY_TTL_S_DEFAULT,
        )

    def model_post_init(self, _: Any) -> None:
        """Hold the batch against its bound."""
        if self.run_count > BATCH_RUNS_MAX:
            raise _past_a_bound(f"a batch has at most {BATCH_RUNS_MAX:,} runs, this one {self.run_count:,}")


class OldBatchItem(Trigger):
    """One run of a batch that comes whole."""

    task: Task


class TriggerBatch(_Wire):
    """Create a batch and its runs, as older releases of the SDK do."""

    items: Annotated[tuple[OldBatchItem, ...], Field(min_length=1, max_length=BATCH_RUNS_MAX, strict=False)]

    def command(self) -> CreateBatch:
        """What it asks of the log first."""
        return CreateBatch(batch_id=new_batch_id(), run_count=len(self.items))

    def items_in(self, batch: str) -> list[CreateRun]:
        """What it asks of the log then."""
        return [item.command(item.task, batch=batch, item=place) for place, item in enumerate(self.items)]


class NewTags(_Wire):
    """Give a run more tags."""

    tags: Tags
    actor: Name | None = None

    def command(self, run_id: str, expected: frozenset[int] | None = None) -> TagRun:
        """What it asks of the log for a run that has one of the *expected* versions."""
        return TagRun(run_id=run_id, tags=self.tags, expected=expected)


class Cancellation(_Wire):
    """Cancel a run; the SDK sends no body."""

    actor: Name | None = None

    def command(self, run_id: str, expected: frozenset[int] | None = None) -> ChangeStatus:
        """What it asks of the log for a run that has one of the *expected* versions."""
        return ChangeStatus(run_id=run_id, status=Status.CANCELED, expected=expected, unless_finished=True)


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


class Packet(TypedDict):
    """What the metadata manager of the SDK hands over at the end of a run, by `stopAndReturnLastFlush`."""

    data: NotRequired[
        Annotated[
            str | dict[str, JsonValue] | None, Field(description="A change of metadata, or JSON text of one.")
        ]
    ]
    dataType: Literal["application/json", "application/super+json"]


class NewStatus(_Wire):
    """Give a run another status."""

    status: AnyStatus
    attempt: Attempt | None = None
    output: Payload = None
    error: Annotated[RunError, AfterValidator(_error_bounds), BeforeValidator(_error, RunError | str)] | None = (
        None
    )
    last_flush: Annotated[MetadataChange | None, BeforeValidator(_packet, Packet | None)] = None
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
            last_change=None if self.last_flush is None else self._last_change(self.last_flush, run_id),
        )

    def _last_change(self, flush: MetadataChange, run_id: str) -> ChangeMetadata | None:
        change = flush.command(run_id)
        return change if change.operations or change.parent_operations or change.root_operations else None

    def model_post_init(self, _: Any) -> None:
        """Take a last flush only with the end of a run."""
        if self.last_flush is not None and not self.status.is_finished:
            raise PydanticCustomError(
                "last_flush",
                "has a lastFlush, which goes with a status that ends the run; send it to the metadata instead",
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


class Realtime(_Wire):
    """What a public token says of realtime feeds."""

    skip_columns: list[str] = Field(default_factory=list, max_length=TOKEN_SCOPES_MAX)


class NewPublicToken(_Wire):
    """Sign a public token."""

    scopes: list[Annotated[str, Field(min_length=1, max_length=1_024)]] = Field(
        min_length=1, max_length=TOKEN_SCOPES_MAX
    )
    expiration_time: Annotated[float, Field(ge=0, lt=1e11)] | Annotated[str, Field(max_length=64)] | None = None
    one_time_use: bool | None = None
    realtime: Realtime | None = None


NEW_RUN = TypeAdapter(NewRun)
TRIGGER = TypeAdapter(Trigger)
NEW_BATCH = TypeAdapter(NewBatch)
BATCH_ITEM = TypeAdapter(BatchItem)
TRIGGER_BATCH = TypeAdapter(TriggerBatch)
NEW_TAGS = TypeAdapter(NewTags)
CANCELLATION = TypeAdapter(Cancellation)
NEW_STATUS = TypeAdapter(NewStatus)
METADATA_CHANGE = TypeAdapter(MetadataChange)
ERASURE = TypeAdapter(Erasure)
PUBLIC_TOKEN = TypeAdapter(NewPublicToken)
