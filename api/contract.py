"""
What every route takes and answers: the table of which `/openapi.json` is made.

To describe a new route, add it here; one that is missing stops the start. It takes four steps at most:

1. Its query: declare each parameter with `api.parameters` in the module of the handler, put them into a `Query`,
   and read requests with it: `query = LIST.of(request)`, `query[LIMIT]`.
2. Its body: parse it with an adapter, `read(request, NEW_RUN)`, as all bodies are.
3. Its answer: a TypedDict in `api.answers` whose docstring says what it is; a text such as HTML or server-sent
   events is `Answer(str, "...", "text/html")`.
4. An entry in `DESCRIPTIONS`: id, tag, summary, answers, and the query and the body where there are any. Refusals
   that follow from these (400, 401, 403, 404 for a run in the path, 413 and 415 for a body, ...) need no mention;
   name others in `refusals`. What a path names for the first time is described in `api.openapi`.

The pages of the dashboard are no part of it; they stand in `api.pages.routes`.
"""

from functools import cache
from hashlib import sha256

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api import answers, events, history, live, metadata, progress, realtime, runs
from api.openapi import (
    CLAIMS,
    DOCUMENT_ETAG,
    ETAG,
    FROM_VERSION,
    HANDLE,
    IF_MATCH,
    IF_NONE_MATCH,
    JSON_LINES,
    LAST_EVENT_ID,
    PLACE,
    POLL,
    SHAPE,
    TO_VERSION,
    TOKEN,
    UP_TO_DATE,
    Answer,
    Description,
    document,
)
from api.parameters import NO_QUERY
from api.rendering import json_response
from api.requests import has_tag
from api.scopes import NEEDS
from api.token_scopes import TOKEN_NEEDS
from ledger import bodies
from projections import values
from projections.progress import ProgressAudit

_RUN = "/api/v1/runs/{run_id}"
_EVENT_STREAM = "text/event-stream"
_TOKEN_HEADERS = (CLAIMS, TOKEN)
_POLLED = {
    200: Answer(
        answers.Polled,
        "Messages, at most one of each run; the last one says whether nothing more is known.",
        headers=(HANDLE, PLACE, SHAPE, POLL, UP_TO_DATE),
    ),
    409: Answer(
        answers.Refetch, "The offset is of another log or another question: begin anew.", headers=(HANDLE,)
    ),
}

DESCRIPTIONS: dict[tuple[str, str], Description] = {
    ("POST", "/api/v1/runs"): Description(
        id="createRun",
        tag="runs",
        summary="Create a run, or find the one that has this id already",
        body=bodies.NEW_RUN,
        answers={
            201: Answer(answers.CreatedRun, "The run was made."),
            200: Answer(answers.CreatedRun, "A run of the same task and parent has this id; it is untouched."),
        },
    ),
    ("GET", "/api/v1/runs"): Description(
        id="listRuns",
        tag="runs",
        summary="List runs, newest first, as they are or as they stood",
        query=runs.LIST,
        answers={200: Answer(answers.Runs, "A page of runs.")},
    ),
    ("POST", "/api/v1/tasks/{task:path}/trigger"): Description(
        id="triggerTask",
        tag="runs",
        summary="Create a run of a task, as the Trigger.dev SDK does",
        body=bodies.TRIGGER,
        answers={
            200: Answer(
                answers.CreatedRun, "The run, made now or found by its idempotency key.", headers=_TOKEN_HEADERS
            )
        },
        refusals=frozenset({404}),  # A line break in the path leads nowhere.
    ),
    ("GET", "/api/v3/runs/{run_id}"): Description(
        id="retrieveRun",
        tag="runs",
        summary="A run with its metadata, payload, output and error",
        answers={200: Answer(answers.RunDetails, "The run.")},
    ),
    ("POST", f"{_RUN}/status"): Description(
        id="setStatus",
        tag="runs",
        summary="Give a run another status",
        headers=(IF_MATCH,),
        body=bodies.NEW_STATUS,
        answers={200: Answer(answers.MovedRun, "The run has this status.", headers=(ETAG,))},
    ),
    ("POST", "/api/v2/runs/{run_id}/cancel"): Description(
        id="cancelRun",
        tag="runs",
        summary="End a run as cancelled; one that is over stays as it is",
        headers=(IF_MATCH,),
        body=bodies.CANCELLATION,
        is_body_optional=True,
        answers={200: Answer(answers.CanceledRun, "The run is over.", headers=(ETAG,))},
    ),
    ("POST", f"{_RUN}/tags"): Description(
        id="addTags",
        tag="runs",
        summary="Give a run more tags; blank ones and those that it has are skipped",
        headers=(IF_MATCH,),
        body=bodies.NEW_TAGS,
        answers={200: Answer(answers.TaggedRun, "The run has these tags.", headers=(ETAG,))},
    ),
    ("POST", "/api/v3/batches"): Description(
        id="createBatch",
        tag="batches",
        summary="Make room for the runs of a batch",
        body=bodies.NEW_BATCH,
        answers={
            201: Answer(answers.CreatedBatch, "The batch was made.", headers=_TOKEN_HEADERS),
            200: Answer(
                answers.CreatedBatch,
                "The idempotency key of the body leads to this batch.",
                headers=_TOKEN_HEADERS,
            ),
        },
    ),
    ("POST", "/api/v3/batches/{batch_id}/items"): Description(
        id="addBatchItems",
        tag="batches",
        summary="Create the runs of a batch, one for each line; what is sent again counts once",
        body=bodies.BATCH_ITEM,
        body_type=JSON_LINES,
        has_idempotency_key=False,
        answers={200: Answer(answers.BatchProgress, "All of them are durable.")},
    ),
    ("GET", "/api/v2/batches/{batch_id}"): Description(
        id="retrieveBatch",
        tag="batches",
        summary="A batch with the ids of its runs",
        answers={200: Answer(answers.Batch, "The batch.")},
    ),
    ("POST", "/api/v2/tasks/batch"): Description(
        id="triggerBatch",
        tag="batches",
        summary="Create a batch and its runs in one request, as older releases of the SDK do",
        body=bodies.TRIGGER_BATCH,
        answers={200: Answer(answers.CreatedBatch, "The batch and its runs were made.", headers=_TOKEN_HEADERS)},
    ),
    ("GET", f"{_RUN}/metadata"): Description(
        id="getMetadata",
        tag="metadata",
        summary="The metadata of a run as it is, or as it stood",
        query=metadata.STATE,
        headers=(IF_NONE_MATCH,),
        answers={
            200: Answer(answers.Metadata, "The metadata.", headers=(ETAG,)),
            304: Answer(None, "The caller has this version already.", headers=(ETAG,)),
        },
    ),
    ("PUT", f"{_RUN}/metadata"): Description(
        id="changeMetadata",
        tag="metadata",
        summary="Change the metadata of a run, its parent and its root in one transaction",
        headers=(IF_MATCH,),
        body=bodies.METADATA_CHANGE,
        answers={200: Answer(answers.ChangedMetadata, "The metadata after the change.", headers=(ETAG,))},
    ),
    ("GET", f"{_RUN}/metadata/history"): Description(
        id="getHistory",
        tag="past",
        summary="The events of a run, with the values before and after each",
        query=history.HISTORY,
        answers={200: Answer(answers.History, "A page of events.")},
    ),
    ("GET", f"{_RUN}/metadata/diff"): Description(
        id="diffMetadata",
        tag="past",
        summary="What differs between two states of a run, or of two runs",
        query=history.DIFF,
        answers={
            200: Answer(
                answers.Patch,
                "The JSON Patch that makes the second state of the first.",
                "application/json-patch+json",
                (FROM_VERSION, TO_VERSION),
            )
        },
    ),
    ("GET", f"{_RUN}/metadata/explain"): Description(
        id="explainValue",
        tag="past",
        summary="The events that made a value what it is, or what it was",
        query=history.EXPLANATION,
        answers={200: Answer(answers.Explanation, "The value and its events, oldest first.")},
    ),
    ("GET", f"{_RUN}/metadata/progress"): Description(
        id="auditProgress",
        tag="past",
        summary="How a run went: its rate, ETA, stalls and regressions",
        query=progress.PROGRESS,
        answers={200: Answer(ProgressAudit, "The audit; a run without a progress key gets one that says so.")},
    ),
    ("GET", f"{_RUN}/metadata/live"): Description(
        id="followRun",
        tag="live",
        summary="The events of a run as they happen",
        query=live.RUN,
        headers=(LAST_EVENT_ID,),
        answers={
            200: Answer(
                str,
                "Server-sent events whose id is the run's version. Their data is an Event; that of one named "
                "`snapshot` is a LiveSnapshot, that of one named `finished` a LiveFinished.",
                _EVENT_STREAM,
            ),
            204: Answer(None, "Nothing is left: the run has finished, and the caller has all of it."),
        },
        more=(answers.Event, answers.LiveSnapshot, answers.LiveFinished),
    ),
    ("GET", "/api/v1/events"): Description(
        id="readFeed",
        tag="live",
        summary="The events of all runs in the order of the log, a page at a time",
        query=events.FEED,
        answers={200: Answer(answers.Feed, "A page of events, and where to go on.")},
    ),
    ("GET", "/api/v1/events/live"): Description(
        id="followFeed",
        tag="live",
        summary="The events of all runs as they happen",
        query=live.FEED,
        headers=(LAST_EVENT_ID,),
        answers={
            200: Answer(
                str, "Server-sent events whose id is a cursor of the feed. Their data is an Event.", _EVENT_STREAM
            )
        },
    ),
    ("GET", "/realtime/v1/runs/{run_id}"): Description(
        id="pollRun",
        tag="realtime",
        summary="A run, then its next version as soon as there is one",
        query=realtime.FEED,
        answers=_POLLED,
    ),
    ("GET", "/realtime/v1/runs"): Description(
        id="pollRunsWithTags",
        tag="realtime",
        summary="The runs that have all of some tags, then the next version of any of them",
        query=realtime.TAGS_FEED,
        answers=_POLLED,
        refusals=frozenset({422}),
    ),
    ("GET", "/realtime/v1/batches/{batch_id}"): Description(
        id="pollBatch",
        tag="realtime",
        summary="The runs of a batch, then the next version of any of them",
        query=realtime.FEED,
        answers=_POLLED,
    ),
    ("POST", "/api/v1/auth/jwt/claims"): Description(
        id="getTokenClaims",
        tag="tokens",
        summary="What a public token that is signed with the caller's key has to say",
        answers={200: Answer(answers.Claims, "The claims.")},
    ),
    ("POST", "/api/v1/auth/public-tokens"): Description(
        id="createPublicToken",
        tag="tokens",
        summary="Sign a public token for a caller that cannot do that itself",
        body=bodies.PUBLIC_TOKEN,
        has_idempotency_key=False,
        answers={200: Answer(answers.SignedToken, "The token.")},
    ),
    ("GET", f"{_RUN}/verify"): Description(
        id="verifyRun",
        tag="proof",
        summary="Verify the chain, the head, the snapshots and the erasures of a run, now",
        answers={200: Answer(answers.Verified, "What was found.")},
    ),
    ("POST", f"{_RUN}/metadata/erase"): Description(
        id="eraseKey",
        tag="proof",
        summary="Take what ever stood at a key out of a run, for good",
        headers=(IF_MATCH,),
        body=bodies.ERASURE,
        answers={200: Answer(answers.ErasedKey, "It is gone.", headers=(ETAG,))},
    ),
    ("GET", "/healthz"): Description(
        id="getHealth",
        tag="server",
        summary="Whether the process lives",
        answers={200: Answer(answers.Alive, "It does.")},
    ),
    ("GET", "/readyz"): Description(
        id="getReadiness",
        tag="server",
        summary="Whether the database can be read and writes are taken",
        answers={200: Answer(answers.Ready, "They are.")},
    ),
    ("GET", "/metrics"): Description(
        id="getMetrics",
        tag="server",
        summary="Figures for Prometheus",
        answers={200: Answer(str, "Requests, their times, live streams, the log.", "text/plain")},
    ),
    ("GET", "/openapi.json"): Description(
        id="getOpenApiDocument",
        tag="server",
        summary="This document",
        headers=(IF_NONE_MATCH,),
        answers={
            200: Answer(answers.OpenApiDocument, "The document.", headers=(DOCUMENT_ETAG,)),
            304: Answer(None, "The caller has it already.", headers=(DOCUMENT_ETAG,)),
        },
    ),
}


def check_described(route: Route) -> None:
    """
    Hold a route to the table.

    Raises:
        LookupError: It is not in the table.
    """
    for method in (route.methods or set()) - {"HEAD"}:
        if (method, route.path) not in DESCRIPTIONS:
            raise LookupError(f"{method} {route.path} is missing in the table of api/contract.py")


async def get_openapi(request: Request) -> Response:
    """Answer the OpenAPI document, which is the same for everyone and tells of no run."""
    NO_QUERY.of(request)
    text, tag = _written()
    headers = {"ETag": f'"{tag}"', "Cache-Control": "no-cache"}
    if has_tag(request, tag):
        return Response(status_code=304, headers=headers)
    return json_response(text, headers=headers)


@cache
def _written() -> tuple[str, str]:
    """The document and its entity tag, made when they are first asked for."""
    text = values.dump(document(DESCRIPTIONS, NEEDS, TOKEN_NEEDS))
    return text, sha256(text.encode()).hexdigest()[:32]
