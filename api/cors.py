"""
Which web pages of other origins may call: the answers to what their browsers ask first, and headers on all others.

Off unless the settings name origins. No cookie opens anything here, so credentials are never allowed: a key or a
token has to be sent by the page itself.

Source: the WHATWG Fetch standard, section CORS protocol.
"""

from collections.abc import Sequence

from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = ("GET", "HEAD", "POST", "PUT")
MAX_AGE_S = 7_200  # seconds for which a browser need not ask again; Chromium takes no more

# What a page may read of an answer besides what every page may.
EXPOSED = (
    "electric-cursor",
    "electric-handle",
    "electric-offset",
    "electric-schema",
    "electric-up-to-date",
    "ETag",
    "Idempotency-Replayed",
    "Retry-After",
    "WWW-Authenticate",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-should-retry",
    "x-trigger-jwt",
    "x-trigger-jwt-claims",
)


class Cors:
    """
    Let pages of some origins in front of *app* in.

    Args:
        app: What answers.
        origins: Such as `https://app.example`; `*` for any.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._is_for_all = "*" in origins
        # Whatever header a page wants to send is allowed: none of them opens anything but Authorization.
        self._app = CORSMiddleware(
            app,
            allow_origins=["*"] if self._is_for_all else [*origins],
            allow_methods=METHODS,
            allow_headers=["*"],
            expose_headers=EXPOSED,
            max_age=MAX_AGE_S,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what a browser asks first, and pass all else on."""
        if scope["type"] != "http" or self._is_for_all:
            await self._app(scope, receive, send)
            return

        async def send_varied(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Of every answer, or a cache would hand one page what was meant for another.
                headers = MutableHeaders(scope=message)
                if "origin" not in headers.get("vary", "").lower():
                    headers.add_vary_header("Origin")
            await send(message)

        await self._app(scope, receive, send_varied)
