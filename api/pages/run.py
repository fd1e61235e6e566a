"""
The page of one run.

What it shows is in its address, so that it can be kept, sent on and come back to: the version that is looked at,
what it is compared with, the value that is explained, the number that is drawn. The script asks for some parts of
the same page again, with `only`, when something has happened; so there is one way to draw each of them.
"""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from api import scopes
from api.pages import query
from api.pages.changes import lines_between
from api.pages.charts import POINTS_MAX, number_chart, progress_chart
from api.pages.explaining import explanation_of
from api.pages.runs import children_of, listed
from api.pages.templates import page
from api.pages.timeline import timeline_of
from api.pages.tree import tree_of
from api.problems import Problem, bad_request
from api.requests import log_of, run_id_of
from ledger.errors import VersionNotFound
from ledger.log import Log
from ledger.reads import RunDetails
from projections.numbers import numeric_paths
from projections.values import JsonObject

PARTS = ("head", "bar", "explain", "chart", "compare", "tree", "timeline", "family", "proof")
KEYS_MAX = 200  # numbers that can be chosen for a chart
LINES_MAX = 200  # changes that a comparison tells

_QUERY = {"version", "compare", "explain", "chart", "upto", "proof", "only"}


async def show(request: Request) -> Response:
    """Answer the page of a run, or some parts of it."""
    run_id = run_id_of(request)
    query.check(request, _QUERY)
    log = log_of(request)
    parts = _parts(request)
    details = scopes.without_hidden_relatives(request, await log.run(run_id))
    last = details.run.version
    wanted = query.number(request, "version")
    version = last if wanted is None else wanted
    if version > last:
        raise _no_such_version(run_id, version, details)
    snapshot = details.run.snapshot if version == last else await log.metadata(run_id, version=version)
    link = _links(request, run_id)
    context: dict[str, Any] = {
        "parts": parts,
        "details": details,
        "run": details.run,
        "limit_bytes": log.metadata_bytes_max,
        "version": version,
        "last": last,
        "is_past": wanted is not None and version < last,
        "snapshot": snapshot,
        "link": link,
        "query": {name: value for name, value in request.query_params.items() if name not in {"only", "upto"}},
    }
    if "bar" in parts or "timeline" in parts:
        upto = query.number(request, "upto")
        context["timeline"] = await timeline_of(log, run_id, last, version, upto)
        # On another page of the timeline, the time of the version is not at hand.
        context["recorded_at"] = context["timeline"].recorded_at
    if "tree" in parts:
        before = (await log.metadata(run_id, version=version - 1)).metadata if version > 1 else None
        context["tree"] = tree_of(snapshot.metadata, before)
    if "compare" in parts:
        context["comparison"] = await _comparison(request, log, run_id, version, last)
    if "explain" in parts:
        context["explanation"] = await explanation_of(log, run_id, query.key(request, "explain"), version)
    if "chart" in parts or "head" in parts:
        context |= await _charts(request, log, run_id, version, snapshot.metadata, details)
    if "proof" in parts:
        context["proof"] = await log.verify(run_id) if request.query_params.get("proof") == "1" else None
    if "family" in parts:
        above = [run for run in (details.root, details.parent) if run is not None]
        context["above"] = {one.run.id: one.fraction for one in await listed(log, above)}
        context["children"], context["more_children"] = await children_of(request, log, run_id)
    return page(request, "run.html", context)


def _parts(request: Request) -> frozenset[str]:
    text = request.query_params.get("only")
    if text is None:
        return frozenset(PARTS)
    parts = frozenset(text.split(","))
    if not parts <= frozenset(PARTS):
        raise bad_request("bad-parameter", f"only: there are {', '.join(PARTS)}")
    return parts


def _links(request: Request, run_id: str) -> Callable[..., str]:
    """Makes addresses of this page: what is named changes, None takes it away, the rest stays."""
    current = {name: value for name, value in request.query_params.items() if name not in {"only", "proof"}}

    def link(**changes: object) -> str:
        found = {**current, **{name: None if value is None else str(value) for name, value in changes.items()}}
        if "version" in changes and "upto" not in changes:
            found.pop("upto", None)  # The timeline follows.
        text = "&".join(f"{name}={quote(value, safe='')}" for name, value in found.items() if value is not None)
        return f"/runs/{quote(run_id, safe='')}" + (f"?{text}" if text else "")

    return link


async def _charts(
    request: Request, log: Log, run_id: str, version: int, metadata: JsonObject, details: RunDetails
) -> dict[str, Any]:
    key = query.key(request, "chart")
    audit = await log.progress(run_id)
    chart = None
    if key is None:
        chart = progress_chart(audit, version)
    else:
        numbers = await log.numbers(run_id, key)
        until = details.run.finished_at or audit.end
        chart = number_chart(str(key), numbers.changes(POINTS_MAX), until, version)
    paths = numeric_paths(metadata, KEYS_MAX)
    if key is not None and str(key) not in paths:
        paths.append(str(key))
    return {"audit": audit, "chart": chart, "chart_key": None if key is None else str(key), "numeric": paths}


async def _comparison(
    request: Request, log: Log, run_id: str, version: int, last: int
) -> Mapping[str, Any] | None:
    other = query.number(request, "compare")
    if other is None:
        return None
    if other > last:
        raise VersionNotFound(run_id, f"version {other}", last, 0)
    first, second = sorted((other, version))
    before, after = (await log.metadata(run_id, version=first), await log.metadata(run_id, version=second))
    lines, more = lines_between((), before.metadata, after.metadata, LINES_MAX)
    return {
        "from": first,
        "to": second,
        "lines": [line for line in lines if line.kind != "same"],
        "more": more,
        "sizes": (before.size_bytes, after.size_bytes),
    }


def _no_such_version(run_id: str, version: int, details: RunDetails) -> Problem:
    last = details.run.version
    return Problem(
        404,
        "version-not-found",
        "No such version",
        f"run {run_id} has no version {version:,}; its last one is {last:,}",
        {"lastVersion": last},
    )
