"""
What the routes answer, as types: `/openapi.json` describes answers by them, and tests hold real answers to them.

Handlers write answers as text, for speed; nothing is validated on its way out. A member that is left out where
there is nothing to say is `NotRequired`; null is written only where the type says so. Readers must put up with
members that are not described: there will be more.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, JsonValue, WithJsonSchema
from typing_extensions import TypedDict

from api.cursors import AFTER
from api.parameters import TIME_SCHEMA
from ledger.run_ids import BATCH_ID_SCHEMA, RUN_ID_SCHEMA
from ledger.writes import ListName
from projections.events import EVENT_TYPES
from projections.lifecycle import Status

RunId = Annotated[str, WithJsonSchema({**RUN_ID_SCHEMA})]
BatchId = Annotated[str, WithJsonSchema({**BATCH_ID_SCHEMA})]
RunCursor = Annotated[str, WithJsonSchema({**AFTER.schema})]
Time = Annotated[str, WithJsonSchema({**TIME_SCHEMA, "description": "ISO 8601 in UTC, with microseconds."})]
Version = Annotated[int, Field(ge=1, description="The number of events in the run's stream.")]
Place = Annotated[int, Field(ge=1, description="The version that the event gave the run.")]
Attempt = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Bytes = Annotated[int, Field(ge=0, description="Bytes of compact JSON in UTF-8.")]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Object = dict[str, JsonValue]
EventType = Annotated[str, WithJsonSchema({"type": "string", "enum": [*EVENT_TYPES]})]
VersionText = Annotated[str, Field(pattern="^[0-9]+$")]


class Problem(TypedDict):
    """An error (RFC 9457). Further members tell a program what it needs to react, such as `limitBytes`."""

    type: Annotated[str, Field(pattern="^urn:run-ledger:problem:")]
    title: Annotated[str, Field(description="The kind of problem, the same for every answer with this code.")]
    status: Annotated[int, Field(ge=400, le=599)]
    detail: Annotated[str, Field(description="What happened here and how to mend it.")]
    error: Annotated[str, Field(description="The same as `detail`, for the Trigger.dev SDK.")]
    code: Annotated[str, Field(description="A stable word for programs.")]


class CreatedRun(TypedDict):
    """A run that exists now."""

    id: RunId
    version: Version
    isCached: Annotated[bool, Field(description="It existed before this request, and is untouched.")]


class MovedRun(TypedDict):
    """A run after a request for another status."""

    id: RunId
    status: Status
    version: Version
    unapplied: NotRequired[
        Annotated[
            list["Unapplied"], Field(description="Operations of `lastFlush`; there only where one was sent.")
        ]
    ]


class CanceledRun(TypedDict):
    """A run that is over."""

    id: RunId
    version: Version


class TaggedRun(TypedDict):
    """A run after a request for more tags."""

    message: str
    id: RunId
    version: Version


class CreatedBatch(TypedDict):
    """A batch that exists now."""

    id: BatchId
    runCount: Annotated[int, Field(ge=1, description="How many runs it has room for.")]
    isCached: Annotated[bool, Field(description="It existed before this request.")]
    idempotencyKey: NotRequired[str]


class BatchProgress(TypedDict):
    """How far a batch is filled."""

    id: BatchId
    itemsAccepted: Annotated[int, Field(ge=0, description="Places that this request took.")]
    itemsDeduplicated: Annotated[int, Field(ge=0, description="Places of this request that were taken before.")]
    sealed: Annotated[bool, Field(description="All its places are taken.")]
    enqueuedCount: Count
    expectedCount: Count


class BatchProcessing(TypedDict):
    """How a batch went."""

    completedAt: NotRequired[Time]
    errors: list[JsonValue]


class Batch(TypedDict):
    """A batch with the ids of its runs, as far as the key may read them."""

    id: BatchId
    status: Annotated[
        Literal["PENDING", "PROCESSING", "COMPLETED"],
        Field(description="It lacks runs, some are at work, or all are over."),
    ]
    idempotencyKey: NotRequired[str]
    createdAt: Time
    updatedAt: Time
    runCount: Count
    runs: list[RunId]
    processing: BatchProcessing


class Metadata(TypedDict):
    """The metadata of a run."""

    metadata: Object
    metadataType: Literal["application/json"]
    version: Version
    sizeBytes: Bytes
    limitBytes: Bytes


class Unapplied(TypedDict):
    """An operation that had nothing to work on."""

    list: ListName
    index: Count
    key: str
    reason: str


class ChangedMetadata(TypedDict):
    """The metadata of a run after a change."""

    metadata: Object
    version: Version
    sizeBytes: Bytes
    limitBytes: Bytes
    unapplied: list[Unapplied]


class Headers(TypedDict):
    """Where a change came from."""

    sourceRun: NotRequired[RunId]
    sourceAttempt: NotRequired[Attempt]
    onBehalfOf: NotRequired[str]
    traceparent: NotRequired[str]


class Event(TypedDict):
    """
    What was recorded.

    For `metadata.*` the members of `data` stand beside it too. `erased` marks one that something was erased from.
    """

    position: Annotated[int, Field(ge=1, description="Place in the environment's log.")]
    runId: RunId
    version: Place
    type: EventType
    key: NotRequired[str]
    value: NotRequired[JsonValue]
    erased: NotRequired[Literal[True]]
    removed: NotRequired[list[Count]]
    blank: NotRequired[Literal[True]]
    data: Object
    actor: str
    attempt: Attempt
    headers: Headers
    occurredAt: Time | None
    recordedAt: Time
    hash: Hash


class Entry(Event):
    """An event with what it did. `before` and `after` are left out where there was no value."""

    before: NotRequired[JsonValue]
    after: NotRequired[JsonValue]
    sizeBytes: Annotated[int, Field(ge=0, description="Size of the metadata after it.")]


class Refusal(TypedDict):
    """What was refused; no values."""

    runId: RunId
    version: Annotated[int, Field(ge=0, description="The version that the run had.")]
    type: Literal["refused"]
    code: str
    reason: str
    key: NotRequired[str]
    sizeBytes: NotRequired[Bytes]
    limitBytes: NotRequired[Bytes]
    actor: str
    attempt: Attempt
    headers: Headers
    recordedAt: Time


class VersionCursors(TypedDict):
    """Versions to go on from."""

    next: NotRequired[Annotated[VersionText, Field(description="Send it as `after`.")]]
    previous: NotRequired[Annotated[VersionText, Field(description="Send it as `before`.")]]


class History(TypedDict):
    """A page of a run's history."""

    data: list[Entry | Refusal]
    pagination: VersionCursors


class Feed(TypedDict):
    """A page of the feed."""

    data: list[Event]
    pagination: "FeedCursor"


class FeedCursor(TypedDict):
    """Where to go on; an empty page says so too."""

    next: Annotated[str, Field(description="Send it as `after`.")]
    hasMore: bool


class PatchStep(TypedDict):
    """One operation of a JSON Patch (RFC 6902)."""

    op: Literal["add", "remove", "replace"]
    path: Annotated[str, Field(description="A JSON Pointer (RFC 6901).")]
    value: NotRequired[JsonValue]


Patch = list[PatchStep]


class ExplanationStep(TypedDict):
    """An event that touched the value."""

    version: Place
    type: EventType
    key: NotRequired[str]
    value: NotRequired[JsonValue]
    actor: str
    attempt: Attempt
    sourceRun: NotRequired[RunId]
    sourceAttempt: NotRequired[Attempt]
    onBehalfOf: NotRequired[str]
    occurredAt: Time | None
    recordedAt: Time
    valueAfter: NotRequired[JsonValue]
    wipedBy: NotRequired[Annotated[int, Field(description="Version of the event that made it count no more.")]]


class Explanation(TypedDict):
    """Why a value is what it is. `value` is left out where there is none."""

    runId: RunId
    key: str
    value: NotRequired[JsonValue]
    version: Version
    events: list[ExplanationStep]
    pagination: VersionCursors


class RelatedRun(TypedDict):
    """A run without the environment it is in."""

    id: RunId
    status: Status
    taskIdentifier: str
    version: Annotated[VersionText, Field(description="Text, because the SDK wants it so.")]
    isQueued: bool
    isExecuting: bool
    isWaiting: bool
    isCompleted: bool
    isSuccess: bool
    isFailed: bool
    isCancelled: bool
    isTest: bool
    createdAt: Time
    updatedAt: Time
    startedAt: NotRequired[Time]
    finishedAt: NotRequired[Time]
    tags: list[str]
    costInCents: int
    baseCostInCents: int
    durationMs: Count
    attemptCount: Attempt
    metadata: Object
    idempotencyKey: NotRequired[str]
    batchId: NotRequired[str]


class EnvironmentName(TypedDict):
    """The environment of a run."""

    id: str
    name: str


class ListedRun(RelatedRun):
    """A run as the list shows it. What is unknown is left out."""

    env: EnvironmentName
    progress: NotRequired[
        Annotated["ProgressInShort | PendingProgress", Field(description="There where it was asked for.")]
    ]


class LastEvent(TypedDict):
    """The last event of a run, without its values."""

    version: Place
    type: EventType
    key: NotRequired[str]
    actor: str
    recordedAt: Time


class ProgressInShort(TypedDict):
    """The progress of a run. `key` and `fraction` are left out where it has none."""

    pending: Literal[False]
    key: NotRequired[str]
    fraction: NotRequired[float]
    stalled: bool
    regressed: bool
    regressions: Count
    stillSince: NotRequired[Time]
    lastEvent: LastEvent


class PendingProgress(TypedDict):
    """The progress is still being worked out; ask again."""

    pending: Literal[True]


class RunCursors(TypedDict):
    """Runs to go on from."""

    next: NotRequired[Annotated[RunCursor, Field(description="Send it as `page[after]`.")]]
    previous: NotRequired[Annotated[RunCursor, Field(description="Send it as `page[before]`.")]]


class Runs(TypedDict):
    """A page of runs, newest first."""

    data: list[ListedRun]
    pagination: RunCursors


class Relative(RelatedRun):
    """A run above or below another one."""

    depth: Count
    triggerFunction: Literal["trigger", "batchTrigger"]


class Relatives(TypedDict):
    """The runs above and below a run, as far as the key may read them."""

    parent: NotRequired[Relative]
    root: NotRequired[Relative]
    children: NotRequired[list[Relative]]


class KeyOptions(TypedDict):
    """What the SDK made an idempotency key of."""

    key: NotRequired[str]
    scope: NotRequired[str]


class RunDetails(RelatedRun):
    """A run with all there is to it."""

    depth: Count
    triggerFunction: Literal["trigger", "batchTrigger"]
    relatedRuns: Relatives
    idempotencyKeyOptions: NotRequired[KeyOptions]
    payload: NotRequired[JsonValue]
    output: NotRequired[JsonValue]
    error: NotRequired[JsonValue]


class ErasedKey(TypedDict):
    """What an erasure took out."""

    runId: RunId
    version: Version
    erased: Annotated[int, Field(ge=0, description="How many events lost something.")]


class PastErasure(TypedDict):
    """An erasure of the past."""

    environment: str
    runId: RunId
    key: str
    reason: str
    actor: str
    recordedAt: Time
    events: Count


class Fault(TypedDict):
    """What is wrong, and where."""

    environment: str | None
    runId: str | None
    version: int | None
    what: str


class FirstFault(TypedDict):
    """What is wrong first."""

    version: int | None
    what: str


class Verified(TypedDict):
    """What verifying a run found."""

    runId: RunId
    version: Version
    verified: bool
    events: Count
    erased: list[PastErasure]
    faultCount: Count
    faults: list[Fault]
    fault: NotRequired[FirstFault]


class LiveSnapshot(TypedDict):
    """The data of a live event named `snapshot`: the run as it stands."""

    runId: RunId
    task: str
    status: Status
    tags: list[str]
    version: Version
    metadata: Object
    sizeBytes: Bytes
    updatedAt: Time


class LiveFinished(TypedDict):
    """The data of a live event named `finished`: the run is over, and all up to then was sent."""

    runId: RunId
    version: Version
    status: Status


class ShapeHeaders(TypedDict):
    """What a message does to a row."""

    operation: Literal["insert", "update"]


class ShapeRow(TypedDict):
    """
    A run as a row, named as the SDK reads it; times lack their zone, which is UTC.

    Columns that were not wanted are left out, and those that never change where the row is known already.
    """

    id: RunId
    friendlyId: RunId
    taskIdentifier: str
    status: str
    createdAt: str
    updatedAt: str
    startedAt: NotRequired[str | None]
    completedAt: NotRequired[str | None]
    expiredAt: NotRequired[str | None]
    queuedAt: NotRequired[str | None]
    delayUntil: NotRequired[None]
    metadata: NotRequired[Annotated[str, Field(description="JSON text.")]]
    metadataType: NotRequired[Literal["application/json"]]
    payload: NotRequired[Annotated[str | None, Field(description="Text of the type that `payloadType` says.")]]
    payloadType: NotRequired[str]
    output: NotRequired[Annotated[str | None, Field(description="JSON text.")]]
    outputType: NotRequired[Literal["application/json"]]
    error: NotRequired[Object | None]
    runTags: NotRequired[list[str]]
    usageDurationMs: NotRequired[Count]
    idempotencyKey: NotRequired[str | None]
    ttl: NotRequired[None]
    costInCents: NotRequired[int]
    baseCostInCents: NotRequired[int]
    isTest: NotRequired[Literal[False]]
    realtimeStreams: NotRequired[list[str]]


class ShapeChange(TypedDict):
    """A run, or a newer version of it."""

    key: str
    value: ShapeRow
    headers: ShapeHeaders


class UpToDateHeaders(TypedDict):
    """Nothing more is known."""

    control: Literal["up-to-date"]


class UpToDate(TypedDict):
    """The reader has all there is."""

    headers: UpToDateHeaders


class RefetchHeaders(TypedDict):
    """All that is known has to be read again."""

    control: Literal["must-refetch"]


class MustRefetch(TypedDict):
    """The reader has to begin anew."""

    headers: RefetchHeaders


Polled = list[ShapeChange | UpToDate]
Refetch = list[MustRefetch]


class Claims(TypedDict):
    """What a public token has to say beside its scopes."""

    sub: Annotated[
        str,
        Field(description="The id of the key that it is signed with; while the ledger is open, the environment."),
    ]
    pub: Literal[True]


class SignedToken(TypedDict):
    """A public token."""

    token: str
    expiresAt: Time


class Alive(TypedDict):
    """The process lives."""

    status: Literal["ok"]


class Ready(TypedDict):
    """The process can do its work."""

    status: Literal["ready"]


OpenApiDocument = dict[str, Any]
