"""Signing in with an API key, and out again."""

import hmac
import re
import secrets
from typing import NamedTuple
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from api.pages import query
from api.pages.templates import page
from api.problems import Problem
from api.scopes import is_page
from api.sessions import SESSION_S, Sessions, cookie_of, set_cookie
from ledger.errors import KeyRefused
from ledger.ledger import Ledger
from ledger.master import UnusableSecret

FORM_COOKIE = "run_ledger_form"  # Holds what a form of this server must show: no other page knows it.
FORM_BYTES_MAX = 16_384  # bytes of a form: a key, a token, an address
FORM_S = 3_600  # seconds for which a form can be sent

_LOCAL = re.compile(r"/(?![/\\])[\x21-\x7e]*")


class _Form(NamedTuple):
    key: str
    token: str
    wanted: str


async def show(request: Request) -> Response:
    """Answer the form; where nobody has to sign in, the first page."""
    query.check(request, {"next"})
    if request.scope.get("run_ledger.is_open", True):
        return RedirectResponse("/", 303, headers={"Cache-Control": "no-store"})
    return _form(request, _local(request.query_params.get("next", "/")))


async def sign_in(request: Request) -> Response:
    """Begin a session with a key."""
    if request.scope.get("run_ledger.is_open", True):
        return RedirectResponse("/", 303, headers={"Cache-Control": "no-store"})
    form = await _read(request)
    wanted = _local(form.wanted)
    known = cookie_of(request.scope, FORM_COOKIE)
    is_ours = request.headers.get("sec-fetch-site", "same-origin") == "same-origin"  # Old browsers do not say.
    if known is None or not is_ours or not hmac.compare_digest(known.encode(), form.token.encode()):
        return _form(request, wanted, "The form was too old, or came from elsewhere. Please try again.", 403)
    sessions: Sessions | None = request.scope.get("run_ledger.sessions")
    ledger: Ledger = request.scope["run_ledger.ledger"]
    if sessions is None:
        raise Problem(
            503, "no-secret", "Nobody can sign in", "this server has no master secret to seal sessions with"
        )
    try:
        key = await ledger.keys.admit(form.key.strip())
        session = sessions.begin(key)
    except KeyRefused as refused:
        return _form(request, wanted, _why(refused), 401)
    except UnusableSecret as error:
        raise Problem(503, "no-secret", "Nobody can sign in", f"{error}") from error
    if key.grant.read.is_empty:
        return _form(
            request, wanted, "This key may not read anything; sign in with one that has the scope read.", 403
        )
    answer = RedirectResponse(wanted, 303, headers={"Cache-Control": "no-store"})
    answer.headers.append("Set-Cookie", set_cookie(request.scope, session, max_age_s=SESSION_S))
    answer.headers.append("Set-Cookie", set_cookie(request.scope, "", FORM_COOKIE, max_age_s=0))
    return answer


async def sign_out(request: Request) -> Response:
    """End the session of this browser."""
    form = await _read(request)
    session = cookie_of(request.scope)
    sessions: Sessions | None = request.scope.get("run_ledger.sessions")
    if session is not None and sessions is not None and await _is_one(sessions, session):
        token = sessions.token(session)
        if not hmac.compare_digest(token.encode(), form.token.encode()):
            raise Problem(
                403,
                "csrf",
                "The request may come from another page",
                "nobody was signed out: the form was not one of this page; go back and try again",
            )
    answer = RedirectResponse("/login", 303, headers={"Cache-Control": "no-store"})
    answer.headers.append("Set-Cookie", set_cookie(request.scope, "", max_age_s=0))
    return answer


async def _is_one(sessions: Sessions, session: str) -> bool:
    """Whether a session opens anything; one that does not is taken away from whoever asks."""
    try:
        await sessions.admit(session)
    except (KeyRefused, UnusableSecret):
        return False
    return True


def _form(request: Request, wanted: str, complaint: str | None = None, status: int = 200) -> Response:
    token = cookie_of(request.scope, FORM_COOKIE) or secrets.token_urlsafe(16)
    answer = page(request, "login.html", {"token": token, "wanted": wanted, "complaint": complaint}, status=status)
    answer.headers.append("Set-Cookie", set_cookie(request.scope, token, FORM_COOKIE, max_age_s=FORM_S))
    return answer


def _why(refused: KeyRefused) -> str:
    if refused.code == "unknown-key":
        return (
            "There is no such key in this ledger. Check that all of it was copied: rl_, environment, id, secret."
        )
    return f"{str(refused)[0].upper()}{str(refused)[1:]}. Sign in with another one."


async def _read(request: Request) -> _Form:
    """
    A form as a browser sends it.

    Raises:
        Problem: It is too large or of another kind.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Problem(
            415, "unsupported-media-type", "The body has an unsupported form", "send the form of the page"
        )
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_BYTES_MAX:
            raise Problem(
                413,
                "body-too-large",
                "The body is too large",
                f"the form has more than {FORM_BYTES_MAX:,} bytes; an API key has about 90 characters",
                headers={"Connection": "close"},
            )
    try:
        fields = parse_qs(body.decode("ascii"), max_num_fields=8)
    except ValueError as error:
        raise Problem(400, "bad-form", "The request is not acceptable", "the form cannot be read") from error
    return _Form(*(fields.get(name, [""])[0] for name in ("key", "token", "next")))


def _local(path: str) -> str:
    """Where to go afterwards: a page of this server, and nowhere else."""
    found = _LOCAL.fullmatch(path)
    place = path.partition("?")[0]
    return path if found and is_page(place) and place not in {"/login", "/logout"} else "/"
