"""Which attributes a performed procedure step needs, and when (PS3.4 Table F.7.2-1).

The table reads as the standard's: requirement types at N-CREATE and in the final state, whether N-SET may
change an attribute, and the same of what is in its items. Attributes of type 3 are not listed: they may be
created and set freely. Pure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword

from pacsnode.dicom.data_set import empty_element
from pacsnode.dicom.uid import is_uid


@dataclass(frozen=True, slots=True)
class Row:
    """One attribute. `create` and `final`: its requirement types; `settable`: whether N-SET may change it."""

    keyword: str
    create: int
    final: int
    settable: bool
    items: tuple["Row", ...] = ()
    is_code: bool = False

    @property
    def tag(self) -> int:
        tag = tag_for_keyword(self.keyword)
        assert tag is not None
        return tag


def _fixed(keyword: str, type_: int, *items: Row, is_code: bool = False) -> Row:
    """An attribute that N-SET must not touch; its type never changes."""
    return Row(keyword, type_, type_, settable=False, items=items, is_code=is_code)


def _set(keyword: str, create: int, final: int, *items: Row, is_code: bool = False) -> Row:
    return Row(keyword, create, final, settable=True, items=items, is_code=is_code)


_REFERENCE: Final = (_fixed("ReferencedSOPClassUID", 1), _fixed("ReferencedSOPInstanceUID", 1))

TABLE: Final = (
    # Performed Procedure Step Relationship
    _fixed(
        "ScheduledStepAttributesSequence",
        1,
        _fixed("StudyInstanceUID", 1),
        _fixed("ReferencedStudySequence", 2, *_REFERENCE),
        _fixed("AccessionNumber", 2),
        _fixed("RequestedProcedureID", 2),
        _fixed("RequestedProcedureDescription", 2),
        _fixed("ScheduledProcedureStepID", 2),
        _fixed("ScheduledProcedureStepDescription", 2),
        _fixed("ScheduledProtocolCodeSequence", 2, is_code=True),
    ),
    _fixed("PatientName", 2),
    _fixed("PatientID", 2),
    _fixed("PatientBirthDate", 2),
    _fixed("PatientSex", 2),
    _fixed("ReferencedPatientSequence", 2, *_REFERENCE),
    # Performed Procedure Step Information
    _fixed("PerformedProcedureStepID", 1),
    _fixed("PerformedStationAETitle", 1),
    _fixed("PerformedStationName", 2),
    _fixed("PerformedLocation", 2),
    _fixed("PerformedProcedureStepStartDate", 1),
    _fixed("PerformedProcedureStepStartTime", 1),
    _set("PerformedProcedureStepStatus", 1, 1),
    _set("PerformedProcedureStepDescription", 2, 2),
    _set("PerformedProcedureTypeDescription", 2, 2),
    _set("ProcedureCodeSequence", 2, 2, is_code=True),
    _set("PerformedProcedureStepEndDate", 2, 1),
    _set("PerformedProcedureStepEndTime", 2, 1),
    # Image Acquisition Results
    _fixed("Modality", 1),
    _fixed("StudyID", 2),
    _set("PerformedProtocolCodeSequence", 2, 2, is_code=True),
    _set(
        "PerformedSeriesSequence",
        2,
        1,
        _set("PerformingPhysicianName", 2, 2),
        _set("ProtocolName", 1, 1),
        _set("OperatorsName", 2, 2),
        _set("SeriesInstanceUID", 1, 1),
        _set("SeriesDescription", 2, 2),
        _set("RetrieveAETitle", 2, 2),
        _set("ReferencedImageSequence", 2, 2, *_REFERENCE),
        _set("ReferencedNonImageCompositeSOPInstanceSequence", 2, 2, *_REFERENCE),
    ),
)

# Of type 3, and not to be set either.
_OTHERS_FIXED: Final = (
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "OtherPatientIDsSequence",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "ServiceEpisodeID",
    "IssuerOfServiceEpisodeIDSequence",
    "ServiceEpisodeDescription",
)
NOT_SETTABLE: Final = frozenset(
    {row.tag for row in TABLE if not row.settable} | {tag_for_keyword(keyword) for keyword in _OTHERS_FIXED}
)

# What N-GET always has an answer for, if only an empty one (PS3.4 Table F.8.2-1, types 1 and 2).
ALWAYS_THERE: Final = frozenset(
    {row.tag for row in TABLE} | {tag_for_keyword("PerformedProcedureStepDiscontinuationReasonCodeSequence")}
)

# A step that lacks one of these cannot be linked to anything; all else a lenient node does without.
INDISPENSABLE: Final = frozenset(
    map(
        tag_for_keyword,
        ("ScheduledStepAttributesSequence", "StudyInstanceUID", "PerformedProcedureStepStatus"),
    )
)

_UIDS: Final = ("StudyInstanceUID", "SeriesInstanceUID", "ReferencedSOPClassUID", "ReferencedSOPInstanceUID")
_CODE_VALUES: Final = ("CodeValue", "LongCodeValue", "URNCodeValue")


@dataclass(slots=True)
class Faults:
    """Tags of attributes that are not there, lack a value they need, or have a wrong one."""

    missing: list[int] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    invalid: list[int] = field(default_factory=list)

    def indispensable(self) -> "Faults":
        """Those that nothing can make up for."""
        return Faults(
            [tag for tag in self.missing if tag in INDISPENSABLE],
            [tag for tag in self.empty if tag in INDISPENSABLE],
            self.invalid,
        )


def at_creation(attributes: Dataset) -> Faults:
    """What is wrong with the attribute list of an N-CREATE."""
    faults = Faults()
    _check(attributes, TABLE, faults, final=False)
    return faults


def in_modifications(modifications: Dataset) -> Faults:
    """What is wrong with the attributes of an N-SET by themselves: their items, and their UIDs."""
    faults = Faults()
    _check(modifications, [row for row in TABLE if row.keyword in modifications], faults, final=False)
    return faults


def in_final_state(attributes: Dataset) -> Faults:
    """What a step lacks for being COMPLETED or DISCONTINUED."""
    faults = Faults()
    _check(attributes, TABLE, faults, final=True)
    return faults


def complete(attributes: Dataset) -> None:
    """Add the attributes of type 2 that a lenient node takes for empty."""
    _complete(attributes, TABLE)


def _check(data_set: Dataset, rows: Iterable[Row], faults: Faults, *, final: bool) -> None:
    for row in rows:
        required = row.final if final else row.create
        element = data_set.get(row.tag)
        if element is None:
            faults.missing.append(row.tag)
            continue
        if element.is_empty:
            if required == 1:
                faults.empty.append(row.tag)
            continue
        if row.keyword in _UIDS and not is_uid(str(element.value)):
            faults.invalid.append(row.tag)
        if not (row.items or row.is_code):
            continue
        if element.VR != "SQ":
            faults.invalid.append(row.tag)
            continue
        for item in element.value:
            _check(item, row.items, faults, final=final)
            if row.is_code:
                _check_code(item, faults)


def _check_code(item: Dataset, faults: Faults) -> None:
    """A code has a value of one kind, and says whose it is (PS3.4 Table F.7.2-1b to 1f)."""
    given = [keyword for keyword in _CODE_VALUES if item.get(keyword)]
    if not given:
        faults.missing.append(0x00080100)
    elif "URNCodeValue" not in given and not item.get("CodingSchemeDesignator"):
        faults.missing.append(0x00080102)


def _complete(data_set: Dataset, rows: Sequence[Row]) -> None:
    for row in rows:
        if row.tag not in data_set:
            data_set.add(empty_element(row.tag))
        elif row.items:
            for item in data_set[row.tag].value:
                _complete(item, row.items)
