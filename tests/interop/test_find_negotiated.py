"""pynetdicom negotiates PS3.4 Table C.5-2: empty values, and several values, are matched once agreed on."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import pytest
import pytest_asyncio
from pydicom import Dataset, Sequence
from pynetdicom import AE
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRootFind

from pacsnode.node import Node
from tests.support.objects import made
from tests.support.sending import send_made

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

EVERYTHING: Final = bytes((1, 1, 1, 1, 1, 1, 1))
AXIAL: Final = ["ORIGINAL", "PRIMARY", "AXIAL"]


def code(value: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "99TEST", "test"
    return Sequence([item])


@pytest_asyncio.fixture
async def filled(node: Node) -> AsyncIterator[Node]:
    """Three studies: a CT with an accession number and a code, an MR with neither, a CT with PET."""
    told = {"AccessionNumber": "A1", "ReferringPhysicianName": "HOUSE^GREGORY", "StudyDate": "20240301"}
    untold = {"AccessionNumber": "", "ReferringPhysicianName": "", "StudyDate": ""}
    objects = [
        made(1, study=1, Modality="CT", ProcedureCodeSequence=code("HEAD"), ImageType=AXIAL, **told),
        made(2, study=2, Modality="MR", ImageType=["DERIVED", "PRIMARY"], **untold),
        made(3, study=3, series=1, Modality="CT", **told),
        made(4, study=3, series=2, Modality="PT", **told),
    ]
    await send_made(node.dimse_port, objects)
    yield node


def found(port: int, offered: bytes, identifier: Dataset) -> tuple[bytes, set[str]]:
    """What the acceptor answered to the offer, and the studies or instances that match."""
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid, item.service_class_application_information = StudyRootFind, offered
    ae = AE("PYNETDICOM")
    ae.add_requested_context(StudyRootFind)
    association = ae.associate("127.0.0.1", port, ext_neg=[item] if offered else [])
    assert association.is_established
    try:
        answers = list(association.send_c_find(identifier, StudyRootFind))
        answered = association.acceptor.sop_class_extended.get(StudyRootFind, b"")
    finally:
        association.release()
    statuses = [status.Status for status, _ in answers]
    assert set(statuses[:-1]) <= {0xFF00}
    assert statuses[-1] == 0x0000
    return answered, {match.StudyInstanceUID[-1] for _, match in answers if match is not None}


async def asked(node: Node, offered: bytes, level: str = "STUDY", **keys: object) -> set[str]:
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = level, ""
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    answered, studies = await asyncio.to_thread(found, node.dimse_port, offered, identifier)
    assert len(answered) == len(offered)
    return studies


async def test_multi_frame_conversion_alone_is_not_agreed_to(filled: Node) -> None:
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", ""
    answered, studies = await asyncio.to_thread(found, filled.dimse_port, EVERYTHING, identifier)
    assert answered == bytes((1, 1, 1, 1, 0, 1, 1))
    assert studies == {"1", "2", "3"}


@pytest.mark.parametrize(
    "keys",
    [
        {"AccessionNumber": '""'},
        {"ReferringPhysicianName": '""'},
        {"StudyDate": '""'},
        {"StudyDate": '""', "TimezoneOffsetFromUTC": "+0100"},
    ],
    ids=str,
)
async def test_studies_without_a_value_are_found(filled: Node, keys: dict[str, str]) -> None:
    assert await asked(filled, EVERYTHING, **keys) == {"2"}


async def test_an_empty_value_in_a_sequence_and_in_the_kept_header(filled: Node) -> None:
    assert await asked(filled, EVERYTHING, AdmissionID='""') == {"1", "2", "3"}
    item = Dataset()
    item.CodeValue = "HEAD"
    item.CodingSchemeVersion = '""'
    assert "1" in await asked(filled, EVERYTHING, ProcedureCodeSequence=Sequence([item]))
    item.CodeMeaning = '""'
    assert "1" not in await asked(filled, EVERYTHING, ProcedureCodeSequence=Sequence([item]))


async def test_quotation_marks_are_characters_unless_negotiated(filled: Node) -> None:
    assert await asked(filled, b"\1", AccessionNumber='""') == {"2"}  # unknown matches, PS3.4 C.2.2.1.2
    assert await asked(filled, b"\1", PatientID='""') == set()


@pytest.mark.parametrize(
    ("keys", "both", "either"),
    [
        ({"ModalitiesInStudy": ["CT", "PT"]}, {"3"}, {"1", "3"}),
        ({"ModalitiesInStudy": ["PT", "CT"]}, {"3"}, {"1", "3"}),
        ({"ModalitiesInStudy": ["CT", "MR"]}, set(), {"1", "2", "3"}),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
async def test_each_value_has_to_match_once_negotiated(
    filled: Node, keys: dict[str, object], both: set[str], either: set[str]
) -> None:
    assert await asked(filled, EVERYTHING, **keys) == both
    assert await asked(filled, b"\1", **keys) == either


async def test_each_value_of_a_column_that_is_kept_as_it_came(filled: Node) -> None:
    at_image = {"SeriesInstanceUID": "", "SOPInstanceUID": ""}
    assert await asked(filled, EVERYTHING, "IMAGE", ImageType=["PRIMARY", "AXIAL"], **at_image) >= {"1"}
    assert "2" not in await asked(filled, EVERYTHING, "IMAGE", ImageType=["PRIMARY", "AXIAL"], **at_image)
    assert "2" in await asked(filled, EVERYTHING, "IMAGE", ImageType=["PRIMARY", "DERIVED"], **at_image)


async def test_a_list_of_uids_stays_a_list(filled: Node) -> None:
    uids = sorted(await all_studies(filled))
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", uids[:2]
    _, studies = await asyncio.to_thread(found, filled.dimse_port, EVERYTHING, identifier)
    assert studies == {uid[-1] for uid in uids[:2]}


async def all_studies(node: Node) -> set[str]:
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", ""

    def ask() -> set[str]:
        ae = AE("PYNETDICOM")
        ae.add_requested_context(StudyRootFind)
        association = ae.associate("127.0.0.1", node.dimse_port)
        try:
            return {
                match.StudyInstanceUID
                for _, match in association.send_c_find(identifier, StudyRootFind)
                if match is not None
            }
        finally:
            association.release()

    return await asyncio.to_thread(ask)
