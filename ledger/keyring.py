"""
The keys of a ledger: make, list and revoke them, and say what one that is shown may open.

Every request asks the database; those that wait at the same moment share one look at the row. So a key that was
revoked in another process opens nothing any more from the next request on, and no cache has to be told.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, NamedTuple

from sqlalchemy import ClauseElement

from ledger import statements
from ledger.errors import KeyNotFound, KeyRefused, Unavailable
from ledger.group import Transaction
from ledger.keys import (
    ApiKey,
    derive_key,
    new_key_id,
    parse_scopes,
    read_key,
    read_scopes,
    refuse_expiry,
    refuse_name,
    scopes_text,
    state_at,
)
from ledger.store import Store
from ledger.writes import Environment
from projections.times import Microseconds

DEFAULT_SCOPES = ("read", "write")
USE_EVERY_S = 60  # seconds for which the time of a key's last use may lag behind
USES_AFTER_S = 1.0  # seconds in which the uses of several keys are gathered into one write

_MICROSECONDS = 1_000_000  # in a second
_NO_DIGEST = bytes(32)

_logger = logging.getLogger(__name__)


class NewKey(NamedTuple):
    """
    A key that was made just now.

    Attributes:
        key: As it is stored.
        text: The whole of it, which is shown once and stored nowhere.
        is_first: No key was ever made before: the ledger was open until now.
    """

    key: ApiKey
    text: str
    is_first: bool


class Signer(NamedTuple):
    """
    A key that tokens are signed with.

    Attributes:
        key: The key, which may open nothing any more.
        text: The whole of it, derived anew; None where the master is not the one that it was derived from.
    """

    key: ApiKey
    text: str | None


@dataclass(slots=True)
class _Known:
    """
    A key that was admitted before.

    Attributes:
        key: As it was then.
        row: As it was then.
        parameters: What its row is found by.
        used_at: When this process last noted that it was used.
    """

    key: ApiKey
    row: Sequence[Any]
    parameters: Mapping[str, Any]
    used_at: Microseconds


class _Looks:
    """
    Looks at single rows, each taken once for all who want it in the same turn of the event loop.

    Whatever waits in a turn came before it, so nobody is told what the database said before he asked.

    Args:
        store: Where the rows are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._taken: dict[tuple[Any, ...], asyncio.Future[Any]] = {}

    async def row(self, statement: ClauseElement, parameters: Mapping[str, Any]) -> Any:
        """See `Store.point`."""
        asked = (statement, *parameters.values())
        look = self._taken.get(asked)
        if look is None:
            loop = asyncio.get_running_loop()
            if not self._taken:
                loop.call_soon(self._taken.clear)
            if self._store.answers_at_once:
                row = await self._store.point(statement, parameters)
                look = loop.create_future()
                look.set_result(row)
            else:
                look = loop.create_task(self._store.point(statement, parameters))
            self._taken[asked] = look
        return look.result() if look.done() else await asyncio.shield(look)


class Keyring:
    """
    The keys of all environments of a ledger.

    Args:
        store: Where they are kept.
        clock: Microseconds since 1970-01-01 UTC, the system's by default.
    """

    def __init__(self, store: Store, clock: Callable[[], Microseconds] | None = None) -> None:
        self._store = store
        self._looks = _Looks(store)
        self._clock = clock or _now
        self._is_open: bool | None = None  # As it was when it was last asked; once it is not, it stays so.
        self._asking: asyncio.Task[None] | None = None
        self._environments: dict[str, Environment] = {}
        self._places: dict[str, tuple[Environment, ...]] = {}
        self._known: dict[bytes, _Known] = {}
        self._unwritten: dict[tuple[int, str], Microseconds] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    async def is_open(self) -> bool:
        """
        Whether no key was ever made. Once one was, the answer stays no: keys are revoked, never deleted.

        Raises:
            Unavailable: The database cannot be read.
        """
        if self._is_open is not False:
            self._is_open = (await self._looks.row(statements.ANY_API_KEY, {})) is None
        return self._is_open

    async def was_open(self) -> bool:
        """
        What `is_open` said last, for who must not wait for a database that may not answer; it is asked meanwhile.

        Raises:
            Unavailable: It was never said, and the database cannot be read.
        """
        if not self._is_open or self._store.answers_at_once:
            return await self.is_open()
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        return True

    async def _ask(self) -> None:
        with suppress(Unavailable):  # Then it is asked again the next time.
            await self.is_open()
        self._asking = None

    async def admit(self, text: str) -> ApiKey:
        """
        The key that was shown.

        Raises:
            KeyRefused: There is no such key, or it opens nothing any more.
            Unavailable: The database cannot be read.
        """
        known = self._known.get(sha256(text.encode()).digest())
        if known is None or not await self._is_as_known(known):
            known = await self._look_up(text)
        return self._admitted(known)

    async def environments_of(self, key_id: str) -> tuple[Environment, ...]:
        """
        Where there is a key with this id: keys never move, so what was found is not asked again.

        Returns:
            One environment, or none. Ids are random; should two keys ever have the same one, both places.

        Raises:
            Unavailable: The database cannot be read.
        """
        known = self._places.get(key_id)
        if known is None:
            rows = await self._store.read(
                lambda reader: reader.rows(statements.ENVIRONMENTS_OF_API_KEY, key_id=key_id)
            )
            known = tuple(Environment(row["environment_id"], row["name"]) for row in rows)
            if known:
                self._places[key_id] = known
        return known

    async def signer(self, environment: str, key_id: str, master: bytes) -> Signer | None:
        """
        The key of an environment that has this id, with its text; None where there is none.

        Args:
            environment: Its name.
            key_id: The key's public part.
            master: The secret from which its own was derived.

        Raises:
            Unavailable: The database cannot be read.
        """
        known = await self._known_by_id(environment, key_id)
        if known is None:
            return None
        text = derive_key(master, environment, key_id)
        is_same = hmac.compare_digest(known.row[0], sha256(text.encode()).digest())
        return Signer(known.key, text if is_same else None)

    async def admit_signer(self, environment: str, key_id: str) -> ApiKey:
        """
        The key with which a token that was shown is signed: the token opens nothing where the key does not.

        Raises:
            KeyRefused: There is no such key, or it opens nothing any more.
            Unavailable: The database cannot be read.
        """
        known = await self._known_by_id(environment, key_id)
        if known is None:
            raise KeyRefused("unknown-key", "this is no API key of this ledger")
        return self._admitted(known)

    def now(self) -> Microseconds:
        """What the clock shows, by which keys expire."""
        return self._clock()

    def _admitted(self, known: "_Known") -> ApiKey:
        key = known.key
        now = self._clock()
        if key.revoked_at is not None or key.expires_at is not None:
            state = state_at(key, now)
            if state is not None:
                code = "expired-key" if key.revoked_at is None else "revoked-key"
                raise KeyRefused(code, f"the API key {key.id} {state}")
        if now - known.used_at >= USE_EVERY_S * _MICROSECONDS:
            self._note_use(known, now)
        return key

    async def is_valid(self, key: ApiKey) -> bool:
        """
        Whether a key that was admitted would be admitted again: what lasts longer than a request asks it at times.

        Raises:
            Unavailable: The database cannot be read.
        """
        row = await self._store.point(statements.API_KEY, {"environment_id": key.environment.id, "key_id": key.id})
        return row is not None and state_at(_read_point(row, key.environment, key.id), self._clock()) is None

    async def create(
        self,
        environment: Environment,
        master: bytes,
        *,
        name: str | None = None,
        scopes: Sequence[str] = DEFAULT_SCOPES,
        expires_at: Microseconds | None = None,
    ) -> NewKey:
        """
        Make a key. The first one closes an open ledger for good.

        Args:
            environment: The environment that it is to open.
            master: The secret from which its own is derived.
            name: What the history is to show as the actor; its id unless given.
            scopes: What it may do.
            expires_at: From when it opens nothing any more.

        Raises:
            ValueError: The name, a scope or the time cannot be used.
            Unavailable: Nothing was written.
        """
        now = self._clock()
        key_id = new_key_id()
        name = key_id if name is None else name
        refuse_name(name)
        scopes = tuple(dict.fromkeys(scopes))
        parse_scopes(scopes)
        if expires_at is not None:
            refuse_expiry(expires_at, now)
        text = derive_key(master, environment.name, key_id)
        shown = read_key(text)
        assert shown is not None, "a derived key can be read"
        key = ApiKey(environment, key_id, name, scopes, now, expires_at)
        is_first = await self._store.write(partial(_add, key=key, digest=shown.digest))
        return NewKey(key, text, is_first)

    async def list(self, environment: Environment) -> list[ApiKey]:
        """The keys of an environment, the revoked ones too, oldest first."""
        rows = await self._store.read(
            lambda reader: reader.rows(statements.API_KEYS, environment_id=environment.id)
        )
        return [_read(row, environment) for row in rows]

    async def revoke(self, environment: Environment, key_id: str) -> ApiKey:
        """
        Let a key open nothing any more, from the next request on and in every process.

        Returns:
            The key; one that was revoked before keeps the time at which it was.

        Raises:
            KeyNotFound: The environment has no such key.
            Unavailable: Nothing was written.
        """
        row = await self._store.write(
            partial(_revoke, environment_id=environment.id, key_id=key_id, now=self._clock())
        )
        if row is None:
            raise KeyNotFound(key_id)
        return _read(row, environment)

    async def close(self) -> None:
        """Write down which keys were used of late."""
        if self._timer is not None:
            self._timer.cancel()
        if self._asking is not None:
            await asyncio.wait([self._asking])
        if self._writing is not None:
            await asyncio.wait([self._writing])
        if self._unwritten:
            await self._write_uses()

    async def _is_as_known(self, known: "_Known") -> bool:
        """Whether the database still says of a key what it said the last time; saves taking the row apart."""
        row = await self._looks.row(statements.API_KEY, known.parameters)
        return row is not None and hmac.compare_digest(row[0], known.row[0]) and row == known.row

    async def _look_up(self, text: str) -> "_Known":
        shown = read_key(text)
        if shown is None:
            raise KeyRefused("unknown-key", "this is no API key of this ledger")
        environment = await self._environment(shown.environment)
        row = None
        parameters = {"environment_id": environment.id if environment is not None else 0, "key_id": shown.id}
        if environment is not None:
            row = await self._looks.row(statements.API_KEY, parameters)
        # Compared even where there is no key, so that a wrong secret takes no other time than a wrong id.
        is_same = hmac.compare_digest(_NO_DIGEST if row is None else row[0], shown.digest)
        if environment is None or row is None or not is_same:
            raise KeyRefused("unknown-key", "this is no API key of this ledger")
        return self._keep(environment, shown.id, row, parameters)

    async def _known_by_id(self, environment_name: str, key_id: str) -> "_Known | None":
        environment = await self._environment(environment_name)
        if environment is None:
            return None
        parameters = {"environment_id": environment.id, "key_id": key_id}
        row = await self._looks.row(statements.API_KEY, parameters)
        if row is None:
            return None
        known = self._known.get(row[0])
        return (
            known if known is not None and known.row == row else self._keep(environment, key_id, row, parameters)
        )

    def _keep(
        self, environment: Environment, key_id: str, row: Sequence[Any], parameters: Mapping[str, Any]
    ) -> "_Known":
        key = _read_point(row, environment, key_id)
        before = self._known.get(row[0])
        used_at = max(key.last_used_at or 0, before.used_at if before is not None else 0)
        known = self._known[row[0]] = _Known(key, row, parameters, used_at)
        return known

    async def _environment(self, name: str) -> Environment | None:
        """An environment by its name; only those that exist are kept in memory."""
        known = self._environments.get(name)
        if known is None:
            row = await self._store.point(statements.ENVIRONMENT, {"name": name})
            if row is None:
                return None
            known = self._environments[name] = Environment(row[0], name)
        return known

    def _note_use(self, known: "_Known", now: Microseconds) -> None:
        known.used_at = self._unwritten[known.key.environment.id, known.key.id] = now
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(USES_AFTER_S, self._begin_writing)

    def _begin_writing(self) -> None:
        self._timer = None
        self._writing = asyncio.get_running_loop().create_task(self._write_uses(), name="ledger-key-uses")

    async def _write_uses(self) -> None:
        uses, self._unwritten = self._unwritten, {}
        rows = [{"environment": place[0], "key": place[1], "used_at": at} for place, at in uses.items()]
        try:
            await self._store.write(partial(_use, rows=rows))
        except Unavailable as error:
            # Requests never wait for this or fail with it; the next use after a minute tries again.
            _logger.warning("the last use of %d keys was not recorded: %s", len(rows), error)


def _add(transaction: Transaction, key: ApiKey, digest: bytes) -> bool:
    is_first = not transaction.rows(statements.ANY_API_KEY, {})
    row = {
        "environment_id": key.environment.id,
        "key_id": key.id,
        "digest": digest,
        "name": key.name,
        "scopes": scopes_text(key.scopes),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "last_used_at": None,
        "revoked_at": None,
    }
    transaction.send(statements.ADD_API_KEY, [row])
    return is_first


def _revoke(transaction: Transaction, environment_id: int, key_id: str, now: Microseconds) -> Any | None:
    transaction.send(statements.REVOKE_API_KEY, [{"environment": environment_id, "key": key_id, "now": now}])
    found = transaction.rows(statements.API_KEYS, {"environment_id": environment_id})
    return next((row for row in found if row["key_id"] == key_id), None)


def _use(transaction: Transaction, rows: Sequence[Mapping[str, Any]]) -> None:
    transaction.send(statements.USE_API_KEY, rows)


def _read(row: Mapping[str, Any], environment: Environment) -> ApiKey:
    times = {name: row[name] for name in ("created_at", "expires_at", "last_used_at", "revoked_at")}
    return ApiKey(environment, row["key_id"], row["name"], read_scopes(row["scopes"]), **times)


def _read_point(row: Sequence[Any], environment: Environment, key_id: str) -> ApiKey:
    _, name, scopes, created_at, expires_at, last_used_at, revoked_at = row
    return ApiKey(environment, key_id, name, read_scopes(scopes), created_at, expires_at, last_used_at, revoked_at)


def _now() -> int:
    return time.time_ns() // 1000
