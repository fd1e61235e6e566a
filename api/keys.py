"""What the commands about API keys do: create, list, revoke. They work on the database itself."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

from api.client import Failed
from ledger.errors import KeyNotFound
from ledger.keyring import NewKey
from ledger.keys import ApiKey, parse_scopes, refuse_expiry, refuse_name, state_at
from ledger.ledger import Ledger
from ledger.master import load_master
from ledger.settings import Settings
from ledger.store import missing_file, sqlite_file
from projections.times import Microseconds, format_time, parse_time

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_MICROSECONDS = 1_000_000  # in a second


def create_key(
    settings: Settings, name: str | None, scopes: Sequence[str], expires: str | None, now: Microseconds
) -> NewKey:
    """
    Make a key for the environment of the settings.

    Args:
        settings: The database, the environment and the master secret.
        name: What the history shows as the actor.
        scopes: What it may do.
        expires: A time, or a duration such as 30d.
        now: The clock.

    Raises:
        Failed: One of these cannot be used.
        UnusableSecret: There is no master secret.
    """
    try:  # Before a database or a secret is made for it.
        parse_scopes(tuple(scopes))
        if name is not None:
            refuse_name(name)
        expires_at = None if expires is None else _moment(expires, now)
    except ValueError as error:
        raise Failed(str(error)) from error
    return asyncio.run(_create(settings, name, scopes, expires_at))


def list_keys(settings: Settings) -> list[ApiKey]:
    """
    The keys of the environment that the settings choose, else of all.

    Raises:
        Failed: There is no such database.
    """
    return asyncio.run(_list(settings))


def revoke_key(settings: Settings, key_id: str) -> ApiKey:
    """
    Revoke a key of the environment that the settings choose, else of any.

    Raises:
        Failed: There is no such database.
        KeyNotFound: There is no such key.
    """
    return asyncio.run(_revoke(settings, key_id))


def key_members(key: ApiKey, now: Microseconds) -> dict[str, Any]:
    """A key as JSON."""
    times = {
        "createdAt": key.created_at,
        "expiresAt": key.expires_at,
        "lastUsedAt": key.last_used_at,
        "revokedAt": key.revoked_at,
    }
    return {
        "id": key.id,
        "environment": key.environment.name,
        "name": key.name,
        "scopes": list(key.scopes),
        "isValid": state_at(key, now) is None,
        **{name: None if time is None else format_time(time) for name, time in times.items()},
    }


def _moment(text: str, now: Microseconds) -> Microseconds:
    found = re.fullmatch(r"([0-9]{1,6})([smhdw])", text)
    try:
        moment = parse_time(text) if found is None else now + int(found[1]) * _SECONDS[found[2]] * _MICROSECONDS
    except ValueError as error:
        raise ValueError(
            f"--expires is {text!r}: write 30d, 12h or a time such as 2027-01-31T00:00:00Z"
        ) from error
    refuse_expiry(moment, now)
    return moment


async def _create(
    settings: Settings, name: str | None, scopes: Sequence[str], expires_at: Microseconds | None
) -> NewKey:
    ledger = await Ledger.open(settings.database_url)
    try:
        secret = None if settings.secret is None else settings.secret.get_secret_value()
        master = load_master(secret, sqlite_file(settings.database_url))
        environment = (await ledger.log(settings.environment)).owner
        return await ledger.keys.create(environment, master, name=name, scopes=scopes, expires_at=expires_at)
    finally:
        await ledger.close()


async def _list(settings: Settings) -> list[ApiKey]:
    ledger = await _open(settings)
    try:
        chosen = [one for one in await ledger.environments() if _is_chosen(settings, one.name)]
        return [key for environment in chosen for key in await ledger.keys.list(environment)]
    finally:
        await ledger.close()


async def _revoke(settings: Settings, key_id: str) -> ApiKey:
    ledger = await _open(settings)
    try:
        for environment in await ledger.environments():
            if _is_chosen(settings, environment.name):
                try:
                    return await ledger.keys.revoke(environment, key_id)
                except KeyNotFound:
                    continue
        raise KeyNotFound(key_id)
    finally:
        await ledger.close()


async def _open(settings: Settings) -> Ledger:
    missing = missing_file(settings.database_url)
    if missing is not None:
        raise Failed(f"there is no database {missing}; name another with --database-url")
    return await Ledger.open(settings.database_url)


def _is_chosen(settings: Settings, environment: str) -> bool:
    return "environment" not in settings.model_fields_set or settings.environment == environment
