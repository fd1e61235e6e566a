"""
Every statement of the ledger, by name. Both engines share them; what differs is in the engine's own module.

Parameters are named after the columns they stand for unless a line says otherwise.
"""

from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Integer,
    Select,
    Text,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)

from ledger.keys import Reach
from ledger.tables import api_keys, environments, events, idempotency, logs, refusals, runs, snapshots

_environment = bindparam("environment_id", type_=Integer)


def _any_of_values(column: Column[Any]) -> ColumnElement[bool]:
    """The column equals one of `values`, a list: a single parameter, so that the text never changes."""
    return column.in_(select(func.json_each(bindparam("values", type_=Text)).table_valued("value").c.value))


parents = runs.alias("parents")
roots = runs.alias("roots")

# --- environments and their logs ---

# The environment's id by its name.
ENVIRONMENT = select(environments.c.environment_id).where(environments.c.name == bindparam("name"))

# A new environment, and its empty log.
ADD_ENVIRONMENT = insert(environments)
ADD_LOG = insert(logs)

# Lock the log: the first statement of a write, and the only lock there is. (SQLite ignores FOR UPDATE; its write
# transaction holds the lock of the whole file already.)
LOCK_LOG = (
    select(logs.c.last_position, logs.c.last_run_key, logs.c.last_recorded_at)
    .where(logs.c.environment_id == _environment)
    .with_for_update()
)

# Hand the log on with the numbers that the group used.
ADVANCE_LOG = (
    update(logs)
    .where(logs.c.environment_id == bindparam("log"))
    .values(
        last_position=bindparam("last_position"),
        last_run_key=bindparam("last_run_key"),
        last_recorded_at=bindparam("last_recorded_at"),
    )
)

# All environments.
ENVIRONMENTS = select(environments).order_by(environments.c.environment_id)

# --- keys ---

# Whether any key was ever made: the one question about keys that is not about one environment.
ANY_API_KEY = select(api_keys.c.key_id).limit(1)

# What a request needs to know of a key.
API_KEY = select(
    api_keys.c.digest,
    api_keys.c.name,
    api_keys.c.scopes,
    api_keys.c.created_at,
    api_keys.c.expires_at,
    api_keys.c.last_used_at,
    api_keys.c.revoked_at,
).where(api_keys.c.environment_id == _environment, api_keys.c.key_id == bindparam("key_id"))

# All keys of an environment, oldest first.
API_KEYS = (
    select(api_keys)
    .where(api_keys.c.environment_id == _environment)
    .order_by(api_keys.c.created_at, api_keys.c.key_id)
)

ADD_API_KEY = insert(api_keys)

_this_key = api_keys.c.environment_id == bindparam("environment"), api_keys.c.key_id == bindparam("key")

# Revoke a key at `now`; one that is revoked already keeps its time.
REVOKE_API_KEY = (
    update(api_keys).where(*_this_key, api_keys.c.revoked_at.is_(None)).values(revoked_at=bindparam("now"))
)

# A key was used at `used_at`; another process may have seen a later use.
USE_API_KEY = (
    update(api_keys)
    .where(
        *_this_key,
        func.coalesce(api_keys.c.last_used_at, 0) < bindparam("used_at"),
    )
    .values(last_used_at=bindparam("used_at"))
)

# --- heads ---


def _heads() -> Select[tuple[object, ...]]:
    """Heads with the ids of their parent and root, which are looked up only where there are any."""
    return (
        select(runs, parents.c.run_id.label("parent"), roots.c.run_id.label("root"))
        .outerjoin(
            parents,
            (parents.c.environment_id == runs.c.environment_id) & (parents.c.run_key == runs.c.parent_key),
        )
        .outerjoin(roots, (roots.c.environment_id == runs.c.environment_id) & (roots.c.run_key == runs.c.root_key))
        .where(runs.c.environment_id == _environment)
    )


# Heads by run id; by run key; by the trigger's idempotency key (newest first). `values` is a list.
HEADS = _heads().where(_any_of_values(runs.c.run_id))
HEADS_BY_KEY = _heads().where(_any_of_values(runs.c.run_key))
HEADS_BY_IDEMPOTENCY_KEY = _heads().where(_any_of_values(runs.c.idempotency_key)).order_by(runs.c.run_key.desc())

# The current metadata of one run.
CURRENT = select(runs.c.metadata, runs.c.version, runs.c.size_bytes).where(
    runs.c.environment_id == _environment, runs.c.run_id == bindparam("run_id")
)

# Task and tags of one run and of the two above it, with the ids of these: what a key's restriction is judged by.
FAMILY = (
    select(
        runs.c.task,
        runs.c.tags,
        parents.c.run_id,
        parents.c.task,
        parents.c.tags,
        roots.c.run_id,
        roots.c.task,
        roots.c.tags,
    )
    .outerjoin(
        parents, (parents.c.environment_id == runs.c.environment_id) & (parents.c.run_key == runs.c.parent_key)
    )
    .outerjoin(roots, (roots.c.environment_id == runs.c.environment_id) & (roots.c.run_key == runs.c.root_key))
    .where(runs.c.environment_id == _environment, runs.c.run_id == bindparam("run_id"))
)

ADD_HEADS = insert(runs)

# A head after a change of metadata alone, which no index of the table sees. `run` is its key.
CHANGE_METADATA = (
    update(runs)
    .where(runs.c.environment_id == bindparam("environment"), runs.c.run_key == bindparam("run"))
    .values(
        {
            column: bindparam(column.name)
            for column in (
                runs.c.metadata,
                runs.c.size_bytes,
                runs.c.version,
                runs.c.hash,
                runs.c.unsnapped_bytes,
                runs.c.updated_at,
            )
        }
    )
)

# A head after a step in the run's life.
CHANGE_HEADS = CHANGE_METADATA.values(
    {
        column: bindparam(column.name)
        for column in (
            runs.c.status,
            runs.c.status_version,
            runs.c.attempt,
            runs.c.tags,
            runs.c.started_at,
            runs.c.finished_at,
        )
    }
)


def page_of_runs(
    *, older_than: bool, statuses: tuple[str, ...], tasks: tuple[str, ...], within: Reach | None = None
) -> Select[tuple[object, ...]]:
    """
    Heads in the order of their creation, `count` of them after the run key `after`.

    Args:
        older_than: Newest first and older than `after`; else oldest first and newer.
        statuses: Any of these; empty for all.
        tasks: Any of these; empty for all.
        within: Only runs that a key may read, None for all.
    """
    order = runs.c.run_key.desc() if older_than else runs.c.run_key.asc()
    beyond = runs.c.run_key < bindparam("after") if older_than else runs.c.run_key > bindparam("after")
    page = _heads().where(beyond).order_by(order).limit(bindparam("count"))
    if statuses:
        page = page.where(runs.c.status.in_(statuses))
    if tasks:
        page = page.where(runs.c.task.in_(tasks))
    if within is not None:
        tag = func.json_each(runs.c.tags).table_valued("value").c.value
        page = page.where(
            runs.c.task.in_(sorted(within.tasks)) | exists(select(tag).where(tag.in_(sorted(within.tags))))
        )
    return page


# --- events ---

ADD_EVENTS = insert(events)

_run_events = events.c.environment_id == _environment, events.c.run_key == bindparam("run_key")
_a_version_above = events.c.version > bindparam("after")

# Events of a run with versions above `after`, up to `last`: the first `count` of them.
EVENTS = (
    select(events)
    .where(*_run_events, _a_version_above, events.c.version <= bindparam("last"))
    .order_by(events.c.version)
    .limit(bindparam("count"))
)

# One event of a run.
EVENT = select(events).where(*_run_events, events.c.version == bindparam("version"))

# When one version of a run was recorded: a probe of the search for a moment.
RECORDED_AT = select(events.c.recorded_at).where(*_run_events, events.c.version == bindparam("version"))

# --- snapshots ---

ADD_SNAPSHOTS = insert(snapshots)

# The newest kept snapshot of a run at or below a version.
NEAREST_SNAPSHOT = (
    select(snapshots.c.version, snapshots.c.metadata)
    .where(
        snapshots.c.environment_id == _environment,
        snapshots.c.run_key == bindparam("run_key"),
        snapshots.c.version <= bindparam("version"),
    )
    .order_by(snapshots.c.version.desc())
    .limit(1)
)

# --- refusals ---

# How many refusals each of these runs has had. `values` is a list of run keys.
COUNT_REFUSALS = (
    select(refusals.c.run_key, func.max(refusals.c.number).label("count"))
    .where(
        refusals.c.environment_id == _environment,
        _any_of_values(refusals.c.run_key),
    )
    .group_by(refusals.c.run_key)
)

# Free the places of the ring that new refusals take. `run` and `place` name one of them.
FREE_REFUSALS = delete(refusals).where(
    refusals.c.environment_id == _environment,
    refusals.c.run_key == bindparam("run"),
    refusals.c.slot == bindparam("place"),
)
ADD_REFUSALS = insert(refusals)

# The refusals that are kept of a run, oldest first.
REFUSALS = (
    select(refusals)
    .where(refusals.c.environment_id == _environment, refusals.c.run_key == bindparam("run_key"))
    .order_by(refusals.c.number)
)

# --- idempotency ---

# What is remembered under these keys, expired or not. `values` is a list of keys.
REMEMBERED = select(idempotency).where(
    idempotency.c.environment_id == _environment,
    _any_of_values(idempotency.c.key),
)
REMEMBER = insert(idempotency)

# Forget these keys, whose time is over. `values` is a list.
FORGET = delete(idempotency).where(
    idempotency.c.environment_id == _environment,
    _any_of_values(idempotency.c.key),
)

# Keys whose time is over at `now`, `count` at most.
EXPIRED_KEYS = (
    select(idempotency.c.key)
    .where(idempotency.c.environment_id == _environment, idempotency.c.expires_at <= bindparam("now"))
    .limit(bindparam("count"))
)
