"""How runs and events look on the wire. Text that is JSON already is put in as it is."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydantic import JsonValue
from starlette.responses import Response

from ledger.audits import RunAudit
from ledger.batches import BatchDetails
from ledger.history import Entry
from ledger.reads import RunDetails
from ledger.writes import Refused, UnappliedOperation
from projections import values
from projections.errors import BadJson, BadValue
from projections.events import Event
from projections.explain import Step
from projections.metadata import Absent
from projections.runs import Run
from projections.times import format_time

_JSON_TYPE = b"content-type", b"application/json"


class JsonText(Response):
    """An answer whose body is JSON text; its few headers are written down without a search through them."""

    def __init__(self, text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.status_code = status
        self.background = None
        self.body = text.encode()
        self.raw_headers = [(b"content-length", b"%d" % len(self.body)), _JSON_TYPE]
        if headers:
            self.raw_headers += [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def json_response(text: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer whose body is this JSON text."""
    return JsonText(text, status, headers)


def event_text(event: Event) -> str:
    """An event as JSON text."""
    # The data of an operation is its key and value, or its key and the mark of an erasure; both stand beside it.
    lifted = f"{event.data[1:-1]}," if event.type.startswith("metadata.") and event.data != "{}" else ""
    occurred = "null" if event.occurred_at is None else f'"{format_time(event.occurred_at)}"'
    return (
        f'{{"position":{event.position},"runId":"{event.run_id}","version":{event.version},"type":"{event.type}",'
        f'{lifted}"data":{event.data},"actor":{_name_text(event.actor)},"attempt":{event.attempt},'
        f'"headers":{event.headers},"occurredAt":{occurred},"recordedAt":"{format_time(event.recorded_at)}",'
        f'"hash":"{event.hash.hex()}"}}'
    )


@lru_cache(maxsize=1_024)
def _name_text(name: str) -> str:
    """A name that stands in many events."""
    return values.dump(name)


def entry_text(entry: Entry) -> str:
    """An event with what it did, as JSON text; a value that was not there is left out."""
    before = "" if entry.before is None else f'"before":{entry.before},'
    after = "" if entry.after is None else f'"after":{entry.after},'
    return f'{event_text(entry.event)[:-1]},{before}{after}"sizeBytes":{entry.size_bytes}}}'


def refusal_text(run_id: str, refused: Refused) -> str:
    """A refusal as JSON text; no values."""
    optional = {"key": refused.key, "sizeBytes": refused.size_bytes, "limitBytes": refused.limit_bytes}
    members: dict[str, Any] = {
        "runId": run_id,
        "version": refused.version,
        "type": "refused",
        "code": refused.code,
        "reason": refused.reason,
        **{name: value for name, value in optional.items() if value is not None},
        "actor": refused.actor,
        "attempt": refused.attempt,
        "headers": values.load(refused.headers),
        "recordedAt": format_time(refused.recorded_at),
    }
    return values.dump(members)


def step_text(step: Step, wiped_by: int | None) -> str:
    """One event of an explanation as JSON text: who did what in which run, and what came of it."""
    event = step.event
    headers = values.load(event.headers)
    assert isinstance(headers, dict)
    value = {} if isinstance(step.value, Absent) else {"valueAfter": step.value}
    members: dict[str, Any] = {
        "version": event.version,
        "type": event.type,
        **_asked(event),
        "actor": event.actor,
        "attempt": event.attempt,
        **{name: headers[name] for name in ("sourceRun", "sourceAttempt", "onBehalfOf") if name in headers},
        "occurredAt": None if event.occurred_at is None else format_time(event.occurred_at),
        "recordedAt": format_time(event.recorded_at),
        **value,
        **({} if wiped_by is None else {"wipedBy": wiped_by}),
    }
    return values.dump(members)


def _asked(event: Event) -> values.JsonObject:
    """The key and value of an operation that has a key; what replaces all says more than was asked."""
    data = values.load(event.data)
    assert isinstance(data, dict)
    return {name: data[name] for name in ("key", "value") if name in data} if "key" in data else {}


def run_members(run: Run) -> dict[str, Any]:
    """
    A run as the list shows it. What is unknown is left out: the Trigger.dev SDK refuses null.

    Source: the schema of the SDK's `runs.list`.
    """
    status = run.status
    ended = run.finished_at or run.updated_at
    members: dict[str, Any] = {
        "id": run.id,
        "status": status.value,
        "taskIdentifier": run.task,
        "version": str(run.version),
        "isQueued": status.is_queued,
        "isExecuting": status.is_executing,
        "isWaiting": status == "WAITING",
        "isCompleted": status.is_completed,
        "isSuccess": status == "COMPLETED",
        "isFailed": status.is_completed and status != "COMPLETED",
        "isCancelled": status == "CANCELED",
        "isTest": False,
        "createdAt": format_time(run.created_at),
        "updatedAt": format_time(run.updated_at),
        "tags": list(run.tags),
        "costInCents": 0,
        "baseCostInCents": 0,
        "durationMs": 0 if run.started_at is None else (ended - run.started_at) // 1000,
        "attemptCount": run.attempt,
        "metadata": run.snapshot.metadata,
    }
    for name, moment in (("startedAt", run.started_at), ("finishedAt", run.finished_at)):
        if moment is not None:
            members[name] = format_time(moment)
    if run.idempotency_key is not None:
        members["idempotencyKey"] = run.idempotency_key
    if run.batch is not None:
        members["batchId"] = run.batch
    return members


def unapplied_members(unapplied: Sequence[UnappliedOperation]) -> list[JsonValue]:
    """Operations that had nothing to work on."""
    return [{"list": one.list, "index": one.index, "key": one.key, "reason": one.reason} for one in unapplied]


def batch_members(details: BatchDetails) -> dict[str, Any]:
    """
    A batch as the SDK retrieves it.

    Source: the schema of the SDK's `batch.retrieve`, where PENDING lacks runs, and COMPLETED has none at work.
    """
    batch, finished = details.batch, details.finished_at
    ended = {} if finished is None else {"completedAt": format_time(finished)}
    key = {} if batch.idempotency_key is None else {"idempotencyKey": batch.idempotency_key}
    return {
        "id": batch.id,
        "status": "PENDING" if not batch.is_sealed else "PROCESSING" if finished is None else "COMPLETED",
        **key,
        "createdAt": format_time(batch.created_at),
        "updatedAt": format_time(details.updated_at),
        "runCount": batch.run_count,
        "runs": [run.run_id for run in details.runs],
        "processing": {**ended, "errors": []},
    }


def audit_members(audit: RunAudit | None) -> dict[str, Any]:
    """The progress of a run in short, as the list shows it; what there is none of is left out."""
    if audit is None:
        return {"pending": True}
    outlook, last = audit.outlook, audit.last
    event: dict[str, Any] = {"version": last.version, "type": last.type}
    if last.key is not None:
        event["key"] = last.key
    members: dict[str, Any] = {
        "pending": False,
        "stalled": audit.is_stalled,
        "regressed": outlook.has_regressed,
        "regressions": outlook.regressions,
        "lastEvent": {**event, "actor": last.actor, "recordedAt": format_time(last.recorded_at)},
    }
    if outlook.key is not None:
        members.update(key=outlook.key, fraction=values.number(outlook.fraction or 0))
    if outlook.still_since is not None:
        members["stillSince"] = format_time(outlook.still_since)
    return members


def details_members(details: RunDetails) -> dict[str, Any]:
    """
    A run as retrieve shows it.

    Source: the schema of the SDK's `runs.retrieve`.
    """
    above = {"parent": details.parent, "root": details.root}
    related: dict[str, Any] = {
        name: _related_members(run, depth)
        for (name, run), depth in zip(above.items(), (details.depth - 1, 0), strict=True)
        if run is not None
    }
    if details.children:
        related["children"] = [_related_members(run, details.depth + 1) for run in details.children]
    members = {**_related_members(details.run, details.depth), "relatedRuns": related}
    options = details.idempotency_key_options
    if options is not None:  # What the caller chose says more than the hash that the SDK made of it.
        members["idempotencyKeyOptions"] = options
        members["idempotencyKey"] = options.get("key", members.get("idempotencyKey"))
    optional = {
        "payload": plain_payload(details.payload, details.payload_type),
        "output": details.output,
        "error": details.error,
    }
    members.update({name: value for name, value in optional.items() if value is not None})
    return members


def _related_members(run: Run, depth: int) -> dict[str, Any]:
    called = "trigger" if run.batch is None else "batchTrigger"
    return {**run_members(run), "depth": depth, "triggerFunction": called}


def plain_payload(payload: JsonValue, payload_type: str | None) -> JsonValue:
    """
    The value that was meant, whatever the SDK packed it in.

    Source: `application/super+json` is `{json, meta}` as text, of which `json` is the plain value.
    """
    if not isinstance(payload, str) or payload_type not in {"application/json", "application/super+json"}:
        return payload
    try:
        value = values.canonical(values.parse(payload))
    except (BadJson, BadValue):
        return payload
    if payload_type == "application/super+json" and isinstance(value, dict):
        return value.get("json")
    return value
