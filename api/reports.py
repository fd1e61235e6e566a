"""What verifying found, as JSON: the same over HTTP and on the command line."""

from typing import Any

from ledger.faults import Report
from projections.times import format_time


def verified_members(run_id: str, version: int, report: Report) -> dict[str, Any]:
    """What verifying one run found."""
    members: dict[str, Any] = {
        "runId": run_id,
        "version": version,
        "verified": report.is_sound,
        "events": report.events,
        **report_members(report),
    }
    if report.faults:
        first = report.faults[0]
        members["fault"] = {"version": first.version, "what": first.what}
    return members


def report_members(report: Report) -> dict[str, Any]:
    """What was erased, and what is wrong, as far as a report describes it."""
    return {
        "erased": [
            {
                "environment": one.environment,
                "runId": one.run_id,
                "key": one.key,
                "reason": one.reason,
                "actor": one.actor,
                "recordedAt": format_time(one.recorded_at),
                "events": one.events,
            }
            for one in report.erasures
        ],
        "faultCount": report.fault_count,
        "faults": [
            {"environment": one.environment, "runId": one.run_id, "version": one.version, "what": one.what}
            for one in report.faults
        ],
    }
