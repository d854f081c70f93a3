"""Tables of workflow.sqlite. Every table is described here; migrations/versions makes them.

Times are seconds since the epoch (UTC).
"""

from typing import Final

from sqlalchemy import (
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

REVISION: Final = "0005"  # the newest of migrations/versions; a test compares

metadata = MetaData()

# Remote Application Entities. Those with `configured` are a copy of the node's configuration, made at each
# start and reload for other processes to see; they go before run-time ones of the same title.
peer = Table(
    "peer",
    metadata,
    Column("ae_title", Text, primary_key=True),
    Column("configured", Integer, primary_key=True),
    Column("host", Text, nullable=False),
    Column("port", Integer, nullable=False),
    Column("associations", Integer, nullable=False),
    Column("changed_at", Float, nullable=False),
    sqlite_with_rowid=False,
)

# Everything outbound. `due`: when it may run. One that `gathers` takes items until it is taken itself.
job = Table(
    "job",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("peer", Text, nullable=False),
    Column("key", Text),
    Column("priority", Integer, nullable=False),
    Column("payload", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("gathers", Integer, nullable=False),
    Column("items", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("error", Text, nullable=False),
    Column("due", Float, nullable=False),
    Column("added_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    CheckConstraint(
        "state IN ('gathering', 'queued', 'running', 'waiting', 'done', 'dead', 'cancelled')",
        name="job_state",
    ),
    sqlite_autoincrement=True,
)
_UNFINISHED = text("state IN ('gathering', 'queued', 'running', 'waiting')")
Index("job_key", job.c.key, unique=True, sqlite_where=_UNFINISHED)
Index("job_any_key", job.c.key, sqlite_where=text("key IS NOT NULL"))
Index("job_due", job.c.peer, job.c.priority, job.c.due, sqlite_where=text("state IN ('queued', 'waiting')"))
Index("job_ended", job.c.state, job.c.ended_at)

# What is open of a job that carries `items` of them: a row goes when its item has been acknowledged.
job_item = Table(
    "job_item",
    metadata,
    Column("job", Integer, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
    Column("item", Text, primary_key=True),
    sqlite_with_rowid=False,
)

# How far the arrivals of the archive (1) and the orders of the worklist (2) have been acted on.
cursor = Table(
    "cursor",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sequence", Integer, nullable=False),
)

# The last of them: when a power cut takes commits from the index, they arrive again and are told by this.
acted_on = Table(
    "acted_on",
    metadata,
    Column("token", Integer, primary_key=True),
    Column("sop_instance", Text, nullable=False),
)

# Studies (series is empty) and series to which objects have come, until nothing has come for a while.
arriving = Table(
    "arriving",
    metadata,
    Column("study", Text, primary_key=True),
    Column("series", Text, primary_key=True),
    Column("last_at", Float, nullable=False),
    sqlite_with_rowid=False,
)
Index("arriving_last_at", arriving.c.last_at)

# Scheduled procedure steps. `origin` tells them apart: an order and its step, a file. `data` is the complete
# data set, the columns from study_instance_uid on are read from it. `stations` is "\CT1\CT2\". `called_ae` is
# the title a query has to call, "" for any. `starts_at` is the scheduled start.
worklist_item = Table(
    "worklist_item",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("origin", Text, nullable=False, unique=True),
    Column("version", Text, nullable=False),
    Column("called_ae", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("added_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("arrived_at", Float),
    Column("study_instance_uid", Text, nullable=False),
    Column("sps_id", Text, nullable=False),
    Column("procedure_id", Text, nullable=False),
    Column("accession_number", Text, nullable=False),
    Column("placer_order", Text, nullable=False),
    Column("filler_order", Text, nullable=False),
    Column("patient_id", Text, nullable=False),
    Column("issuer_of_patient_id", Text, nullable=False),
    Column("patient_name_key", Text, nullable=False),
    Column("stations", Text, nullable=False),
    Column("modality", Text, nullable=False),
    Column("location", Text, nullable=False),
    Column("start_date", Text, nullable=False),
    Column("start_time", Text, nullable=False),
    Column("starts_at", Float),
    Column("data", LargeBinary, nullable=False),
    CheckConstraint(
        "state IN ('SCHEDULED', 'IN PROGRESS', 'COMPLETED', 'DISCONTINUED', 'CANCELLED', 'EXPIRED')",
        name="worklist_item_state",
    ),
    sqlite_autoincrement=True,
)
for _column in ("study_instance_uid", "accession_number", "patient_id", "placer_order", "filler_order"):
    Index(f"worklist_item_{_column}", worklist_item.c[_column])
Index("worklist_item_start", worklist_item.c.start_date, worklist_item.c.start_time, worklist_item.c.id)

# HL7 messages received, with their acknowledgements: one that comes twice is answered from here.
hl7_message = Table(
    "hl7_message",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("received_at", Float, nullable=False),
    Column("remote", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("control_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("response", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)
Index("hl7_message_digest", hl7_message.c.digest)
Index("hl7_message_answer", hl7_message.c.answer, hl7_message.c.received_at)

# Patients updated and merged, in the order it was told. `attributes`: a JSON object by keyword, as told.
# `changes`: what became of each received identity, with what it was before. `prior_patient_id` is of the
# patient that a merge ends.
reconciliation = Table(
    "reconciliation",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("patient_id", Text, nullable=False),
    Column("issuer_of_patient_id", Text, nullable=False),
    Column("prior_patient_id", Text, nullable=False),
    Column("prior_issuer_of_patient_id", Text, nullable=False),
    Column("attributes", Text, nullable=False),
    Column("changes", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("at", Float, nullable=False),
    Column("undoes", Integer),
    Column("undone_by", Integer),
    CheckConstraint("kind IN ('update', 'merge', 'undo')", name="reconciliation_kind"),
    sqlite_autoincrement=True,
)
for _name in ("patient_id", "prior_patient_id"):
    Index(f"reconciliation_{_name}", reconciliation.c[_name])

# What is to be said of the patient that objects name by this ID and issuer, {} for what they say. A row that
# changes gets another number. `current_*`: the ID and issuer they get. `decided_by`, `sequence`: the
# reconciliation by which it is so, and the last one that wrote it; they differ where one was undone.
reconciled_patient = Table(
    "reconciled_patient",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("patient_id", Text, nullable=False),
    Column("issuer_of_patient_id", Text, nullable=False),
    Column("attributes", Text, nullable=False),
    Column("current_patient_id", Text, nullable=False),
    Column("current_issuer_of_patient_id", Text, nullable=False),
    Column("system", Text, nullable=False),
    Column("changed_at", Float, nullable=False),
    Column("decided_by", Integer, nullable=False),
    Column("sequence", Integer, nullable=False),
    UniqueConstraint("patient_id", "issuer_of_patient_id", name="uq_reconciled_patient"),
    sqlite_autoincrement=True,
)
Index("reconciled_patient_current", reconciled_patient.c.current_patient_id)
Index("reconciled_patient_sequence", reconciled_patient.c.sequence)

# Modality Performed Procedure Steps (PS3.4 F). `data`: the attributes, Explicit VR Little Endian in UTF-8.
mpps = Table(
    "mpps",
    metadata,
    Column("sop_instance", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("source_ae", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
    Column("data", LargeBinary, nullable=False),
    CheckConstraint("state IN ('IN PROGRESS', 'COMPLETED', 'DISCONTINUED')", name="mpps_state"),
)
Index("mpps_changed", mpps.c.changed_at)

# The studies a step says it is performed for.
mpps_study = Table(
    "mpps_study",
    metadata,
    Column("study", Text, primary_key=True),
    Column("sop_instance", Text, ForeignKey("mpps.sop_instance", ondelete="CASCADE"), primary_key=True),
    sqlite_with_rowid=False,
)

# What peers are still to be told of steps, in order; each row has a job.
mpps_outgoing = Table(
    "mpps_outgoing",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("peer", Text, nullable=False),
    Column("sop_instance", Text, nullable=False),
    Column("command", Text, nullable=False),
    Column("event", Integer, nullable=False),
    Column("transfer_syntax", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("added_at", Float, nullable=False),
    sqlite_autoincrement=True,
)
Index("mpps_outgoing_peer", mpps_outgoing.c.peer, mpps_outgoing.c.sop_instance, mpps_outgoing.c.id)

# Requests for Storage Commitment (PS3.4 J): those made to this node as SCP (`provider`), and its own as SCU
# (`user`). `peer` is the other side, `local_ae` the title this side has in it.
commitment = Table(
    "commitment",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("role", Text, nullable=False),
    Column("peer", Text, nullable=False),
    Column("local_ae", Text, nullable=False),
    Column("transaction_uid", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("comment", Text, nullable=False),
    Column("requested_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
    CheckConstraint("role IN ('provider', 'user')", name="commitment_role"),
    CheckConstraint(
        "state IN ('requested', 'checked', 'reported', 'accepted', 'answered', 'refused')",
        name="commitment_state",
    ),
    sqlite_autoincrement=True,
)
Index("commitment_transaction", commitment.c.transaction_uid)
_OPEN = text("state NOT IN ('reported', 'answered', 'refused')")
Index("commitment_open", commitment.c.id, sqlite_where=_OPEN)
Index("commitment_reported", commitment.c.changed_at, sqlite_where=text("state = 'reported'"))

# Their instances. `reason`: NULL while it is not known, 0: committed, else the Failure Reason (PS3.3 C.14).
commitment_instance = Table(
    "commitment_instance",
    metadata,
    Column("commitment", Integer, ForeignKey("commitment.id", ondelete="CASCADE"), primary_key=True),
    Column("sop_instance", Text, primary_key=True),
    Column("sop_class", Text, nullable=False),
    Column("reason", Integer),
    sqlite_with_rowid=False,
)
Index("commitment_of_instance", commitment_instance.c.sop_instance)

# What is being forwarded, and is then to be committed to by the peer it goes to.
commitment_wanted = Table(
    "commitment_wanted",
    metadata,
    Column("peer", Text, primary_key=True),
    Column("sop_instance", Text, primary_key=True),
    Column("sop_class", Text, nullable=False),
    sqlite_with_rowid=False,
)
