"""
The list of runs.

Its address holds the same expression as that of `GET /api/v1/runs`, so what was found here can be asked for there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from api import filters, scopes
from api.pages.templates import page
from api.pages.timeline import VERBS
from api.pages.words import shown
from api.parameters import Query, text
from api.problems import Problem
from api.requests import log_of
from api.runs import FINDING, find
from ledger.audits import RunAudit
from ledger.errors import BadCursor
from ledger.finding import RunsPage, Sort
from ledger.log import Log
from projections.events import RunStatusChanged
from projections.filters import OPERATORS, RunFilter
from projections.lifecycle import Status
from projections.runs import Run

RELATIVES = 20  # children that the page of a run shows

PERIODS = ("15m", "1h", "24h", "7d", "30d")
SORTS = {
    Sort.NEWEST: "newest first",
    Sort.CREATED: "oldest first",
    Sort.CHANGED: "changed last first",
    Sort.UPDATED: "changed last at the end",
}
OPERATOR_WORDS = {
    "eq": "is",
    "ne": "is not",
    "gt": "is more than",
    "gte": "is at least",
    "lt": "is less than",
    "lte": "is at most",
    "in": "is one of",
    "exists": "exists",
}

_FORM = ("key", "operator", "value")  # Fields of the form, of which one condition is made.
_PAGING = {"page[size]", "page[after]", "page[before]", "sort", "only"}
_QUERY = Query(*FINDING, text("only", "Only these parts of the page."))
_LABELS = {
    "filter[taskIdentifier]": "task",
    "filter[createdAt][period]": "created within",
    "filter[createdAt][from]": "created from",
    "filter[createdAt][to]": "created until",
    "filter[updatedAt][period]": "changed within",
    "filter[updatedAt][from]": "changed from",
    "filter[updatedAt][to]": "changed until",
    "asOf": "as of",
}

Pairs = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Listed:
    """
    One run of the list.

    Attributes:
        run: The run.
        audit: How far it is and what happened to it last; None where that is not known.
    """

    run: Run
    audit: RunAudit | None

    @property
    def fraction(self) -> float | None:
        """The part that is done."""
        return None if self.audit is None else self.audit.outlook.fraction

    @property
    def verb(self) -> str:
        """What happened last."""
        assert self.audit is not None
        if self.audit.last.type == RunStatusChanged.event_type:
            return "changed status"
        return VERBS.get(self.audit.last.type, self.audit.last.type)


@dataclass(frozen=True, slots=True)
class Chip:
    """
    A condition that holds for the list.

    Attributes:
        text: In words.
        without: The address of the list without it.
    """

    text: str
    without: str


async def show(request: Request) -> Response:
    """Answer the list of runs, or some parts of it."""
    pairs = request.query_params.multi_items()
    tidy = _tidied(pairs)
    if tidy != pairs:
        return RedirectResponse(address(tidy), 303, headers={"Cache-Control": "no-store"})
    log = log_of(request)
    complaint = None
    found = RunsPage([], next=None, previous=None)
    try:
        found = await find(request, _QUERY.of(request))
    except Problem as problem:
        complaint = problem.detail
    except BadCursor as error:
        complaint = str(error)
    is_past = "asOf" in request.query_params
    conditions = [pair for pair in pairs if pair[0] not in _PAGING]
    context = {
        "rows": await listed(log, found.items, is_past=is_past),
        "limit_bytes": log.metadata_bytes_max,
        "complaint": complaint,
        "chips": _chips(pairs),
        "is_filtered": bool(conditions),
        "is_past": is_past,
        "next": None if found.next is None else address(_turned(pairs, "page[after]", found.next)),
        "previous": None if found.previous is None else address(_turned(pairs, "page[before]", found.previous)),
        "first": address(_turned(pairs)) if _is_turned(pairs) else None,
        "query": dict(pairs),
        "kept": [pair for pair in pairs if pair[0] not in _SHOWN_IN_FORM and pair[0] not in _TURNS],
        "statuses": [status.value for status in Status],
        "periods": PERIODS,
        "sorts": [(sort.value, words) for sort, words in SORTS.items()],
        "operators": [(name, OPERATOR_WORDS[name]) for name in OPERATORS],
        "base": str(request.base_url).rstrip("/"),
        "needs_key": not request.scope.get("run_ledger.is_open", True),
    }
    return page(request, "runs.html", context, status=200 if complaint is None else 400)


async def listed(log: Log, runs: Sequence[Run], *, is_past: bool = False) -> list[Listed]:
    """Runs with what a list shows of each; of the past only what they were."""
    audits = {} if is_past else await log.audits([run.id for run in runs])
    return [Listed(run, audits.get(run.id)) for run in runs]


async def children_of(request: Request, log: Log, run_id: str) -> tuple[list[Listed], bool]:
    """The newest runs that a run started, and whether there are more."""
    wanted = RunFilter(parents=(run_id,))
    found = await log.runs(limit=RELATIVES, wanted=wanted, within=scopes.readable(request))
    return await listed(log, found.items), found.next is not None


def address(pairs: Pairs) -> str:
    """The address of a list."""
    text = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in pairs)
    return f"/?{text}" if text else "/"


def _tidied(pairs: Pairs) -> Pairs:
    """
    The query as the API takes it: without what a form left empty, and with the condition that its fields make.

    A form cannot name a field after what another one holds.
    """
    fields = {name: value for name, value in pairs if name in _FORM}
    kept = [
        (name, value)
        for name, value in pairs
        if name not in _FORM
        and (value or filters.CONDITIONS.takes(name))
        and (name, value) != ("sort", Sort.NEWEST)
    ]
    if fields.get("key"):
        operator = fields.get("operator") or "eq"
        value = fields.get("value", "")
        if operator == "exists" and not value:
            value = "true"
        kept.append((f"filter[metadata][{fields['key']}][{operator}]", value))
    return kept


_TURNS = {"page[after]", "page[before]", "only"}
_SHOWN_IN_FORM = {
    "filter[status]",
    "filter[taskIdentifier]",
    "filter[tag]",
    "filter[createdAt][period]",
    "filter[stalled]",
    "filter[regressed]",
    "sort",
}


def _turned(pairs: Pairs, *cursor: str) -> Pairs:
    """The same list at another page, at its first without a cursor."""
    kept = [pair for pair in pairs if pair[0] not in _TURNS]
    return [*kept, (cursor[0], cursor[1])] if cursor else kept


def _is_turned(pairs: Pairs) -> bool:
    return any(name in {"page[after]", "page[before]"} for name, _ in pairs)


def _chips(pairs: Pairs) -> list[Chip]:
    chips = []
    for place, (name, value) in enumerate(pairs):
        if name in _PAGING:
            continue
        rest = [pair for at, pair in enumerate(pairs) if at != place]
        chips.append(Chip(_in_words(name, value), address(_turned(rest))))
    return chips


def _in_words(name: str, value: str) -> str:
    if filters.CONDITIONS.takes(name):
        inner = name.removeprefix("filter[metadata][").removesuffix("]")
        key, between, operator = inner.rpartition("][")
        if not between:
            key, operator = inner, "eq"
        return shown(f"{key} {OPERATOR_WORDS.get(operator, operator)} {value}")
    if name in {"filter[stalled]", "filter[regressed]"}:
        word = "stalled" if name == "filter[stalled]" else "went backwards"
        return word if value == "true" else f"not {word}"
    label = _LABELS.get(name, name.removeprefix("filter[").removesuffix("]"))
    return shown(f"{label}: {value.lower().replace('_', ' ') if label == 'status' else value}")
