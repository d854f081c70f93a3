"""Performed procedure steps, what others are to be told of them, and storage commitment."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_OPEN = sa.text("state NOT IN ('reported', 'answered', 'refused')")


def upgrade() -> None:
    op.create_table(
        "mpps",
        sa.Column("sop_instance", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("source_ae", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("changed_at", sa.Float, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.CheckConstraint("state IN ('IN PROGRESS', 'COMPLETED', 'DISCONTINUED')", name="mpps_state"),
    )
    op.create_index("mpps_changed", "mpps", ["changed_at"])
    op.create_table(
        "mpps_study",
        sa.Column("study", sa.Text, primary_key=True),
        sa.Column(
            "sop_instance", sa.Text, sa.ForeignKey("mpps.sop_instance", ondelete="CASCADE"), primary_key=True
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "mpps_outgoing",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("peer", sa.Text, nullable=False),
        sa.Column("sop_instance", sa.Text, nullable=False),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("event", sa.Integer, nullable=False),
        sa.Column("transfer_syntax", sa.Text, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("added_at", sa.Float, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("mpps_outgoing_peer", "mpps_outgoing", ["peer", "sop_instance", "id"])
    op.create_table(
        "commitment",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("peer", sa.Text, nullable=False),
        sa.Column("local_ae", sa.Text, nullable=False),
        sa.Column("transaction_uid", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("requested_at", sa.Float, nullable=False),
        sa.Column("changed_at", sa.Float, nullable=False),
        sa.CheckConstraint("role IN ('provider', 'user')", name="commitment_role"),
        sa.CheckConstraint(
            "state IN ('requested', 'checked', 'reported', 'accepted', 'answered', 'refused')",
            name="commitment_state",
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("commitment_transaction", "commitment", ["transaction_uid"])
    op.create_index("commitment_open", "commitment", ["id"], sqlite_where=_OPEN)
    op.create_index(
        "commitment_reported", "commitment", ["changed_at"], sqlite_where=sa.text("state = 'reported'")
    )
    op.create_table(
        "commitment_instance",
        sa.Column(
            "commitment", sa.Integer, sa.ForeignKey("commitment.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("sop_instance", sa.Text, primary_key=True),
        sa.Column("sop_class", sa.Text, nullable=False),
        sa.Column("reason", sa.Integer),
        sqlite_with_rowid=False,
    )
    op.create_index("commitment_of_instance", "commitment_instance", ["sop_instance"])
    op.create_table(
        "commitment_wanted",
        sa.Column("peer", sa.Text, primary_key=True),
        sa.Column("sop_instance", sa.Text, primary_key=True),
        sa.Column("sop_class", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
