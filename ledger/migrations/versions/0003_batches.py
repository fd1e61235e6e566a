"""Batches and their places, and idempotency keys that lead to a batch."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"

TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")  # Compared byte by byte.


def _environment() -> sa.Column[int]:
    return sa.Column("environment_id", sa.Integer, sa.ForeignKey("environments.environment_id"), nullable=False)


def _of_a_run() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["environment_id", "run_key"], ["runs.environment_id", "runs.run_key"])


def upgrade() -> None:
    op.create_table(
        "batches",
        _environment(),
        sa.Column("batch_id", TEXT, nullable=False),
        sa.Column("run_count", sa.Integer, nullable=False),
        sa.Column("item_count", sa.Integer, nullable=False),
        sa.Column("idempotency_key", TEXT),
        sa.Column("idempotency_expires_at", sa.BigInteger),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("sealed_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("environment_id", "batch_id"),
        sa.CheckConstraint("item_count BETWEEN 0 AND run_count", name="batch_item_count"),
    )
    present = sa.text("idempotency_key IS NOT NULL")
    op.create_index(
        "batches_by_idempotency_key",
        "batches",
        ["environment_id", "idempotency_key"],
        sqlite_where=present,
        postgresql_where=present,
    )
    op.create_table(
        "batch_items",
        _environment(),
        sa.Column("batch_id", TEXT, nullable=False),
        sa.Column("item_index", sa.Integer, nullable=False),
        sa.Column("run_key", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("environment_id", "batch_id", "item_index"),
        sa.ForeignKeyConstraint(["environment_id", "batch_id"], ["batches.environment_id", "batches.batch_id"]),
        _of_a_run(),
        sqlite_with_rowid=False,
    )
    if op.get_bind().dialect.name == "sqlite":
        _rebuild_idempotency()
    else:
        op.alter_column("idempotency", "run_key", nullable=True)
        op.add_column("idempotency", sa.Column("batch_id", TEXT))


def _rebuild_idempotency() -> None:
    """Make the table anew: SQLite cannot let a column be null that could not."""
    op.drop_index("idempotency_by_expiry", "idempotency")
    op.rename_table("idempotency", "idempotency_before")
    op.create_table(
        "idempotency",
        _environment(),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("run_key", sa.BigInteger),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("unapplied", TEXT, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("batch_id", TEXT),
        sa.PrimaryKeyConstraint("environment_id", "key"),
        _of_a_run(),
        sqlite_with_rowid=False,
    )
    columns = "environment_id, key, fingerprint, status, run_key, version, unapplied, expires_at"
    op.execute(f"INSERT INTO idempotency ({columns}) SELECT {columns} FROM idempotency_before")  # noqa: S608 - Constant.
    op.drop_table("idempotency_before")
    op.create_index("idempotency_by_expiry", "idempotency", ["environment_id", "expires_at"])
