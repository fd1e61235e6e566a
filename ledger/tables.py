"""
The tables. The environment comes first in every key, so that no tenant can meet another by accident.

Migrations made these tables and are what a database follows; a test compares the two.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects import postgresql

schema = MetaData()

# Ids and names compare byte by byte, whatever language the database was made for.
TEXT = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def _environment() -> Column[int]:
    return Column("environment_id", Integer, ForeignKey("environments.environment_id"), nullable=False)


def _index_where_known(name: str, column: str) -> Index:
    """An index for those that have a value in a column, in the order of their creation."""
    known = text(f"{column} IS NOT NULL")
    return Index(name, "environment_id", column, "run_key", sqlite_where=known, postgresql_where=known)


environments = Table(
    "environments",
    schema,
    Column("environment_id", Integer, primary_key=True),
    Column("name", TEXT, nullable=False),
    UniqueConstraint("name", name="environment_name"),
    CheckConstraint("length(name) BETWEEN 1 AND 32", name="environment_name_length"),
)

# One row an environment: what the next event takes its numbers from, and the one lock of a write.
logs = Table(
    "logs",
    schema,
    _environment(),
    Column("last_position", BigInteger, nullable=False),
    Column("last_run_key", BigInteger, nullable=False),
    Column("last_recorded_at", BigInteger, nullable=False),
    Column("epoch", TEXT, nullable=False),
    PrimaryKeyConstraint("environment_id"),
)

# The heads. Hot columns only: what is large and rarely read (payload, output, error) stays in the events.
runs = Table(
    "runs",
    schema,
    _environment(),
    Column("run_key", BigInteger, nullable=False),
    Column("run_id", TEXT, nullable=False),
    Column("task", TEXT, nullable=False),
    Column("parent_key", BigInteger),
    Column("root_key", BigInteger),
    Column("depth", Integer, nullable=False),
    Column("batch", TEXT),
    Column("status", TEXT, nullable=False),
    Column("status_version", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("tags", TEXT, nullable=False),
    Column("idempotency_key", TEXT),
    Column("idempotency_expires_at", BigInteger),
    Column("metadata", TEXT, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("unsnapped_bytes", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    PrimaryKeyConstraint("environment_id", "run_key"),
    UniqueConstraint("environment_id", "run_id", name="run_id_once"),
    ForeignKeyConstraint(["environment_id", "parent_key"], ["runs.environment_id", "runs.run_key"]),
    ForeignKeyConstraint(["environment_id", "root_key"], ["runs.environment_id", "runs.run_key"]),
    CheckConstraint("length(run_id) BETWEEN 1 AND 128", name="run_id_length"),
    CheckConstraint("length(hash) = 32", name="run_hash_length"),
    Index(
        "runs_by_idempotency_key",
        "environment_id",
        "idempotency_key",
        sqlite_where=text("idempotency_key IS NOT NULL"),
        postgresql_where=text("idempotency_key IS NOT NULL"),
    ),
    # What runs are found by. None of these holds a column that a change of metadata alone touches, and all end
    # with the run key, so that those that have one value stand in the order of their creation.
    Index("runs_by_status", "environment_id", "status", "run_key"),
    Index("runs_by_task", "environment_id", "task", "run_key"),
    _index_where_known("runs_by_parent", "parent_key"),
    _index_where_known("runs_by_root", "root_key"),
    _index_where_known("runs_by_batch", "batch"),
)


def _of_a_run() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["environment_id", "run_key"], ["runs.environment_id", "runs.run_key"])


# The tags of the heads once more, to find runs by. A tag stands here as JSON text, which holds no NUL.
run_tags = Table(
    "run_tags",
    schema,
    _environment(),
    Column("run_key", BigInteger, nullable=False),
    Column("tag", TEXT, nullable=False),
    PrimaryKeyConstraint("environment_id", "run_key", "tag"),
    _of_a_run(),
    Index("runs_by_tag", "environment_id", "tag", "run_key"),
    sqlite_with_rowid=False,
)


# Append-only: triggers refuse what would change a row.
events = Table(
    "events",
    schema,
    _environment(),
    Column("position", BigInteger, nullable=False),
    Column("run_key", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("type", TEXT, nullable=False),
    Column("actor", TEXT, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("occurred_at", BigInteger),
    Column("recorded_at", BigInteger, nullable=False),
    Column("headers", TEXT, nullable=False),
    Column("data", TEXT, nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("commitment", LargeBinary),
    Column("hash", LargeBinary, nullable=False),
    PrimaryKeyConstraint("environment_id", "position"),
    UniqueConstraint("environment_id", "run_key", "version", name="event_version_once"),
    _of_a_run(),
    CheckConstraint("position > 0", name="event_position_positive"),
    CheckConstraint("length(salt) = 16", name="event_salt_length"),
    CheckConstraint("length(hash) = 32", name="event_hash_length"),
)

snapshots = Table(
    "snapshots",
    schema,
    _environment(),
    Column("run_key", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("metadata", TEXT, nullable=False),
    PrimaryKeyConstraint("environment_id", "run_key", "version"),
    _of_a_run(),
)

# A ring of 100 rows a run; the highest number is the count of all refusals there ever were.
refusals = Table(
    "refusals",
    schema,
    _environment(),
    Column("run_key", BigInteger, nullable=False),
    Column("slot", Integer, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("code", TEXT, nullable=False),
    Column("reason", TEXT, nullable=False),
    Column("key", TEXT),
    Column("size_bytes", BigInteger),
    Column("limit_bytes", BigInteger),
    Column("actor", TEXT, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("headers", TEXT, nullable=False),
    Column("recorded_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("environment_id", "run_key", "slot"),
    _of_a_run(),
)

batches = Table(
    "batches",
    schema,
    _environment(),
    Column("batch_id", TEXT, nullable=False),
    Column("run_count", Integer, nullable=False),
    Column("item_count", Integer, nullable=False),
    Column("idempotency_key", TEXT),
    Column("idempotency_expires_at", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("sealed_at", BigInteger),
    PrimaryKeyConstraint("environment_id", "batch_id"),
    CheckConstraint("item_count BETWEEN 0 AND run_count", name="batch_item_count"),
    Index(
        "batches_by_idempotency_key",
        "environment_id",
        "idempotency_key",
        sqlite_where=text("idempotency_key IS NOT NULL"),
        postgresql_where=text("idempotency_key IS NOT NULL"),
    ),
)

# The places of a batch that are taken. A run may stand in several batches: a trigger's key leads back to it.
batch_items = Table(
    "batch_items",
    schema,
    _environment(),
    Column("batch_id", TEXT, nullable=False),
    Column("item_index", Integer, nullable=False),
    Column("run_key", BigInteger, nullable=False),
    PrimaryKeyConstraint("environment_id", "batch_id", "item_index"),
    ForeignKeyConstraint(["environment_id", "batch_id"], ["batches.environment_id", "batches.batch_id"]),
    _of_a_run(),
    sqlite_with_rowid=False,
)

# What a key leads to: a run, or a batch.
idempotency = Table(
    "idempotency",
    schema,
    _environment(),
    Column("key", TEXT, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("status", Integer, nullable=False),
    Column("run_key", BigInteger),
    Column("version", BigInteger, nullable=False),
    Column("unapplied", TEXT, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("batch_id", TEXT),
    PrimaryKeyConstraint("environment_id", "key"),
    _of_a_run(),
    Index("idempotency_by_expiry", "environment_id", "expires_at"),
    sqlite_with_rowid=False,
)

api_keys = Table(
    "api_keys",
    schema,
    _environment(),
    Column("key_id", TEXT, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("name", TEXT, nullable=False),
    Column("scopes", TEXT, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("last_used_at", BigInteger),
    Column("revoked_at", BigInteger),
    PrimaryKeyConstraint("environment_id", "key_id"),
    CheckConstraint("length(digest) = 32", name="api_key_digest_length"),
)

checkpoints = Table(
    "checkpoints",
    schema,
    _environment(),
    Column("size", BigInteger, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("compact_range", LargeBinary, nullable=False),
    Column("note", TEXT, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("environment_id", "size"),
    CheckConstraint("length(root) = 32", name="checkpoint_root_length"),
)

# While an erasure is open the triggers let the data of that run's events be redacted. `open` then names a position
# that can never exist, which the deferred foreign key forgives until COMMIT: no erasure can be left open.
erasures = Table(
    "erasures",
    schema,
    _environment(),
    Column("run_key", BigInteger, nullable=False),
    Column("number", Integer, nullable=False),
    Column("key", TEXT, nullable=False),
    Column("reason", TEXT, nullable=False),
    Column("actor", TEXT, nullable=False),
    Column("recorded_at", BigInteger, nullable=False),
    Column("open", BigInteger),
    PrimaryKeyConstraint("environment_id", "run_key", "number"),
    _of_a_run(),
    ForeignKeyConstraint(
        ["environment_id", "open"],
        ["events.environment_id", "events.position"],
        deferrable=True,
        initially="DEFERRED",
    ),
    CheckConstraint("open = -1", name="erasure_open_names_no_event"),
)
