"""
Who may come in, and to which environment.

A database in which no API key was ever made is open: anyone who reaches the server may read and write. So the
server then listens on loopback addresses only, answers loopback names only (or any web page could reach it through
a name that points here), and refuses forwarded headers (a proxy in front would let the world in).

The first key closes it for good. From then on every request shows a key, and the key alone says which environment
it works on. Both are looked up with every request, so what another process did holds from the next one on.

A browser shows a public token instead, which is signed with a key (`api/tokens.py`) and may do what both allow.
"""

import hmac
from collections.abc import Awaitable, Collection, Hashable
from functools import lru_cache
from ipaddress import ip_address
from typing import cast

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.pages.faults import answer_to
from api.problems import Problem, log_outage, problem_of
from api.rates import TOO_MANY, Rates
from api.scopes import HEALTH_PATHS, is_public
from api.sessions import CSRF_HEADER, Sessions, cookie_of
from api.tokens import BadToken, PublicToken, Tokens, is_token
from ledger.errors import KeyRefused, LedgerError
from ledger.keys import ApiKey, read_key
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.master import UnusableSecret

_CHALLENGE = 'Bearer realm="run-ledger"'
_READING = frozenset({"GET", "HEAD"})


class Access:
    """
    The door in front of *app*. A request that may pass carries the log it may work on.

    Args:
        app: What answers the requests that may pass.
        ledger: Whose keys open it.
        log: The log of the environment that is served while there are no keys.
        rate_limit: Requests a second that each key may make, 0 for any number. The public tokens of a key have
            as many of their own, all together: whoever holds one takes nothing from the key's owner.
        tokens: The public tokens.
        sessions: Those of browsers that signed in, None where none can.
        origins: Web pages of these origins may call while there are no keys, besides those of this machine.
    """

    def __init__(
        self,
        app: ASGIApp,
        ledger: Ledger,
        log: Log,
        rate_limit: int,
        tokens: Tokens,
        sessions: Sessions | None = None,
        origins: Collection[str] = (),
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._origins = frozenset(origin.encode() for origin in origins)
        self._ledger = ledger
        self._log = log
        self._sessions = sessions
        self._rates = Rates(rate_limit) if rate_limit else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or say why not."""
        if scope["type"] == "http":
            try:
                send = await self._admit(scope, send)
            except Problem as problem:
                await answer_to(scope, problem)(scope, receive, send)
                return
            except LedgerError as error:  # The database cannot be read.
                log_outage(error)
                await answer_to(scope, problem_of(error))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _admit(self, scope: Scope, send: Send) -> Send:
        keys = self._ledger.keys
        scope["run_ledger.ledger"] = self._ledger
        scope["run_ledger.sessions"] = self._sessions
        scope["run_ledger.tokens"] = self._tokens
        needs_no_key = is_public(scope["path"])
        try:
            # Whether the process lives must not take as long as a database that does not answer.
            is_open = await (keys.was_open() if scope["path"] in HEALTH_PATHS else keys.is_open())
        except LedgerError:
            if not needs_no_key:
                raise
            is_open = True  # Whether the process lives can be asked even while the database cannot be read.
        scope["run_ledger.is_open"] = is_open
        if is_open or needs_no_key:
            if is_open:
                _judge_origin(scope, self._origins)
            scope["run_ledger.log"] = self._log
            return send
        token: PublicToken | None = None
        try:
            session = await self._key_of_session(scope)
            if session is not None:
                key = session
            elif is_token(text := _shown_key(scope)):
                key, token = await self._tokens.admit(text)
            else:
                key = await keys.admit(text)
        except (KeyRefused, BadToken) as refused:
            raise _unauthorized(refused.code, str(refused), 'error="invalid_token"') from refused
        scope["run_ledger.key"] = key
        scope["run_ledger.token"] = token
        scope["run_ledger.log"] = self._ledger.log_of(key.environment)
        if self._rates is None:
            return send
        return self._limit(self._rates, (key.environment.id, key.id, token is not None), send)

    async def _key_of_session(self, scope: Scope) -> ApiKey | None:
        """The key that a browser signed in with, None where it shows no session or another key."""
        session = cookie_of(scope)
        if session is None or self._sessions is None or _shows_key(scope):
            return None
        try:
            key = await self._sessions.admit(session)
            token = self._sessions.token(session).encode()
        except UnusableSecret as error:
            raise KeyRefused("no-secret", f"sessions cannot be checked: {error}") from error
        shown = [value for name, value in scope["headers"] if name == CSRF_HEADER]
        if scope["method"] not in _READING and not any(hmac.compare_digest(token, value) for value in shown):
            raise Problem(
                403,
                "csrf",
                "The request may come from another page",
                "a browser's session changes something only with its token; send x-csrf-token, or use an API key",
            )
        scope["run_ledger.session"] = session
        return key

    def _limit(self, rates: Rates, caller: Hashable, send: Send) -> Send:
        """Count a request of a caller; every answer to it says how many more there may be."""
        remaining = rates.take(caller)
        if remaining == TOO_MANY:
            raise rates.refusal()
        headers = rates.headers(remaining)

        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *headers]
            return send(message)

        return send_with_headers


class Owner:
    """
    No door: the requests of a command that holds the database itself, whom no key could keep from anything.

    Args:
        app: What answers.
        log: The log of the environment that was chosen.
    """

    def __init__(self, app: ASGIApp, log: Log) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        scope["run_ledger.log"] = self._log
        await self._app(scope, receive, send)


async def may_stay(request: Request) -> bool:
    """
    Whether a request that goes on for long would be let in again: its key may have been revoked since, its token
    have expired, or the first key of an open ledger have been made.

    Raises:
        Unavailable: The database cannot be read.
    """
    ledger: Ledger | None = request.scope.get("run_ledger.ledger")
    if ledger is None:
        return True
    key: ApiKey | None = request.scope.get("run_ledger.key")
    token: PublicToken | None = request.scope.get("run_ledger.token")
    if token is not None and token.expires_at <= ledger.keys.now():
        return False
    return await ledger.keys.is_open() if key is None else await ledger.keys.is_valid(key)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _shows_key(scope: Scope) -> bool:
    return any(name == b"authorization" for name, _ in scope["headers"])


def _shown_key(scope: Scope) -> str:
    """
    The text behind `Authorization: Bearer`.

    Raises:
        Problem: 401; there is none, or more than one, or it is none that could be a key.
    """
    shown = [value for name, value in scope["headers"] if name == b"authorization"]
    if not shown:
        raise _unauthorized("no-key", "this ledger has API keys; send one as Authorization: Bearer rl_...")
    if len(shown) > 1:
        raise _unauthorized("bad-authorization", "there are several Authorization headers; send one")
    scheme, _, text = shown[0].partition(b" ")
    if scheme.lower() != b"bearer":
        raise _unauthorized("bad-authorization", "the Authorization header must be: Bearer and an API key")
    return cast("bytes", text).strip(b" ").decode("latin-1")


def _unauthorized(code: str, detail: str, *challenge: str) -> Problem:
    """Source of the header: RFC 6750, section 3."""
    headers = {"WWW-Authenticate": ", ".join((_CHALLENGE, *challenge))}
    return Problem(401, code, "An API key is needed", detail, headers=headers)


def _judge_origin(scope: Scope, origins: Collection[bytes]) -> None:
    """
    The rules of an open ledger.

    A page of any other origin may make the browser of whoever works here send requests; what needs no preflight
    would arrive. So its origin has to be of this machine, or one of those that the settings name one by one.

    Raises:
        Problem: The request came from elsewhere, or shows a key of another ledger.
    """
    hosts = []
    for name, value in scope["headers"]:
        if name == b"host":
            hosts.append(value)
        elif name == b"authorization":
            _refuse_key(value)
        elif name == b"origin" and value not in origins and not _is_of_this_machine(value):
            raise _refusal(
                403,
                "foreign-origin",
                f"a web page of {value.decode('latin-1')!r} asks, which is none of this machine and none that "
                "RUN_LEDGER_CORS_ORIGINS names",
            )
        elif name == b"forwarded" or name.startswith(b"x-forwarded-"):
            raise _refusal(
                400,
                "forwarded",
                f"the header {name.decode('latin-1')} says that a proxy forwards requests from elsewhere",
            )
    if not hosts or not all(map(_names_this_machine, hosts)):
        named = b", ".join(hosts).decode("latin-1")
        raise _refusal(421, "foreign-host", f"the Host header is {named!r}, not a name of this machine")


def _refuse_key(authorization: bytes) -> None:
    """Keep what is meant for the environment of a key out of the one environment that is open."""
    shown = read_key(authorization[7:].strip(b" ").decode("latin-1"))
    if shown is not None:
        raise _unauthorized(
            "unknown-key",
            f"this ledger has no API keys, and the one sent is of environment {shown.environment}; "
            "check the address and the server's database, or send no key",
            'error="invalid_token"',
        )


@lru_cache(maxsize=64)
def _names_this_machine(host: bytes) -> bool:
    """Judge one Host header; a client sends the same one with every request."""
    name, colon, port = host.decode("latin-1").rpartition(":")
    return is_loopback((name if colon and port.isdecimal() else host.decode("latin-1")).lower())


@lru_cache(maxsize=64)
def _is_of_this_machine(origin: bytes) -> bool:
    """Judge one Origin header."""
    scheme, _, host = origin.partition(b"://")
    return scheme in {b"http", b"https"} and _names_this_machine(host)


def _refusal(status: int, code: str, what: str) -> Problem:
    detail = f"{what}; a ledger without API keys answers this machine only"
    return Problem(status, code, "The request came from elsewhere", detail)
