r"""
API keys: how they look, what they may do, and how they are derived.

    rl_<environment>_<id>_<secret>

    environment   a name has no underscore in it, so the parts are never in doubt
    id            16 lower-case letters and digits, chosen at random; no secret
    secret        base62(HMAC-SHA256(master, "run-ledger/api-key/1\0" environment "\0" id)), 43 characters

The master never lies in the database, which holds the SHA-256 of a key's text: who reads the database can use no
key, and who has the master can derive each one again, which checking a token that was signed with it takes.
A plain hash is right here: the secret has 256 bits that nobody can guess.
"""

import hmac
import re
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Literal, get_args

from ledger.writes import Environment
from projections import values
from projections.size import NAME_CHARACTERS_MAX, TAG_CHARACTERS_MAX
from projections.times import Microseconds, format_time, parse_time

KEY_ID_CHARACTERS = 16  # 82 bits: two keys never share an id by chance
KEY_CHARACTERS_MAX = 3 + 32 + 1 + KEY_ID_CHARACTERS + 1 + 43  # characters of a whole key
SCOPES_MAX = 32  # scopes of one key; they are judged with every request that it restricts

Action = Literal["read", "write", "erase", "admin"]
ACTIONS: tuple[Action, ...] = get_args(Action)

_KEY = re.compile(r"rl_([a-z][a-z0-9-]{0,31})_([a-z0-9]{16})_([0-9A-Za-z]{43})")
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
_BASE62 = f"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ{_BASE36[10:]}"
_YEAR_9999 = parse_time("9999-01-01T00:00:00Z")
_DOMAIN = b"run-ledger/api-key/1\0"


@dataclass(frozen=True, slots=True)
class Reach:
    """
    The runs that a key may do something to.

    Attributes:
        is_whole: All of its environment.
        tasks: Else the runs of these tasks,
        tags: and the runs that have any of these tags.
    """

    is_whole: bool = False
    tasks: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()

    @property
    def is_empty(self) -> bool:
        """No run at all."""
        return not (self.is_whole or self.tasks or self.tags)

    def holds(self, task: str, tags: Collection[str]) -> bool:
        """Whether a run of this task with these tags is one of them."""
        return self.is_whole or task in self.tasks or not self.tags.isdisjoint(tags)


@dataclass(frozen=True, slots=True)
class Grant:
    """
    What a key may do, and to which runs.

    Attributes:
        read: Runs it may read.
        write: Runs it may create and change.
        erase: Runs it may erase something from.
        admin: Runs it may do everything to; the other three hold these too.
    """

    read: Reach = Reach()
    write: Reach = Reach()
    erase: Reach = Reach()
    admin: Reach = Reach()

    def reach(self, action: Action) -> Reach:
        """The runs it may do *action* to."""
        reach: Reach = getattr(self, action)
        return reach


EVERYTHING = Grant(*(Reach(is_whole=True) for _ in ACTIONS))


@dataclass(frozen=True, slots=True)
class ApiKey:
    """
    A key as the database holds it: without its secret.

    Attributes:
        environment: The only environment it opens.
        id: Its public part.
        name: What the history shows as the actor.
        scopes: As they were given.
        created_at: When it was made.
        expires_at: From when it opens nothing any more, None for never.
        last_used_at: When it was last used, to about a minute; None for never.
        revoked_at: When it was revoked, None while it is not.
    """

    environment: Environment
    id: str
    name: str
    scopes: tuple[str, ...]
    created_at: Microseconds
    expires_at: Microseconds | None = None
    last_used_at: Microseconds | None = None
    revoked_at: Microseconds | None = None

    @property
    def grant(self) -> Grant:
        """What it may do; a scope that only a newer release knows grants nothing."""
        return _granted(self.scopes)


@dataclass(frozen=True, slots=True)
class KeyText:
    """
    A key as its owner sends it, taken apart.

    Attributes:
        environment: The environment that it names.
        id: Its public part.
        digest: SHA-256 of the whole.
    """

    environment: str
    id: str
    digest: bytes


def read_key(text: str) -> KeyText | None:
    """Take a key apart, None for text that no key can be."""
    found = _KEY.fullmatch(text) if len(text) <= KEY_CHARACTERS_MAX else None
    return None if found is None else KeyText(found[1], found[2], sha256(text.encode()).digest())


def environment_of(text: str) -> str | None:
    """The environment that a key names, None for text that no key can be."""
    found = read_key(text)
    return None if found is None else found.environment


def new_key_id() -> str:
    """An id for one more key."""
    return "".join(secrets.choice(_BASE36) for _ in range(KEY_ID_CHARACTERS))


def derive_key(master: bytes, environment: str, key_id: str) -> str:
    """The whole text of a key."""
    mac = hmac.digest(master, _DOMAIN + environment.encode() + b"\0" + key_id.encode(), "sha256")
    number = int.from_bytes(mac)
    digits = ""
    while number:
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return f"rl_{environment}_{key_id}_{digits:0>43}"


@lru_cache(maxsize=1_024)
def parse_scopes(scopes: tuple[str, ...]) -> Grant:
    """
    What a key with these scopes may do: each adds to what the others allow.

        read | write | erase | admin           to every run of the environment
        <action>:tasks:<task>                  to the runs of one task
        <action>:tags:<tag>                    to the runs that have a tag

    `admin` holds the other three, with the same restriction.

    Raises:
        ValueError: There is no such scope, or there are none or too many.
    """
    if not 1 <= len(scopes) <= SCOPES_MAX:
        raise ValueError(f"a key has 1 to {SCOPES_MAX} scopes, not {len(scopes)}")
    found: dict[str, list[tuple[str, str]]] = {action: [] for action in ACTIONS}
    for scope in scopes:
        action, kind, value = _parts(scope)
        for named in ACTIONS if action == "admin" else (action,):
            found[named].append((kind, value))
    return Grant(*(_reach(found[action]) for action in ACTIONS))


def scopes_text(scopes: Iterable[str]) -> str:
    """Scopes as they are stored: a JSON list, because a task may hold any printable character."""
    return values.dump([*scopes])


@lru_cache(maxsize=1_024)
def read_scopes(text: str) -> tuple[str, ...]:
    """The scopes of a key from the stored text."""
    scopes = values.load(text)
    assert isinstance(scopes, list)
    return tuple(map(str, scopes))


def describe(reach: Reach) -> str:
    """In words to which runs a key is restricted."""
    parts = [f"of the task {task!r}" for task in sorted(reach.tasks)]
    parts += [f"with the tag {tag!r}" for tag in sorted(reach.tags)]
    return "runs " + " or ".join(parts) if parts else "no runs"


def refuse_name(name: str) -> None:
    """
    Check what a key is to be called.

    Raises:
        ValueError: It cannot be shown as the actor of an event.
    """
    if not name.strip() or len(name) > NAME_CHARACTERS_MAX or not name.isprintable():
        raise ValueError(f"a key's name has 1 to {NAME_CHARACTERS_MAX} printable characters")


def refuse_expiry(expires_at: Microseconds, now: Microseconds) -> None:
    """
    Check when a new key is to expire.

    Raises:
        ValueError: It would have expired already, or the time cannot be written down.
    """
    if not now < expires_at < _YEAR_9999:
        raise ValueError("a key expires at a time in the future, before the year 9999")


def state_at(key: ApiKey, now: Microseconds) -> str | None:
    """Why a key opens nothing at a moment, None while it does."""
    if key.revoked_at is not None:
        return f"was revoked at {format_time(key.revoked_at)}"
    if key.expires_at is not None and key.expires_at <= now:
        return f"expired at {format_time(key.expires_at)}"
    return None


@lru_cache(maxsize=1_024)
def _granted(scopes: tuple[str, ...]) -> Grant:
    known = tuple(filter(_is_scope, scopes))
    return parse_scopes(known) if known else Grant()


def _is_scope(scope: str) -> bool:
    try:
        _parts(scope)
    except ValueError:
        return False
    return True


def _parts(scope: str) -> tuple[str, str, str]:
    action, *restriction = scope.split(":", 2)
    if action in ACTIONS and not restriction:
        return action, "", ""
    bounds = {"tasks": NAME_CHARACTERS_MAX, "tags": TAG_CHARACTERS_MAX}
    if action in ACTIONS and len(restriction) == 2 and restriction[0] in bounds:
        kind, value = restriction
        if value.strip() and value.isprintable() and len(value) <= bounds[kind]:
            return action, kind, value
    raise ValueError(
        f"{scope[:80]!r} is no scope; there are {', '.join(ACTIONS)}, each alone or with a restriction "
        "such as read:tasks:import or read:tags:nightly"
    )


def _reach(restrictions: list[tuple[str, str]]) -> Reach:
    return Reach(
        is_whole=any(not kind for kind, _ in restrictions),
        tasks=frozenset(value for kind, value in restrictions if kind == "tasks"),
        tags=frozenset(value for kind, value in restrictions if kind == "tags"),
    )
