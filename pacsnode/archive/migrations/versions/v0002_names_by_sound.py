"""Names are found by their sound and by any part of them; what nothing used goes.

The words of the names there are come from dicom.fuzzy as it is when the migration runs: the code that will
look for them.
"""

from __future__ import annotations

import sqlite3

import sqlalchemy as sa
from alembic import op

from pacsnode.dicom.fuzzy import name_words

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

DROPS_COLUMNS = (3, 35)  # the SQLite that learned it; RHEL 9 has 3.34, the first with trigrams

_NAMES = {
    "patient": ("patient_name", "other_patient_names"),
    "study": ("referring_physician_name", "name_of_physicians_reading_study"),
    "series": ("performing_physician_name", "operators_name"),
}

# Full-text table: the column of `patient` it is over, and how that is cut. The trigrams are case-sensitive
# because the key is folded; words are cut by us, so spaces are all that tokenizer `ascii` has to know.
_FULL_TEXT = {
    "name_trigrams": ("patient_name_key", "trigram case_sensitive 1"),
    "name_words": ("patient_name_words", "ascii"),
}


def _words() -> None:
    """Add the column beside each name, and fill it."""
    connection = op.get_bind()
    driver = connection.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.create_function("name_words", 1, name_words, deterministic=True)
    for table, columns in _NAMES.items():
        for column in columns:
            op.add_column(table, sa.Column(f"{column}_words", sa.Text, nullable=False, server_default=""))
            connection.exec_driver_sql(
                f"UPDATE {table} SET {column}_words = name_words({column}) WHERE {column} <> ''"
            )


def _full_text() -> None:
    """Make the full-text tables; they read `patient` and keep only what a search needs."""
    for name, (column, tokenizer) in _FULL_TEXT.items():
        op.execute(
            f"CREATE VIRTUAL TABLE {name} USING fts5({column}, content = 'patient', content_rowid = 'id',"
            f" detail = none, columnsize = 0, tokenize = '{tokenizer}')"
        )
        op.execute(f"INSERT INTO {name} ({name}) VALUES ('rebuild')")


def _triggers() -> None:
    """Keep the full-text tables at what `patient` holds; a row is taken out with the text it went in with."""
    add, remove = (
        " ".join(statement.format(name=name, column=column) for name, (column, _) in _FULL_TEXT.items())
        for statement in (
            "INSERT INTO {name} (rowid, {column}) VALUES (new.id, new.{column});",
            "INSERT INTO {name} ({name}, rowid, {column}) VALUES ('delete', old.id, old.{column});",
        )
    )
    columns = [column for column, _ in _FULL_TEXT.values()]
    changed = " OR ".join(f"old.{column} <> new.{column}" for column in columns)
    op.execute(f"CREATE TRIGGER patient_name_added AFTER INSERT ON patient BEGIN {add} END")
    op.execute(f"CREATE TRIGGER patient_name_removed AFTER DELETE ON patient BEGIN {remove} END")
    op.execute(
        f"CREATE TRIGGER patient_name_changed AFTER UPDATE OF {', '.join(columns)} ON patient"
        f" WHEN {changed} BEGIN {remove} {add} END"
    )


def _drop_unused() -> None:
    op.drop_index("ix_instance_token", "instance")
    op.drop_index("ix_conflict_token", "conflict")
    if sqlite3.sqlite_version_info < DROPS_COLUMNS:
        return  # they have defaults and nobody asks for them
    op.drop_column("instance", "state")
    op.drop_column("instance", "token")
    op.drop_column("conflict", "token")


def upgrade() -> None:
    _words()
    _full_text()
    _triggers()
    _drop_unused()


def downgrade() -> None:
    for trigger in ("added", "removed", "changed"):
        op.execute(f"DROP TRIGGER patient_name_{trigger}")
    for name in _FULL_TEXT:
        op.drop_table(name)
    for table, columns in _NAMES.items():
        for column in columns:
            op.drop_column(table, f"{column}_words")
    op.add_column("instance", sa.Column("state", sa.Text, nullable=False, server_default="current"))
    for table in ("instance", "conflict"):
        op.add_column(table, sa.Column("token", sa.Text, nullable=False, server_default=""))
        op.create_index(f"ix_{table}_token", table, ["token"], sqlite_where=sa.text("token <> ''"))
