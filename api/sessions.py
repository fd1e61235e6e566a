r"""
Sessions: what a browser shows instead of an API key, once somebody has signed in with one.

    <environment>.<key id>.<end>.<number>.<mac>

    end      seconds since 1970 UTC
    number   random, so that no two sessions are alike
    mac      base64url(HMAC-SHA256(HMAC-SHA256(master, "run-ledger/session/1\0"), all that stands before it))

It holds no part of the key's secret, opens what the key opens for as long as the key does, at most SESSION_S, and
is kept nowhere: each request looks the key up, so revoking it ends every session that was begun with it.

A browser sends its cookies along with what other pages make it ask for. The cookie is therefore SameSite=Strict,
and a request that could change something must also show the session's token, which no other page can read.
"""

import hmac
import re
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from functools import cached_property

from starlette.types import Scope

from ledger.errors import KeyRefused
from ledger.keyring import Keyring
from ledger.keys import ApiKey

COOKIE = "run_ledger_session"
CSRF_HEADER = b"x-csrf-token"
SESSION_S = 12 * 3_600  # seconds: a working day, or a night of watching
COOKIE_CHARACTERS_MAX = 4_096  # characters; browsers keep no longer ones (RFC 6265, 6.1)

_DOMAIN = b"run-ledger/session/1\0"
_SESSION = re.compile(
    r"([a-z][a-z0-9-]{0,31})\.([a-z0-9]{16})\.([0-9]{1,12})\.([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{43})"
)


class Sessions:
    """
    The sessions of a ledger.

    Args:
        keys: The keys that begin them.
        master: Answers the master secret. It is asked once, when the first session is begun or shown.
        clock: Seconds since 1970-01-01 UTC.
    """

    def __init__(self, keys: Keyring, master: Callable[[], bytes], clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._master = master
        self._clock = clock

    def begin(self, key: ApiKey) -> str:
        """
        The text of a new session.

        Raises:
            UnusableSecret: There is no master secret to seal it with.
        """
        end = int(self._clock()) + SESSION_S
        number = secrets.token_urlsafe(16)
        sealed = f"{key.environment.name}.{key.id}.{end}.{number}"
        return f"{sealed}.{self._mac(sealed)}"

    async def admit(self, text: str) -> ApiKey:
        """
        The key that a session was begun with.

        Raises:
            KeyRefused: It is no session of this ledger, it is over, or its key opens nothing any more.
            Unavailable: The database cannot be read.
            UnusableSecret: There is no master secret to check it with.
        """
        found = _SESSION.fullmatch(text)
        if found is None or not hmac.compare_digest(self._mac(text.rpartition(".")[0]), found[5]):
            raise KeyRefused("unknown-session", "this is no session of this ledger; sign in again")
        if int(found[3]) <= self._clock():
            raise KeyRefused("expired-session", "the session is over; sign in again")
        return await self._keys.admit_signer(found[1], found[2])

    def token(self, text: str) -> str:
        """What a request of a session that could change something has to show."""
        return self._mac(f"csrf {text}")

    @cached_property
    def _secret(self) -> bytes:
        return hmac.digest(self._master(), _DOMAIN, "sha256")

    def _mac(self, text: str) -> str:
        return urlsafe_b64encode(hmac.digest(self._secret, text.encode(), "sha256")).rstrip(b"=").decode()


def cookie_of(scope: Scope, name: str = COOKIE) -> str | None:
    """The value of a cookie; None without it, and where two of the name leave it open which is meant."""
    lines = [value.decode("latin-1") for header, value in scope["headers"] if header == b"cookie"]
    text = "; ".join(lines)
    if f"{name}=" not in text or len(text) > COOKIE_CHARACTERS_MAX:
        return None
    pairs = [part.strip().partition("=") for part in text.split(";")]
    found = [value for key, _, value in pairs if key == name]
    return found[0] if len(found) == 1 else None


def set_cookie(scope: Scope, value: str, name: str = COOKIE, max_age_s: int = SESSION_S) -> str:
    """The `Set-Cookie` header that gives a browser a value, or takes it away when the age is 0."""
    parts = [f"{name}={value}", "Path=/", f"Max-Age={max_age_s}", "HttpOnly", "SameSite=Strict"]
    if is_secure(scope):
        parts.append("Secure")
    return "; ".join(parts)


def is_secure(scope: Scope) -> bool:
    """
    Whether the browser speaks TLS, to this server or to a proxy in front of it.

    Whoever makes up the header only keeps his own browser from sending the cookie back over plain HTTP.
    """
    if scope.get("scheme") == "https":
        return True
    return any(header == b"x-forwarded-proto" and value == b"https" for header, value in scope["headers"])
