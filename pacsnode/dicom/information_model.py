"""Query/Retrieve Information Models and the attributes the index knows (PS3.4 C.3, C.6).

One row of ATTRIBUTES is one attribute: where it lives in the hierarchy, whether it is a Unique, Required or
Optional Key, and the column that holds it. The tables of the index, the header scan, C-FIND, QIDO and the
conformance statement all read these rows. Pure: imports nothing of pacsnode.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """Query/Retrieve Level (0008,0052), in the words the identifier uses (PS3.4 C.6.1)."""

    PATIENT = "PATIENT"
    STUDY = "STUDY"
    SERIES = "SERIES"
    IMAGE = "IMAGE"

    depth: int  # 0 for PATIENT down to 3 for IMAGE
    table: str  # of the index, with one row per entity of this level

    __hash__ = object.__hash__  # a member is one object; Enum would hash its name, at the cost of a call

    def __init__(self, word: str) -> None:
        self.depth = len(type(self).__members__)
        self.table = "instance" if word == "IMAGE" else word.lower()


class KeyType(Enum):
    """Types of key attributes (PS3.4 C.2.2.1)."""

    UNIQUE = "U"
    REQUIRED = "R"
    OPTIONAL = "O"


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute of one entity of the hierarchy.

    `key` is the type in the Patient Root model; `key_type` tells it for another model. `computed` attributes
    are in no object: their column is kept by the index itself (counts, Modalities in Study). `multiple` is
    true when the attribute may hold several values, kept as they came, joined by a backslash.
    """

    tag: int
    keyword: str
    vr: str
    level: Level
    key: KeyType
    column: str
    computed: bool = False
    multiple: bool = False

    @property
    def key_column(self) -> str | None:
        """The column with the folded name (text.person_name_key) the writer fills for a person name."""
        return f"{self.column}_key" if self.vr == "PN" else None

    @property
    def words_column(self) -> str | None:
        """The column with the words of a person name and their sounds (fuzzy.name_words)."""
        return f"{self.column}_words" if self.vr == "PN" else None


class InformationModel(Enum):
    """Standard Query/Retrieve Information Models (PS3.4 C.3); the value is its name in the SOP classes."""

    PATIENT_ROOT = "Patient Root"
    STUDY_ROOT = "Study Root"
    PATIENT_STUDY_ONLY = "Patient/Study Only"
    COMPOSITE_INSTANCE_ROOT = "Composite Instance Root"
    WITHOUT_BULK_DATA = "Composite Instance Without Bulk Data"

    __hash__ = object.__hash__  # as Level

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels a query may name, topmost first (PS3.4 C.6.1 to C.6.3, Y.6.1, Z.6.1)."""
        return _LEVELS[self]


_LEVELS = {
    InformationModel.PATIENT_ROOT: (Level.PATIENT, Level.STUDY, Level.SERIES, Level.IMAGE),
    InformationModel.STUDY_ROOT: (Level.STUDY, Level.SERIES, Level.IMAGE),
    InformationModel.PATIENT_STUDY_ONLY: (Level.PATIENT, Level.STUDY),
    InformationModel.COMPOSITE_INSTANCE_ROOT: (Level.IMAGE,),
    InformationModel.WITHOUT_BULK_DATA: (Level.IMAGE,),
}

SPECIFIC_CHARACTER_SET = 0x00080005
QUERY_RETRIEVE_LEVEL = 0x00080052
QUERY_RETRIEVE_VIEW = 0x00080053
RETRIEVE_AE_TITLE = 0x00080054
INSTANCE_AVAILABILITY = 0x00080056
TIMEZONE_OFFSET_FROM_UTC = 0x00080201
PATIENT_ID = 0x00100020

# Storage Media File-Set ID and UID: where objects on media are. Ours are told by Retrieve AE Title, so these
# have no value (PS3.4 C.4.1.1.3.2).
STORAGE_MEDIA_TAGS = frozenset({0x00880130, 0x00880140})

# Attributes of the identifier itself, never of an entity: not matched, answered by rule (PS3.4 C.4.1.1.3).
IDENTIFIER_TAGS = frozenset(
    {
        SPECIFIC_CHARACTER_SET,
        QUERY_RETRIEVE_LEVEL,
        QUERY_RETRIEVE_VIEW,
        RETRIEVE_AE_TITLE,
        INSTANCE_AVAILABILITY,
        TIMEZONE_OFFSET_FROM_UTC,
    }
)


def _rows(level: Level, text: str) -> Iterator[Attribute]:
    """Read a table below: tag, VR, key type, keyword, column, then `n` (several values), `=` (computed)."""
    for line in text.strip().splitlines():
        tag, vr, key, keyword, column, *marks = line.split()
        yield Attribute(int(tag, 16), keyword, vr, level, KeyType(key), column, "=" in marks, "n" in marks)


# PS3.4 Table C.6-1, and what clients ask for beside it.
_PATIENT = """
00100020 LO U PatientID                       patient_id
00100010 PN R PatientName                     patient_name
00100021 LO O IssuerOfPatientID               issuer_of_patient_id
00100030 DA O PatientBirthDate                patient_birth_date
00100032 TM O PatientBirthTime                patient_birth_time
00100040 CS O PatientSex                      patient_sex
00101000 LO O OtherPatientIDs                 other_patient_ids                   n
00101001 PN O OtherPatientNames               other_patient_names                 n
00102160 SH O EthnicGroup                     ethnic_group
00104000 LT O PatientComments                 patient_comments
00201200 IS O NumberOfPatientRelatedStudies   n_studies                           =
00201202 IS O NumberOfPatientRelatedSeries    n_series                            =
00201204 IS O NumberOfPatientRelatedInstances n_instances                         =
"""

# PS3.4 Table C.6-2. Timezone Offset From UTC stands here: QIDO answers it at every level (PS3.18 10.6.3.3).
_STUDY = """
0020000D UI U StudyInstanceUID                study_instance_uid
00080020 DA R StudyDate                       study_date
00080030 TM R StudyTime                       study_time
00080050 SH R AccessionNumber                 accession_number
00200010 SH R StudyID                         study_id
00080090 PN O ReferringPhysicianName          referring_physician_name
00081030 LO O StudyDescription                study_description
00081060 PN O NameOfPhysiciansReadingStudy    name_of_physicians_reading_study    n
00081080 LO O AdmittingDiagnosesDescription   admitting_diagnoses_description     n
00101010 AS O PatientAge                      patient_age
00101020 DS O PatientSize                     patient_size
00101030 DS O PatientWeight                   patient_weight
00102180 SH O Occupation                      occupation
001021B0 LT O AdditionalPatientHistory        additional_patient_history
00201070 IS O OtherStudyNumbers               other_study_numbers                 n
00080201 SH O TimezoneOffsetFromUTC           timezone_offset_from_utc
00080061 CS O ModalitiesInStudy               modalities                          n =
00080062 UI O SOPClassesInStudy               sop_classes                         n =
00201206 IS O NumberOfStudyRelatedSeries      n_series                            =
00201208 IS O NumberOfStudyRelatedInstances   n_instances                         =
"""

# PS3.4 Table C.6-3; the "other attributes at series level" are those of PS3.18 Table 10.6.3-4 and worklists.
_SERIES = """
0020000E UI U SeriesInstanceUID               series_instance_uid
00080060 CS R Modality                        modality
00200011 IS R SeriesNumber                    series_number
0008103E LO O SeriesDescription               series_description
00080021 DA O SeriesDate                      series_date
00080031 TM O SeriesTime                      series_time
00180015 CS O BodyPartExamined                body_part_examined
00200060 CS O Laterality                      laterality
00181030 LO O ProtocolName                    protocol_name
00081050 PN O PerformingPhysicianName         performing_physician_name           n
00081070 PN O OperatorsName                   operators_name                      n
00081010 SH O StationName                     station_name
00080070 LO O Manufacturer                    manufacturer
00081090 LO O ManufacturerModelName           manufacturer_model_name
00080080 LO O InstitutionName                 institution_name
00081040 LO O InstitutionalDepartmentName     institutional_department_name
00400244 DA O PerformedProcedureStepStartDate performed_procedure_step_start_date
00400245 TM O PerformedProcedureStepStartTime performed_procedure_step_start_time
00201209 IS O NumberOfSeriesRelatedInstances  n_instances                         =
"""

# PS3.4 Table C.6-4 and PS3.18 Table 10.6.3-5.
_IMAGE = """
00080018 UI U SOPInstanceUID                  sop_instance_uid
00200013 IS R InstanceNumber                  instance_number
00080016 UI O SOPClassUID                     sop_class_uid
00080008 CS O ImageType                       image_type                          n
00080022 DA O AcquisitionDate                 acquisition_date
00080032 TM O AcquisitionTime                 acquisition_time
00200012 IS O AcquisitionNumber               acquisition_number
00080023 DA O ContentDate                     content_date
00080033 TM O ContentTime                     content_time
00700080 CS O ContentLabel                    content_label
00700081 LO O ContentDescription              content_description
00280008 IS O NumberOfFrames                  number_of_frames
00280010 US O Rows                            rows
00280011 US O Columns                         columns
00280100 US O BitsAllocated                   bits_allocated
00083002 UI O AvailableTransferSyntaxUID      transfer_syntax                     n =
"""

ATTRIBUTES: tuple[Attribute, ...] = (
    *_rows(Level.PATIENT, _PATIENT),
    *_rows(Level.STUDY, _STUDY),
    *_rows(Level.SERIES, _SERIES),
    *_rows(Level.IMAGE, _IMAGE),
)

BY_TAG: dict[int, Attribute] = {attribute.tag: attribute for attribute in ATTRIBUTES}

UNIQUE_KEYS: dict[Level, Attribute] = {a.level: a for a in ATTRIBUTES if a.key is KeyType.UNIQUE}

_STORED = {level: tuple(a for a in ATTRIBUTES if a.level is level and not a.computed) for level in Level}


def columns_of(level: Level) -> tuple[Attribute, ...]:
    """The attributes of `level` taken from objects, in the order of their columns."""
    return _STORED[level]


# What the header scan of an arriving object has to find: all columns, and how their text is encoded.
INDEXED_TAGS: frozenset[int] = frozenset(
    {SPECIFIC_CHARACTER_SET, *(a.tag for a in ATTRIBUTES if not a.computed)}
)


def level_of(attribute: Attribute, model: InformationModel) -> Level:
    """The level of `attribute` in `model`: Study Root has patient attributes at STUDY (PS3.4 C.6.2.1.2)."""
    if model is InformationModel.STUDY_ROOT and attribute.level is Level.PATIENT:
        return Level.STUDY
    return attribute.level


def key_type(attribute: Attribute, model: InformationModel) -> KeyType:
    """The key type of `attribute` in `model`: Patient ID is only Required in Study Root (Table C.6-5)."""
    if model is InformationModel.STUDY_ROOT and attribute.tag == PATIENT_ID:
        return KeyType.REQUIRED
    return attribute.key


def unique_keys_above(level: Level, model: InformationModel) -> tuple[Attribute, ...]:
    """The Unique Keys a hierarchical query at `level` has to give a single value (PS3.4 C.4.1.2.1)."""
    return tuple(UNIQUE_KEYS[above] for above in model.levels if above.depth < level.depth)
