"""Worklist items as pydicom has them, and how they get into a node."""

from io import BytesIO

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import dcmwrite, write_dataset
from pydicom.uid import ExplicitVRLittleEndian

from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
from pacsnode.node import Node
from pacsnode.workflow.worklist_item import WorklistItem

STEP_KEYWORDS = frozenset(
    {
        "Modality",
        "RequestedContrastAgent",
        "ScheduledPerformingPhysicianName",
        "ScheduledProcedureStepDescription",
        "ScheduledProcedureStepEndDate",
        "ScheduledProcedureStepID",
        "ScheduledProcedureStepLocation",
        "ScheduledProcedureStepStartDate",
        "ScheduledProcedureStepStartTime",
        "ScheduledProcedureStepStatus",
        "ScheduledProtocolCodeSequence",
        "ScheduledStationAETitle",
        "ScheduledStationName",
    }
)


def code(value: str, meaning: str, scheme: str = "L") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def nested(**values: object) -> Dataset:
    """A data set; what belongs to the step goes into the item of its sequence."""
    data_set, step = Dataset(), Dataset()
    for keyword, value in values.items():
        setattr(step if keyword in STEP_KEYWORDS else data_set, keyword, value)
    if len(step):
        data_set.ScheduledProcedureStepSequence = [step]
    return data_set


def scheduled(number: int, **values: object) -> Dataset:
    """A complete item."""
    return nested(
        **{
            "SpecificCharacterSet": "ISO_IR 192",
            "AccessionNumber": f"A{number}",
            "PatientName": f"Patient^Number{number}",
            "PatientID": f"P{number}",
            "StudyInstanceUID": f"1.2.840.{number}",
            "RequestedProcedureID": f"RP{number}",
            "RequestedProcedureDescription": "Abdomen",
            "Modality": "CT",
            "ScheduledStationAETitle": "CT1",
            "ScheduledProcedureStepStartDate": "20260105",
            "ScheduledProcedureStepStartTime": "1000",
            "ScheduledProcedureStepDescription": "Abdomen native",
            "ScheduledProcedureStepID": f"S{number}",
            **values,
        }
    )


def encoded(data_set: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_dataset(buffer, data_set)
    return bytes(buffer.getvalue())


def item_of(data_set: Dataset) -> WorklistItem:
    (item,) = WorklistItem.read(encoded(data_set), EXPLICIT_VR_LE)
    return item


def data_set_of(item: WorklistItem) -> Dataset:
    return read_dataset(BytesIO(item.encoded()), False, True)


def as_file(data_set: Dataset) -> bytes:
    """A PS3.10 file, as Orthanc and wlmscpfs read them."""
    data_set.file_meta = Dataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data_set.file_meta.MediaStorageSOPClassUID = "1.2.276.0.7230010.3.1.0.1"
    data_set.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    buffer = BytesIO()
    dcmwrite(buffer, data_set, enforce_file_format=True)
    return buffer.getvalue()


async def schedule(node: Node, *data_sets: Dataset) -> list[int]:
    """Put items into the worklist of a node."""
    return await node.workflow.worklist.add(
        (f"test:{data_set.StudyInstanceUID}/{number}", item_of(data_set))
        for number, data_set in enumerate(data_sets)
    )
