"""
Templates, and the headers of a page.

All text goes through Jinja's escaping; no template marks anything as safe. The policy of a page allows it nothing
but its own script, style, icon and requests to this server, and its script no way to turn text into markup.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response

from api.pages import words
from api.pages.assets import asset_path
from api.sessions import Sessions
from ledger.keys import ApiKey
from ledger.log import Log

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Vary": "Cookie",
}


def page(
    request: Request,
    template: str,
    context: Mapping[str, Any],
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """
    A page.

    Args:
        request: Who asks; what is shown of the session comes from it.
        template: Name of the template.
        context: What it shows.
        status: HTTP status.
        headers: Further headers.
    """
    text = _templates().get_template(template).render(**_session(request), **context)
    # Half characters cannot be sent; metadata has none, and a path in an error may.
    return Response(
        text.encode(errors="backslashreplace"),
        status,
        headers={**HEADERS, **(headers or {})},
        media_type="text/html",
    )


def _session(request: Request) -> dict[str, Any]:
    """Who has signed in, and what a form must carry."""
    sessions: Sessions | None = request.scope.get("run_ledger.sessions")
    session: str | None = request.scope.get("run_ledger.session")
    key: ApiKey | None = request.scope.get("run_ledger.key")
    log: Log | None = request.scope.get("run_ledger.log")
    is_in = key is not None or request.scope.get("run_ledger.is_open", True)
    return {
        "environment": log.environment if is_in and log is not None else None,
        "key_name": key.name if session is not None and key is not None else None,
        "csrf": sessions.token(session) if sessions is not None and session is not None else None,
    }


@cache
def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("api.pages", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["asset"] = asset_path
    made.filters.update(words.FILTERS)
    return made
