"""Identifiers from what people type, and matches as text."""

import pytest
from pydicom import Dataset

from pacsnode.cli.querying import RETURN_KEYS, columns, identifier, shown
from pacsnode.dicom.information_model import Level
from pacsnode.errors import InvalidIdentifier


def test_keyword_and_tag_name_the_same_key() -> None:
    for key in ("PatientName=DOE*", "0010,0010=DOE*", "(0010,0010)=DOE*", "00100010=DOE*"):
        assert identifier(Level.STUDY, [key]).PatientName == "DOE*"


@pytest.mark.parametrize("level", Level)
def test_level_and_usual_return_keys_are_always_there(level: Level) -> None:
    request = identifier(level, [])
    assert request.QueryRetrieveLevel == level.value
    assert all(keyword in request for keyword in RETURN_KEYS[level])


def test_a_value_may_hold_an_equals_sign() -> None:
    assert identifier(Level.STUDY, ["PatientName=Yamada=山田"]).PatientName == "Yamada=山田"


def test_letters_beyond_ascii_declare_utf_8() -> None:
    assert identifier(Level.STUDY, ["PatientName=MÜLLER*"]).SpecificCharacterSet == "ISO_IR 192"
    assert "SpecificCharacterSet" not in identifier(Level.STUDY, ["PatientName=MULLER*"])


def test_the_character_set_may_be_asked_for_and_may_be_chosen() -> None:
    asked = identifier(Level.STUDY, ["PatientName=*山田*", "SpecificCharacterSet"])
    assert asked.SpecificCharacterSet == "ISO_IR 192"
    chosen = identifier(Level.STUDY, ["SpecificCharacterSet=ISO_IR 100", "PatientName=MÜLLER*"])
    assert chosen.SpecificCharacterSet == "ISO_IR 100"


def test_a_key_without_value_is_universal_matching() -> None:
    assert identifier(Level.STUDY, ["StudyTime"])["StudyTime"].is_empty


def test_a_list_of_uids_becomes_several_values() -> None:
    assert list(identifier(Level.STUDY, [r"StudyInstanceUID=1.2\1.3"]).StudyInstanceUID) == ["1.2", "1.3"]


def test_a_range_stays_as_it_is() -> None:
    assert identifier(Level.STUDY, ["StudyDate=20240101-"]).StudyDate == "20240101-"


def test_numbers_of_binary_kind_are_numbers() -> None:
    assert identifier(Level.IMAGE, ["Rows=512"]).Rows == 512


def test_keys_inside_a_sequence_share_its_item() -> None:
    request = identifier(
        Level.SERIES,
        [
            "RequestAttributesSequence.ScheduledProcedureStepID=S1",
            "RequestAttributesSequence.RequestedProcedureID",
        ],
    )
    (item,) = request.RequestAttributesSequence
    assert item.ScheduledProcedureStepID == "S1"
    assert item["RequestedProcedureID"].is_empty


@pytest.mark.parametrize(
    ("key", "complaint"),
    [
        ("PatientNam=X", "'PatientNam' is no attribute"),
        ("0009,0001=X", "'0009,0001' is no attribute"),
        ("PatientName.Family=X", "PatientName is no sequence"),
        ("RequestAttributesSequence=X", "is a sequence"),
        ("Rows=many", "Rows wants numbers"),
        ("Rows=65536", "that a US can hold, not '65536'"),
        ("SimpleFrameList=1\\99999999999", "that a UL can hold"),
        ("SeriesNumber=*", "SeriesNumber wants numbers"),
        ("PatientWeight=heavy", "PatientWeight wants numbers"),
        ("", "'' is no attribute"),
    ],
)
def test_what_is_no_key_is_refused(key: str, complaint: str) -> None:
    with pytest.raises(InvalidIdentifier, match=complaint):
        identifier(Level.STUDY, [key])


def test_columns_are_the_usual_ones_and_what_was_asked_for() -> None:
    request = identifier(Level.IMAGE, ["PatientName=Ü", "0028,0010", "InstanceNumber=1"])
    assert columns(Level.IMAGE, request) == [*RETURN_KEYS[Level.IMAGE], "PatientName", "Rows"]


def test_a_match_is_shown_as_text() -> None:
    match = Dataset()
    match.ModalitiesInStudy = ["CT", "SR"]
    match.PatientName = "DOE^JANE"
    match.RequestAttributesSequence = [Dataset(), Dataset()]
    match.StudyDate = None
    names = ("ModalitiesInStudy", "PatientName", "RequestAttributesSequence", "StudyDate", "PatientID")
    assert [shown(match, name) for name in names] == ["CT\\SR", "DOE^JANE", "2 items", "", ""]
