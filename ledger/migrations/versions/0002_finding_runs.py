"""What runs are found by: their tags in a table of their own, and indexes that go on with the run key."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"

TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")  # Compared byte by byte.

CHUNK = 1_000  # runs whose tags are held in memory at once

_runs = sa.table("runs", *map(sa.column, ("environment_id", "run_key", "tags")))
_run_tags = sa.table("run_tags", *map(sa.column, ("environment_id", "run_key", "tag")))


def _where_known(column: str) -> dict[str, Any]:
    known = sa.text(f"{column} IS NOT NULL")
    return {"sqlite_where": known, "postgresql_where": known}


def upgrade() -> None:
    op.create_table(
        "run_tags",
        sa.Column("environment_id", sa.Integer, sa.ForeignKey("environments.environment_id"), nullable=False),
        sa.Column("run_key", sa.BigInteger, nullable=False),
        sa.Column("tag", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("environment_id", "run_key", "tag"),
        sa.ForeignKeyConstraint(["environment_id", "run_key"], ["runs.environment_id", "runs.run_key"]),
        sqlite_with_rowid=False,
    )
    _take_tags()
    op.create_index("runs_by_tag", "run_tags", ["environment_id", "tag", "run_key"])
    op.create_index("runs_by_status", "runs", ["environment_id", "status", "run_key"])
    op.create_index("runs_by_task", "runs", ["environment_id", "task", "run_key"])
    op.drop_index("runs_by_parent", "runs")
    for name in ("parent", "root", "batch"):
        column = name if name == "batch" else f"{name}_key"
        columns = ["environment_id", column, "run_key"]
        op.create_index(f"runs_by_{name}", "runs", columns, **_where_known(column))


def _take_tags() -> None:
    """Fill the table of tags from the runs, a chunk of them at a time."""
    connection = op.get_bind()
    environment, key = -1, -1
    while True:
        rows = connection.execute(
            sa.select(_runs)
            .where(
                sa.or_(
                    _runs.c.environment_id > environment,
                    sa.and_(_runs.c.environment_id == environment, _runs.c.run_key > key),
                ),
                _runs.c.tags != "[]",
            )
            .order_by(_runs.c.environment_id, _runs.c.run_key)
            .limit(CHUNK)
        ).all()
        if not rows:
            return
        found = [
            {
                "environment_id": row.environment_id,
                "run_key": row.run_key,
                "tag": json.dumps(tag, ensure_ascii=False),
            }
            for row in rows
            for tag in dict.fromkeys(json.loads(row.tags))
        ]
        connection.execute(sa.insert(_run_tags), found)
        environment, key = rows[-1].environment_id, rows[-1].run_key
