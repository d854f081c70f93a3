"""The first index: patient, study, series, instance, kept headers, conflicts.

Written out rather than taken from archive.schema, which goes on changing; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_Item: TypeAlias = "sa.Column[str] | sa.Column[int] | sa.Column[float] | sa.Column[bytes] | sa.Constraint"


def _id() -> _Item:
    return sa.Column("id", sa.Integer, primary_key=True)


def _parent(table: str) -> _Item:
    return sa.Column(f"{table}_fk", sa.Integer, sa.ForeignKey(f"{table}.id"), nullable=False)


def _text(names: str) -> list[_Item]:
    return [sa.Column(name, sa.Text, nullable=False, server_default="") for name in names.split()]


def _numbers(names: str) -> list[_Item]:
    return [sa.Column(name, sa.Integer, nullable=False, server_default="0") for name in names.split()]


def _stored_at() -> _Item:
    return sa.Column("stored_at", sa.REAL, nullable=False, server_default="0")


def _generated(name: str, expression: str) -> _Item:
    return sa.Column(name, sa.Text, sa.Computed(expression, persisted=False))


def _date(name: str) -> list[_Item]:
    return [*_text(name), _generated(f"{name}_key", f"replace({name}, '.', '')")]


def _time(name: str) -> list[_Item]:
    plain = f"replace({name}, ':', '')"
    expression = (
        f"CASE WHEN {name} = '' THEN '' "
        f"WHEN length({plain}) <= 6 THEN substr({plain} || '000000', 1, 6) || '.000000' "
        f"ELSE substr({plain} || '000000', 1, 13) END"
    )
    return [*_text(name), _generated(f"{name}_key", expression)]


def _person(name: str) -> list[_Item]:
    first = f"({name}_key || '==')"
    second = f"substr({first}, instr({first}, '=') + 1)"
    third = f"(substr({second}, instr({second}, '=') + 1) || '=')"
    groups = {"alphabetic": first, "ideographic": second, "phonetic": third}
    return [
        *_text(f"{name} {name}_key"),
        *(
            _generated(f"{name}_{group}", f"nullif(substr({rest}, 1, instr({rest}, '=') - 1), '')")
            for group, rest in groups.items()
        ),
    ]


def _table(name: str, *items: _Item | Iterable[_Item]) -> None:
    flat: list[_Item] = []
    for item in items:
        flat.extend([item] if isinstance(item, (sa.Column, sa.Constraint)) else item)
    op.create_table(name, *flat)


def _name_indexes(table: str, column: str) -> None:
    op.create_index(f"ix_{table}_{column}_alphabetic", table, [f"{column}_alphabetic"])
    for group in ("ideographic", "phonetic"):
        name = f"{column}_{group}"
        op.create_index(f"ix_{table}_{name}", table, [name], sqlite_where=sa.text(f"{name} IS NOT NULL"))


def _conflict() -> None:
    _table(
        "conflict",
        _id(),
        _text("sop_instance_uid sop_class_uid study_instance_uid series_instance_uid transfer_syntax path"),
        _numbers("size"),
        sa.Column("digest", sa.LargeBinary),
        _text("source_ae"),
        _stored_at(),
        _text("reason token"),
    )
    op.create_index("ix_conflict_sop_instance_uid", "conflict", ["sop_instance_uid"])
    op.create_index("ix_conflict_token", "conflict", ["token"], sqlite_where=sa.text("token <> ''"))


def _patient() -> None:
    _table(
        "patient",
        _id(),
        _text("patient_id"),
        _person("patient_name"),
        _text("issuer_of_patient_id"),
        _date("patient_birth_date"),
        _time("patient_birth_time"),
        _text(
            """
            patient_sex other_patient_ids other_patient_names other_patient_names_key
            ethnic_group patient_comments scope
            """
        ),
        _numbers("n_studies n_series n_instances"),
        sa.UniqueConstraint("patient_id", "issuer_of_patient_id", "scope", name="uq_patient_identity"),
    )
    op.create_index("ix_patient_birth_date", "patient", ["patient_birth_date_key"])
    _name_indexes("patient", "patient_name")


def _study() -> None:
    _table(
        "study",
        _id(),
        _parent("patient"),
        _text("study_instance_uid"),
        _date("study_date"),
        _time("study_time"),
        _text("accession_number study_id"),
        _person("referring_physician_name"),
        _text(
            """
            study_description name_of_physicians_reading_study
            name_of_physicians_reading_study_key admitting_diagnoses_description patient_age
            patient_size patient_weight occupation additional_patient_history
            other_study_numbers timezone_offset_from_utc modalities sop_classes
            """
        ),
        _numbers("n_series n_instances"),
        _stored_at(),
        sa.UniqueConstraint("study_instance_uid", name="uq_study_instance_uid"),
    )
    op.create_index("ix_study_accession_number", "study", ["accession_number"])
    op.create_index("ix_study_date", "study", ["study_date_key", "study_time_key"])
    op.create_index("ix_study_id", "study", ["study_id"])
    op.create_index("ix_study_patient", "study", ["patient_fk"])
    _name_indexes("study", "referring_physician_name")
    op.create_index("ix_study_time", "study", ["study_time_key"])


def _series() -> None:
    _table(
        "series",
        _id(),
        _parent("study"),
        _text("series_instance_uid modality series_number series_description"),
        _date("series_date"),
        _time("series_time"),
        _text(
            """
            body_part_examined laterality protocol_name performing_physician_name
            performing_physician_name_key operators_name operators_name_key station_name
            manufacturer manufacturer_model_name institution_name institutional_department_name
            """
        ),
        _date("performed_procedure_step_start_date"),
        _time("performed_procedure_step_start_time"),
        _numbers("n_instances"),
        _stored_at(),
        sa.UniqueConstraint("study_fk", "series_instance_uid", name="uq_series_in_study"),
    )
    op.create_index("ix_series_instance_uid", "series", ["series_instance_uid"])
    op.create_index("ix_series_modality", "series", ["modality"])
    op.create_index("ix_series_number", "series", ["series_number"])
    op.create_index("ix_series_pps_start_date", "series", ["performed_procedure_step_start_date_key"])


def _instance() -> None:
    _table(
        "instance",
        _id(),
        _parent("series"),
        _text("sop_instance_uid instance_number sop_class_uid image_type"),
        _date("acquisition_date"),
        _time("acquisition_time"),
        _text("acquisition_number"),
        _date("content_date"),
        _time("content_time"),
        _text("content_label content_description number_of_frames"),
        sa.Column("rows", sa.Integer),
        sa.Column("columns", sa.Integer),
        sa.Column("bits_allocated", sa.Integer),
        _text("transfer_syntax path"),
        _numbers("size"),
        sa.Column("digest", sa.LargeBinary),
        _text("source_ae"),
        _stored_at(),
        sa.Column("state", sa.Text, nullable=False, server_default="current"),
        _text("token"),
        sa.UniqueConstraint("sop_instance_uid", name="uq_sop_instance_uid"),
    )
    op.create_index("ix_instance_series", "instance", ["series_fk", "instance_number"])
    op.create_index("ix_instance_token", "instance", ["token"], sqlite_where=sa.text("token <> ''"))


def _header() -> None:
    _table(
        "header",
        sa.Column("instance_id", sa.Integer, sa.ForeignKey("instance.id"), primary_key=True),
        sa.Column("encoding", sa.Integer, nullable=False),
        sa.Column("kept", sa.LargeBinary, nullable=False),
    )


def upgrade() -> None:
    _conflict()
    _patient()
    _study()
    _series()
    _instance()
    _header()


def downgrade() -> None:
    op.drop_table("header")
    op.drop_table("instance")
    op.drop_table("series")
    op.drop_table("study")
    op.drop_table("patient")
    op.drop_table("conflict")
