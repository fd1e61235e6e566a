"""
The application without a network: requests in this process whose answers may go on for ever.

httpx2's own transport for this gathers an answer to its end, which a live one does not have.
"""

import asyncio
from collections.abc import AsyncIterator

import httpx2
from starlette.types import ASGIApp, Message, Scope


class InProcess(httpx2.AsyncBaseTransport):
    """
    Carry requests to an application in this event loop.

    Args:
        app: What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer a request as soon as its answer begins."""
        body = await request.aread()
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "scheme": request.url.scheme,
            "path": request.url.path,
            "raw_path": request.url.raw_path.partition(b"?")[0],
            "query_string": request.url.query,
            "server": (request.url.host, request.url.port),
            "client": ("127.0.0.1", 1),
            "root_path": "",
        }
        answer = _Answer(self._app, scope, body)
        start = await answer.next()
        assert start is not None, "the application ended without an answer"
        return httpx2.Response(start["status"], headers=start["headers"], stream=answer)


class _Answer(httpx2.AsyncByteStream):
    """The body of one answer; closing it ends the application's work on it."""

    def __init__(self, app: ASGIApp, scope: Scope, body: bytes) -> None:
        self._body = body
        self._asked = False
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue(maxsize=1)
        self._task = asyncio.create_task(self._work(app, scope))

    async def next(self) -> Message | None:
        """What the application sends next, None after its end; its error is raised here."""
        message = await self._messages.get()
        if message is None:
            await self._task
        return message

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self.next()) is not None:
            yield message.get("body", b"")
            if not message.get("more_body", False):
                return

    async def aclose(self) -> None:
        """End it."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _work(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception:
            await self._messages.put(None)
            raise
        await self._messages.put(None)

    async def _send(self, message: Message) -> None:
        await self._messages.put(message)

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await asyncio.Event().wait()  # Nobody goes away before the answer is closed.
        raise AssertionError
