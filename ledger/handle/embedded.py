"""The ledger within this process, on a database."""

import asyncio
import hashlib
import json
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from ledger import bodies
from ledger.errors import (
    LedgerError,
    NotFound,
    OutcomeUnknown,
    Unavailable,
    UnknownParent,
    Unreachable,
    UnusableDatabase,
    WriteRefused,
)
from ledger.handle.records import Change, RunRecord
from ledger.handle.requests import Answer, Request
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.settings import BadSettings
from ledger.writes import Caller, IdempotencyKey
from projections.errors import Refusal
from projections.filters import RunFilter
from projections.lifecycle import parse_status
from projections.times import Microseconds
from projections.values import JsonObject

_Body = TypeVar("_Body", bodies.NewRun, bodies.NewStatus, bodies.MetadataChange)


class EmbeddedBackend:
    """
    A database that this process opens itself, when it is first needed.

    Args:
        url: Of the database.
        environment: Which environment's log.
        metadata_bytes_max: Limit of a run's metadata.
        late_write_s: Seconds after a run's end during which its metadata may be changed.
    """

    def __init__(self, url: str, environment: str, metadata_bytes_max: int, late_write_s: int) -> None:
        self._url = absolute(url)
        self._environment = environment
        self._metadata_bytes_max = metadata_bytes_max
        self._late_write_s = late_write_s
        self._ledger: Ledger | None = None
        self._log: Log | None = None
        self._opening: asyncio.Task[Log] | None = None
        self.destination = f"{make_url(self._url).render_as_string()}#{environment}"
        self.variables = {
            "RUN_LEDGER_DATABASE_URL": self._url,
            "RUN_LEDGER_ENVIRONMENT": environment,
            "RUN_LEDGER_METADATA_BYTES_MAX": str(metadata_bytes_max),
            "RUN_LEDGER_LATE_WRITE_S": str(late_write_s),
        }

    async def send(self, request: Request) -> Answer:
        """See `Backend.send`."""
        log = await self._opened()
        fingerprint = hashlib.sha256(f"{request.method} {request.path}\n{request.body}".encode()).digest()
        idempotency = IdempotencyKey(request.key, fingerprint)
        try:
            return await _carry_out(log, request, idempotency)
        except Unavailable as error:
            raise Unreachable(str(error), certain=True) from error
        except OutcomeUnknown as error:
            raise Unreachable(str(error), certain=False) from error
        except ValidationError as error:
            raise WriteRefused(request.run_id, "invalid-body", str(error), request.operations) from error
        except (LedgerError, Refusal) as error:
            missing = error.parent if isinstance(error, UnknownParent) else None
            missing = request.run_id if isinstance(error, NotFound) else missing
            raise WriteRefused(request.run_id, error.code, str(error), request.operations, missing) from error

    async def retrieve(self, run_id: str) -> RunRecord:
        """See `Backend.retrieve`."""
        details = await (await self._opened()).run(run_id)
        return RunRecord.of_run(details.run, details)

    async def metadata(self, run_id: str, version: int | None, at: Microseconds | None) -> JsonObject:
        """See `Backend.metadata`."""
        return (await (await self._opened()).metadata(run_id, version=version, at=at)).metadata

    async def history(self, run_id: str, after: int, limit: int) -> list[Change]:
        """See `Backend.history`."""
        page = await (await self._opened()).history(run_id, limit=limit, after=after)
        return [Change.of_event(event) for event in page.items]

    async def list(
        self, status: tuple[str, ...], task: tuple[str, ...], limit: int, after: str | None
    ) -> list[RunRecord]:
        """See `Backend.list`."""
        wanted = RunFilter(statuses=tuple(map(parse_status, status)), tasks=task)
        page = await (await self._opened()).runs(limit=limit, after=after, wanted=wanted)
        return [RunRecord.of_run(run) for run in page.items]

    async def close(self) -> None:
        """See `Backend.close`."""
        if self._opening is not None:
            await asyncio.wait([self._opening])
        ledger, self._ledger, self._log = self._ledger, None, None
        if ledger is not None:
            await ledger.close()

    async def _opened(self) -> Log:
        """The log; opened once, also where many ask at the same time, and to the end, also where they give up."""
        if self._log is not None:
            return self._log
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(self._look_at)
        try:
            return await asyncio.shield(self._opening)
        except (UnusableDatabase, Unavailable) as error:
            raise Unreachable(str(error), certain=True) from error

    async def _open(self) -> Log:
        self._ledger = self._ledger or await Ledger.open(
            self._url, metadata_bytes_max=self._metadata_bytes_max, late_write_s=self._late_write_s
        )
        self._log = await self._ledger.log(self._environment)
        return self._log

    def _look_at(self, opening: asyncio.Task[Log]) -> None:
        """Whatever came of it: the next one who asks tries again."""
        self._opening = None
        if not opening.cancelled():
            opening.exception()


async def _carry_out(log: Log, request: Request, idempotency: IdempotencyKey) -> Answer:
    match request.kind:
        case "create":
            new = _read(bodies.NEW_RUN, request)
            created = await log.create(new.command(), _caller(new), idempotency)
            return Answer(created.run_id, created.version, created.is_cached)
        case "change":
            change = _read(bodies.METADATA_CHANGE, request)
            changed = await log.change(change.command(request.run_id), _caller(change), idempotency)
            return Answer(request.run_id, changed.snapshot.version, metadata=changed.snapshot.metadata)
        case "status":
            status = _read(bodies.NEW_STATUS, request)
            moved = await log.move(status.command(request.run_id), _caller(status), idempotency)
            return Answer(request.run_id, moved.version)


def _read(adapter: TypeAdapter[_Body], request: Request) -> _Body:
    return adapter.validate_python(json.loads(request.body))


def _caller(body: bodies.NewRun | bodies.NewStatus | bodies.MetadataChange) -> Caller:
    return Caller() if body.actor is None else Caller(actor=body.actor)


def absolute(url: str) -> str:
    """
    The same database for a process in another folder.

    Raises:
        BadSettings: It is no URL of a database.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise BadSettings(
            f"{url!r} is neither the address of a server, such as http://127.0.0.1:8420, "
            "nor the URL of a database, such as sqlite+aiosqlite:///run-ledger.db"
        ) from error
    if parsed.get_backend_name() == "sqlite" and parsed.database and parsed.database != ":memory:":
        parsed = parsed.set(database=str(Path(parsed.database).absolute()))
    return parsed.render_as_string(hide_password=False)
