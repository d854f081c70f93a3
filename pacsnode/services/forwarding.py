"""Forwarding: what arrives is sent on by the rules of the configuration, as durable jobs.

An arrival is matched when it comes, and given to the job that gathers for its rule and destination: at once
due, or when its series is complete, its study stable. So every object is sent once for each rule that means
it, whatever comes later to its series. An object is not sent back to the AE it came from.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from pacsnode.archive.changes import Arrived
from pacsnode.archive.integrity import Reference
from pacsnode.archive.locate import Located
from pacsnode.config import Forward, Settings
from pacsnode.dicom.information_model import InformationModel, Level
from pacsnode.dicom.retrieval import Retrieval
from pacsnode.dicom.uid import UID
from pacsnode.dimse.command import PRIORITY_HIGH, PRIORITY_LOW, PRIORITY_MEDIUM
from pacsnode.errors import RemoteError, UnknownDestination
from pacsnode.net.timeouts import timeouts_of
from pacsnode.services.instances import Instances
from pacsnode.services.room import Room
from pacsnode.services.suboperations import Origin, Route, SubOperations
from pacsnode.workflow.database import Transaction
from pacsnode.workflow.jobs import HIGH, LOW, MEDIUM, PRIORITIES, Job
from pacsnode.workflow.receipts import Receipts
from pacsnode.workflow.rules import Selection

log: structlog.stdlib.BoundLogger = structlog.get_logger()

KIND: Final = "forward"
AT_ONCE: Final = 500  # objects of a job located and sent over one association
DIMSE_PRIORITY_OF: Final = {HIGH: PRIORITY_HIGH, MEDIUM: PRIORITY_MEDIUM, LOW: PRIORITY_LOW}


@dataclass(frozen=True, slots=True)
class Rule:
    """One table [forward.NAME], and what it means."""

    name: str
    settings: Forward
    selection: Selection

    def key(self, destination: str, study: str, series: str) -> str:
        """What is gathered in one job."""
        scope = {"stored": "", "series-complete": series, "study-stable": study}[self.settings.when]
        return f"{KIND}:{self.name}:{destination}:{scope}"


class Forwarding:
    """Makes jobs of arrivals, and does them."""

    def __init__(self, room: Room) -> None:
        """Raises ConfigurationError for attributes that cannot be matched."""
        self._room = room
        self._jobs = room.workflow.jobs
        self._rules: dict[str, Rule] = {}
        self._listens_to: set[str] = set()
        self._jobs.register(KIND, self.send, self._is_awaited)
        self._reload(room.settings)()
        room.reloads.append(self._reload)

    def _reload(self, settings: Settings) -> Callable[[], None]:
        archive = self._room.archive
        rules = {
            name: Rule(name, rule, Selection(archive, rule.calling_ae, rule.modality, rule.match))
            for name, rule in settings.forward.items()
        }
        return lambda: self._take(rules)

    def _take(self, rules: dict[str, Rule]) -> None:
        """Go by these rules from now on; who makes jobs of nothing that arrives is told of nothing."""
        self._rules = rules
        arrivals = self._room.workflow.arrivals
        wanted = {rule.settings.when for rule in rules.values()} | ({"stored"} if rules else set())
        for when in wanted - self._listens_to:
            if when == "stored":
                arrivals.on_stored(self._gather)
            elif when == "series-complete":
                arrivals.on_series_complete(self._release_series)
            else:
                arrivals.on_study_stable(self._release_study)
        self._listens_to |= wanted

    def _is_awaited(self, job: Job) -> bool:
        """Whether the rule of a job that gathers is still there, and waits for the same."""
        rule = self._rules.get(str(job.payload.get("rule")))
        if rule is None or job.peer not in rule.settings.to:
            return False
        when = rule.settings.when
        return when != "stored" and job.payload.get("when", when) == when

    async def _gather(self, transaction: Transaction, arrived: Sequence[Arrived]) -> None:
        for rule in self._rules.values():
            chosen = await rule.selection.of(arrived)
            for destination in rule.settings.to:
                going = [one for one in chosen if one.source_ae != destination]
                await self._gather_for(transaction, rule, destination, going)

    async def _gather_for(
        self, transaction: Transaction, rule: Rule, destination: str, going: Sequence[Arrived]
    ) -> None:
        settings = rule.settings
        items: dict[str, list[str]] = {}
        for one in going:
            items.setdefault(rule.key(destination, one.study, one.series), []).append(one.sop_instance)
        for key, sop_instances in items.items():
            await self._jobs.gather(
                transaction,
                KIND,
                destination,
                {
                    "rule": rule.name,
                    "when": settings.when,
                    "transfer_syntaxes": list(settings.transfer_syntax),
                },
                sop_instances,
                key=key,
                priority=PRIORITIES[settings.priority],
                until_released=settings.when != "stored",
            )
        if settings.commit:
            wanted = [Reference(one.sop_class, one.sop_instance) for one in going]
            await self._room.workflow.commitment_requests.want(transaction, destination, wanted)

    async def _release_series(self, transaction: Transaction, study: UID, series: UID) -> None:
        await self._release(transaction, "series-complete", study, series)

    async def _release_study(self, transaction: Transaction, study: UID) -> None:
        await self._release(transaction, "study-stable", study, UID(""))

    async def _release(self, transaction: Transaction, when: str, study: UID, series: UID) -> None:
        for rule in self._rules.values():
            if rule.settings.when == when:
                for destination in rule.settings.to:
                    await self._jobs.release(transaction, rule.key(destination, study, series))

    async def send(self, job: Job) -> None:
        """Send what is open of a job. Raises RemoteError when anything stays open."""
        peer = await self._room.workflow.peers.get(job.peer)
        if peer is None:
            raise UnknownDestination(f"{job.peer} is no peer")
        settings = self._room.settings
        route = Route(peer, settings.node.ae_title, settings.dimse.async_window, timeouts_of(settings.dimse))
        failed, reason, last = 0, "", ""
        async with self._jobs.receipts(job) as receipts:
            while items := await self._jobs.open_items(job, AT_ONCE, after=last):
                run = await self._send(job, items, route, receipts)
                failed, reason, last = failed + len(run.failed), reason or run.reason, items[-1]
                if run.lost is not None:
                    raise run.lost
        await self._room.workflow.commitment_requests.ask_for_sent(job.peer)
        if failed:
            raise RemoteError(f"{failed} of {job.items} objects were not stored: {reason}")

    async def _send(self, job: Job, items: Sequence[str], route: Route, receipts: Receipts) -> SubOperations:
        objects = await self._locate(items)
        for missing in set(items) - {one.sop_instance for one in objects}:
            log.warning("forward.object_missing", job=job.id, sop_instance=missing)
            receipts.note(missing)
        run = SubOperations(
            _Preferring(self._room, _transfer_syntaxes(job)),
            objects,
            Origin(DIMSE_PRIORITY_OF[job.priority]),
            log.bind(job=job.id, destination=job.peer),
            on_stored=lambda located: receipts.note(located.sop_instance),
        )
        await run.move(route)
        return run

    async def _locate(self, sop_instances: Sequence[str]) -> list[Located]:
        keys = ((Level.IMAGE, tuple(sop_instances)),)
        retrieval = Retrieval(Level.IMAGE, InformationModel.STUDY_ROOT, keys)
        return [located async for chunk in self._room.archive.locate(retrieval) for located in chunk]


class _Preferring(Instances):
    """Instances that go in a transfer syntax of the rule, where the object and the destination allow it."""

    def __init__(self, room: Room, wanted: Collection[UID]) -> None:
        super().__init__(room)
        self._wanted = wanted

    def targets_of(self, stored: UID) -> tuple[UID, ...]:
        usual = super().targets_of(stored)
        return tuple(dict.fromkeys((*(uid for uid in self._wanted if uid in usual), *usual)))


def _transfer_syntaxes(job: Job) -> tuple[UID, ...]:
    named = job.payload.get("transfer_syntaxes")
    return tuple(UID(uid) for uid in named if isinstance(uid, str)) if isinstance(named, list) else ()
