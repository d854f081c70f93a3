"""Patients, studies and series: found, made and completed as objects name them (PS3.4 C.6, C.2.2.1.2).

Belongs to the writer of the index. Rows are remembered, so that an instance of a series seen before costs
nothing here. Counts of instances are the index's own work; those of series and studies, Modalities in Study
and SOP Classes in Study are written here when they have grown.
What an object leaves empty a later one may fill; where two differ the first stays and the conflict is told.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pacsnode.archive.aliases import Alias, identity_of
from pacsnode.archive.patients import PatientAliases
from pacsnode.archive.rows import InstanceRow, Parents, Value, column_names
from pacsnode.dicom.information_model import Level, columns_of
from pacsnode.dicom.uid import UID

SERIES_REMEMBERED: Final = 20_000  # some 60 MB at most


@dataclass(slots=True, eq=False)
class Patient:
    id: int
    scope: str
    values: list[Value]
    studies: int = 0  # both: to add at the next commit
    series: int = 0


@dataclass(slots=True, eq=False)
class Study:
    id: int
    patient: Patient
    values: list[Value]
    modalities: set[str]
    sop_classes: set[str]
    series: int = 0  # to add at the next commit
    reported: set[str] = field(default_factory=set)  # attributes whose conflict has been told


@dataclass(slots=True, eq=False)
class Series:
    id: int
    study: Study
    values: list[Value]
    parents: Parents | None = None  # what was merged last: the same object again means nothing is new


@dataclass(frozen=True, slots=True)
class StudyConflict:
    """Attributes an object gives other values than its study has; the first value stays."""

    study: UID
    sop_instance: UID
    attributes: tuple[str, ...]


def insert(table: str, columns: Sequence[str], rows: int = 1) -> str:
    """The INSERT for a number of rows, a placeholder for each column of each."""
    row = f"({', '.join('?' * len(columns))})"
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([row] * rows)}"


_PATIENT_COLUMNS: Final = column_names(Level.PATIENT)
_STUDY_COLUMNS: Final = column_names(Level.STUDY)
_SERIES_COLUMNS: Final = column_names(Level.SERIES)
_PATIENT_ID: Final = _PATIENT_COLUMNS.index("patient_id")
_ISSUER: Final = _PATIENT_COLUMNS.index("issuer_of_patient_id")
_MODALITY: Final = _SERIES_COLUMNS.index("modality")

_INSERT_PATIENT: Final = insert("patient", (*_PATIENT_COLUMNS, "scope"))
_INSERT_STUDY: Final = insert("study", ("patient_fk", *_STUDY_COLUMNS, "stored_at"))
_INSERT_SERIES: Final = insert("series", ("study_fk", *_SERIES_COLUMNS, "stored_at"))
_SELECT_PATIENT: Final = f"SELECT id, scope, {', '.join(_PATIENT_COLUMNS)} FROM patient"
_SELECT_STUDY: Final = (
    f"SELECT id, patient_fk, modalities, sop_classes, {', '.join(_STUDY_COLUMNS)} FROM study"
    " WHERE study_instance_uid = ?"
)
_SELECT_SERIES: Final = (
    f"SELECT id, {', '.join(_SERIES_COLUMNS)} FROM series WHERE study_fk = ? AND series_instance_uid = ?"
)


class ParentRows:
    """The rows above the instances; every change goes to the transaction that is open."""

    def __init__(self, connection: sqlite3.Connection, lock: Callable[[], None]) -> None:
        """`lock` is called before anything is changed."""
        self._connection = connection
        self._lock = lock
        self._execute = connection.execute
        self._patients: dict[tuple[Value, Value, str], Patient] = {}
        self._studies: dict[str, Study] = {}
        self._series: dict[tuple[str, str], Series] = {}
        self._grown: dict[Study, None] = {}
        self._aliases = PatientAliases(connection)
        self.conflicts: list[StudyConflict] = []  # met since they were last taken
        self.completed: set[int] = set()  # numbers of the patients that were, since they were last taken

    def series_of(self, row: InstanceRow) -> Series:
        """The series row of an instance that is being added."""
        parents = row.parents
        series = self._series.get((parents.study_uid, parents.series_uid))
        if series is None or series.parents is not parents:
            series = self._adopt(row)
        study = series.study
        if row.sop_class not in study.sop_classes:
            study.sop_classes.add(row.sop_class)
            self._grown[study] = None
        return series

    def trim(self) -> None:
        """Forget all when there is much; only between transactions."""
        if len(self._series) > SERIES_REMEMBERED:
            self.forget()

    def forget(self) -> None:
        """Forget what is remembered: it was rolled back, or changed behind our back."""
        self._patients.clear()
        self._studies.clear()
        self._series.clear()
        self._grown.clear()
        self._aliases.forget()

    def _adopt(self, row: InstanceRow) -> Series:
        """The series of an instance: found or made, and completed with what was empty so far."""
        self._lock()
        parents, alias = self._as_it_is_now(row.parents)
        differing: list[str] = []
        study = self._studies.get(parents.study_uid) or self._load_study(parents)
        if study is None:
            study = self._make_study(parents, row.stored_at)
        else:
            self._merge_patient(study, parents, differing)
            differing += self._merge(Level.STUDY, study.id, study.values, parents.study)
        key = (parents.study_uid, parents.series_uid)
        series = self._series.get(key) or self._load_series(study, parents)
        if series is None:
            series = self._make_series(study, row)
        else:
            differing += self._merge(Level.SERIES, series.id, series.values, parents.series)
        modality = str(series.values[_MODALITY] or "")
        if modality and modality not in study.modalities:
            study.modalities.add(modality)
            self._grown[study] = None
        if alias is not None:
            self._follow(alias, study, series, is_coerced=parents is not row.parents)
        series.parents = row.parents
        self._series[key] = series
        news = [keyword for keyword in differing if keyword not in study.reported]
        if news:
            study.reported.update(news)
            self.conflicts.append(StudyConflict(parents.study_uid, row.sop_instance, tuple(news)))
        return series

    def _load_study(self, parents: Parents) -> Study | None:
        row = self._execute(_SELECT_STUDY, (parents.study_uid,)).fetchone()
        if row is None:
            return None
        found = self._execute(f"{_SELECT_PATIENT} WHERE id = ?", (row[1],)).fetchone()
        patient = self._remember_patient(Patient(found[0], found[1], list(found[2:])))
        study = Study(row[0], patient, list(row[4:]), _set_of(row[2]), _set_of(row[3]))
        self._studies[parents.study_uid] = study
        return study

    def _as_it_is_now(self, parents: Parents) -> tuple[Parents, Alias | None]:
        """What an object says, with its patient as that is now; the same when nothing was changed."""
        alias = self._aliases.of(parents.patient)
        told = parents.patient if alias is None else alias.overlaid(parents.patient)
        return (parents if told is parents.patient else replace(parents, patient=told)), alias

    def _follow(self, alias: Alias, study: Study, series: Series, *, is_coerced: bool) -> None:
        """Note by which alias a study is where it is, and whether objects of a series say something else."""
        if identity_of(tuple(study.patient.values)) != alias.identity:
            return  # the study is somebody else's
        self._execute("UPDATE study SET alias = ?1 WHERE id = ?2 AND alias <> ?1", (alias.id, study.id))
        if is_coerced:
            self._execute("UPDATE series SET coerced = ? WHERE id = ?", (alias.id, series.id))

    def _make_study(self, parents: Parents, stored_at: float) -> Study:
        patient = self._patient_of(parents)
        cursor = self._execute(_INSERT_STUDY, (patient.id, *parents.study, stored_at))
        study = Study(_new_id(cursor), patient, list(parents.study), set(), set())
        patient.studies += 1
        self._grown[study] = None
        self._studies[parents.study_uid] = study
        return study

    def _load_series(self, study: Study, parents: Parents) -> Series | None:
        row = self._execute(_SELECT_SERIES, (study.id, parents.series_uid)).fetchone()
        return None if row is None else Series(row[0], study, list(row[1:]))

    def _make_series(self, study: Study, row: InstanceRow) -> Series:
        cursor = self._execute(_INSERT_SERIES, (study.id, *row.parents.series, row.stored_at))
        study.series += 1
        self._grown[study] = None
        return Series(_new_id(cursor), study, list(row.parents.series))

    def _patient_of(self, parents: Parents) -> Patient:
        """The patient an object names: by Patient ID and issuer, or without an ID by the study."""
        patient_id, issuer = parents.patient[_PATIENT_ID], parents.patient[_ISSUER]
        scope = "" if patient_id else parents.study_uid
        patient = self._patients.get((patient_id, issuer, scope))
        if patient is None:
            row = self._execute(
                f"{_SELECT_PATIENT} WHERE patient_id = ? AND issuer_of_patient_id = ? AND scope = ?",
                (patient_id, issuer, scope),
            ).fetchone()
            if row is None:
                cursor = self._execute(_INSERT_PATIENT, (*parents.patient, scope))
                return self._remember_patient(Patient(_new_id(cursor), scope, list(parents.patient)))
            patient = self._remember_patient(Patient(row[0], row[1], list(row[2:])))
        self._merge(Level.PATIENT, patient.id, patient.values, parents.patient)
        return patient

    def _remember_patient(self, patient: Patient) -> Patient:
        """The one object for a patient row; two would lose each other's counts."""
        key = (patient.values[_PATIENT_ID], patient.values[_ISSUER], patient.scope)
        return self._patients.setdefault(key, patient)

    def _merge_patient(self, study: Study, parents: Parents, differing: list[str]) -> None:
        """Complete the patient of a known study; a study named for someone else stays where it is."""
        patient = study.patient
        if not parents.patient[_PATIENT_ID]:
            return
        if patient.scope:  # the study came without a Patient ID first
            self._move_study(study, self._patient_of(parents))
        elif parents.patient[_PATIENT_ID] != patient.values[_PATIENT_ID]:
            differing.append("PatientID")
        elif parents.patient[_ISSUER] != patient.values[_ISSUER]:
            differing.append("IssuerOfPatientID")
        else:
            differing += self._merge(Level.PATIENT, patient.id, patient.values, parents.patient)

    def _move_study(self, study: Study, patient: Patient) -> None:
        """Hang a study under another patient; the stranger it belonged to had no other."""
        stranger = study.patient
        self.write_growth()
        self._execute("UPDATE study SET patient_fk = ? WHERE id = ?", (patient.id, study.id))
        self._execute("DELETE FROM patient WHERE id = ?", (stranger.id,))
        recount_patient(self._connection, patient.id)
        del self._patients[(stranger.values[_PATIENT_ID], stranger.values[_ISSUER], stranger.scope)]
        study.patient = patient

    def _merge(self, level: Level, row_id: int, known: list[Value], given: Sequence[Value]) -> Iterable[str]:
        """Fill empty columns from `given`; returns the keywords of attributes that differ."""
        attributes, names = columns_of(level), column_names(level)
        filled: dict[str, Value] = {}
        differing = []
        for position, (old, new) in enumerate(zip(known, given, strict=True)):
            if new == old or new in ("", None):
                continue
            if old in ("", None):
                filled[names[position]] = known[position] = new
            elif position < len(attributes):
                differing.append(attributes[position].keyword)
        if filled:
            assignments = ", ".join(f"{name} = ?" for name in filled)
            self._execute(f"UPDATE {level.table} SET {assignments} WHERE id = ?", (*filled.values(), row_id))
            if level is Level.PATIENT:
                self.completed.add(row_id)
        return differing

    def write_growth(self) -> None:
        """Write what the transaction added to counts and lists, once for each parent."""
        if not self._grown:
            return
        self._lock()
        for study in self._grown:
            self._execute(
                "UPDATE study SET n_series = n_series + ?, modalities = ?, sop_classes = ? WHERE id = ?",
                (study.series, _joined(study.modalities), _joined(study.sop_classes), study.id),
            )
            study.patient.series += study.series
            study.series = 0
        for patient in {study.patient: None for study in self._grown}:
            self._execute(
                "UPDATE patient SET n_studies = n_studies + ?, n_series = n_series + ? WHERE id = ?",
                (patient.studies, patient.series, patient.id),
            )
            patient.studies = patient.series = 0
        self._grown.clear()


def recount_study(connection: sqlite3.Connection, study_id: int) -> None:
    """Count a study again from its series and instances, Modalities and SOP Classes in Study included."""
    rows = connection.execute(
        "SELECT DISTINCT modality, '' FROM series WHERE study_fk = ?1 UNION SELECT '', sop_class_uid"
        " FROM instance JOIN series ON series.id = series_fk WHERE study_fk = ?1",
        (study_id,),
    ).fetchall()
    modalities = {modality for modality, _ in rows if modality}
    sop_classes = {sop_class for _, sop_class in rows if sop_class}
    connection.execute(
        "UPDATE study SET modalities = ?, sop_classes = ?,"
        " n_series = (SELECT count(*) FROM series WHERE study_fk = study.id)"
        " WHERE id = ?",
        (_joined(modalities), _joined(sop_classes), study_id),
    )


def recount_patient(connection: sqlite3.Connection, patient_id: int) -> None:
    """Count a patient again from the counts of the studies."""
    connection.execute(
        "UPDATE patient SET (n_studies, n_series) = (SELECT count(*), coalesce(sum(n_series), 0)"
        " FROM study WHERE patient_fk = patient.id) WHERE id = ?",
        (patient_id,),
    )


def _set_of(joined: str) -> set[str]:
    return set(joined.split("\\")) if joined else set()


def _joined(values: Iterable[str]) -> str:
    return "\\".join(sorted(values))


def _new_id(cursor: sqlite3.Cursor) -> int:
    assert cursor.lastrowid is not None
    return cursor.lastrowid
