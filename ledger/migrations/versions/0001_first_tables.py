"""The first tables, and the triggers that keep the log append-only."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

# Ids and names compare byte by byte, whatever language the database was made for.
TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def _environment() -> sa.Column[int]:
    return sa.Column("environment_id", sa.Integer, sa.ForeignKey("environments.environment_id"), nullable=False)


def _of_a_run() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["environment_id", "run_key"], ["runs.environment_id", "runs.run_key"])


def upgrade() -> None:
    op.create_table(
        "environments",
        sa.Column("environment_id", sa.Integer, primary_key=True),
        sa.Column("name", TEXT, nullable=False),
        sa.UniqueConstraint("name", name="environment_name"),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 32", name="environment_name_length"),
    )
    op.create_table(
        "logs",
        _environment(),
        sa.Column("last_position", sa.BigInteger, nullable=False),
        sa.Column("last_run_key", sa.BigInteger, nullable=False),
        sa.Column("last_recorded_at", sa.BigInteger, nullable=False),
        sa.Column("epoch", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("environment_id"),
    )
    op.create_table(
        "runs",
        _environment(),
        sa.Column("run_key", sa.BigInteger, nullable=False),
        sa.Column("run_id", TEXT, nullable=False),
        sa.Column("task", TEXT, nullable=False),
        sa.Column("parent_key", sa.BigInteger),
        sa.Column("root_key", sa.BigInteger),
        sa.Column("depth", sa.Integer, nullable=False),
        sa.Column("batch", TEXT),
        sa.Column("status", TEXT, nullable=False),
        sa.Column("status_version", sa.BigInteger, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("tags", TEXT, nullable=False),
        sa.Column("idempotency_key", TEXT),
        sa.Column("idempotency_expires_at", sa.BigInteger),
        sa.Column("metadata", TEXT, nullable=False),
        sa.Column("size_bytes", sa.Integer, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("unsnapped_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("environment_id", "run_key"),
        sa.UniqueConstraint("environment_id", "run_id", name="run_id_once"),
        sa.ForeignKeyConstraint(["environment_id", "parent_key"], ["runs.environment_id", "runs.run_key"]),
        sa.ForeignKeyConstraint(["environment_id", "root_key"], ["runs.environment_id", "runs.run_key"]),
        sa.CheckConstraint("length(run_id) BETWEEN 1 AND 128", name="run_id_length"),
        sa.CheckConstraint("length(hash) = 32", name="run_hash_length"),
    )
    for name, column in (("runs_by_idempotency_key", "idempotency_key"), ("runs_by_parent", "parent_key")):
        present = sa.text(f"{column} IS NOT NULL")
        op.create_index(name, "runs", ["environment_id", column], sqlite_where=present, postgresql_where=present)
    op.create_table(
        "events",
        _environment(),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("run_key", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("type", TEXT, nullable=False),
        sa.Column("actor", TEXT, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("occurred_at", sa.BigInteger),
        sa.Column("recorded_at", sa.BigInteger, nullable=False),
        sa.Column("headers", TEXT, nullable=False),
        sa.Column("data", TEXT, nullable=False),
        sa.Column("salt", sa.LargeBinary, nullable=False),
        sa.Column("commitment", sa.LargeBinary),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("environment_id", "position"),
        sa.UniqueConstraint("environment_id", "run_key", "version", name="event_version_once"),
        _of_a_run(),
        sa.CheckConstraint("position > 0", name="event_position_positive"),
        sa.CheckConstraint("length(salt) = 16", name="event_salt_length"),
        sa.CheckConstraint("length(hash) = 32", name="event_hash_length"),
    )
    op.create_table(
        "snapshots",
        _environment(),
        sa.Column("run_key", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("metadata", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("environment_id", "run_key", "version"),
        _of_a_run(),
    )
    op.create_table(
        "refusals",
        _environment(),
        sa.Column("run_key", sa.BigInteger, nullable=False),
        sa.Column("slot", sa.Integer, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("code", TEXT, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("key", TEXT),
        sa.Column("size_bytes", sa.BigInteger),
        sa.Column("limit_bytes", sa.BigInteger),
        sa.Column("actor", TEXT, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("headers", TEXT, nullable=False),
        sa.Column("recorded_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("environment_id", "run_key", "slot"),
        _of_a_run(),
    )
    op.create_table(
        "idempotency",
        _environment(),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("run_key", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("unapplied", TEXT, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("environment_id", "key"),
        _of_a_run(),
        sqlite_with_rowid=False,
    )
    op.create_index("idempotency_by_expiry", "idempotency", ["environment_id", "expires_at"])
    op.create_table(
        "api_keys",
        _environment(),
        sa.Column("key_id", TEXT, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("scopes", TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("last_used_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("environment_id", "key_id"),
        sa.CheckConstraint("length(digest) = 32", name="api_key_digest_length"),
    )
    op.create_table(
        "checkpoints",
        _environment(),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("root", sa.LargeBinary, nullable=False),
        sa.Column("compact_range", sa.LargeBinary, nullable=False),
        sa.Column("note", TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("environment_id", "size"),
        sa.CheckConstraint("length(root) = 32", name="checkpoint_root_length"),
    )
    op.create_table(
        "erasures",
        _environment(),
        sa.Column("run_key", sa.BigInteger, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("actor", TEXT, nullable=False),
        sa.Column("recorded_at", sa.BigInteger, nullable=False),
        sa.Column("open", sa.BigInteger),
        sa.PrimaryKeyConstraint("environment_id", "run_key", "number"),
        _of_a_run(),
        sa.ForeignKeyConstraint(
            ["environment_id", "open"],
            ["events.environment_id", "events.position"],
            deferrable=True,
            initially="DEFERRED",
        ),
        sa.CheckConstraint("open = -1", name="erasure_open_names_no_event"),
    )
    for trigger in SQLITE_TRIGGERS if op.get_bind().dialect.name == "sqlite" else POSTGRES_TRIGGERS:
        op.execute(trigger)


# INSERT OR REPLACE deletes the row it replaces without firing a DELETE trigger, so the insert itself is refused.
# An erasure that is open in this transaction may redact, and nothing else: the fields that were hashed stay.
SQLITE_TRIGGERS = (
    """
    CREATE TRIGGER events_refuse_replace BEFORE INSERT ON events
    WHEN EXISTS (
        SELECT 1 FROM events WHERE environment_id = NEW.environment_id AND position = NEW.position
    )
    OR EXISTS (
        SELECT 1 FROM events
        WHERE environment_id = NEW.environment_id AND run_key = NEW.run_key AND version = NEW.version
    )
    OR EXISTS (SELECT 1 FROM events WHERE rowid = NEW.rowid)
    BEGIN
        SELECT RAISE(ABORT, 'events are append-only: this event exists already');
    END
    """,
    """
    CREATE TRIGGER events_refuse_delete BEFORE DELETE ON events
    BEGIN
        SELECT RAISE(ABORT, 'events are append-only: they cannot be deleted');
    END
    """,
    """
    CREATE TRIGGER events_refuse_update BEFORE UPDATE ON events
    WHEN NOT EXISTS (
        SELECT 1 FROM erasures
        WHERE environment_id = OLD.environment_id AND run_key = OLD.run_key AND open IS NOT NULL
    )
    OR OLD.rowid IS NOT NEW.rowid
    OR OLD.environment_id IS NOT NEW.environment_id
    OR OLD.position IS NOT NEW.position
    OR OLD.run_key IS NOT NEW.run_key
    OR OLD.version IS NOT NEW.version
    OR OLD.type IS NOT NEW.type
    OR OLD.actor IS NOT NEW.actor
    OR OLD.attempt IS NOT NEW.attempt
    OR OLD.occurred_at IS NOT NEW.occurred_at
    OR OLD.recorded_at IS NOT NEW.recorded_at
    OR OLD.headers IS NOT NEW.headers
    OR OLD.hash IS NOT NEW.hash
    BEGIN
        SELECT RAISE(ABORT, 'events are append-only: they cannot be changed');
    END
    """,
)

# The same on PostgreSQL, which also has TRUNCATE; an upsert is an UPDATE there. They fire in every session, also
# in one that plays back replicated changes.
POSTGRES_TRIGGERS = (
    """
    CREATE FUNCTION events_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP <> 'UPDATE' THEN
            RAISE EXCEPTION 'events are append-only: they cannot be deleted'
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        IF NOT EXISTS (
            SELECT 1 FROM erasures
            WHERE environment_id = OLD.environment_id AND run_key = OLD.run_key AND open IS NOT NULL
        )
        OR OLD.environment_id IS DISTINCT FROM NEW.environment_id
        OR OLD.position IS DISTINCT FROM NEW.position
        OR OLD.run_key IS DISTINCT FROM NEW.run_key
        OR OLD.version IS DISTINCT FROM NEW.version
        OR OLD.type IS DISTINCT FROM NEW.type
        OR OLD.actor IS DISTINCT FROM NEW.actor
        OR OLD.attempt IS DISTINCT FROM NEW.attempt
        OR OLD.occurred_at IS DISTINCT FROM NEW.occurred_at
        OR OLD.recorded_at IS DISTINCT FROM NEW.recorded_at
        OR OLD.headers IS DISTINCT FROM NEW.headers
        OR OLD.hash IS DISTINCT FROM NEW.hash
        THEN
            RAISE EXCEPTION 'events are append-only: they cannot be changed'
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        RETURN NEW;
    END
    $$
    """,
    """
    CREATE TRIGGER events_refuse_change BEFORE UPDATE OR DELETE ON events
    FOR EACH ROW EXECUTE FUNCTION events_refuse_change()
    """,
    """
    CREATE TRIGGER events_refuse_truncate BEFORE TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION events_refuse_change()
    """,
    "ALTER TABLE events ENABLE ALWAYS TRIGGER events_refuse_change",
    "ALTER TABLE events ENABLE ALWAYS TRIGGER events_refuse_truncate",
)
