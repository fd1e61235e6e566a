"""The processes of one group share a spool, and one of them at a time delivers it."""

import asyncio
from pathlib import Path

import pytest

from ledger.errors import Unreachable
from ledger.handle.backlog import Backlog
from ledger.handle.http import HttpBackend
from ledger.handle.requests import Request


def test_a_process_that_finds_another_one_at_it_learns_nothing_about_the_ledger(tmp_path: Path) -> None:
    async def deliver() -> None:
        backend = HttpBackend("http://127.0.0.1:9", None, "dev")
        backlog = Backlog(backend, tmp_path, 2**20, lambda *_: None, lambda *_: None)
        backlog.add([Request("create", "job", '{"id":"job","task":"job"}')])
        with backlog.spool.delivering() as ours:
            assert ours
            assert await backlog.deliver() == 1
            assert backlog.is_elsewhere
        with pytest.raises(Unreachable):
            await backlog.deliver()
        await backend.close()

    asyncio.run(deliver())
