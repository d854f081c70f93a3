"""Patients that were updated or merged since their objects came."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "patient_alias",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("patient_id", sa.Text, nullable=False),
        sa.Column("issuer_of_patient_id", sa.Text, nullable=False),
        sa.Column("attributes", sa.Text, nullable=False),
        sa.Column("system", sa.Text, nullable=False),
        sa.Column("changed_at", sa.REAL, nullable=False),
        sa.UniqueConstraint("patient_id", "issuer_of_patient_id", name="uq_patient_alias"),
    )
    op.create_table(
        "reconciliation",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("sequence", sa.Integer, nullable=False),
    )
    op.add_column("study", sa.Column("alias", sa.Integer, nullable=False, server_default="0"))
    op.add_column("series", sa.Column("coerced", sa.Integer, nullable=False, server_default="0"))
    op.create_index("ix_study_alias", "study", ["alias"], sqlite_where=sa.text("alias <> 0"))


def downgrade() -> None:
    op.drop_index("ix_study_alias", "study")
    op.drop_column("series", "coerced")
    op.drop_column("study", "alias")
    op.drop_table("reconciliation")
    op.drop_table("patient_alias")
