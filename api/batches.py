"""
Batches, as the Trigger.dev SDK triggers them: room is made for a number of runs, which then come line by line.

Every line names its place in the batch, and whatever comes first for a place takes it. So a stream that broke off
is sent again as a whole, and nothing is doubled.
"""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from api import scopes
from api.auth import token_headers
from api.parameters import NO_QUERY
from api.problems import Problem, bad_request, problem_of
from api.rendering import batch_members, json_response
from api.requests import caller_of, lines, log_of, read
from api.token_scopes import judge_batch
from ledger.answers import Created
from ledger.bodies import BATCH_ITEM, NEW_BATCH, TRIGGER_BATCH
from ledger.errors import BatchNotFound, LedgerError
from ledger.log import Log
from ledger.run_ids import BATCH_ID
from ledger.writes import CreateRun
from projections import values
from projections.errors import BadJson, Refusal
from projections.size import BATCH_RUNS_MAX, BODY_BYTES_MAX

PENDING_ITEMS_MAX = 256  # items of one request that are written at once
PENDING_BYTES_MAX = BODY_BYTES_MAX  # bytes of lines that are held meanwhile
LINES_MAX = 2 * BATCH_RUNS_MAX  # lines of one request, which holds at most that many places


async def create_batch(request: Request) -> Response:
    """Make room for the runs of a batch, or find the batch that its idempotency key leads to."""
    body, idempotency = await read(request, NEW_BATCH)
    judge_batch(request, body.task_identifiers)
    created = await log_of(request).create_batch(body.command(), idempotency)
    batch = created.batch
    if batch.item_count:
        await scopes.judge_known_batch(request, batch.id)
    answer: dict[str, Any] = {"id": batch.id, "runCount": batch.run_count, "isCached": created.is_cached}
    if batch.idempotency_key is not None:
        answer["idempotencyKey"] = batch.idempotency_key
    headers = await token_headers(request, f"read:batch:{batch.id}")
    if created.is_replay:
        headers["Idempotency-Replayed"] = "true"
    return json_response(values.dump(answer), 200 if created.is_cached else 201, headers)


async def get_batch(request: Request) -> Response:
    """Answer a batch with the ids of its runs."""
    NO_QUERY.of(request)
    details = await log_of(request).batch_details(_batch_id_of(request))
    return json_response(values.dump(batch_members(scopes.visible_batch(request, details))))


async def add_items(request: Request) -> Response:
    """Create the runs of a batch, one for each line of the body, and answer when all of them are durable."""
    NO_QUERY.of(request)
    batch_id = _batch_id_of(request)
    await log_of(request).batch(batch_id)
    intake = _Intake(request, batch_id)
    try:
        async with aclosing(lines(request, BODY_BYTES_MAX)) as received:
            async for number, text in received:
                if not await intake.take(number, text):
                    break
    except Problem as problem:
        if "line" not in problem.members:
            raise
        intake.fault = intake.fault or (problem.members["line"], problem)
    finally:
        await intake.write()
    if intake.fault is not None:
        raise await intake.refusal()
    return json_response(values.dump(await _progress(log_of(request), batch_id, intake.counts)))


async def trigger_batch(request: Request) -> Response:
    """Create a batch and its runs in one request, as older releases of the SDK do."""
    body, idempotency = await read(request, TRIGGER_BATCH)
    created = await log_of(request).create_batch(body.command(), idempotency)
    intake = _Intake(request, created.batch.id, "items[{}]")
    for number, command in enumerate(body.items_in(created.batch.id)):
        await intake.submit(number, command, 0)
    await intake.write()
    if intake.fault is not None:
        raise await intake.refusal()
    answer: dict[str, Any] = {"id": created.batch.id, "runCount": created.batch.run_count, "isCached": False}
    headers = await token_headers(request, f"read:batch:{created.batch.id}")
    if created.is_replay:
        headers["Idempotency-Replayed"] = "true"
    return json_response(values.dump(answer), 200, headers)


@dataclass(slots=True)
class _Counts:
    """How many places were taken by this request, and how many had been taken before."""

    accepted: int = 0
    known: int = 0


@dataclass(slots=True)
class _Intake:
    """
    Items on their way into the log, some of them at a time.

    Attributes:
        request: The request that brings them.
        batch_id: The batch.
        place: How the answer names an item by its number.
        counts: What became of those that were written.
        fault: The first line that was refused, and why.
    """

    request: Request
    batch_id: str
    place: str = "line {}"
    counts: _Counts = field(default_factory=_Counts)
    fault: tuple[int, Exception] | None = None
    _numbers: list[int] = field(default_factory=list)
    _writes: list[asyncio.Task[Created | None]] = field(default_factory=list)
    _bytes: int = 0

    async def take(self, number: int, text: bytes) -> bool:
        """Read a line and hand it in; False once a line was refused."""
        if number > LINES_MAX:
            self.fault = number, bad_request("too-many-lines", f"at most {LINES_MAX:,} lines are read")
            return False
        try:
            item = BATCH_ITEM.validate_python(values.parse(text))
        except BadJson as error:
            self.fault = number, BadJson(error.place.removeprefix("line 1, "), error.reason)
            return False
        except ValidationError as error:
            self.fault = number, error
            return False
        return await self.submit(number, item.in_batch(self.batch_id), len(text))

    async def submit(self, number: int, command: CreateRun, length: int) -> bool:
        """Hand in an item; False once one was refused."""
        create = scopes.create_item(self.request, command, caller_of(self.request, None))
        self._numbers.append(number)
        self._writes.append(asyncio.create_task(create))
        self._bytes += length
        if len(self._writes) >= PENDING_ITEMS_MAX or self._bytes >= PENDING_BYTES_MAX:
            await self.write()
        return self.fault is None

    async def write(self) -> None:
        """Wait until all that was handed in is durable or refused."""
        outcomes = await asyncio.gather(*self._writes, return_exceptions=True)
        for number, outcome in zip(self._numbers, outcomes, strict=True):
            if isinstance(outcome, LedgerError | Refusal | Problem):
                if self.fault is None or number < self.fault[0]:
                    self.fault = number, outcome
            elif isinstance(outcome, BaseException):
                raise outcome
            elif outcome is None:
                self.counts.known += 1
            else:
                self.counts.accepted += 1
        self._numbers.clear()
        self._writes.clear()
        self._bytes = 0

    async def refusal(self) -> Problem:
        """The answer to a request of which a line was refused: which one, why, and what was accepted."""
        assert self.fault is not None
        number, error = self.fault
        problem = problem_of(error)
        problem.detail = (
            f"{self.place.format(number)}: {problem.detail}. Of this request {self.counts.accepted} items were "
            f"accepted and {self.counts.known} had been before; they stay, and one that is sent again counts once"
        )
        problem.headers["Connection"] = "close"  # Or the server would go on reading what it does not want.
        problem.members |= {"line": number, **await _progress(log_of(self.request), self.batch_id, self.counts)}
        return problem


async def _progress(log: Log, batch_id: str, counts: _Counts) -> dict[str, Any]:
    batch = await log.batch(batch_id)
    return {
        "id": batch.id,
        "itemsAccepted": counts.accepted,
        "itemsDeduplicated": counts.known,
        "sealed": batch.is_sealed,
        "enqueuedCount": batch.item_count,
        "expectedCount": batch.run_count,
    }


def _batch_id_of(request: Request) -> str:
    batch_id: str = request.path_params["batch_id"]
    if not BATCH_ID.fullmatch(batch_id):
        raise BatchNotFound(batch_id)
    return batch_id
