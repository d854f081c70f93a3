"""Tables of workflow.sqlite. Every table is described here; migrations/versions makes them.

Times are seconds since the epoch (UTC).
"""

from typing import Final

from sqlalchemy import CheckConstraint, Column, Float, ForeignKey, Index, Integer, MetaData, Table, Text, text

REVISION: Final = "0002"  # the newest of migrations/versions; a test compares

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
Index("job_due", job.c.peer, job.c.priority, job.c.due, sqlite_where=text("state IN ('queued', 'waiting')"))
Index("job_ended", job.c.state, job.c.ended_at)

# What a job carries, each with a state of its own: a job that runs again sends what is still open.
job_item = Table(
    "job_item",
    metadata,
    Column("job", Integer, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
    Column("item", Text, primary_key=True),
    Column("done", Integer, nullable=False),
    sqlite_with_rowid=False,
)

# How far the arrivals of the archive have been acted on: one row.
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
