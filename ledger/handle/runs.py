"""Runs, whoever executes them: `from ledger import runs`."""

from __future__ import annotations

import inspect
from functools import update_wrapper
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from datetime import datetime
    from typing import Any

    from ledger.handle.records import Change, RunRecord
    from ledger.handle.reporter import Reporter

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

LIST_MAX = 100  # runs in one answer, as over HTTP
HISTORY_MAX = 1_000  # events in one answer, as over HTTP


def _awaited(
    work: Callable[Concatenate[Runs, Reporter, _Arguments], Coroutine[Any, Any, _Result]],
) -> Callable[Concatenate[Runs, _Arguments], Coroutine[Any, Any, _Result]]:
    """Carried out in the background thread, awaited by the caller."""

    async def call(self: Runs, /, *arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        from ledger.handle.configuration import reporter

        made = reporter()
        return await made.waited(lambda: work(self, made, *arguments, **options))

    _describe(call, work)
    return call


def _blocking(
    work: Callable[Concatenate[Runs, Reporter, _Arguments], Coroutine[Any, Any, _Result]],
) -> Callable[Concatenate[Runs, _Arguments], _Result]:
    """Carried out in the background thread while the caller waits: for code without an event loop."""

    def call(self: Runs, /, *arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        from ledger.handle.configuration import reporter

        made = reporter()
        return made.wait(lambda: work(self, made, *arguments, **options))

    _describe(call, work)
    return call


def _describe(call: Callable[..., object], work: Callable[..., object]) -> None:
    """Let *call* look like *work*, which is given the reporter besides."""
    update_wrapper(call, work)
    shown = inspect.signature(work)
    taken = [parameter for name, parameter in shown.parameters.items() if name != "_made"]
    call.__signature__ = shown.replace(parameters=taken)  # type: ignore[attr-defined]


class Runs:
    """
    Read runs. Every function exists twice: to await, and with `_sync` behind its name for code without event loop.

    All of them raise `Unreachable` where the ledger gives no answer.
    """

    __slots__ = ()

    async def _retrieve(self, _made: Reporter, run_id: str) -> RunRecord:
        """
        A run with its metadata, payload, output and error.

        Raises:
            RunNotFound: There is no such run.
        """
        return await _made.backend.retrieve(run_id)

    async def _list(
        self,
        _made: Reporter,
        *,
        status: str | Sequence[str] = (),
        task: str | Sequence[str] = (),
        limit: int = 25,
        after: str | None = None,
    ) -> list[RunRecord]:
        """
        Runs, newest first.

        Args:
            status: Only those with one of these statuses.
            task: Only those of one of these tasks.
            limit: At most this many, 1 to 100.
            after: Only those older than the run with this id.

        Raises:
            ValueError: There is no such status, or the limit is out of its range.
            LedgerError: There is no run *after*.
        """
        from projections.lifecycle import parse_status

        _check_limit(limit, LIST_MAX)
        statuses = tuple(parse_status(name).value for name in _several(status))
        return await _made.backend.list(statuses, _several(task), limit, after)

    async def _metadata(
        self, _made: Reporter, run_id: str, *, version: int | None = None, at: datetime | None = None
    ) -> dict[str, Any]:
        """
        The metadata of a run: now, after its first *version* events, or as it stood at a moment.

        Args:
            run_id: The run.
            version: A version, from 1.
            at: A moment with a zone, instead.

        Raises:
            RunNotFound: There is no such run.
            NotFound: It has no such version, or did not exist then.
            ValueError: Both are given, the version is below 1, or the moment has no zone.
        """
        from projections.times import parse_time

        if version is not None and at is not None:
            raise ValueError("ask for a version or for a moment, not for both")
        if version is not None and version < 1:
            raise ValueError(f"versions are 1 and above, not {version}")
        moment = None if at is None else parse_time(at)
        return await _made.backend.metadata(run_id, version, moment)

    async def _history(
        self, _made: Reporter, run_id: str, *, after: int = 0, limit: int = HISTORY_MAX
    ) -> list[Change]:
        """
        What happened to a run, oldest first.

        Args:
            run_id: The run.
            after: Only what came behind this version.
            limit: At most this many events, 1 to 1,000.

        Raises:
            RunNotFound: There is no such run.
            ValueError: The limit is out of its range, or *after* below 0.
        """
        _check_limit(limit, HISTORY_MAX)
        if after < 0:
            raise ValueError(f"after must be a version, 0 for all of them, not {after}")
        return await _made.backend.history(run_id, after, limit)

    retrieve = _awaited(_retrieve)
    retrieve_sync = _blocking(_retrieve)
    list = _awaited(_list)
    list_sync = _blocking(_list)
    metadata = _awaited(_metadata)
    metadata_sync = _blocking(_metadata)
    history = _awaited(_history)
    history_sync = _blocking(_history)


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _check_limit(limit: int, most: int) -> None:
    if not 1 <= limit <= most:
        raise ValueError(f"limit must lie within 1 and {most}, not be {limit}")


runs = Runs()
