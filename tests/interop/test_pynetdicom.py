"""pynetdicom as SCU: every real object in its own transfer syntax, then each found by its UIDs."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, Association, _config
from pynetdicom.pdu_primitives import (
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
)
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (
    CTImageStorage,
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

from pacsnode.node import Node
from tests.conftest import real_objects, settings_for
from tests.support.compare import differences
from tests.support.files import named
from tests.support.objects import Part10, data_set_bytes, made, object_path, part10, read_data_set
from tests.support.sending import send_made
from tests.support.truth import REFUSED, Truth

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

CONTEXTS_AT_ONCE = 32  # so that the collection takes several associations


@contextmanager
def associated(port: int, contexts: Sequence[object], **options: object) -> Iterator[Association]:
    """An association of pynetdicom's; runs in a worker thread of the test."""
    ae = AE("PYNETDICOM")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    association = ae.associate("127.0.0.1", port, contexts=list(contexts), **options)
    try:
        assert association.is_established
        yield association
    finally:
        if association.is_established:
            association.release()


@dataclass
class Filled:
    """A node to which pynetdicom has sent every real object, from files as they are."""

    root: Path
    port: int
    statuses: dict[Path, int]  # in the order sent

    @property
    def truth(self) -> Truth:
        return Truth.of(path for path in self.statuses if not contradicts_itself(path))


def contradicts_itself(path: Path) -> bool:
    """The UIDs of the File Meta, which pynetdicom puts in the command, are not those of the data set."""
    found = dcmread(path, stop_before_pixels=True)
    return found.file_meta.get("MediaStorageSOPInstanceUID") != found.SOPInstanceUID


def send_everything(port: int) -> dict[Path, int]:
    """Sent in chunks straight from the files, so that the bytes are the files'."""
    items = [part10(path) for path in real_objects()]
    pairs = sorted({(item.sop_class, item.transfer_syntax) for item in items})
    statuses = {}
    for start in range(0, len(pairs), CONTEXTS_AT_ONCE):
        chosen = pairs[start : start + CONTEXTS_AT_ONCE]
        with associated(port, [build_context(*pair) for pair in chosen]) as association:
            for item in items:
                if (item.sop_class, item.transfer_syntax) in chosen:
                    statuses[item.path] = association.send_c_store(item.path).Status
    return statuses


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Filled]:
    root = tmp_path_factory.mktemp("pynetdicom") / "root"
    before, _config.STORE_SEND_CHUNKED_DATASET = _config.STORE_SEND_CHUNKED_DATASET, True
    try:
        async with Node(settings_for(root)) as node:
            statuses = await asyncio.to_thread(send_everything, node.dimse_port)
            yield Filled(root, node.dimse_port, statuses)
    finally:
        _config.STORE_SEND_CHUNKED_DATASET = before


module_loop = pytest.mark.asyncio(loop_scope="module")


@module_loop
async def test_every_whole_object_is_taken(filled: Filled) -> None:
    failed = {
        path.name for path, status in filled.statuses.items() if status and not contradicts_itself(path)
    }
    assert failed <= set(REFUSED)


@module_loop
async def test_objects_whose_file_meta_contradicts_them_are_refused(filled: Filled) -> None:
    statuses = {status for path, status in filled.statuses.items() if contradicts_itself(path)}
    assert statuses <= {0xA900, 0xC000}
    assert 0xA900 in statuses


@module_loop
async def test_each_instance_is_stored_as_it_was_sent(filled: Filled) -> None:
    def ours(item: Part10) -> bytes:
        return data_set_bytes(object_path(filled.root, item))

    assert [item.path for item in filled.truth.items if ours(item) != item.data] == []


@module_loop
async def test_each_instance_is_found_at_image_level(filled: Filled) -> None:
    def missing() -> list[Path]:
        with associated(
            filled.port, [build_context(StudyRootQueryRetrieveInformationModelFind)]
        ) as association:
            return [item.path for item in filled.truth.items if not _is_found(association, item)]

    assert await asyncio.to_thread(missing) == []


def _is_found(association: Association, item: Part10) -> bool:
    keys = Dataset()
    keys.QueryRetrieveLevel = "IMAGE"
    keys.StudyInstanceUID, keys.SeriesInstanceUID, keys.SOPInstanceUID = item.study, item.series, item.sop
    keys.SOPClassUID = ""
    found = find(association, keys, StudyRootQueryRetrieveInformationModelFind)
    return [(row.SOPInstanceUID, row.SOPClassUID) for row in found] == [(item.sop, item.sop_class)]


def find(association: Association, keys: Dataset, model: str) -> list[Dataset]:
    *pending, (last, _) = association.send_c_find(keys, model)
    assert last.Status == 0x0000
    assert {status.Status for status, _ in pending} <= {0xFF00, 0xFF01}
    return [row for _, row in pending]


@module_loop
async def test_patients_are_found_in_patient_root(filled: Filled) -> None:
    def patients() -> list[str]:
        keys = Dataset()
        keys.QueryRetrieveLevel, keys.PatientID, keys.PatientName = "PATIENT", "", ""
        model = PatientRootQueryRetrieveInformationModelFind
        with associated(filled.port, [build_context(model)]) as association:
            return sorted(row.PatientID for row in find(association, keys, model))

    assert await asyncio.to_thread(patients) == sorted(key[0] for key in filled.truth.patients)


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "rtplan.dcm", "waveform_ecg.dcm", "reportsi.dcm", "693_J2KI.dcm"]
)
async def test_a_data_set_that_pynetdicom_encodes_comes_back_element_by_element(
    node: Node, root: Path, name: str
) -> None:
    path = named(name)[0]
    item = part10(path)

    def send() -> int:
        contexts = [build_context(item.sop_class, item.transfer_syntax)]
        with associated(node.dimse_port, contexts) as association:
            return int(association.send_c_store(dcmread(path)).Status)

    assert await asyncio.to_thread(send) == 0x0000
    assert differences(path, object_path(root, item)) == []


def extended_find(*options: int) -> SOPClassExtendedNegotiation:
    """What is asked of C-FIND beyond the baseline, by the positions of PS3.4 Table C.5-1."""
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid = StudyRootQueryRetrieveInformationModelFind
    item.service_class_application_information = bytes(position in options for position in range(5))
    return item


async def test_names_are_found_however_they_are_written_once_fuzzy_matching_is_negotiated(node: Node) -> None:
    """MÜLLER, MUELLER and MULLER find each other, and what sounds like them (PS3.4 C.2.2.2.1.1)."""
    names = ["MÜLLER^JÖRG", "Mueller^Joerg", "MULLER^JORG", "Smyth^Mary"]
    items = [
        made(1, study=number, PatientID=f"P{number}", PatientName=name, SpecificCharacterSet="ISO_IR 100")
        for number, name in enumerate(names, start=1)
    ]
    await send_made(node.dimse_port, items)

    def found(asked: str, *options: int) -> list[str]:
        keys = Dataset()
        keys.SpecificCharacterSet, keys.QueryRetrieveLevel, keys.PatientName = "ISO_IR 100", "STUDY", asked
        model = StudyRootQueryRetrieveInformationModelFind
        contexts, items = [build_context(model)], [extended_find(*options)]
        with associated(node.dimse_port, contexts, ext_neg=items) as association:
            answered = association.acceptor.sop_class_extended[model]
            assert answered == items[0].service_class_application_information
            return sorted(str(row.PatientName) for row in find(association, keys, model))

    for asked in names[:3]:
        assert await asyncio.to_thread(found, asked) == [asked]
        assert await asyncio.to_thread(found, asked, 2) == sorted(names[:3])
        assert await asyncio.to_thread(found, asked[:3] + "*", 2) == sorted(names[:3])
    assert await asyncio.to_thread(found, "Mary^Smith", 2) == ["Smyth^Mary"]
    assert await asyncio.to_thread(found, "Jones", 2) == []


async def test_a_name_that_came_later_is_found_by_its_sound_and_its_parts(node: Node) -> None:
    await send_made(node.dimse_port, [made(1, PatientName=""), made(2, PatientName="Müllersohn^Jörg")])

    def found(asked: str) -> list[str]:
        keys = Dataset()
        keys.QueryRetrieveLevel, keys.PatientName = "STUDY", asked
        model = StudyRootQueryRetrieveInformationModelFind
        with associated(node.dimse_port, [build_context(model)], ext_neg=[extended_find(2)]) as association:
            return [str(row.PatientName) for row in find(association, keys, model)]

    for asked in ("Muellersohn", "*LERS*", "joerg*"):
        assert await asyncio.to_thread(found, asked) == ["Müllersohn^Jörg"]
    assert await asyncio.to_thread(found, "*LIRS*") == []


async def test_times_are_those_of_the_peers_clock_once_negotiated(node: Node) -> None:
    await send_made(
        node.dimse_port,
        [made(1, StudyDate="20240105", StudyTime="233000", TimezoneOffsetFromUTC="+0000")],
    )

    def found(date: str) -> list[tuple[str, str, str]]:
        keys = Dataset()
        keys.QueryRetrieveLevel, keys.StudyDate, keys.StudyTime = "STUDY", date, ""
        keys.TimezoneOffsetFromUTC = "+0100"
        model = StudyRootQueryRetrieveInformationModelFind
        with associated(node.dimse_port, [build_context(model)], ext_neg=[extended_find(3)]) as association:
            rows = find(association, keys, model)
            return [(row.StudyDate, row.StudyTime, row.TimezoneOffsetFromUTC) for row in rows]

    assert await asyncio.to_thread(found, "20240106") == [("20240106", "003000", "+0100")]
    assert await asyncio.to_thread(found, "20240105") == []


async def test_negotiation_items_are_answered(node: Node) -> None:
    """Role selection, extended negotiation and the window in one request (PS3.7 D.3.3)."""
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid, role.scu_role, role.scp_role = CTImageStorage, True, True
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid, extended.service_class_application_information = CTImageStorage, b"\x02\0\0\0\0\0"

    def associate() -> tuple[bool, bool, int]:
        contexts = [build_context(CTImageStorage), build_context(Verification)]
        with associated(node.dimse_port, contexts, ext_neg=[role, extended]) as association:
            accepted = {context.abstract_syntax for context in association.accepted_contexts}
            answered = association.acceptor.sop_class_extended
            return (
                accepted == {CTImageStorage, Verification},
                CTImageStorage in answered,
                (association.send_c_echo().Status),
            )

    assert await asyncio.to_thread(associate) == (True, True, 0x0000)


async def test_a_specialization_is_stored_once_it_is_related_to_a_storage_sop_class(
    node: Node, root: Path
) -> None:
    special = "1.2.826.0.1.3680043.10.1474.77"
    item = made(1, SOPClassUID=special)
    related = SOPClassCommonExtendedNegotiation()
    related.sop_class_uid = special
    related.service_class_uid = "1.2.840.10008.4.2"
    related.related_general_sop_class_identification = [CTImageStorage]

    def store() -> int:
        data_set = read_data_set(item.data)
        data_set.file_meta = FileMetaDataset()
        data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        contexts = [build_context(special, ExplicitVRLittleEndian)]
        with associated(node.dimse_port, contexts, ext_neg=[related]) as association:
            return int(association.send_c_store(data_set).Status)

    assert await asyncio.to_thread(store) == 0x0000
    assert object_path(root, item).is_file()


async def test_cancel_stops_a_find(node: Node) -> None:
    items = (made(1, study=number, PatientComments="x" * 10_000) for number in range(1, 501))
    await send_made(node.dimse_port, items)

    def statuses() -> list[int]:
        keys = Dataset()
        keys.QueryRetrieveLevel, keys.StudyInstanceUID, keys.PatientComments = "STUDY", "", ""
        model = StudyRootQueryRetrieveInformationModelFind
        found = []
        with associated(node.dimse_port, [build_context(model)], max_pdu=4096) as association:
            for number, (status, _) in enumerate(association.send_c_find(keys, model, msg_id=7)):
                found.append(status.Status)
                if number == 2:
                    association.send_c_cancel(7, query_model=model)
        return found

    *pending, last = await asyncio.to_thread(statuses)
    assert last == 0xFE00
    assert len(pending) < 500
