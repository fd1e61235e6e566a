"""
Whatever goes wrong on the way to an answer is answered, as `HANDLERS` says.

In the place of Starlette's two layers for errors, which look at each message of each answer to know whether it has
begun. Here the routes say so themselves, in the scope, once.
"""

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import HANDLERS, on_bug

BEGUN = "run_ledger.begun"  # In the scope of a request whose answer is being sent.


class Failures:
    """
    Answer what *app* raises.

    Args:
        app: What answers everything else.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Pass a request on.

        Raises:
            Exception: What nobody foresaw, which the server logs, and what failed in the middle of an answer.
        """
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            if scope["type"] != "http" or BEGUN in scope:
                raise
            handler = next(HANDLERS[kind] for kind in type(error).__mro__ if kind in HANDLERS)
            answer: ASGIApp = await handler(Request(scope, receive), error)
            scope[BEGUN] = True
            await answer(scope, receive, send)
            if handler is on_bug:
                raise
            error.__traceback__ = None  # A failed group gives all its callers the same error.
