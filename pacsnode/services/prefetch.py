"""Prefetching: prior studies of a patient are fetched from a peer when a study arrives or is ordered.

Two kinds of durable jobs: one asks the peer for the studies of the patient (C-FIND, PS3.4 C.4.1), the other
fetches a study of them that is not here, by C-MOVE to this node or by C-GET (PS3.4 C.4.2, C.4.3).
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Final

import structlog
from pydicom import Dataset
from pynetdicom.presentation import StoragePresentationContexts

from pacsnode.archive.changes import Arrived
from pacsnode.archive.search import Match
from pacsnode.config import Peer, Prefetch, Settings
from pacsnode.dicom.information_model import InformationModel, Level
from pacsnode.dicom.matching import number
from pacsnode.dicom.query import QueryOptions, RequestedKey, query_of
from pacsnode.dicom.sop_class import (
    EXPLICIT_VR_LE,
    IMPLICIT_VR_LE,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    TRANSFER_SYNTAXES,
)
from pacsnode.dicom.uid import UID
from pacsnode.dimse.status import SUCCESS, is_pending
from pacsnode.errors import JobRefused, RemoteError, UnknownDestination
from pacsnode.net.requestor import connect
from pacsnode.net.scu import Reply
from pacsnode.net.service import Channel, ServiceClass
from pacsnode.net.timeouts import timeouts_of
from pacsnode.pixels import plan
from pacsnode.services.room import Room
from pacsnode.services.storage import StorageService
from pacsnode.ul.negotiation import ProposedContext
from pacsnode.workflow.database import Row, Transaction
from pacsnode.workflow.jobs import JSON, PRIORITIES, Job
from pacsnode.workflow.rules import Selection, is_one_of
from pacsnode.workflow.worklist_state import StepState

log: structlog.stdlib.BoundLogger = structlog.get_logger()

FIND: Final = "prefetch"
RETRIEVE: Final = "retrieve"
WATCHING: Final = 1.0  # seconds between looks for new orders
MOVING: Final = 600.0  # seconds; peers that send no pending responses are silent until all is sent
MAX_STORAGE_CONTEXTS: Final = 127  # of 128 (PS3.8 9.3.2.2); one is for the C-GET itself

STUDY_INSTANCE_UID: Final = 0x0020000D
PATIENT_ID: Final = 0x00100020
ISSUER_OF_PATIENT_ID: Final = 0x00100021
NUMBER_OF_INSTANCES: Final = 0x00201208

_ORDERS = """
    SELECT id, patient_id, issuer_of_patient_id, modality, study_instance_uid, state FROM worklist_item
    WHERE id > ? ORDER BY id LIMIT 500
"""
_OPEN: Final = (StepState.SCHEDULED.value, StepState.IN_PROGRESS.value)
_TO_FIND_WITH: Final = (
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ModalitiesInStudy",
    "NumberOfStudyRelatedInstances",
    "IssuerOfPatientID",
    "SOPClassesInStudy",
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One table [prefetch.NAME], and what it means."""

    name: str
    settings: Prefetch
    selection: Selection

    def key(self, cause: str) -> str:
        """Each study, each order is a reason once."""
        return f"{FIND}:{self.name}:{cause}"


@dataclass(frozen=True, slots=True)
class Prior:
    """A study that the peer has; `instances` is 0 when it did not tell."""

    study: str
    when: str
    modalities: tuple[str, ...]
    instances: int
    sop_classes: tuple[str, ...]

    @classmethod
    def of(cls, found: Dataset) -> "Prior":
        instances = number(str(found.get("NumberOfStudyRelatedInstances") or 0))
        return cls(
            study=str(found.get("StudyInstanceUID", "")),
            when=f"{found.get('StudyDate') or ''}{found.get('StudyTime') or ''}",
            modalities=_values(found, "ModalitiesInStudy"),
            instances=int(instances) if isinstance(instances, float) else 0,
            sop_classes=_values(found, "SOPClassesInStudy"),
        )


class Prefetching:
    """Makes jobs of arrivals and orders, and does them."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._jobs = room.workflow.jobs
        self._rules: dict[str, Rule] = {}
        self._listens_to: set[str] = set()
        self._jobs.register(FIND, self.find, self._is_awaited)
        self._jobs.register(RETRIEVE, self.retrieve)
        self._storage = FetchedStorage(room)
        self._reload(room.settings)()
        room.reloads.append(self._reload)

    def _reload(self, settings: Settings) -> Callable[[], None]:
        rules = {
            name: Rule(name, rule, Selection(self._room.archive, rule.calling_ae, rule.modality))
            for name, rule in settings.prefetch.items()
        }
        return lambda: self._take(rules)

    def _take(self, rules: dict[str, Rule]) -> None:
        """Go by these rules from now on; who has no use for what happens is told of nothing."""
        self._rules = rules
        workflow = self._room.workflow
        causes = {rule.settings.when for rule in rules.values()}
        wanted = causes - {"study-arrives"} | ({"stored"} if causes - {"order"} else set())
        for when in wanted - self._listens_to:
            if when == "stored":
                workflow.arrivals.on_stored(self._stored)
            elif when == "study-stable":
                workflow.arrivals.on_study_stable(self._stable)
            else:
                workflow.attend(self._watch_orders)
        self._listens_to |= wanted

    def _is_awaited(self, job: Job) -> bool:
        """Whether the rule of a job that gathers is still there, and waits for a stable study."""
        rule = self._rules.get(str(job.payload.get("rule")))
        return rule is not None and rule.settings.when == "study-stable" and rule.settings.source == job.peer

    async def _stored(self, transaction: Transaction, arrived: Sequence[Arrived]) -> None:
        for rule in self._rules.values():
            if rule.settings.when == "order":
                continue
            chosen = await rule.selection.of(arrived)
            # What was fetched is no reason to fetch more.
            for study in dict.fromkeys(one.study for one in chosen if one.source_ae != rule.settings.source):
                stable = rule.settings.when == "study-stable"
                await self._add(transaction, rule, study, {"study": study}, until_released=stable)

    async def _stable(self, transaction: Transaction, study: UID) -> None:
        for rule in self._rules.values():
            if rule.settings.when == "study-stable":
                await self._jobs.release(transaction, rule.key(study))

    async def _watch_orders(self) -> None:
        """Orders come from HL7, from files and from commands of other processes: the table has them all."""
        rows = await self._room.workflow.database.fetch("SELECT sequence FROM cursor WHERE id = 2")
        last = rows[0]["sequence"] if rows else 0
        while True:
            orders = await self._room.workflow.database.fetch(_ORDERS, (last,))
            if orders:
                last = orders[-1]["id"]
                async with self._room.workflow.database.transaction() as transaction:
                    for order in orders:
                        if order["state"] in _OPEN:  # a new rule meets all the orders there have been
                            await self._ordered(transaction, order)
                    await transaction.execute(
                        "INSERT OR REPLACE INTO cursor (id, sequence) VALUES (2, ?)", (last,)
                    )
            await asyncio.sleep(WATCHING)

    async def _ordered(self, transaction: Transaction, order: Row) -> None:
        payload = {
            "study": order["study_instance_uid"],
            "patient_id": order["patient_id"],
            "issuer": order["issuer_of_patient_id"],
        }
        for rule in self._rules.values():
            if rule.settings.when == "order" and is_one_of(order["modality"], rule.settings.modality):
                await self._add(transaction, rule, f"order {order['id']}", payload)

    async def _add(
        self,
        transaction: Transaction,
        rule: Rule,
        cause: str,
        payload: dict[str, JSON],
        until_released: bool = False,
    ) -> None:
        await self._jobs.add(
            transaction,
            FIND,
            rule.settings.source,
            {"rule": rule.name, **payload},
            key=rule.key(cause),
            priority=PRIORITIES[rule.settings.priority],
            once=True,
            until_released=until_released,
        )

    async def find(self, job: Job) -> None:
        """Ask the peer for the studies of the patient, and have those fetched that are not here."""
        rule = self._rules.get(str(job.payload["rule"]))
        if rule is None:
            raise JobRefused(f"there is no rule prefetch.{job.payload['rule']} any more")
        patient_id, issuer = await self._patient(job)
        if not patient_id:
            log.info("prefetch.answered", job=job.id, peer=job.peer, found=0, fetched=0)
            return
        found = await self._ask(job, patient_id, issuer, rule.settings)
        priors = _chosen(found, str(job.payload.get("study", "")), rule.settings)
        here = await self._held([prior.study for prior in priors])
        missing = [prior for prior in priors if _is_missing(prior, here)]
        async with self._room.workflow.database.transaction() as transaction:
            for prior in missing:
                await self._jobs.add(
                    transaction,
                    RETRIEVE,
                    job.peer,
                    {
                        "study": prior.study,
                        "method": rule.settings.method,
                        "instances": prior.instances,
                        "sop_classes": list(prior.sop_classes),
                    },
                    key=f"{RETRIEVE}:{job.peer}:{prior.study}",
                    priority=job.priority,
                )
        log.info("prefetch.answered", job=job.id, peer=job.peer, found=len(found), fetched=len(missing))

    async def _patient(self, job: Job) -> tuple[str, str]:
        """Patient ID and its issuer: of the order, or of the study that has arrived."""
        if "patient_id" in job.payload:
            return str(job.payload["patient_id"]), str(job.payload.get("issuer", ""))
        wanted = (PATIENT_ID, "LO"), (ISSUER_OF_PATIENT_ID, "LO")
        for _study, *patient in await self._search([str(job.payload["study"])], wanted):
            return str(patient[0] or ""), str(patient[1] or "")
        return "", ""

    async def _held(self, studies: Sequence[str]) -> dict[str, int]:
        """How many instances of these studies are here."""
        rows = await self._search(studies, ((NUMBER_OF_INSTANCES, "IS"),)) if studies else []
        return {str(study): int(str(count or 0)) for study, count in rows}

    async def _search(self, studies: Sequence[str], wanted: Sequence[tuple[int, str]]) -> list[Match]:
        """For each of these studies that is here: its UID and the attributes wanted, in their order."""
        requested = [RequestedKey(STUDY_INSTANCE_UID, "UI", "\\".join(studies))]
        requested += [RequestedKey(tag, vr) for tag, vr in wanted]
        query = query_of(Level.STUDY, InformationModel.STUDY_ROOT, requested, QueryOptions())
        tags = [key.tag for key in query.keys]
        places = [tags.index(tag) for tag in (STUDY_INSTANCE_UID, *(tag for tag, _ in wanted))]
        chunks = self._room.archive.search(query)
        return [tuple(match[place] for place in places) async for chunk in chunks for match in chunk]

    async def _ask(self, job: Job, patient_id: str, issuer: str, rule: Prefetch) -> list[Prior]:
        """C-FIND at the study level. Raises RemoteError."""
        identifier = Dataset()
        identifier.QueryRetrieveLevel = "STUDY"
        if not patient_id.isascii():
            identifier.SpecificCharacterSet = "ISO_IR 192"
        identifier.PatientID = patient_id
        for keyword in _TO_FIND_WITH:
            setattr(identifier, keyword, "")
        if rule.newest_days:
            identifier.StudyDate = f"{date.today() - timedelta(days=rule.newest_days):%Y%m%d}-"
        contexts = [ProposedContext(1, STUDY_ROOT_FIND, (EXPLICIT_VR_LE, IMPLICIT_VR_LE))]
        found: list[Prior] = []
        settings = self._room.settings
        async with (
            connect(
                await self._peer(job.peer),
                settings.node.ae_title,
                contexts,
                timeouts=timeouts_of(settings.dimse),
            ) as user,
            aclosing(user.c_find(STUDY_ROOT_FIND, identifier)) as replies,
        ):
            async for reply in replies:
                if not is_pending(reply.status):
                    _check(reply, "C-FIND")
                elif reply.identifier is not None and _is_of(reply.identifier, patient_id, issuer):
                    found.append(Prior.of(reply.identifier))
        return found

    async def retrieve(self, job: Job) -> None:
        """Fetch a study, unless it is here by now. Raises RemoteError when not all of it comes."""
        study = str(job.payload["study"])
        expected = job.payload.get("instances", 0)
        here = (await self._held([study])).get(study, 0)
        if here and isinstance(expected, int) and here >= expected:
            return
        identifier = Dataset()
        identifier.QueryRetrieveLevel = "STUDY"
        identifier.StudyInstanceUID = study
        begun = time.monotonic()
        if job.payload.get("method") == "get":
            reply = await self._get(job, identifier)
        else:
            reply = await self._move(job, identifier)
        log.info(
            "study.fetched",
            job=job.id,
            peer=job.peer,
            study=study,
            status=f"{reply.status:04X}H",
            completed=reply.suboperations.completed,
            failed=reply.suboperations.failed,
            ms=round((time.monotonic() - begun) * 1000, 1),
        )
        _check(reply, "the retrieval")

    async def _move(self, job: Job, identifier: Dataset) -> Reply:
        settings = self._room.settings
        timeouts = replace(timeouts_of(settings.dimse), dimse=max(MOVING, settings.dimse.dimse_timeout))
        contexts = [ProposedContext(1, STUDY_ROOT_MOVE, (EXPLICIT_VR_LE, IMPLICIT_VR_LE))]
        title = settings.node.ae_title
        async with connect(await self._peer(job.peer), title, contexts, timeouts=timeouts) as user:
            return await _last(user.c_move(STUDY_ROOT_MOVE, identifier, title))

    async def _get(self, job: Job, identifier: Dataset) -> Reply:
        settings = self._room.settings
        named = job.payload.get("sop_classes")
        contexts = contexts_to_get([str(uid) for uid in named] if isinstance(named, list) else [])
        services: Sequence[ServiceClass] = (self._storage,)
        async with connect(
            await self._peer(job.peer),
            settings.node.ae_title,
            contexts,
            window=settings.dimse.async_window,
            roles={context.abstract_syntax: (False, True) for context in contexts[1:]},
            services=services,
            timeouts=timeouts_of(settings.dimse),
        ) as user:
            return await _last(user.c_get(STUDY_ROOT_GET, identifier))

    async def _peer(self, title: str) -> Peer:
        peer = await self._room.workflow.peers.get(title)
        if peer is None:
            raise UnknownDestination(f"{title} is no peer")
        return peer


class FetchedStorage(StorageService):
    """Stores what comes on an association of our own: from the AE that was called."""

    def source_of(self, association: Channel) -> str:
        return association.called_ae


def contexts_to_get(sop_classes: Sequence[str]) -> list[ProposedContext]:
    """The C-GET's own context, then those for what comes.

    SOP classes that the peer has named come in any transfer syntax, as they are stored there; of many
    classes each has as many as fit, uncompressed first, then what can be decoded here. Else the usual ones
    are offered, uncompressed: more would not fit.
    """
    wanted: list[tuple[UID, tuple[UID, ...]]] = [(STUDY_ROOT_GET, (EXPLICIT_VR_LE, IMPLICIT_VR_LE))]
    syntaxes = sorted(TRANSFER_SYNTAXES, key=_rank)
    named = [(UID(one), (syntax,)) for syntax in syntaxes for one in sop_classes]
    usual = [UID(str(context.abstract_syntax)) for context in StoragePresentationContexts]
    wanted += named or [(one, (EXPLICIT_VR_LE, IMPLICIT_VR_LE)) for one in usual]
    return [
        ProposedContext(2 * place + 1, *pair) for place, pair in enumerate(wanted[: MAX_STORAGE_CONTEXTS + 1])
    ]


def _rank(transfer_syntax: UID) -> int:
    """How soon to offer a transfer syntax, of which not all may fit."""
    return 0 if transfer_syntax in plan.NATIVE else 1 if len(plan.targets_of(transfer_syntax)) > 1 else 2


def _chosen(found: Sequence[Prior], current: str, rule: Prefetch) -> list[Prior]:
    """The newest prior studies of the wanted modalities."""
    priors = [
        prior
        for prior in found
        if prior.study not in ("", current)
        and (not rule.prior_modality or any(is_one_of(one, rule.prior_modality) for one in prior.modalities))
    ]
    return sorted(priors, key=lambda prior: prior.when, reverse=True)[: rule.most]


def _is_missing(prior: Prior, here: dict[str, int]) -> bool:
    held = here.get(prior.study, 0)
    return held == 0 or held < prior.instances


def _is_of(found: Dataset, patient_id: str, issuer: str) -> bool:
    """Some peers match more than was asked for; two issuers that are told have to agree."""
    theirs = str(found.get("IssuerOfPatientID") or "")
    return str(found.get("PatientID", "")) == patient_id and (not issuer or not theirs or issuer == theirs)


def _values(found: Dataset, keyword: str) -> tuple[str, ...]:
    value = found.get(keyword)
    if not value:
        return ()
    return (str(value),) if isinstance(value, str) else tuple(str(one) for one in value)


async def _last(replies: AsyncGenerator[Reply, None]) -> Reply:
    """The final response. Raises RemoteError when there is none."""
    last: Reply | None = None
    async with aclosing(replies):
        async for reply in replies:
            last = reply
    if last is None:
        raise RemoteError("the peer gave no answer")
    return last


def _check(reply: Reply, what: str) -> None:
    """Raises RemoteError when something has not been done."""
    failed = reply.suboperations.failed or 0
    if reply.status != SUCCESS or failed:
        told = f", {failed} instances failed" if failed else ""
        raise RemoteError(f"{what} ended with {reply.status:04X}H{told} {reply.comment}".rstrip())
