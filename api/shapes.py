"""
Runs as rows of an Electric shape: what the Trigger.dev SDK reads from its realtime feeds.

Values are sent as JSON has them, and `electric-schema` is empty: what it does not name is not decoded.

Source: the schema `SubscribeRunRawShape` of `@trigger.dev/core` 4.8.3, and how `@electric-sql/client` 1.0.14 reads
an answer.
"""

from collections.abc import Collection
from typing import Any

from pydantic import JsonValue

from ledger.states import RunState
from projections import values
from projections.lifecycle import Status
from projections.times import Microseconds, format_time

# What the SDK cannot do without.
KEPT_COLUMNS = frozenset({"id", "friendlyId", "taskIdentifier", "status", "createdAt", "updatedAt"})

# The names that statuses have in the shape; the others are the same.
_STATUSES = {
    Status.QUEUED: "PENDING",
    Status.WAITING: "WAITING_TO_RESUME",
    Status.COMPLETED: "COMPLETED_SUCCESSFULLY",
    Status.FAILED: "COMPLETED_WITH_ERRORS",
}

UP_TO_DATE: dict[str, Any] = {"headers": {"control": "up-to-date"}}
MUST_REFETCH: dict[str, Any] = {"headers": {"control": "must-refetch"}}


def change(state: RunState, operation: str, skipped: Collection[str]) -> dict[str, Any]:
    """The message that gives a row its columns; those that may have changed, where the rest is known."""
    columns = _columns(state)
    if state.is_whole:
        columns |= _fixed_columns(state)
    return {
        "key": f'"public"."TaskRun"/"{state.run.id}"',
        "value": {name: value for name, value in columns.items() if name in KEPT_COLUMNS or name not in skipped},
        "headers": {"operation": operation},
    }


def _columns(state: RunState) -> dict[str, Any]:
    run = state.run
    ended = run.finished_at or run.updated_at
    return {
        "id": run.id,
        "friendlyId": run.id,
        "taskIdentifier": run.task,
        "status": _STATUSES.get(run.status, run.status.value),
        "createdAt": _time(run.created_at),
        "updatedAt": _time(run.updated_at),
        "startedAt": _time(run.started_at),
        "completedAt": _time(run.finished_at),
        "metadata": run.snapshot.text,
        "metadataType": "application/json",
        "expiredAt": _time(run.finished_at) if run.status == Status.EXPIRED else None,
        "runTags": [*run.tags],
        "usageDurationMs": 0 if run.started_at is None else (ended - run.started_at) // 1_000,
        "output": None if state.output is None else values.dump(state.output),
        "outputType": "application/json",
        "error": _error(state.error),
    }


def _fixed_columns(state: RunState) -> dict[str, Any]:
    """Columns that never change, or that nothing is known of here."""
    payload, payload_type = state.payload, state.payload_type
    if payload_type is None or not isinstance(payload, str):
        payload_type = "application/json"
        payload = None if payload is None else values.dump(payload)
    return {
        "payload": payload,
        "payloadType": payload_type,
        "idempotencyKey": state.run.idempotency_key,
        "queuedAt": _time(state.run.created_at),
        "delayUntil": None,
        "ttl": None,
        "costInCents": 0,
        "baseCostInCents": 0,
        "isTest": False,
        "realtimeStreams": [],
    }


def _time(moment: Microseconds | None) -> str | None:
    """A time without its zone: the SDK puts a Z behind it."""
    return None if moment is None else format_time(moment).removesuffix("Z")


def _error(error: JsonValue) -> JsonValue:
    """Why a run failed, in one of the forms that the SDK tells apart."""
    if error is None:
        return None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return {"type": "CUSTOM_ERROR", "raw": values.dump(error)}
    if "name" not in error and "stackTrace" not in error:
        return {"type": "STRING_ERROR", "raw": error["message"]}
    return {
        "type": "BUILT_IN_ERROR",
        "name": error.get("name") or "Error",
        "message": error["message"],
        "stackTrace": error.get("stackTrace") or "",
    }
