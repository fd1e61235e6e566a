"""
Every statement of the ledger, by name. Both engines share them; what differs is in the engine's own module.

Parameters are named after the columns they stand for unless a line says otherwise.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import (
    Column,
    ColumnElement,
    FromClause,
    Integer,
    ScalarSelect,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    func,
    literal_column,
    null,
    or_,
    select,
    union,
    update,
)
from sqlalchemy.dialects.postgresql import insert  # Its ON CONFLICT DO NOTHING is SQLite's too.

from ledger.dialects import AnyOfValues
from ledger.tables import (
    api_keys,
    batch_items,
    batches,
    checkpoints,
    environments,
    erasures,
    events,
    idempotency,
    logs,
    refusals,
    run_tags,
    runs,
    snapshots,
)
from projections.events import Event, RunCreated, RunStatusChanged, RunTagged
from projections.operations import Update

FILTERS_KEPT = 64  # statements for the filters of a request that are kept, so that they are not written each time
FILTER_VALUES_KEPT_MAX = 20  # values in the filters of such a statement; a request may name thousands

LIKE_ESCAPE = "!"

_Filters = ParamSpec("_Filters")
_Statement = TypeVar("_Statement")

_environment = bindparam("environment_id", type_=Integer)


def _kept_for_usual_filters(build: Callable[_Filters, _Statement]) -> Callable[_Filters, _Statement]:
    """Keep what *build* makes, unless its filters hold so many values that keeping it would fill the memory."""
    kept: Any = lru_cache(FILTERS_KEPT)(build)

    @wraps(build)
    def chosen(*arguments: _Filters.args, **filters: _Filters.kwargs) -> _Statement:
        count = sum(len(values) for values in filters.values() if isinstance(values, tuple))
        statement: _Statement = (build if count > FILTER_VALUES_KEPT_MAX else kept)(*arguments, **filters)
        return statement

    return chosen


def like_pattern(text: str) -> str:
    """What every text that holds *text* is LIKE."""
    for special in (LIKE_ESCAPE, "%", "_"):
        text = text.replace(special, LIKE_ESCAPE + special)
    return f"%{text}%"


parents = runs.alias("parents")
roots = runs.alias("roots")

# --- environments and their logs ---

# The environment's id by its name.
ENVIRONMENT = select(environments.c.environment_id).where(environments.c.name == bindparam("name"))

# A new environment, and its empty log; nothing where another process was faster.
ADD_ENVIRONMENT = insert(environments).values(name=bindparam("name")).on_conflict_do_nothing()
ADD_LOG = insert(logs).on_conflict_do_nothing()

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

# Change nothing in a log, but show whoever keeps heads in memory that somebody wrote.
TOUCH_LOG = (
    update(logs).where(logs.c.environment_id == bindparam("log")).values(last_position=logs.c.last_position)
)

# All environments.
ENVIRONMENTS = select(environments).order_by(environments.c.environment_id)

# --- keys ---

# Two questions about keys are not about one environment: whether any was ever made,
ANY_API_KEY = select(api_keys.c.key_id).limit(1)

# and where one is that is named by its id alone. Ids are random, so there is one such place at most.
ENVIRONMENTS_OF_API_KEY = (
    select(environments.c.environment_id, environments.c.name)
    .join(api_keys, api_keys.c.environment_id == environments.c.environment_id)
    .where(api_keys.c.key_id == bindparam("key_id"))
    .order_by(environments.c.environment_id)
)

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


def _id_above(key: ColumnElement[Any], above: FromClause) -> ScalarSelect[Any]:
    """
    The id of the run above one, which is looked up only where there is any.

    Not joined: PostgreSQL joins by the environment alone as long as it takes that for small, and reads all of it
    for every head.
    """
    return (
        select(above.c.run_id)
        .where(above.c.environment_id == _environment, above.c.run_key == key)
        .correlate(runs)
        .scalar_subquery()
    )


def _heads() -> Select[tuple[object, ...]]:
    """Heads with the ids of their parent and root."""
    return select(
        runs,
        _id_above(runs.c.parent_key, parents).label("parent"),
        _id_above(runs.c.root_key, roots).label("root"),
    ).where(runs.c.environment_id == _environment)


# Heads by run id; by run key; by the trigger's idempotency key (newest first). `values` is a list.
HEADS = _heads().where(AnyOfValues(runs.c.run_id))
HEADS_BY_KEY = _heads().where(AnyOfValues(runs.c.run_key))
HEADS_BY_IDEMPOTENCY_KEY = _heads().where(AnyOfValues(runs.c.idempotency_key)).order_by(runs.c.run_key.desc())

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
LABELS = select(runs.c.run_key, runs.c.run_id, runs.c.task, runs.c.tags, runs.c.batch).where(
    runs.c.environment_id == _environment, AnyOfValues(runs.c.run_key)
)

# The runs below a run, oldest first, `count` of them. `run_key` is its key.
CHILDREN = (
    _heads().where(runs.c.parent_key == bindparam("run_key")).order_by(runs.c.run_key).limit(bindparam("count"))
)

# Task and tags of one run and of the two above it, with the ids of these, and its batch: what the restriction of a
# key and the scopes of a token are judged by.
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
        runs.c.batch,
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


@dataclass(frozen=True, slots=True)
class Narrowing:
    """
    What is asked of the heads by their columns, without the values: what the text of a statement depends on.

    Attributes:
        lists: Columns that have any of some values: `status`, `task`, `tag`, `parent_key`, `root_key`, `batch`.
            The values of each are a parameter of that name.
        reach: Only runs of these tasks or with these tags, both parameters: `reach_task` and `reach_tag`.
    """

    lists: frozenset[str] = frozenset()
    reach: bool = False


def _tagged_any_of(name: str) -> ColumnElement[bool]:
    tags = run_tags.alias()
    return exists(
        select(tags.c.tag)
        .where(
            tags.c.environment_id == runs.c.environment_id,
            tags.c.run_key == runs.c.run_key,
            AnyOfValues(tags.c.tag, name),
        )
        .correlate(runs)
    )


def _narrowed(narrowing: Narrowing, *, without: Container[str] = ()) -> list[ColumnElement[bool]]:
    """The conditions of a narrowing on `runs`, but for some columns."""
    found = [
        _tagged_any_of(name) if name == "tag" else AnyOfValues(runs.c[name], name)
        for name in sorted(narrowing.lists)
        if name not in without
    ]
    if narrowing.reach:
        found.append(or_(AnyOfValues(runs.c.task, "reach_task"), _tagged_any_of("reach_tag")))
    return found


_between_keys = runs.c.run_key > bindparam("low"), runs.c.run_key < bindparam("high")


def _keys_of_one(narrowing: Narrowing, values: Mapping[str, str], *, newest_first: bool) -> Select[Any]:
    """Keys of the runs with one value in each of some columns; *values* name the parameters by the columns."""
    if "tag" in values:
        key: Column[int] = run_tags.c.run_key
        page = select(key).where(
            run_tags.c.environment_id == _environment,
            run_tags.c.tag == bindparam(values["tag"]),
            key > bindparam("low"),
            key < bindparam("high"),
        )
        others = _narrowed(narrowing, without=values)
        if others:
            page = page.join(
                runs, (runs.c.environment_id == run_tags.c.environment_id) & (runs.c.run_key == run_tags.c.run_key)
            ).where(*others)
    else:
        key = runs.c.run_key
        page = select(key).where(
            runs.c.environment_id == _environment,
            *(runs.c[column] == bindparam(value) for column, value in values.items()),
            *_between_keys,
            *_narrowed(narrowing, without=values),
        )
    return page.order_by(key.desc() if newest_first else key.asc()).limit(bindparam("count"))


@lru_cache(FILTERS_KEPT)
def run_keys(
    narrowing: Narrowing, branches: tuple[tuple[tuple[str, str], ...], ...], *, newest_first: bool
) -> Select[tuple[int]]:
    """
    Keys of runs above `low` and below `high`, `count` of them in the order of their creation.

    Args:
        narrowing: Which runs.
        branches: How to come to them: each branch has one value, a parameter, in each of some columns, and all of
            them together are all. An index has the runs of one branch in order, so that a few of each branch are
            read, however many there are. Without branches the runs are looked at one after the other.
        newest_first: From `high` downwards.
    """
    found = [_keys_of_one(narrowing, dict(branch), newest_first=newest_first) for branch in branches or ((),)]
    if len(found) == 1:
        return found[0]
    either = union(*(select(branch.subquery().c.run_key) for branch in found)).subquery()
    key = either.c.run_key
    return select(key).order_by(key.desc() if newest_first else key.asc()).limit(bindparam("count"))


_of_last_event = (
    (runs.c.environment_id == events.c.environment_id)
    & (runs.c.run_key == events.c.run_key)
    & (runs.c.version == events.c.version)
)

# The positions of the last events of these runs, in no order. `values` is a list of run keys.
LAST_POSITIONS = (
    select(events.c.position.label("place"), runs.c.run_key)
    .select_from(runs)
    .join(events, _of_last_event)
    .where(runs.c.environment_id == _environment, AnyOfValues(runs.c.run_key))
)


@lru_cache
def last_events(*, newest_first: bool) -> Select[tuple[int, int]]:
    """
    Keys of runs above `low` and below `high`, each with its `place`, the position of its last event, above `after`
    and below `before`; `count` of them in the order of their last events, from `before` downwards or upwards.
    """
    place = events.c.position
    return (
        select(place.label("place"), runs.c.run_key)
        .select_from(events)
        .join(runs, _of_last_event)
        .where(
            events.c.environment_id == _environment,
            place > bindparam("after"),
            place < bindparam("before"),
            *_between_keys,
        )
        .order_by(place.desc() if newest_first else place.asc())
        .limit(bindparam("count"))
    )


# When an event was recorded: a probe of the search for the events of a time.
RECORDED_AT_POSITION = select(events.c.recorded_at).where(
    events.c.environment_id == _environment, events.c.position == bindparam("position")
)


@lru_cache(FILTERS_KEPT)
def chosen_heads(
    narrowing: Narrowing, patterns: tuple[int, ...], *, updated: bool, past: bool, metadata_only: bool
) -> Select[Any]:
    """
    Those of the heads with the keys `values`, a list, that may be wanted, in no order.

    Args:
        narrowing: Which runs.
        patterns: How many patterns there are of each condition on the metadata: parameters `pattern_0_0`,
            `pattern_0_1` ... `pattern_1_0` ... The text of the metadata is LIKE one of them, or the condition
            cannot hold. (It may be LIKE one of them and not hold.)
        updated: Last changed between `updated_since` and `updated_until`.
        past: Neither of these, nor `status`, is asked of what has changed since the moment `at`: it was another
            run then.
        metadata_only: Only the keys and the metadata of them.
    """
    heads: Select[Any] = _heads()
    if metadata_only:
        heads = select(runs.c.run_key, runs.c.metadata, runs.c.size_bytes).where(
            runs.c.environment_id == _environment
        )
    now = [
        or_(
            *(
                runs.c.metadata.like(bindparam(f"pattern_{place}_{number}"), escape=LIKE_ESCAPE)
                for number in range(count)
            )
        )
        for place, count in enumerate(patterns)
    ]
    if updated:
        now.append(
            (runs.c.updated_at >= bindparam("updated_since")) & (runs.c.updated_at <= bindparam("updated_until"))
        )
    if past and "status" in narrowing.lists:
        now.append(AnyOfValues(runs.c.status, "status"))
    if past and now:
        now = [or_(runs.c.updated_at > bindparam("at"), and_(*now))]
    of_life = {"status"} if past else ()
    return heads.where(AnyOfValues(runs.c.run_key), *_narrowed(narrowing, without=of_life), *now)


@lru_cache(FILTERS_KEPT)
def page_of_members(*, tags: int, of_batch: bool, reach: bool) -> Select[tuple[object, ...]]:
    """
    Heads above the run key `low` and below `high`, newest first, `count` of them.

    Args:
        tags: How many tags a run must have, all of them: parameters `tag_0`, `tag_1` ..., each a list of one.
        of_batch: Only runs of the batch `batch`.
        reach: Only runs of these tasks or with these tags, both parameters: `reach_task` and `reach_tag`.
    """
    conditions = _narrowed(Narrowing(reach=reach))
    conditions += [_tagged_any_of(f"tag_{number}") for number in range(tags)]
    if of_batch:
        conditions.append(runs.c.batch == bindparam("batch"))
    return _heads().where(*_between_keys, *conditions).order_by(runs.c.run_key.desc()).limit(bindparam("count"))


# The newest run with a key up to `run`: a probe of the search for those that existed at a moment.
NEWEST_RUN = (
    select(runs.c.run_key, runs.c.created_at)
    .where(runs.c.environment_id == _environment, runs.c.run_key <= bindparam("run"))
    .order_by(runs.c.run_key.desc())
    .limit(1)
)

# The tags of new runs, and new tags of others.
ADD_RUN_TAGS = insert(run_tags)

# The tags of a run, as runs are found by them; to begin with them anew. `run` is its key.
DROP_RUN_TAGS = delete(run_tags).where(
    run_tags.c.environment_id == bindparam("environment"), run_tags.c.run_key == bindparam("run")
)

# --- events ---

ADD_EVENTS = insert(events)

_run_events = events.c.environment_id == _environment, events.c.run_key == bindparam("run_key")
_a_version_above = events.c.version > bindparam("after")

# What an `Event` holds, in its order, but for the key of its run in the place of the id.
_event = [events.c["run_key" if name == "run_id" else name] for name in Event._fields]

# Events of a run with versions above `after`, up to `last`: the first `count` of them; the same with all columns.
EVENTS = (
    select(*_event)
    .where(*_run_events, _a_version_above, events.c.version <= bindparam("last"))
    .order_by(events.c.version)
    .limit(bindparam("count"))
)
STORED_EVENTS = EVENTS.with_only_columns(*events.c)

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
    select(*_event)
    .where(events.c.environment_id == _environment, AnyOfValues(events.c.position))
    .order_by(events.c.position)
)

# Where one version of a run stands in the log: a probe of the search for a position.
POSITION_OF = select(events.c.position).where(*_run_events, events.c.version == bindparam("version"))


@_kept_for_usual_filters
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

# The same, if a version above `after` did so.
STATUS_BETWEEN = STATUS_AT.where(_a_version_above)

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
        AnyOfValues(refusals.c.run_key),
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
    AnyOfValues(idempotency.c.key),
)
REMEMBER = insert(idempotency)

# Forget these keys, whose time is over. `values` is a list.
FORGET = delete(idempotency).where(
    idempotency.c.environment_id == _environment,
    AnyOfValues(idempotency.c.key),
)

# Keys whose time is over at `now`, `count` at most.
EXPIRED_KEYS = (
    select(idempotency.c.key)
    .where(idempotency.c.environment_id == _environment, idempotency.c.expires_at <= bindparam("now"))
    .limit(bindparam("count"))
)

# --- batches ---

# Batches by id; by the idempotency key they were created with, newest first. `values` is a list.
BATCHES = select(batches).where(batches.c.environment_id == _environment, AnyOfValues(batches.c.batch_id))
BATCHES_BY_IDEMPOTENCY_KEY = (
    select(batches)
    .where(batches.c.environment_id == _environment, AnyOfValues(batches.c.idempotency_key))
    .order_by(batches.c.created_at.desc())
)

ADD_BATCHES = insert(batches)

# A batch after places of it were taken. `environment` and `batch` name it.
CHANGE_BATCHES = (
    update(batches)
    .where(batches.c.environment_id == bindparam("environment"), batches.c.batch_id == bindparam("batch"))
    .values(
        item_count=bindparam("item_count"), updated_at=bindparam("updated_at"), sealed_at=bindparam("sealed_at")
    )
)

# Which of these places of a batch are taken. `values` is a list of them.
BATCH_ITEMS = select(batch_items.c.item_index).where(
    batch_items.c.environment_id == _environment,
    batch_items.c.batch_id == bindparam("batch_id"),
    AnyOfValues(batch_items.c.item_index),
)

ADD_BATCH_ITEMS = insert(batch_items)

# The runs of a batch by their places, as far as the batch and a key's restriction are judged by them.
BATCH_RUNS = (
    select(runs.c.run_id, runs.c.task, runs.c.tags, runs.c.status, runs.c.updated_at, runs.c.finished_at)
    .join(
        batch_items,
        (batch_items.c.environment_id == runs.c.environment_id) & (batch_items.c.run_key == runs.c.run_key),
    )
    .where(
        runs.c.environment_id == _environment,
        batch_items.c.environment_id == _environment,
        batch_items.c.batch_id == bindparam("batch_id"),
    )
    .order_by(batch_items.c.item_index)
)

# --- the whole log, to be proven: read row by row, never at once ---

# Every environment with its log; one without a log has no epoch.
LOGS = (
    select(environments, logs.c.last_position, logs.c.last_run_key, logs.c.last_recorded_at, logs.c.epoch)
    .outerjoin(logs, logs.c.environment_id == environments.c.environment_id)
    .order_by(environments.c.environment_id)
)

# How many events an environment has.
COUNT_EVENTS = select(func.count().label("count")).where(events.c.environment_id == _environment)

# Heads in the order of their keys, with the depth of the parent; one of them.
ALL_HEADS = (
    _heads()
    .add_columns(parents.c.depth.label("parent_depth"))
    .outerjoin(
        parents, (parents.c.environment_id == runs.c.environment_id) & (parents.c.run_key == runs.c.parent_key)
    )
    .order_by(runs.c.run_key)
)
ONE_HEAD = ALL_HEADS.where(runs.c.run_id == bindparam("run_id"))

# Events run by run in the order of their versions; those of one run.
ALL_EVENTS = (
    select(events).where(events.c.environment_id == _environment).order_by(events.c.run_key, events.c.version)
)
ONE_RUNS_EVENTS = ALL_EVENTS.where(events.c.run_key == bindparam("run_key"))

# Kept snapshots in the same order; those of one run.
ALL_SNAPSHOTS = (
    select(snapshots)
    .where(snapshots.c.environment_id == _environment)
    .order_by(snapshots.c.run_key, snapshots.c.version)
)
ONE_RUNS_SNAPSHOTS = ALL_SNAPSHOTS.where(snapshots.c.run_key == bindparam("run_key"))

# Tags that runs are found by, in the same order; those of one run.
ALL_RUN_TAGS = (
    select(run_tags).where(run_tags.c.environment_id == _environment).order_by(run_tags.c.run_key, run_tags.c.tag)
)
ONE_RUNS_TAGS = ALL_RUN_TAGS.where(run_tags.c.run_key == bindparam("run_key"))

# Erasures in the same order; those of one run.
ALL_ERASURES = (
    select(erasures)
    .where(erasures.c.environment_id == _environment)
    .order_by(erasures.c.run_key, erasures.c.number)
)
ONE_RUNS_ERASURES = ALL_ERASURES.where(erasures.c.run_key == bindparam("run_key"))

# The log in the order of positions above `after`, up to `last`: what an event's place in it rests on.
POSITIONS = (
    select(events.c.position, events.c.run_key, events.c.version, events.c.recorded_at, events.c.hash)
    .where(
        events.c.environment_id == _environment,
        events.c.position > bindparam("after"),
        events.c.position <= bindparam("last"),
    )
    .order_by(events.c.position)
)

# The id of a run by its key.
RUN_ID = select(runs.c.run_id).where(runs.c.environment_id == _environment, runs.c.run_key == bindparam("run_key"))

# --- erasures ---

# Open an erasure, which lets the data of that run's events be redacted, and close it again.
OPEN_ERASURE = insert(erasures)
CLOSE_ERASURE = (
    update(erasures)
    .where(
        erasures.c.environment_id == bindparam("environment"),
        erasures.c.run_key == bindparam("run"),
        erasures.c.number == bindparam("which"),
    )
    .values(open=null())
)

# How many erasures a run has had.
COUNT_ERASURES = select(func.count().label("count")).where(
    erasures.c.environment_id == _environment, erasures.c.run_key == bindparam("run_key")
)

# Put a redacted copy in the place of an event's data. `at` is its position.
REDACT_EVENT = (
    update(events)
    .where(events.c.environment_id == bindparam("environment"), events.c.position == bindparam("at"))
    .values(data=bindparam("data"), salt=bindparam("salt"), commitment=bindparam("commitment"))
)

# Put other metadata in a kept snapshot. `at` is its version.
CHANGE_SNAPSHOT = (
    update(snapshots)
    .where(
        snapshots.c.environment_id == bindparam("environment"),
        snapshots.c.run_key == bindparam("run"),
        snapshots.c.version == bindparam("at"),
    )
    .values(metadata=bindparam("metadata"))
)

# Drop a snapshot that stands for no version of its run. `at` is its version.
DROP_SNAPSHOT = delete(snapshots).where(
    snapshots.c.environment_id == bindparam("environment"),
    snapshots.c.run_key == bindparam("run"),
    snapshots.c.version == bindparam("at"),
)

# Put other words in a refusal. `place` is its slot.
CHANGE_REFUSAL = (
    update(refusals)
    .where(
        refusals.c.environment_id == bindparam("environment"),
        refusals.c.run_key == bindparam("run"),
        refusals.c.slot == bindparam("place"),
    )
    .values(key=bindparam("key"), reason=bindparam("reason"))
)

# What is remembered of requests that named a run and left operations unapplied.
UNAPPLIED = select(idempotency.c.key, idempotency.c.unapplied).where(
    idempotency.c.environment_id == _environment,
    idempotency.c.run_key == bindparam("run_key"),
    func.length(idempotency.c.unapplied) > literal_column("2"),
)

# Put other words in what is remembered. `remembered` is its key.
CHANGE_UNAPPLIED = (
    update(idempotency)
    .where(idempotency.c.environment_id == bindparam("environment"), idempotency.c.key == bindparam("remembered"))
    .values(unapplied=bindparam("unapplied"))
)

# A whole head, as `rebuild` puts it right. `environment` and `run` name it; the rest are its columns.
REPAIR_HEAD = (
    update(runs)
    .where(runs.c.environment_id == bindparam("environment"), runs.c.run_key == bindparam("run"))
    .values(
        {
            column: bindparam(column.name)
            for column in runs.c
            if column.name not in {"environment_id", "run_key", "run_id"}
        }
    )
)

# --- checkpoints ---

# The checkpoints of an environment, smallest first.
CHECKPOINTS = select(checkpoints).where(checkpoints.c.environment_id == _environment).order_by(checkpoints.c.size)

# The largest one.
LAST_CHECKPOINT = (
    select(checkpoints)
    .where(checkpoints.c.environment_id == _environment)
    .order_by(checkpoints.c.size.desc())
    .limit(1)
)

# Keep a checkpoint, and forget the one of the same size first. `environment` and `events` name it.
FORGET_CHECKPOINT = delete(checkpoints).where(
    checkpoints.c.environment_id == bindparam("environment"), checkpoints.c.size == bindparam("events")
)
ADD_CHECKPOINT = insert(checkpoints)
