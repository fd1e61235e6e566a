"""
Every statement of the ledger, by name. Both engines share them; what differs is in the engine's own module.

Parameters are named after the columns they stand for unless a line says otherwise.
"""

from functools import lru_cache
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Integer,
    Select,
    Text,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from ledger.tables import environments, events, idempotency, logs, refusals, runs, snapshots
from projections.events import RunCreated, RunStatusChanged, RunTagged
from projections.operations import Update

FILTERS_KEPT = 64  # statements for the filters of a request that are kept, so that they are not written each time

LIKE_ESCAPE = "!"

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

# Where the log ends, and its mark.
LOG = select(logs.c.last_position, logs.c.epoch).where(logs.c.environment_id == _environment)

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

# The key of a run by its id; its last version by its key.
RUN_KEY = select(runs.c.run_key, runs.c.run_id).where(
    runs.c.environment_id == _environment, runs.c.run_id == bindparam("run_id")
)
LAST_VERSION = select(runs.c.version).where(
    runs.c.environment_id == _environment, runs.c.run_key == bindparam("run_key")
)

# What the feed says of the runs that events belong to. `values` is a list of run keys.
LABELS = select(runs.c.run_key, runs.c.run_id, runs.c.task, runs.c.tags).where(
    runs.c.environment_id == _environment, _any_of_values(runs.c.run_key)
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


@lru_cache(FILTERS_KEPT)
def page_of_runs(
    *, older_than: bool, statuses: tuple[str, ...], tasks: tuple[str, ...]
) -> Select[tuple[object, ...]]:
    """
    Heads in the order of their creation, `count` of them after the run key `after`.

    Args:
        older_than: Newest first and older than `after`; else oldest first and newer.
        statuses: Any of these; empty for all.
        tasks: Any of these; empty for all.
    """
    order = runs.c.run_key.desc() if older_than else runs.c.run_key.asc()
    beyond = runs.c.run_key < bindparam("after") if older_than else runs.c.run_key > bindparam("after")
    page = _heads().where(beyond).order_by(order).limit(bindparam("count"))
    if statuses:
        page = page.where(runs.c.status.in_(statuses))
    if tasks:
        page = page.where(runs.c.task.in_(tasks))
    return page


@lru_cache(FILTERS_KEPT)
def page_of_runs_as_of(
    *, older_than: bool, statuses: tuple[str, ...], tasks: tuple[str, ...]
) -> Select[tuple[object, ...]]:
    """
    As `page_of_runs`, of runs with keys up to `last`; with statuses those that have one of them and all that have
    changed since the moment `at`, which may have had another one then.
    """
    page = page_of_runs(older_than=older_than, statuses=(), tasks=tasks).where(runs.c.run_key <= bindparam("last"))
    if statuses:
        page = page.where(or_(runs.c.status.in_(statuses), runs.c.updated_at > bindparam("at")))
    return page


# The newest run with a key up to `run`: a probe of the search for those that existed at a moment.
NEWEST_RUN = (
    select(runs.c.run_key, runs.c.created_at)
    .where(runs.c.environment_id == _environment, runs.c.run_key <= bindparam("run"))
    .order_by(runs.c.run_key.desc())
    .limit(1)
)

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

# The first `count` events of the environment behind the position `after`, without their data but with its weight:
# most of them may not be wanted. The same of one run, behind the version `after`.
WEIGHTS = (
    select(events.c.position, events.c.run_key, func.length(events.c.data).label("weight"))
    .where(events.c.environment_id == _environment, events.c.position > bindparam("after"))
    .order_by(events.c.position)
    .limit(bindparam("count"))
)
RUN_WEIGHTS = (
    select(events.c.position, events.c.version, func.length(events.c.data).label("weight"))
    .where(*_run_events, _a_version_above)
    .order_by(events.c.version)
    .limit(bindparam("count"))
)

# The events at these positions. `values` is a list.
EVENTS_AT = (
    select(events)
    .where(events.c.environment_id == _environment, _any_of_values(events.c.position))
    .order_by(events.c.position)
)

# Where one version of a run stands in the log: a probe of the search for a position.
POSITION_OF = select(events.c.position).where(*_run_events, events.c.version == bindparam("version"))


@lru_cache(FILTERS_KEPT)
def page_of_versions(
    *, newest_first: bool, types: tuple[str, ...], by_actor: bool, by_attempt: bool, by_name: bool
) -> Select[tuple[int]]:
    """
    Versions of a run from `low` to `high`, `count` of them.

    Args:
        newest_first: From `high` downwards.
        types: Of one of these types; empty for all.
        by_actor: Made by `actor`.
        by_attempt: Made by `attempt`.
        by_name: With data that is LIKE `pattern`, or of a type that says something of every name. (What SQLite
            takes for LIKE in other letters besides is sorted out afterwards.)
    """
    page = (
        select(events.c.version)
        .where(*_run_events, events.c.version >= bindparam("low"), events.c.version <= bindparam("high"))
        .order_by(events.c.version.desc() if newest_first else events.c.version)
        .limit(bindparam("count"))
    )
    if types:
        page = page.where(events.c.type.in_(types))
    if by_actor:
        page = page.where(events.c.actor == bindparam("actor"))
    if by_attempt:
        page = page.where(events.c.attempt == bindparam("attempt"))
    if by_name:
        named = events.c.data.like(bindparam("pattern"), escape=LIKE_ESCAPE)
        page = page.where(or_(events.c.type.in_((RunCreated.event_type, Update.event_type)), named))
    return page


# When one version of a run was recorded: a probe of the search for a moment.
RECORDED_AT = select(events.c.recorded_at).where(*_run_events, events.c.version == bindparam("version"))

# The event that gave a run the status that it had at a version. (No index knows the types; a run has few steps.)
STATUS_AT = (
    select(events.c.version, events.c.type, events.c.data, events.c.attempt, events.c.recorded_at)
    .where(
        *_run_events,
        events.c.version <= bindparam("version"),
        events.c.type.in_((RunCreated.event_type, RunStatusChanged.event_type)),
    )
    .order_by(events.c.version.desc())
    .limit(1)
)

# The tags that a run got with versions above `after`, up to `last`: the first `count` times.
TAGGED = (
    select(events.c.version, events.c.data)
    .where(
        *_run_events,
        _a_version_above,
        events.c.version <= bindparam("last"),
        events.c.type == RunTagged.event_type,
    )
    .order_by(events.c.version)
    .limit(bindparam("count"))
)

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
