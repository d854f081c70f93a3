"""Patients that are updated and merged, and the journal of that."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_table("patient_event")  # nothing had read it yet
    op.create_table(
        "reconciliation",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("patient_id", sa.Text, nullable=False),
        sa.Column("issuer_of_patient_id", sa.Text, nullable=False),
        sa.Column("prior_patient_id", sa.Text, nullable=False),
        sa.Column("prior_issuer_of_patient_id", sa.Text, nullable=False),
        sa.Column("attributes", sa.Text, nullable=False),
        sa.Column("changes", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("undoes", sa.Integer),
        sa.Column("undone_by", sa.Integer),
        sa.CheckConstraint("kind IN ('update', 'merge', 'undo')", name="reconciliation_kind"),
        sqlite_autoincrement=True,
    )
    for column in ("patient_id", "prior_patient_id"):
        op.create_index(f"reconciliation_{column}", "reconciliation", [column])
    op.create_table(
        "reconciled_patient",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("patient_id", sa.Text, nullable=False),
        sa.Column("issuer_of_patient_id", sa.Text, nullable=False),
        sa.Column("attributes", sa.Text, nullable=False),
        sa.Column("current_patient_id", sa.Text, nullable=False),
        sa.Column("current_issuer_of_patient_id", sa.Text, nullable=False),
        sa.Column("system", sa.Text, nullable=False),
        sa.Column("changed_at", sa.Float, nullable=False),
        sa.Column("decided_by", sa.Integer, nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.UniqueConstraint("patient_id", "issuer_of_patient_id", name="uq_reconciled_patient"),
        sqlite_autoincrement=True,
    )
    op.create_index("reconciled_patient_current", "reconciled_patient", ["current_patient_id"])
    op.create_index("reconciled_patient_sequence", "reconciled_patient", ["sequence"])
