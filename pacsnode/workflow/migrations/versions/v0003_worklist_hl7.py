"""The worklist and what HL7 brings: scheduled procedure steps, messages, changes of patients."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "worklist_item",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("origin", sa.Text, nullable=False, unique=True),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("called_ae", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("added_at", sa.Float, nullable=False),
        sa.Column("changed_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float),
        sa.Column("arrived_at", sa.Float),
        sa.Column("study_instance_uid", sa.Text, nullable=False),
        sa.Column("sps_id", sa.Text, nullable=False),
        sa.Column("procedure_id", sa.Text, nullable=False),
        sa.Column("accession_number", sa.Text, nullable=False),
        sa.Column("placer_order", sa.Text, nullable=False),
        sa.Column("filler_order", sa.Text, nullable=False),
        sa.Column("patient_id", sa.Text, nullable=False),
        sa.Column("issuer_of_patient_id", sa.Text, nullable=False),
        sa.Column("patient_name_key", sa.Text, nullable=False),
        sa.Column("stations", sa.Text, nullable=False),
        sa.Column("modality", sa.Text, nullable=False),
        sa.Column("location", sa.Text, nullable=False),
        sa.Column("start_date", sa.Text, nullable=False),
        sa.Column("start_time", sa.Text, nullable=False),
        sa.Column("starts_at", sa.Float),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.CheckConstraint(
            "state IN ('SCHEDULED', 'IN PROGRESS', 'COMPLETED', 'DISCONTINUED', 'CANCELLED', 'EXPIRED')",
            name="worklist_item_state",
        ),
        sqlite_autoincrement=True,
    )
    for column in ("study_instance_uid", "accession_number", "patient_id", "placer_order", "filler_order"):
        op.create_index(f"worklist_item_{column}", "worklist_item", [column])
    op.create_index("worklist_item_start", "worklist_item", ["start_date", "start_time", "id"])
    op.create_table(
        "hl7_message",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("received_at", sa.Float, nullable=False),
        sa.Column("remote", sa.Text, nullable=False),
        sa.Column("sender", sa.Text, nullable=False),
        sa.Column("control_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("response", sa.LargeBinary, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("hl7_message_digest", "hl7_message", ["digest"])
    op.create_index("hl7_message_answer", "hl7_message", ["answer", "received_at"])
    op.create_table(
        "patient_event",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("patient_id", sa.Text, nullable=False),
        sa.Column("issuer_of_patient_id", sa.Text, nullable=False),
        sa.Column("prior_patient_id", sa.Text, nullable=False),
        sa.Column("prior_issuer_of_patient_id", sa.Text, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("applied", sa.Float),
        sa.CheckConstraint("kind IN ('update', 'merge')", name="patient_event_kind"),
        sqlite_autoincrement=True,
    )
    op.create_index("patient_event_open", "patient_event", ["id"], sqlite_where=sa.text("applied IS NULL"))
