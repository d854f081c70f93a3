"""Fewer rows written with every instance: counts that can be summed, and the counter of changes, are gone."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_column("study", "n_instances")
    op.drop_column("patient", "n_instances")
    op.rename_table("change", "former_change")
    op.create_table(
        "change",
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("instances", sa.Text, nullable=False),
    )
    op.execute("INSERT INTO change SELECT * FROM former_change")
    # Numbers go on from the newest row; where all have been forgotten, it is a row without instances.
    op.execute(
        "INSERT INTO change (sequence, instances) SELECT seq, '' FROM sqlite_sequence"
        " WHERE name = 'former_change' AND seq > (SELECT coalesce(max(sequence), 0) FROM change)"
    )
    op.drop_table("former_change")
