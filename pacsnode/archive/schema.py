"""Tables of the index, and bringing an index file to them.

One row of `patient`, `study`, `series`, `instance` is one entity of the Query/Retrieve Information Models;
the attribute columns come from dicom.information_model. Text is Unicode, never NULL, "" when the object has
none. For a name, `_key` is the folded name and `_words` its words and their sounds (dicom.fuzzy).
Generated columns hold what matching compares (PS3.4 C.2.2.2): dates and times by meaning, the component
groups of a name. They cost the writer nothing to fill and follow their source by themselves.
"""

import sqlite3
from pathlib import Path

import sqlalchemy
from sqlalchemy import (
    REAL,
    Column,
    Computed,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    func,
    select,
    text,
)

from pacsnode.dicom.information_model import Attribute, Level, columns_of
from pacsnode.errors import ArchiveError

REVISION = "0005"  # the newest of migrations/versions; a test compares

_SQLITE_BUSY_TIMEOUT = 10.0  # seconds; start-up may meet a CLI command still closing the file

_BROKEN = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

metadata = MetaData()


def date_key(column: str) -> str:
    """SQL for a DA in one comparable form: the old `1999.12.31` of ACR-NEMA loses its dots (PS3.5 6.2)."""
    return f"replace({column}, '.', '')"


def time_key(column: str) -> str:
    """SQL for a TM as HHMMSS.FFFFFF, so that `2230`, `223000` and `22:30:00.0` compare equal; "" stays."""
    plain = f"replace({column}, ':', '')"
    return (
        f"CASE WHEN {column} = '' THEN '' "
        f"WHEN length({plain}) <= 6 THEN substr({plain} || '000000', 1, 6) || '.000000' "
        f"ELSE substr({plain} || '000000', 1, 13) END"
    )


# The three component groups of a folded name, `alphabetic=ideographic=phonetic` (PS3.5 6.2.1.2). A group that
# is not there is NULL, which keeps the rows of a Western archive out of the partial indexes on the other two.
NAME_GROUPS = ("alphabetic", "ideographic", "phonetic")


def name_group(column: str, group: str) -> str:
    """SQL for one component group of the folded name in `column`."""
    padded = f"({column} || '==')"
    after_first = f"substr({padded}, instr({padded}, '=') + 1)"
    after_second = f"substr({after_first}, instr({after_first}, '=') + 1)"
    rest = {"alphabetic": padded, "ideographic": after_first, "phonetic": f"({after_second} || '=')"}[group]
    return f"nullif(substr({rest}, 1, instr({rest}, '=') - 1), '')"


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


def _count(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default="0")


def _generated(name: str, expression: str) -> Column[str]:
    return Column(name, Text, Computed(expression, persisted=False))


def _columns(attribute: Attribute) -> list[Column[str] | Column[int]]:
    """The column of an attribute and those derived from it."""
    name = attribute.column
    match attribute.vr:
        case "US":
            return [Column(name, Integer)]
        case "DA":
            return [_text(name), _generated(f"{name}_key", date_key(name))]
        case "TM":
            return [_text(name), _generated(f"{name}_key", time_key(name))]
        case "PN" if attribute.multiple:
            return [_text(name), _text(f"{name}_key"), _text(f"{name}_words")]
        case "PN":
            groups = [
                _generated(f"{name}_{group}", name_group(f"{name}_key", group)) for group in NAME_GROUPS
            ]
            return [_text(name), _text(f"{name}_key"), _text(f"{name}_words"), *groups]
    return [_text(name)]


def _attributes(level: Level) -> list[Column[str] | Column[int]]:
    return [column for attribute in columns_of(level) for column in _columns(attribute)]


def _name_indexes(table: Table, column: str) -> None:
    """Index each component group; the two rare ones only where they are."""
    Index(f"ix_{table.name}_{column}_alphabetic", table.c[f"{column}_alphabetic"])
    for group in NAME_GROUPS[1:]:
        name = f"{column}_{group}"
        Index(f"ix_{table.name}_{name}", table.c[name], sqlite_where=text(f"{name} IS NOT NULL"))


# `scope` is the Study Instance UID when the object has no Patient ID, else "": strangers without an ID are
# not merged into one patient.
patient = Table(
    "patient",
    metadata,
    Column("id", Integer, primary_key=True),
    *_attributes(Level.PATIENT),
    _text("scope"),
    _count("n_studies"),
    _count("n_series"),
    UniqueConstraint("patient_id", "issuer_of_patient_id", "scope", name="uq_patient_identity"),
)
_name_indexes(patient, "patient_name")
Index("ix_patient_birth_date", patient.c.patient_birth_date_key)

# What a patient is now that objects name by this ID and issuer (archive.aliases). `attributes`: a JSON
# object, values by keyword.
patient_alias = Table(
    "patient_alias",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("patient_id", Text, nullable=False),
    Column("issuer_of_patient_id", Text, nullable=False),
    Column("attributes", Text, nullable=False),
    Column("system", Text, nullable=False),
    Column("changed_at", REAL, nullable=False),
    UniqueConstraint("patient_id", "issuer_of_patient_id", name="uq_patient_alias"),
)

# One row: up to which reconciliation of workflow.sqlite the aliases go.
reconciliation = Table(
    "reconciliation",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sequence", Integer, nullable=False),
)

# `modalities` and `sop_classes` are the sorted distinct values of the study, joined by a backslash. `alias`:
# by which its objects have another patient than they name, or one with other attributes.
study = Table(
    "study",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("patient_fk", Integer, ForeignKey("patient.id"), nullable=False),
    *_attributes(Level.STUDY),
    _text("modalities"),
    _text("sop_classes"),
    _count("n_series"),
    Column("stored_at", REAL, nullable=False, server_default="0"),
    _count("alias"),
    UniqueConstraint("study_instance_uid", name="uq_study_instance_uid"),
)
Index("ix_study_alias", study.c.alias, sqlite_where=text("alias <> 0"))
Index("ix_study_patient", study.c.patient_fk)
Index("ix_study_date", study.c.study_date_key, study.c.study_time_key)
Index("ix_study_time", study.c.study_time_key)
Index("ix_study_accession_number", study.c.accession_number)
Index("ix_study_id", study.c.study_id)
_name_indexes(study, "referring_physician_name")

# A Series Instance UID met again under another study is a series of its own there: both stay reachable.
# `coerced`: the alias by which its objects are changed when they leave; 0 where they say the same.
series = Table(
    "series",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_fk", Integer, ForeignKey("study.id"), nullable=False),
    *_attributes(Level.SERIES),
    _count("n_instances"),
    Column("stored_at", REAL, nullable=False, server_default="0"),
    _count("coerced"),
    UniqueConstraint("study_fk", "series_instance_uid", name="uq_series_in_study"),
)
Index("ix_series_instance_uid", series.c.series_instance_uid)
Index("ix_series_modality", series.c.modality)
Index("ix_series_number", series.c.series_number)
Index("ix_series_pps_start_date", series.c.performed_procedure_step_start_date_key)

# `path` is relative to the data root; `id` is the token of the file in incoming/ until it has its place.
# There is no index on Instance Number alone: it is asked within a series, and an index costs every instance.
instance = Table(
    "instance",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("series_fk", Integer, ForeignKey("series.id"), nullable=False),
    *_attributes(Level.IMAGE),
    _text("transfer_syntax"),
    _text("path"),
    Column("size", Integer, nullable=False, server_default="0"),
    Column("digest", LargeBinary),
    _text("source_ae"),
    Column("stored_at", REAL, nullable=False, server_default="0"),
    UniqueConstraint("sop_instance_uid", name="uq_sop_instance_uid"),
)
Index("ix_instance_series", instance.c.series_fk, instance.c.instance_number)

# The data set without bulk data, see kept.py. `encoding`: 0 explicit VR little endian, 1 implicit VR
# little endian, 2 explicit VR big endian. Apart from `instance`, so that scans of that table stay short.
header = Table(
    "header",
    metadata,
    Column("instance_id", Integer, ForeignKey("instance.id"), primary_key=True),
    Column("encoding", Integer, nullable=False),
    Column("kept", LargeBinary, nullable=False),
)

# Objects that came with a SOP Instance UID already taken by different content, or that were replaced.
conflict = Table(
    "conflict",
    metadata,
    Column("id", Integer, primary_key=True),
    _text("sop_instance_uid"),
    _text("sop_class_uid"),
    _text("study_instance_uid"),
    _text("series_instance_uid"),
    _text("transfer_syntax"),
    _text("path"),
    Column("size", Integer, nullable=False, server_default="0"),
    Column("digest", LargeBinary),
    _text("source_ae"),
    Column("stored_at", REAL, nullable=False, server_default="0"),
    _text("reason"),
)
Index("ix_conflict_sop_instance_uid", conflict.c.sop_instance_uid)

# What each commit added, for those who act on arrivals (workflow): the numbers of its instances, by spaces.
# They read from where they were last, so nothing is missed by a crash, and have the read rows removed but for
# the newest, from which the numbers go on.
change = Table(
    "change",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("instances", Text, nullable=False),
)

# Full-text tables (FTS5) over columns of the table named, with its row numbers; revision 0002 makes them and
# the triggers that keep them right. They hold no text of their own and no positions: a match is compared
# with the column afterwards.
FULL_TEXT = {
    "patient.patient_name_key": sqlalchemy.table("name_trigrams", sqlalchemy.column("rowid", Integer)),
    "patient.patient_name_words": sqlalchemy.table("name_words", sqlalchemy.column("rowid", Integer)),
}

# Counts that are summed when they are asked for: to keep them cost every instance two rows more.
_series_of_study, _study_of_patient = series.alias("s3"), study.alias("t3")
SUMS = {
    "study.n_instances": select(func.sum(_series_of_study.c.n_instances))
    .where(_series_of_study.c.study_fk == study.c.id)
    .correlate(study)
    .scalar_subquery(),
    "patient.n_instances": select(func.sum(_series_of_study.c.n_instances))
    .join(_study_of_patient, _series_of_study.c.study_fk == _study_of_patient.c.id)
    .where(_study_of_patient.c.patient_fk == patient.c.id)
    .correlate(patient)
    .scalar_subquery(),
}

TABLE_OF = {Level.PATIENT: patient, Level.STUDY: study, Level.SERIES: series, Level.IMAGE: instance}


def revision_of(path: Path) -> str | None:
    """The revision of an index file; None when it holds no tables yet."""
    connection = sqlite3.connect(path, timeout=_SQLITE_BUSY_TIMEOUT)
    try:
        tables = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        if "alembic_version" not in tables:
            return None
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return row[0] if row else None
    finally:
        connection.close()


def migrate(path: Path) -> None:
    """Create the index at `path`, or bring it to REVISION; blocks, so it runs before the loop serves.

    Raises ArchiveError when the file is no index or was written by a newer pacsnode.
    """
    try:
        if revision_of(path) == REVISION:
            return  # the usual start: Alembic, 0.3 s to import, is not needed
        from pacsnode.archive.migrations import upgrade

        upgrade(path)
    except sqlite3.Error as error:
        raise ArchiveError(f"{path.name}: {error}{remedy_for(error)}") from error


def remedy_for(error: sqlite3.Error) -> str:
    """What to do about it, to be told behind the error: nothing is lost with a broken index."""
    if getattr(error, "sqlite_errorcode", None) not in _BROKEN:
        return ""
    return "; `pacsnode index rebuild` makes a new one of the stored objects"
