"""Peers added at run time, durable jobs, how far arrivals have been acted on."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_UNFINISHED = sa.text("state IN ('gathering', 'queued', 'running', 'waiting')")


def upgrade() -> None:
    op.create_table(
        "peer",
        sa.Column("ae_title", sa.Text, primary_key=True),
        sa.Column("configured", sa.Integer, primary_key=True),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("associations", sa.Integer, nullable=False),
        sa.Column("changed_at", sa.Float, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "job",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("peer", sa.Text, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("gathers", sa.Integer, nullable=False),
        sa.Column("items", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("due", sa.Float, nullable=False),
        sa.Column("added_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("ended_at", sa.Float),
        sa.CheckConstraint(
            "state IN ('gathering', 'queued', 'running', 'waiting', 'done', 'dead', 'cancelled')",
            name="job_state",
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("job_key", "job", ["key"], unique=True, sqlite_where=_UNFINISHED)
    op.create_index("job_any_key", "job", ["key"], sqlite_where=sa.text("key IS NOT NULL"))
    op.create_index(
        "job_due", "job", ["peer", "priority", "due"], sqlite_where=sa.text("state IN ('queued', 'waiting')")
    )
    op.create_index("job_ended", "job", ["state", "ended_at"])
    op.create_table(
        "job_item",
        sa.Column("job", sa.Integer, sa.ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("item", sa.Text, primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "cursor",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("sequence", sa.Integer, nullable=False),
    )
    op.create_table(
        "acted_on",
        sa.Column("token", sa.Integer, primary_key=True),
        sa.Column("sop_instance", sa.Text, nullable=False),
    )
    op.create_table(
        "arriving",
        sa.Column("study", sa.Text, primary_key=True),
        sa.Column("series", sa.Text, primary_key=True),
        sa.Column("last_at", sa.Float, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("arriving_last_at", "arriving", ["last_at"])
