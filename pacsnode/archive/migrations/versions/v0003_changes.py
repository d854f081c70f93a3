"""What each commit added can be asked for afterwards."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "change",
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("instances", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
