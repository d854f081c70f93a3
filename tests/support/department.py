"""A radiology department of other people's software: order system, modalities, RIS. All of them retry.

python-hl7 sends the orders; a modality is pynetdicom as SCU and, for results of Storage Commitment, as SCP;
the RIS is pynetdicom as SCP. Modalities run in threads. What each of them is told is kept with the life of
the node it was told in, since a node that is killed may only repeat itself in its next life.
"""

from __future__ import annotations

import threading
import time
import warnings
from asyncio import IncompleteReadError, StreamReader
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import hl7
import pydicom.data
from hl7.mllp import HL7StreamWriter, open_hl7_connection
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from pynetdicom import AE, Association, evt
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import (
    InstanceAvailabilityNotification,
    ModalityPerformedProcedureStep,
    ModalityWorklistInformationFind,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from tests.support.dimse_n import SYNTAXES, decoded, final, performed_series, reference, step
from tests.support.hl7 import message, msh, segment
from tests.support.waiting import eventually_true
from tests.support.worklist import nested

PAUSE = 0.1  # seconds before a client that got no answer tries again
PATIENCE = 30.0  # seconds after which it would call somebody
GONE_HOME = 26  # the order whose patient does not wait
TODAY, TOMORROW = "20260105", "20260106"
ALREADY_THERE, NO_LONGER_IN_PROGRESS = 0x0111, 0xA710
Result = TypeVar("Result")


class NoAnswer(Exception):
    """The node was not there, or went away."""


@dataclass
class House:
    """Where the node is, and the moments at which somebody pulls its plug."""

    dimse_port: int
    hl7_port: int
    pull_the_plug: Callable[[], None]
    plugs: dict[str, int]
    """What happens how often before the node is killed."""
    life: float = 0.5
    """Of the node, counted from 1; a half more from when it is killed until it is known to be there again."""
    moments: Counter[str] = field(default_factory=Counter)
    _pulled: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def moment(self, what: str) -> None:
        with self._lock:
            self.moments[what] += 1
            due = what in self.plugs and self.moments[what] >= self.plugs[what] and what not in self._pulled
            if due and self.life.is_integer():
                self._pulled.add(what)
                self.life += 0.5
                self.pull_the_plug()

    def node_is_there(self) -> None:
        with self._lock:
            self.life += 0.5


@dataclass(frozen=True)
class Order:
    """A scheduled procedure step as the order system knows it."""

    number: int
    modality: str
    day: str = TODAY

    @property
    def accession(self) -> str:
        return f"ACC{self.number}"

    @property
    def patient_id(self) -> str:
        return f"GEHEIM{self.number}"

    @property
    def patient_name(self) -> str:
        return f"Vertraulich{self.number}^Jörg"

    def message(self, control: str = "NW", day: str = "") -> str:
        """By modality another message: ORM^O01, OMI^O23 or OMG^O19."""
        return _MESSAGES[self.modality](self, control, day or self.day)

    def renamed(self, name: str) -> str:
        patient = segment("PID", f1="1", f3=f"{self.patient_id}^^^HOSP", f5=name, f7="19700102", f8="F")
        header = msh("ADT^A08^ADT_A01", f"adt-{self.number}", charset="UNICODE UTF-8")
        return message(header, "EVN|A08|20260105", patient, "PV1|1|O")


def _patient(order: Order) -> tuple[str, str]:
    return (
        segment("PID", f1="1", f3=f"{order.patient_id}^^^HOSP", f5=order.patient_name, f7="19700102", f8="F"),
        segment("PV1", f1="1", f2="O", f3="WARD^12^B", f8="77^Referring^Ada^^^Dr."),
    )


def _numbers(order: Order) -> dict[str, str]:
    return {"f2": f"PL{order.number}", "f3": f"FI{order.number}"}


def _orm(order: Order, control: str, day: str) -> str:
    """IHE RAD-4 of old: accession, procedure, step in OBR-18 to 20; no station, no place."""
    start = f"^^^{day}{order.number % 12 + 8:02}0000^^R"
    return message(
        msh("ORM^O01", f"orm-{order.number}-{control}", "2.3.1", "UNICODE UTF-8"),
        *_patient(order),
        segment("ORC", f1=control, **_numbers(order), f7=start),
        segment(
            "OBR", f1="1", **_numbers(order), f4="C1^Procedure^L^X1^Protocol^LP", f18=order.accession,
            f19=f"RP{order.number}", f20=f"SPS{order.number}", f24=order.modality, f27=start,
        ),
        f"ZDS|1.2.826.0.1.3680043.10.1474.7.{order.number}^100^Application^DICOM",
    )  # fmt: skip


def _omi(order: Order, control: str, day: str) -> str:
    """IHE RAD-4 of today: the step in IPC, with its station and its place."""
    return message(
        msh("OMI^O23^OMI_O23", f"omi-{order.number}-{control}", charset="UNICODE UTF-8"),
        *_patient(order),
        segment("ORC", f1=control, **_numbers(order)),
        segment("TQ1", f1="1", f7=f"{day}{order.number % 12 + 8:02}0000", f9="R"),
        segment("OBR", f1="1", **_numbers(order), f4="C1^Procedure^L"),
        segment(
            "IPC", f1=order.accession, f2=f"RP{order.number}",
            f3=f"1.2.826.0.1.3680043.10.1474.7.{order.number}", f4=f"SPS{order.number}", f5=order.modality,
            f6="X1^Protocol^LP", f7="ROOM", f8=f"{order.modality} ROOM", f9=f"{order.modality}1",
        ),
    )  # fmt: skip


def _omg(order: Order, control: str, day: str) -> str:
    """A general order: no study, no step; the node makes them."""
    return message(
        msh("OMG^O19^OMG_O19", f"omg-{order.number}-{control}", charset="UNICODE UTF-8"),
        *_patient(order),
        segment("ORC", f1=control, **_numbers(order)),
        segment("TQ1", f1="1", f7=f"{day}{order.number % 12 + 8:02}0000", f9="R"),
        segment(
            "OBR", f1="1", **_numbers(order), f4="C1^Procedure^L", f18=order.accession, f24=order.modality
        ),
    )


_MESSAGES = {"CT": _orm, "MR": _omi, "US": _omg, "NM": _omi, "OT": _orm}


class OrderSystem:
    """Sends messages on one connection, each again until it is acknowledged, never the next before."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._connection: tuple[StreamReader, HL7StreamWriter] | None = None
        self.acknowledged: dict[str, str] = {}  # the code by control ID
        self.everything_sent = threading.Event()

    async def send(self, text: str) -> None:
        async def is_acknowledged() -> bool:
            try:
                answer = await self._ask(text)
            except (OSError, IncompleteReadError):
                self._connection = None
                return False
            self.acknowledged[str(answer.segment("MSA")[2])] = str(answer.segment("MSA")[1])
            return True

        await eventually_true(is_acknowledged, "the order is acknowledged", PATIENCE)

    async def _ask(self, text: str) -> hl7.Message:
        if self._connection is None:
            self._connection = await open_hl7_connection("127.0.0.1", self._house.hl7_port, encoding="utf-8")
        reader, writer = self._connection
        writer.writemessage(hl7.parse(text))
        await writer.drain()
        self._house.moment("order sent")
        return await reader.readmessage()

    def close(self) -> None:
        if self._connection is not None:
            self._connection[1].close()


@dataclass(frozen=True)
class Examination:
    """What a modality has made of an item of its worklist."""

    order: int
    study: str
    step: str
    objects: tuple[Dataset, ...]
    transaction: str

    @property
    def instances(self) -> set[str]:
        return {one.SOPInstanceUID for one in self.objects}


@dataclass(frozen=True)
class CommitmentResult:
    """One N-EVENT-REPORT of Storage Commitment."""

    life: float
    transaction: str
    committed: frozenset[str]
    failed: frozenset[str]


class Modality:
    """Works its list off: asks for it, performs, stores, asks for commitment."""

    def __init__(
        self,
        house: House,
        orders: OrderSystem,
        modality: str,
        files: tuple[str, ...],
        *,
        tells: bool = True,
        stays: bool = False,
    ) -> None:
        """`tells`: whether by MPPS. `stays`: on the association of its request, for the result."""
        self.house, self.orders = house, orders
        self.modality, self.title = modality, f"{modality}1"
        self.tells, self.stays = tells, stays
        self.images = [dcmread(_file(name)) for name in files]
        self.examinations: list[Examination] = []
        self.discontinued: list[str] = []
        self.seen: set[str] = set()  # accession numbers
        self.results: list[CommitmentResult] = []
        self.repeated: set[str] = set()  # Transaction UIDs that were asked for more than once
        self.patients: dict[int, str] = {}
        self.port = 0
        # On the association that it asks on:
        self._has_result, self._result_answered = threading.Event(), threading.Event()

    @contextmanager
    def listening(self) -> Iterator[Modality]:
        """Take results of Storage Commitment, on associations the node opens."""
        ae = self._ae()
        ae.add_supported_context(StorageCommitmentPushModel, SYNTAXES, scu_role=False, scp_role=True)
        handlers = [(evt.EVT_N_EVENT_REPORT, self._take)]
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = server.server_address[1]
        try:
            yield self
        finally:
            server.shutdown()

    def work(self) -> None:
        """Until there is nothing more to do and nothing more will be ordered."""
        done: set[str] = set()
        while True:
            last_look = self.orders.everything_sent.is_set()
            found = [item for item in self.worklist(TODAY) if item.AccessionNumber not in done]
            for item in found:
                self._examine(item)
                done.add(item.AccessionNumber)
            if last_look and not found:
                return
            time.sleep(0.02 if found else PAUSE)

    def worklist(self, day: str = "") -> list[Dataset]:
        keys = dict.fromkeys(
            (
                *("AccessionNumber", "PatientName", "PatientID", "StudyInstanceUID", "RequestedProcedureID"),
                *("ScheduledProcedureStepID", "Modality", "RequestedProcedureDescription"),
            ),
            "",
        )
        identifier = nested(**keys, ScheduledProcedureStepStartDate=day, SpecificCharacterSet="ISO_IR 100")

        def find(association: Association) -> list[Dataset]:
            answers = list(association.send_c_find(identifier, ModalityWorklistInformationFind))
            _answered(answers[-1][0])
            return [item for _, item in answers if item is not None]

        found = self._patiently(find, ModalityWorklistInformationFind)
        self.seen |= {item.AccessionNumber for item in found}
        return found

    def _examine(self, item: Dataset) -> None:
        number = int(item.AccessionNumber.removeprefix("ACC"))
        self.patients[number] = str(item.PatientName)
        step_uid = generate_uid()
        if self.tells:
            self._begin(item, step_uid)
        if number == GONE_HOME:
            self._end("DISCONTINUED", step_uid, [])
            self.discontinued.append(step_uid)
            return
        objects = self._acquire(item)
        for one in objects:
            self._store(one)
        if self.tells:
            self._end("COMPLETED", step_uid, objects)
        made = Examination(number, item.StudyInstanceUID, step_uid, tuple(objects), generate_uid())
        self.examinations.append(made)
        self._ask_for_commitment(made)

    def _begin(self, item: Dataset, uid: str) -> None:
        scheduled = item.ScheduledProcedureStepSequence[0]
        begun = step(PatientName=item.PatientName, PatientID=item.PatientID, Modality=self.modality)
        begun.PerformedStationAETitle = self.title
        named = begun.ScheduledStepAttributesSequence[0]
        named.StudyInstanceUID, named.AccessionNumber = item.StudyInstanceUID, item.AccessionNumber
        named.ScheduledProcedureStepID = scheduled.ScheduledProcedureStepID
        lost: list[NoAnswer] = []

        def create(association: Association) -> None:
            reply = association.send_n_create(begun, ModalityPerformedProcedureStep, uid)[0]
            if not (lost and reply.get("Status") == ALREADY_THERE):
                _answered(reply)

        self._patiently(create, ModalityPerformedProcedureStep, moment="step begun", lost=lost)

    def _end(self, status: str, uid: str, objects: list[Dataset]) -> None:
        images = [(one.SOPClassUID, one.SOPInstanceUID) for one in objects]
        series = objects[0].SeriesInstanceUID if objects else generate_uid()
        ended = final(status, PerformedSeriesSequence=[performed_series(series, *images)])
        lost: list[NoAnswer] = []

        def set_(association: Association) -> None:
            reply = association.send_n_set(ended, ModalityPerformedProcedureStep, uid)[0]
            if not (lost and reply.get("ErrorID") == NO_LONGER_IN_PROGRESS):
                _answered(reply)

        self._patiently(set_, ModalityPerformedProcedureStep, moment="step ended", lost=lost)

    def _acquire(self, item: Dataset) -> list[Dataset]:
        """Real objects, of this patient and study."""
        made = [deepcopy(one) for one in self.images]
        series = generate_uid()
        for number, one in enumerate(made, 1):
            one.SpecificCharacterSet = "ISO_IR 192"
            one.PatientName, one.PatientID = item.PatientName, item.PatientID
            one.AccessionNumber, one.StudyInstanceUID = item.AccessionNumber, item.StudyInstanceUID
            one.Modality, one.SeriesInstanceUID, one.InstanceNumber = self.modality, series, number
            one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        return made

    def _store(self, one: Dataset) -> None:
        def store(association: Association) -> None:
            _answered(association.send_c_store(one))

        self._patiently(store, one.SOPClassUID, one.file_meta.TransferSyntaxUID, moment="object sent")

    def _ask_for_commitment(self, made: Examination) -> None:
        asked = Dataset()
        asked.TransactionUID = made.transaction
        asked.ReferencedSOPSequence = [reference(o.SOPClassUID, o.SOPInstanceUID) for o in made.objects]
        attempts = 0

        def act(association: Association) -> None:
            nonlocal attempts
            attempts += 1
            if attempts > 1:
                self.repeated.add(made.transaction)
            _answered(
                association.send_n_action(
                    asked, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
                )[0]
            )
            if self.stays:
                self._result_answered.wait(2.0)  # and has the result, if it could be had so soon

        self._patiently(act, StorageCommitmentPushModel, moment="commitment asked for")

    def _take(self, event: evt.Event) -> tuple[int, None]:
        told = event.event_information
        self.house.moment("result told")
        committed, failed = (
            frozenset(one.ReferencedSOPInstanceUID for one in told.get(keyword, []))
            for keyword in ("ReferencedSOPSequence", "FailedSOPSequence")
        )
        self.results.append(CommitmentResult(self.house.life, told.TransactionUID, committed, failed))
        self._has_result.set()
        return 0x0000, None

    def _sent(self, event: evt.Event, moment: str) -> None:
        """A part of a request has left; or the answer to a result, after which the association may go."""
        if isinstance(event.pdu, P_DATA_TF):
            if self._has_result.is_set():
                self._result_answered.set()
            self.house.moment(moment)

    def _patiently(
        self,
        ask: Callable[[Association], Result],
        sop_class: str,
        transfer_syntax: str = "",
        *,
        moment: str = "",
        lost: list[NoAnswer] | None = None,
    ) -> Result:
        """Ask until there is an answer; `lost` takes the attempts that had none."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return self._ask(ask, sop_class, transfer_syntax, moment)
            except NoAnswer as error:
                assert time.monotonic() < until, f"{self.title} has no answer: {moment or sop_class}"
                if lost is not None:
                    lost.append(error)
                time.sleep(PAUSE)

    def _ask(
        self, ask: Callable[[Association], Result], sop_class: str, transfer_syntax: str, moment: str
    ) -> Result:
        ae = self._ae()
        ae.add_requested_context(sop_class, transfer_syntax or SYNTAXES)
        self._has_result.clear()
        self._result_answered.clear()
        handlers = [(evt.EVT_PDU_SENT, self._sent, [moment])]
        if self.stays:
            handlers.append((evt.EVT_N_EVENT_REPORT, self._take))
        association = ae.associate("127.0.0.1", self.house.dimse_port, evt_handlers=handlers)
        if not association.is_established:
            raise NoAnswer
        try:
            return ask(association)
        except RuntimeError as error:  # pynetdicom's word for an association that has gone
            raise NoAnswer from error
        finally:
            if association.is_established:
                association.release()

    def _ae(self) -> AE:
        ae = AE(self.title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = 10
        return ae


def _answered(reply: Dataset) -> None:
    if "Status" not in reply:
        raise NoAnswer
    assert reply.Status == 0x0000, f"{reply.Status:04X}H {reply.get('ErrorComment', '')}"


def _file(name: str) -> Path:
    return Path(pydicom.data.__file__).parent / "test_files" / name


@dataclass(frozen=True)
class Notification:
    """One Instance Availability Notification as it was taken."""

    life: float
    uid: str
    study: str
    instances: frozenset[str]
    steps: frozenset[str]


@dataclass
class PerformedStep:
    """A step as the RIS knows it from N-CREATE and N-SET."""

    accession: str
    state: str = "IN PROGRESS"
    instances: frozenset[str] = frozenset()


class Ris:
    """SCP of MPPS and of Instance Availability Notification, strict about what it has already."""

    title = "RIS"

    def __init__(self, house: House) -> None:
        self.house = house
        self.steps: dict[str, PerformedStep] = {}
        self.notifications: dict[str, Notification] = {}
        self.repeated: list[float] = []  # lives in which it was told something again
        self.wrong: list[str] = []
        self.port = 0

    @contextmanager
    def listening(self) -> Iterator[Ris]:
        ae = AE(self.title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 10
        for sop_class in (ModalityPerformedProcedureStep, InstanceAvailabilityNotification):
            ae.add_supported_context(sop_class, SYNTAXES)
        handlers = [(evt.EVT_N_CREATE, self._create), (evt.EVT_N_SET, self._set)]
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = server.server_address[1]
        try:
            yield self
        finally:
            server.shutdown()

    def _create(self, event: evt.Event) -> tuple[int, None]:
        uid, told = event.request.AffectedSOPInstanceUID, decoded(event.attribute_list)
        if event.request.AffectedSOPClassUID == InstanceAvailabilityNotification:
            self.house.moment("availability told")
            return self._notified(uid, told), None
        self.house.moment("RIS told")
        if uid in self.steps:
            self.repeated.append(self.house.life)
            return ALREADY_THERE, None
        self.steps[uid] = PerformedStep(told.ScheduledStepAttributesSequence[0].AccessionNumber)
        return 0x0000, None

    def _notified(self, uid: str, told: Dataset) -> int:
        if uid in self.notifications:
            self.repeated.append(self.house.life)
            return ALREADY_THERE
        items = [one for series in told.ReferencedSeriesSequence for one in series.ReferencedSOPSequence]
        steps = told.ReferencedPerformedProcedureStepSequence
        self.notifications[uid] = Notification(
            self.house.life,
            uid,
            told.StudyInstanceUID,
            frozenset(one.ReferencedSOPInstanceUID for one in items),
            frozenset(one.ReferencedSOPInstanceUID for one in steps),
        )
        return 0x0000

    def _set(self, event: evt.Event) -> tuple[Dataset, None]:
        uid, told = event.request.RequestedSOPInstanceUID, decoded(event.modification_list)
        reply = Dataset()
        reply.Status = 0x0000
        known = self.steps.get(uid)
        if known is None:
            self.wrong.append(f"N-SET of step {uid} before its N-CREATE")
            reply.Status = 0x0112
        elif known.state != "IN PROGRESS":
            self.repeated.append(self.house.life)
            reply.Status, reply.ErrorID = 0x0110, NO_LONGER_IN_PROGRESS
        else:
            known.state = told.PerformedProcedureStepStatus
            known.instances = frozenset(
                one.ReferencedSOPInstanceUID
                for series in told.PerformedSeriesSequence
                for one in series.ReferencedImageSequence
            )
        return reply, None


warnings.filterwarnings("ignore", module="pydicom")
