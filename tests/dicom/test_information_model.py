"""The table of attributes against the dictionary of the standard."""

import pytest
from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag

from pacsnode.dicom.information_model import (
    ATTRIBUTES,
    BY_TAG,
    INDEXED_TAGS,
    Attribute,
    InformationModel,
    KeyType,
    Level,
    columns_of,
    key_type,
    level_of,
    unique_keys_above,
)


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=lambda a: a.keyword)
def test_attribute_is_as_the_dictionary_has_it(attribute: Attribute) -> None:
    assert keyword_for_tag(attribute.tag) == attribute.keyword
    assert dictionary_VR(attribute.tag) == attribute.vr
    assert (dictionary_VM(attribute.tag) != "1") == attribute.multiple


def test_no_tag_and_no_column_of_a_level_is_there_twice() -> None:
    assert len(BY_TAG) == len(ATTRIBUTES)
    assert len({(a.level, a.column) for a in ATTRIBUTES}) == len(ATTRIBUTES)


@pytest.mark.parametrize(
    ("level", "unique", "required"),
    [
        (Level.PATIENT, {"PatientID"}, {"PatientName"}),
        (Level.STUDY, {"StudyInstanceUID"}, {"StudyDate", "StudyTime", "AccessionNumber", "StudyID"}),
        (Level.SERIES, {"SeriesInstanceUID"}, {"Modality", "SeriesNumber"}),
        (Level.IMAGE, {"SOPInstanceUID"}, {"InstanceNumber"}),
    ],
)
def test_unique_and_required_keys_are_those_of_the_patient_root_tables(
    level: Level, unique: set[str], required: set[str]
) -> None:
    own = [a for a in ATTRIBUTES if a.level is level]
    assert {a.keyword for a in own if a.key is KeyType.UNIQUE} == unique
    assert {a.keyword for a in own if a.key is KeyType.REQUIRED} == required


def test_patient_attributes_are_study_keys_in_study_root() -> None:
    patient_id = BY_TAG[0x00100020]
    assert level_of(patient_id, InformationModel.STUDY_ROOT) is Level.STUDY
    assert key_type(patient_id, InformationModel.STUDY_ROOT) is KeyType.REQUIRED
    assert level_of(patient_id, InformationModel.PATIENT_ROOT) is Level.PATIENT
    assert key_type(patient_id, InformationModel.PATIENT_ROOT) is KeyType.UNIQUE


def test_unique_keys_above_start_at_the_top_of_the_model() -> None:
    above = unique_keys_above(Level.IMAGE, InformationModel.PATIENT_ROOT)
    assert [a.keyword for a in above] == ["PatientID", "StudyInstanceUID", "SeriesInstanceUID"]
    assert [a.keyword for a in unique_keys_above(Level.SERIES, InformationModel.STUDY_ROOT)] == [
        "StudyInstanceUID"
    ]


def test_header_scan_is_asked_for_every_stored_column_and_nothing_computed() -> None:
    assert {a.tag for level in Level for a in columns_of(level)} | {0x00080005} == INDEXED_TAGS
