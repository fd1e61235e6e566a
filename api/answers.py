"""
What the routes answer, as types: `/openapi.json` describes answers by them, and tests hold real answers to them.

Handlers write answers as text, for speed; nothing is validated on its way out. A member that is left out where
there is nothing to say is `NotRequired`; null is written only where the type says so. Readers must put up with
members that are not described: there will be more.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, JsonValue, WithJsonSchema
from typing_extensions import TypedDict

from api.parameters import TIME_SCHEMA
from ledger.run_ids import RUN_ID_SCHEMA
from ledger.writes import ListName
from projections.events import EVENT_TYPES
from projections.lifecycle import Status

RunId = Annotated[str, WithJsonSchema({**RUN_ID_SCHEMA})]
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


class RunCursors(TypedDict):
    """Runs to go on from."""

    next: NotRequired[Annotated[RunId, Field(description="Send it as `page[after]`.")]]
    previous: NotRequired[Annotated[RunId, Field(description="Send it as `page[before]`.")]]


class Runs(TypedDict):
    """A page of runs, newest first."""

    data: list[ListedRun]
    pagination: RunCursors


class Relative(RelatedRun):
    """A run above another one."""

    depth: Count
    triggerFunction: Literal["trigger"]


class Relatives(TypedDict):
    """The runs above a run, as far as the key may read them."""

    parent: NotRequired[Relative]
    root: NotRequired[Relative]


class RunDetails(RelatedRun):
    """A run with all there is to it."""

    depth: Count
    triggerFunction: Literal["trigger"]
    relatedRuns: Relatives
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


class Alive(TypedDict):
    """The process lives."""

    status: Literal["ok"]


class Ready(TypedDict):
    """The process can do its work."""

    status: Literal["ready"]


OpenApiDocument = dict[str, Any]
