"""The C-STORE sub-operations of one retrieval, and how they went (PS3.4 C.4.2.3.1, C.4.3.3.1)."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from pacsnode.archive.locate import Located
from pacsnode.archive.outgoing import ReadAhead
from pacsnode.config import Peer
from pacsnode.dicom.sop_class import name_of
from pacsnode.dicom.uid import UID
from pacsnode.dimse.status import DUPLICATE_SOP_INSTANCE, SUCCESS, is_warning
from pacsnode.errors import AssociationAborted, OperationError, RemoteError
from pacsnode.net.association import Timeouts
from pacsnode.net.invoker import OutgoingData
from pacsnode.net.requestor import connect
from pacsnode.net.scu import Reply, ServiceUser
from pacsnode.pixels.plan import choose
from pacsnode.services.proposal import Batch, ContextOf, batches, contexts_to_store_on
from pacsnode.services.room import Room
from pacsnode.ul.negotiation import AcceptedContext

TRANSCODING_LANES: Final = 3  # objects transcoded or sent at once: the workers go on while one is sent
LANES: Final = 16  # objects outstanding on one association, where the peer lets them be more
FRUITLESS: Final = 2  # associations lost in a row with nothing stored, then the destination is given up


@dataclass(frozen=True, slots=True)
class Origin:
    """What the C-STORE requests of a retrieval take from it. `move`: AE title and Message ID of a C-MOVE."""

    priority: int
    move: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """How a destination is called."""

    peer: Peer
    calling_ae: str
    window: int
    timeouts: Timeouts


class SubOperations:
    """Sends objects and counts. `move` or `store` is called once; the counters may be read meanwhile."""

    def __init__(
        self,
        room: Room,
        objects: Sequence[Located],
        origin: Origin,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self.total = len(objects)
        self.completed = 0
        self.warnings = 0
        self.failed: list[UID] = []
        self.bytes = 0
        self.reason = ""  # of the first failure
        self._archive = room.archive
        self._transcoder = room.transcoder
        self._waiting = {one.sop_instance: one for one in objects}  # not begun yet
        self._origin = origin
        self._log = log
        self._stopped = False

    @property
    def remaining(self) -> int:
        return self.total - self.completed - self.warnings - len(self.failed)

    def stop(self) -> None:
        """C-CANCEL: those that have begun are finished, no other is begun."""
        self._stopped = True

    async def move(self, route: Route) -> None:
        """Send everything over associations of our own (PS3.4 C.4.2.3.1)."""
        for batch in batches(tuple(self._waiting.values())):
            if not await self._move(batch, route):
                return

    async def store(self, user: ServiceUser, objects: Sequence[Located] | None = None) -> None:
        """Send `objects`, or everything, on one association. Raises RemoteError when that is lost."""
        if objects is None:
            objects = tuple(self._waiting.values())
        context_of = contexts_to_store_on(user.contexts)
        as_stored, to_transcode = self._dealt(objects, context_of)
        source = self._archive.read(as_stored)
        lanes = [self._lane(user, source, context_of) for _ in range(min(user.association.window, LANES))]
        lanes += [self._transcoding_lane(user, to_transcode) for _ in range(TRANSCODING_LANES)]
        for failure in await asyncio.gather(*lanes, return_exceptions=True):
            if isinstance(failure, BaseException):
                raise failure

    async def _move(self, batch: Batch, route: Route) -> bool:
        """Send a batch; whether the destination is worth another association.

        One that is lost is opened again for what has not begun, so that an object the destination breaks off
        at fails alone.
        """
        fruitless = 0
        while objects := self._not_begun(batch.objects):
            stored = self.completed + self.warnings
            try:
                async with connect(
                    route.peer,
                    route.calling_ae,
                    batch.contexts,
                    window=route.window,
                    timeouts=route.timeouts,
                ) as user:
                    await self.store(user, objects)
                return not self._stopped
            except RemoteError as error:
                fruitless = 0 if self.completed + self.warnings > stored else fruitless + 1
                if fruitless == FRUITLESS or not isinstance(error, AssociationAborted):
                    self._give_up(route, error)
                    return False
        return True

    def _not_begun(self, objects: Iterable[Located]) -> list[Located]:
        return [] if self._stopped else [one for one in objects if one.sop_instance in self._waiting]

    def _dealt(
        self, objects: Sequence[Located], context_of: ContextOf
    ) -> tuple[list[Located], deque[tuple[Located, AcceptedContext]]]:
        """What goes as it is stored, and what has to be transcoded first.

        That for which there is no context either way has failed (PS3.4 C.4.2.3.1).
        """
        as_stored: list[Located] = []
        to_transcode: deque[tuple[Located, AcceptedContext]] = deque()
        refused: dict[tuple[UID, UID], list[UID]] = {}
        for one in objects:
            accepted = context_of.get(one.sop_class, {})
            target = choose(one.transfer_syntax, accepted)
            if target is None:
                refused.setdefault((one.sop_class, one.transfer_syntax), []).append(one.sop_instance)
            elif target == one.transfer_syntax:
                as_stored.append(one)
            else:
                to_transcode.append((one, accepted[target]))
        for kind, instances in refused.items():
            self._refused(*kind, instances)
        return as_stored, to_transcode

    def _refused(self, sop_class: UID, transfer_syntax: UID, instances: list[UID]) -> None:
        """There is no context for a kind of object: one line of the log, not one for each of them."""
        self.reason = self.reason or f"not accepted: {name_of(sop_class)}, {name_of(transfer_syntax)}"
        self.failed += instances
        for sop_instance in instances:
            del self._waiting[sop_instance]
        self._log.warning(
            "context.refused", sop_class=sop_class, transfer_syntax=transfer_syntax, objects=len(instances)
        )

    async def _lane(self, user: ServiceUser, source: ReadAhead, context_of: ContextOf) -> None:
        """Store one object after the other; as many lanes run at once as the window has places."""
        while not self._stopped and (outgoing := await source.next()) is not None:
            located = outgoing.located
            if outgoing.data is None:
                self._fail(located, outgoing.failure)
                continue
            context = context_of[located.sop_class][located.transfer_syntax]
            await self._store(user, context, located, outgoing.data)

    async def _transcoding_lane(
        self, user: ServiceUser, waiting: deque[tuple[Located, AcceptedContext]]
    ) -> None:
        """Have one object after the other transcoded, and store it."""
        while waiting and not self._stopped:
            located, context = waiting.popleft()
            try:
                path, offset = await self._archive.file_of(located)
                transcoded = await self._transcoder.transcode(
                    path, offset, located.transfer_syntax, context.transfer_syntax
                )
            except (OperationError, OSError) as error:
                self._fail(located, str(error))
                continue
            try:
                data = self._archive.read_file(transcoded.path, context.transfer_syntax, transcoded.size)
                await self._store(user, context, located, data)
            finally:
                await transcoded.discard()

    async def _store(
        self, user: ServiceUser, context: AcceptedContext, located: Located, data: OutgoingData
    ) -> None:
        del self._waiting[located.sop_instance]
        origin = self._origin
        try:
            reply = await user.c_store(
                context, located.sop_instance, data, priority=origin.priority, originator=origin.move
            )
        except RemoteError as error:
            self._fail(located, str(error))
            raise
        except OSError as error:  # in the middle of a large object: the message cannot be completed
            self._fail(located, f"its file cannot be read: {error.strerror}")
            raise AssociationAborted("an object could not be read to its end") from error
        self._answered(located, reply)

    def _answered(self, located: Located, reply: Reply) -> None:
        if reply.status == SUCCESS:
            self.completed += 1
        elif is_warning(reply.status) or reply.status == DUPLICATE_SOP_INSTANCE:  # it has the object
            self.warnings += 1
        else:
            self._fail(located, reply.comment or "refused", reply.status)
            return
        self.bytes += located.size

    def _fail(self, located: Located, reason: str, status: int | None = None) -> None:
        self._waiting.pop(located.sop_instance, None)
        self.failed.append(located.sop_instance)
        self.reason = self.reason or reason
        self._log.warning(
            "suboperation.failed",
            sop_class=located.sop_class,
            sop_instance=located.sop_instance,
            status=None if status is None else f"{status:04X}H",
            reason=reason,
        )

    def _give_up(self, route: Route, error: RemoteError) -> None:
        self.reason = self.reason or str(error)
        self.failed += self._waiting
        self._log.warning(
            "destination.lost", destination=str(route.peer), objects=len(self._waiting), reason=str(error)
        )
        self._waiting.clear()
