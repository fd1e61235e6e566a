"""
Public tokens: what a browser may hold in the place of an API key.

A token is a JWT that is signed with the text of an API key, by the Trigger.dev SDK itself or by this server. It
may do what its scopes say and its key may, and it dies with its key. Its `sub` is the id of that key, which leads
to the one environment that the key opens. (Should an id ever lead to two, the signature says which one is meant.)

    action[:type[:id]]     a scope: read:runs:run_1, trigger:tasks:import, read:tags:nightly, read

Without an id a scope is for the whole type, without a type for everything; `*` is any action, `all` any type, and
`admin` alone everything. Ids may hold colons.

Source: what `@trigger.dev/sdk` signs (HS256, issuer and audience below), RFC 7519, RFC 8725.
"""

import logging
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

from ledger.keyring import Keyring
from ledger.keys import ApiKey
from ledger.master import UnusableSecret
from ledger.writes import OneTime
from projections.times import Microseconds, parse_time

ALGORITHM = "HS256"
ISSUER = "https://id.trigger.dev"
AUDIENCE = "https://api.trigger.dev"

TOKEN_CHARACTERS_MAX = 8_192  # characters of a token: about what proxies take for a header
CLOCK_SKEW_S = 60  # seconds by which the clock of who signs may be ahead
LIFE_S = 3_600  # seconds that a token lives which comes with the answer to a trigger; the SDK's own default
MINTED_LIFE_S = 900  # seconds that a token lives which was asked for without a time; the SDK's own default
MINTED_LIFE_S_MAX = 30 * 86_400  # seconds; the reference server's bound for tokens that it signs

Action = Literal["read", "write", "trigger", "batchTrigger"]

_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_KEY_ID = re.compile(r"[a-z0-9]{16}")
_MICROSECONDS = 1_000_000  # in a second
_YEAR_9999_S = parse_time("9999-01-01T00:00:00Z") // _MICROSECONDS

_logger = logging.getLogger(__name__)


class BadToken(Exception):
    """
    A token opens nothing.

    Args:
        code: `bad-token` or `expired-token`.
        reason: In words.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Scope:
    """
    One permission of a token.

    Attributes:
        action: Such as `read`; `*` for any.
        type: Such as `runs`, None for all types.
        id: Such as a run's id, None for all of the type.
    """

    action: str
    type: str | None = None
    id: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Scope":
        """Take one apart. What is unknown is kept: it grants nothing."""
        action, *rest = text.split(":", 2)
        return cls(action, *rest)

    def allows(self, action: str, type: str, id: str | None) -> bool:  # noqa: A002
        """Whether it lets its owner do something to one thing, or, without an id, to the whole type."""
        if (self.action, self.type) == ("admin", None):
            return True
        return (
            self.action in {action, "*"}
            and self.type in {None, "all", type}
            and (self.type is None or self.id is None or (id is not None and self.id == id))
        )


@dataclass(frozen=True, slots=True)
class PublicToken:
    """
    A token that was shown and verified.

    Attributes:
        digest: SHA-256 of what is signed of it, in hexadecimal. Not of its whole text: the last character of a
            signature has bits that mean nothing, so one token can be written in several ways.
        scopes: What it may do.
        expires_at: From when it opens nothing any more.
        is_one_time: It triggers once, and does nothing else.
        skipped_columns: Columns that its realtime feeds leave out.
    """

    digest: str
    scopes: tuple[Scope, ...]
    expires_at: Microseconds
    is_one_time: bool = False
    skipped_columns: frozenset[str] = frozenset()

    def allows(self, action: Action, type: str, id: str | None = None) -> bool:  # noqa: A002
        """Whether it lets its owner do something to one thing, or, without an id, to the whole type."""
        return any(scope.allows(action, type, id) for scope in self.scopes)

    @property
    def one_time(self) -> OneTime | None:
        """What the ledger remembers when it was used, None where it may be used again."""
        if not self.is_one_time:
            return None
        # Remembered a little longer, so that no two clocks let it through again in its last moments.
        return OneTime(self.digest, self.expires_at + 86_400 * _MICROSECONDS)


class Tokens:
    """
    The public tokens of a ledger: says which key one was signed with, and signs others.

    Args:
        keys: The keys of the ledger.
        master: The secret they were derived from, read when it is needed; None where there is none.
    """

    def __init__(self, keys: Keyring, master: Callable[[], bytes] | None) -> None:
        self._keys = keys
        self._master = master
        self._has_complained = False

    async def admit(self, text: str) -> tuple[ApiKey, PublicToken]:
        """
        The key that a token was signed with, and what the token may do.

        Raises:
            BadToken: It opens nothing, whatever its key does.
            KeyRefused: Its key opens nothing any more.
            Unavailable: The database cannot be read.
        """
        key_id = _named_key(text)
        for environment in await self._keys.environments_of(key_id):
            claims = _verified(text, await self._key_text(environment.name, key_id))
            if claims is not None:
                token = _read(text, claims, self._keys.now())
                return await self._keys.admit_signer(environment.name, key_id), token
        raise _bad("it is not signed with an API key of this ledger")

    async def sign(self, key: ApiKey, scopes: Sequence[str], expires_s: int, **claims: Any) -> str | None:
        """
        A token of a key.

        Args:
            key: Whose.
            scopes: What it may do.
            expires_s: When it expires, in seconds since 1970-01-01 UTC.
            claims: Further claims; those that are None are left out.

        Returns:
            None where this server cannot derive the key's text.

        Raises:
            Unavailable: The database cannot be read.
        """
        text = await self._key_text(key.environment.name, key.id)
        if text is None:
            return None
        now_s = self._keys.now() // _MICROSECONDS
        return signed(text, key.id, scopes, now_s, expires_s, **claims)

    async def _key_text(self, environment: str, key_id: str) -> str | None:
        if self._master is None:
            return None
        try:
            signer = await self._keys.signer(environment, key_id, self._master())
        except UnusableSecret as error:
            self._complain(str(error))
            return None
        if signer is None:
            return None
        if signer.text is None:
            self._complain(f"the key {key_id} was not derived from the secret that this server has")
        return signer.text

    def _complain(self, reason: str) -> None:
        """Tell the operator once: to callers it looks as if their tokens were forged."""
        if not self._has_complained:
            self._has_complained = True
            _logger.warning("public tokens cannot be verified: %s", reason)


def is_token(text: str) -> bool:
    """Whether a bearer may be a token; no API key is, because none has a dot in it."""
    return "." in text and _TOKEN.fullmatch(text) is not None


def signed(secret: str, subject: str, scopes: Sequence[str], issued_s: int, expires_s: int, **claims: Any) -> str:
    """A token as the SDK signs one. Times are in seconds since 1970-01-01 UTC."""
    import jwt  # noqa: PLC0415 - Loads cryptography, which only tokens need.

    payload = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "iat": issued_s,
        "exp": expires_s,
        "sub": subject,
        "pub": True,
        "scopes": [*scopes],
        **{name: value for name, value in claims.items() if value is not None},
    }
    return jwt.encode(payload, secret, ALGORITHM)


def _named_key(text: str) -> str:
    """The id of the key that a token says it is signed with; nothing of it is verified yet."""
    import jwt  # noqa: PLC0415 - Loads cryptography, which only tokens need.

    if len(text) > TOKEN_CHARACTERS_MAX:
        raise _bad(
            f"it has {len(text):,} characters, at most {TOKEN_CHARACTERS_MAX:,} are taken; name fewer scopes"
        )
    try:
        shown = jwt.decode_complete(text, options={"verify_signature": False})
    except (jwt.InvalidTokenError, ValueError, RecursionError) as error:
        raise _bad("it is neither an API key of this ledger nor a signed token") from error
    header: Mapping[str, Any] = shown["header"]
    if header.get("alg") != ALGORITHM or "crit" in header:
        raise _bad(f"it is not signed with {ALGORITHM}")
    subject = shown["payload"].get("sub")
    if not isinstance(subject, str) or not _KEY_ID.fullmatch(subject):
        raise _bad("its sub is no id of an API key; it is what POST /api/v1/auth/jwt/claims answers")
    return subject


def _verified(text: str, key_text: str | None) -> Mapping[str, Any] | None:
    """The claims of a token where a key signed it, None where it did not."""
    import jwt  # noqa: PLC0415 - Loads cryptography, which only tokens need.

    if key_text is None:
        return None
    try:
        claims: Mapping[str, Any] = jwt.decode(text, key_text, [ALGORITHM], options=_SIGNATURE_ONLY)
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        return None
    return claims


# The claims are judged below, by the clock of the keys.
_SIGNATURE_ONLY: Any = {
    "verify_signature": True,
    "require": [],
    **{f"verify_{name}": False for name in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")},
}


def _read(text: str, claims: Mapping[str, Any], now: Microseconds) -> PublicToken:
    """What a verified token says."""
    for name, wanted in (("iss", ISSUER), ("aud", AUDIENCE)):
        if claims.get(name) != wanted:
            raise _bad(f"its {name} is not {wanted}")
    if claims.get("pub") is not True:
        raise _bad("it is not marked as public (pub: true)")
    expires_at = _moment(claims, "exp")
    if expires_at <= now:
        raise BadToken("expired-token", "the public token has expired; ask for another")
    if _moment(claims, "iat") > now + CLOCK_SKEW_S * _MICROSECONDS:
        raise _bad("it was issued in the future; set the clock of who signs it")
    if "nbf" in claims and _moment(claims, "nbf") > now + CLOCK_SKEW_S * _MICROSECONDS:
        raise _bad("it is not to be used yet")
    one_time = claims.get("otu", False)
    if not isinstance(one_time, bool):
        raise _bad("its otu is neither true nor false")
    realtime = claims.get("realtime") or {}
    if not isinstance(realtime, dict):
        raise _bad("its realtime is no object")
    return PublicToken(
        digest=sha256(text.rpartition(".")[0].encode()).hexdigest(),
        scopes=tuple(map(Scope.parse, _texts(claims.get("scopes"), "scopes"))),
        expires_at=expires_at,
        is_one_time=one_time,
        skipped_columns=frozenset(_texts(realtime.get("skipColumns"), "realtime.skipColumns")),
    )


def _moment(claims: Mapping[str, Any], name: str) -> Microseconds:
    """A time in seconds, which has to be there and to be one."""
    value = claims.get(name)
    if value is None:
        raise _bad(f"it lacks {name}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _bad(f"its {name} is no time in seconds")
    if not 0 <= value < _YEAR_9999_S:
        raise _bad(f"its {name} is a time out of bounds; it is given in seconds since 1970")
    return int(value * _MICROSECONDS)


def _texts(value: object, name: str) -> Collection[str]:
    """A list of strings, none where it is left out."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _bad(f"its {name} is no list of strings")
    return value


def _bad(reason: str) -> BadToken:
    return BadToken("bad-token", f"the public token opens nothing: {reason}")
