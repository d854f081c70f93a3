"""pynetdicom as the other side of DIMSE-N: an SCU in a thread, SCPs that note what they are told."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, Association, evt
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.sop_class import (
    ModalityPerformedProcedureStep,
    ModalityPerformedProcedureStepNotification,
    ModalityPerformedProcedureStepRetrieve,
)

from tests.support.objects import set_values

MPPS_CLASSES = (ModalityPerformedProcedureStep, ModalityPerformedProcedureStepRetrieve)
SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
TITLE = "MODALITY"
Result = TypeVar("Result")


@contextmanager
def scu(port: int, *classes: str, title: str = TITLE, **options: object) -> Iterator[Association]:
    """An association of pynetdicom's. Its calls block: use it in a thread."""
    ae = AE(title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    for sop_class in classes:
        ae.add_requested_context(sop_class, SYNTAXES)
    association = ae.associate("127.0.0.1", port, **options)
    try:
        assert association.is_established
        yield association
    finally:
        if association.is_established:
            association.release()


async def asked(port: int, ask: Callable[[Association], Result], *classes: str, **options: object) -> Result:
    """What `ask(association)` returns, having run in a thread."""

    def run() -> Result:
        with scu(port, *(classes or MPPS_CLASSES), **options) as association:
            return ask(association)

    return await asyncio.to_thread(run)


@dataclass
class Told:
    """One request that an SCP was sent."""

    operation: str
    sop_instance: str
    type_id: int | None
    data: Dataset
    calling_ae: str


@dataclass
class Listener:
    """A pynetdicom SCP. `statuses` are answered one after the other, then Success."""

    title: str
    port: int = 0
    told: list[Told] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    @property
    def operations(self) -> list[str]:
        return [one.operation for one in self.told]

    def take(
        self, operation: str, event: evt.Event, sop_instance: str, type_id: int | None, data: Dataset
    ) -> int:
        calling = str(event.assoc.requestor.ae_title)
        self.told.append(Told(operation, sop_instance, type_id, data, calling))
        return self.statuses.pop(0) if self.statuses else 0

    def n_create(self, event: evt.Event) -> tuple[int, Dataset | None]:
        data = decoded(event.attribute_list)
        return self.take("N-CREATE", event, event.request.AffectedSOPInstanceUID, None, data), None

    def n_set(self, event: evt.Event) -> tuple[int, Dataset | None]:
        data = decoded(event.modification_list)
        return self.take("N-SET", event, event.request.RequestedSOPInstanceUID, None, data), None

    def n_event_report(self, event: evt.Event) -> tuple[int, Dataset | None]:
        information = event.request.EventInformation
        data = decoded(event.event_information) if information and information.getbuffer() else Dataset()
        uid = event.request.AffectedSOPInstanceUID
        return self.take("N-EVENT-REPORT", event, uid, event.event_type, data), None

    @property
    def handlers(self) -> list[tuple[object, object]]:
        return [
            (evt.EVT_N_CREATE, self.n_create),
            (evt.EVT_N_SET, self.n_set),
            (evt.EVT_N_EVENT_REPORT, self.n_event_report),
        ]


def decoded(data_set: Dataset) -> Dataset:
    data_set.decode()
    return data_set


@contextmanager
def listening(
    title: str, *, as_scp: Sequence[str] = (), as_scu: Sequence[str] = (), port: int = 0
) -> Iterator[Listener]:
    """A pynetdicom application that is SCP of some classes, and SCU of others if role selection asks."""
    ae = AE(title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    for sop_class in as_scp:
        ae.add_supported_context(sop_class, SYNTAXES)
    for sop_class in as_scu:
        ae.add_supported_context(sop_class, SYNTAXES, scu_role=False, scp_role=True)
    listener = Listener(title)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=listener.handlers)
    listener.port = server.server_address[1]
    try:
        yield listener
    finally:
        server.shutdown()


def scp_role(sop_class: str) -> SCP_SCU_RoleSelectionNegotiation:
    """The requestor wants to be SCP, not SCU."""
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid, role.scu_role, role.scp_role = sop_class, False, True
    return role


def step(**values: object) -> Dataset:
    """The attribute list of an N-CREATE with all that Table F.7.2-1 asks for; other values by keyword."""
    scheduled = Dataset()
    scheduled.StudyInstanceUID = "1.2.840.1"
    scheduled.ReferencedStudySequence = []
    scheduled.AccessionNumber, scheduled.RequestedProcedureID = "A17", "RP1"
    scheduled.RequestedProcedureDescription = "Schädel"
    scheduled.ScheduledProcedureStepID, scheduled.ScheduledProcedureStepDescription = "SPS1", "Kopf"
    scheduled.ScheduledProtocolCodeSequence = [code("HEAD", "Head")]
    created = Dataset()
    created.SpecificCharacterSet = "ISO_IR 100"
    created.ScheduledStepAttributesSequence = [scheduled]
    created.PatientName, created.PatientID = "Müller^Jürgen", "P1"
    created.PatientBirthDate, created.PatientSex = "19500102", "M"
    created.ReferencedPatientSequence = []
    created.PerformedProcedureStepID, created.PerformedStationAETitle = "PPS1", "CT1"
    created.PerformedStationName, created.PerformedLocation = "", ""
    created.PerformedProcedureStepStartDate, created.PerformedProcedureStepStartTime = "20240229", "101112"
    created.PerformedProcedureStepStatus = "IN PROGRESS"
    created.PerformedProcedureStepDescription, created.PerformedProcedureTypeDescription = "", ""
    created.ProcedureCodeSequence = []
    created.PerformedProcedureStepEndDate, created.PerformedProcedureStepEndTime = "", ""
    created.Modality, created.StudyID = "CT", "S1"
    created.PerformedProtocolCodeSequence, created.PerformedSeriesSequence = [], []
    set_values(created, values)
    for keyword in [keyword for keyword, value in values.items() if value is None]:
        delattr(created, keyword)
    return created


def code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "99TEST", meaning
    return item


def performed_series(uid: str, *instances: tuple[str, str], **values: object) -> Dataset:
    """An item of the Performed Series Sequence with images, each (SOP class, SOP instance)."""
    item = Dataset()
    item.PerformingPhysicianName, item.OperatorsName = "", "Ärztin^B"
    item.ProtocolName, item.SeriesInstanceUID, item.SeriesDescription = "Kopf nativ", uid, ""
    item.RetrieveAETitle = ""
    item.ReferencedImageSequence = [reference(*pair) for pair in instances]
    item.ReferencedNonImageCompositeSOPInstanceSequence = []
    set_values(item, values)
    for keyword in [keyword for keyword, value in values.items() if value is None]:
        delattr(item, keyword)
    return item


def reference(sop_class: str, sop_instance: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
    return item


def final(status: str = "COMPLETED", **values: object) -> Dataset:
    """The modification list that ends a step."""
    ended = Dataset()
    ended.SpecificCharacterSet = "ISO_IR 192"
    ended.PerformedProcedureStepStatus = status
    ended.PerformedProcedureStepEndDate, ended.PerformedProcedureStepEndTime = "20240229", "102000"
    ended.PerformedSeriesSequence = [performed_series("1.2.840.1.1")]
    set_values(ended, values)
    for keyword in [keyword for keyword, value in values.items() if value is None]:
        delattr(ended, keyword)
    return ended


NOTIFICATION = ModalityPerformedProcedureStepNotification
