"""The file begins empty; every table comes with the revision of what it is for."""

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing to make yet."""
