"""The inbox of HL7 messages: each is carried out, kept and acknowledged in one transaction.

What a message does and its acknowledgement become durable together, so a sender that got no answer may send
again: a message that was accepted is answered as it was then, and nothing is done twice. Messages that were
refused stay for inspection (`pacsnode hl7 list`).
"""

import asyncio
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog
import xxhash

from pacsnode.config import Settings
from pacsnode.errors import MessageRefused, OutOfResources, PatientRefused
from pacsnode.workflow.database import Database, Row, Transaction
from pacsnode.workflow.hl7_message import (
    INTERNAL_ERROR,
    REQUIRED_FIELD_MISSING,
    UNSUPPORTED_EVENT,
    UNSUPPORTED_MESSAGE,
    Message,
    acknowledgement,
    text_of,
)
from pacsnode.workflow.orders import Orders
from pacsnode.workflow.patient_events import MERGES, UPDATES, PatientEvents
from pacsnode.workflow.patients import Patients
from pacsnode.workflow.worklist import Worklist

DAY: Final = 86_400.0  # seconds
_TIDYING: Final = 3600.0  # seconds between looks for messages that are too old
_ORDERS: Final = {"ORM": frozenset({"O01"}), "OMG": frozenset({"O19"}), "OMI": frozenset({"O23"})}


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """A message as it is kept."""

    id: int
    received_at: float
    remote: str
    sender: str
    control_id: str
    kind: str
    answer: str
    reason: str
    body: bytes
    response: bytes

    @classmethod
    def of(cls, row: Row) -> "ReceivedMessage":
        return cls(*(row[name] for name in cls.__dataclass_fields__))


class Hl7Inbox:
    """Takes messages, whoever brings them."""

    def __init__(
        self, database: Database, worklist: Worklist, patients: Patients, settings: Settings
    ) -> None:
        self._database = database
        self._orders = Orders(worklist, settings.worklist.stations)
        self._patients = PatientEvents(worklist, patients)
        self._settings = settings.hl7
        self._log = structlog.get_logger()

    async def receive(self, body: bytes, remote: str) -> bytes:
        """Carry a message out; returns the acknowledgement."""
        digest = xxhash.xxh3_128_hexdigest(body)
        message: Message | None = None
        try:
            message = await asyncio.to_thread(Message.parse, body, self._settings.character_set)
            async with self._database.transaction() as transaction:
                if (response := await _response_before(transaction, digest)) is not None:
                    self._log.info("hl7.repeated", remote=remote, control_id=message.control_id)
                    return response
                await self._carry_out(transaction, message)
                response = await self._answer(transaction, body, digest, remote, message, None)
            await self._patients.follow()
            return response
        except MessageRefused as error:
            refusal = error
            message = message or Message.header_only(body)
        except OutOfResources as error:
            return self._put_off(message, remote, error)
        except Exception as error:  # a bug of ours must not stop the feed
            self._log.exception("hl7.crashed", remote=remote)
            refusal = MessageRefused(f"internal error, {type(error).__name__}", INTERNAL_ERROR, rejected=True)
        try:
            async with self._database.transaction() as transaction:
                return await self._answer(transaction, body, digest, remote, message, refusal)
        except OutOfResources as error:
            return self._put_off(message, remote, error)

    def _put_off(self, message: Message | None, remote: str, error: OutOfResources) -> bytes:
        """The acknowledgement of what cannot even be kept: the sender is to send it again (2.9.2.1)."""
        self._log.error("hl7.not_kept", remote=remote, reason=str(error))
        refusal = MessageRefused(
            "nothing can be kept at the moment, send it again", INTERNAL_ERROR, rejected=True
        )
        return acknowledgement(message, refusal, _moment(time.time()), time.time_ns())

    async def run(self) -> None:
        """Forget old messages, now and then."""
        while True:
            await self.tidy()
            await asyncio.sleep(_TIDYING)

    async def tidy(self) -> None:
        """Forget the messages that are older than `hl7.keep_days`."""
        if self._settings.keep_days:
            before = time.time() - self._settings.keep_days * DAY
            async with self._database.transaction() as transaction:
                await transaction.execute("DELETE FROM hl7_message WHERE received_at < ?", (before,))

    async def messages(self, *, refused_only: bool = False, limit: int = 100) -> list[ReceivedMessage]:
        """The newest messages, newest first."""
        where = "WHERE answer != 'AA'" if refused_only else ""
        rows = await self._database.fetch(
            f"SELECT * FROM hl7_message {where} ORDER BY id DESC LIMIT ?", (limit,)
        )
        return [ReceivedMessage.of(row) for row in rows]

    async def message(self, number: int) -> ReceivedMessage | None:
        rows = await self._database.fetch("SELECT * FROM hl7_message WHERE id = ?", (number,))
        return ReceivedMessage.of(rows[0]) if rows else None

    def readable(self, received: ReceivedMessage) -> tuple[str, str]:
        """A message and its acknowledgement for people, a segment a line."""
        parts = (text_of(body, self._settings.character_set) for body in (received.body, received.response))
        body, response = ("\n".join(part.splitlines()) for part in parts)
        return body, response

    async def _carry_out(self, transaction: Transaction, message: Message) -> None:
        if not message.control_id:
            raise MessageRefused("no message control ID (MSH-10)", REQUIRED_FIELD_MISSING, "MSH-10")
        code, _, event = message.kind.partition("^")
        events = _ORDERS.get(code, UPDATES | MERGES if code == "ADT" else frozenset())
        if not events:
            reason = f"messages of type {code} are not supported"
            raise MessageRefused(reason, UNSUPPORTED_MESSAGE, "MSH-9", rejected=True)
        if event not in events and (event or code == "ADT"):  # before 2.3 ORM told no event
            reason = f"{code} messages of event {event} are not supported"
            raise MessageRefused(reason, UNSUPPORTED_EVENT, "MSH-9", rejected=True)
        if code != "ADT":
            await self._orders.carry_out(transaction, message)
        elif event in MERGES:
            await self._patients.merge(transaction, message)
        else:
            await self._patients.update(transaction, message)

    async def _answer(
        self,
        transaction: Transaction,
        body: bytes,
        digest: str,
        remote: str,
        message: Message | None,
        refusal: MessageRefused | None,
    ) -> bytes:
        """Keep a message with its acknowledgement."""
        now = time.time()
        number = await transaction.insert(
            "INSERT INTO hl7_message (received_at, remote, sender, control_id, kind, digest, answer, reason,"
            " body, response) VALUES (?, ?, ?, ?, ?, ?, '', ?, ?, x'')",
            (
                now,
                remote,
                message.sender if message else "",
                message.control_id if message else "",
                message.kind if message else "",
                digest,
                str(refusal) if refusal else "",
                body,
            ),
        )
        answer = "AA" if refusal is None else "AR" if refusal.rejected else "AE"
        response = acknowledgement(message, refusal, _moment(now), number)
        await transaction.execute(
            "UPDATE hl7_message SET answer = ?, response = ? WHERE id = ?", (answer, response, number)
        )
        facts = {
            "remote": remote,
            "message": number,
            "sender": message.sender if message else "",
            "control_id": message.control_id if message else "",
            "kind": message.kind if message else "",
        }
        if refusal is None:
            self._log.info("hl7.accepted", **facts)
        else:
            self._log.warning("hl7.refused", **facts, answer=answer, reason=_discreet(refusal))
        return response


def _discreet(refusal: MessageRefused) -> str:
    """The reason as the log may tell it: no Patient IDs."""
    of_patient = isinstance(refusal.__cause__, PatientRefused)
    return "the patient cannot be changed so: see pacsnode hl7 show" if of_patient else str(refusal)


def _moment(seconds: float) -> str:
    """A time as HL7 writes it (TS)."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y%m%d%H%M%S%z")


async def _response_before(transaction: Transaction, digest: str) -> bytes | None:
    """What the same message was answered when it was accepted."""
    rows = await transaction.fetch(
        "SELECT response FROM hl7_message WHERE digest = ? AND answer = 'AA'", (digest,)
    )
    return bytes(rows[0]["response"]) if rows else None
