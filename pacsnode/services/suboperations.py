"""The C-STORE sub-operations of one retrieval, and how they went (PS3.4 C.4.2.3.1, C.4.3.3.1)."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Final

import structlog

from pacsnode.archive.locate import Located
from pacsnode.config import Peer
from pacsnode.dicom.sop_class import name_of
from pacsnode.dicom.uid import UID
from pacsnode.dimse.status import DUPLICATE_SOP_INSTANCE, SUCCESS, is_warning
from pacsnode.errors import AssociationAborted, OperationError, PeerNotListening, RemoteError
from pacsnode.net.requestor import connect
from pacsnode.net.scu import ServiceUser
from pacsnode.net.timeouts import Timeouts
from pacsnode.services.instances import Instances
from pacsnode.services.outflow import Outflow
from pacsnode.services.proposal import Batch, ContextOf, batches, contexts_to_store_on
from pacsnode.ul.negotiation import AcceptedContext, ProposedContext

MAKING_LANES: Final = 3  # objects made or sent at once: the workers go on while one is sent
FRUITLESS: Final = 2  # associations lost in a row with nothing stored, then the destination is given up
SHARES: Final = 8  # for each of several associations: so many turns at what is to be sent
MAX_SHARE: Final = 64  # objects
# GDCM's gdcmscu begins to listen when its C-MOVE request is on its way, and waits for ever when nobody comes.
LISTENS_SOON: Final = (0.05, 0.15, 0.4)  # seconds before each other try


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


@dataclass(slots=True)
class _Turns:
    """What several associations to one destination share.

    They are opened one after the other, since some destinations count those that are only just asked for.
    When one is refused, those that wait are not tried: `refusal` says why.
    """

    shares: deque[list[Located]]
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    refusal: RemoteError | None = None


class SubOperations:
    """Sends objects and counts. `move` or `store` is called once; the counters may be read meanwhile."""

    def __init__(
        self,
        instances: Instances,
        objects: Sequence[Located],
        origin: Origin,
        log: structlog.stdlib.BoundLogger,
        on_stored: Callable[[Located], None] | None = None,
    ) -> None:
        """`on_stored` is called when the destination has acknowledged an object."""
        self.total = len(objects)
        self.completed = 0
        self.warnings = 0
        self.failed: list[UID] = []
        self.bytes = 0
        self.reason = ""  # of the first failure
        self.lost: RemoteError | None = None  # why the destination was given up
        self._on_stored = on_stored
        self._instances = instances
        self._waiting = {one.sop_instance: one for one in objects}  # not begun yet
        self._origin = origin
        self._log = log
        self._stopped = False
        self._opening: set[asyncio.Task[object]] = set()  # those that wait for an association

    @property
    def remaining(self) -> int:
        return self.total - self.completed - self.warnings - len(self.failed)

    @property
    def is_stopped(self) -> bool:
        return self._stopped

    def stop(self) -> None:
        """C-CANCEL: those that have begun are finished, no other is begun, no association is waited for."""
        self._stopped = True
        for task in self._opening:
            task.cancel()

    async def move(self, route: Route) -> None:
        """Send everything over associations of our own (PS3.4 C.4.2.3.1)."""
        for batch in batches(tuple(self._waiting.values()), self._instances.targets_of):
            if not await self._move(batch, route):
                return

    async def store(self, user: ServiceUser, objects: Sequence[Located] | None = None) -> None:
        """Send `objects`, or everything, on one association. Raises RemoteError when that is lost."""
        if objects is None:
            objects = tuple(self._waiting.values())
        context_of = contexts_to_store_on(user.contexts)
        at_hand, to_make = self._dealt(objects, context_of)
        outflow = Outflow(
            user.association,
            self._instances.read(at_hand),
            context_of,
            self,
            priority=self._origin.priority,
            originator=self._origin.move,
        )
        lanes = [self._making_lane(user, to_make) for _ in range(min(MAKING_LANES, len(to_make)))]
        for failure in await asyncio.gather(outflow.run(), *lanes, return_exceptions=True):
            if isinstance(failure, BaseException):
                raise failure

    async def _move(self, batch: Batch, route: Route) -> bool:
        """Send a batch over as many associations as the destination takes; whether it is worth another batch.

        They take turns at the objects. Where one of several ends early, the others finish without it.
        """
        associations = route.peer.associations
        while objects := self._not_begun(batch.objects):
            turns = _Turns(deque(_shares(objects, associations)))
            count = min(associations, len(turns.shares))
            workers = (self._associate(batch.contexts, turns, route) for _ in range(count))
            ended = await asyncio.gather(*workers, return_exceptions=True)
            lost: list[RemoteError] = []
            for one in ended:
                if isinstance(one, RemoteError):
                    lost.append(one)
                elif one is not None:
                    raise one
            if len(lost) == count:
                if not self._stopped:
                    self._give_up(route, lost[0])
                return False
            associations = count - len(lost)
        return not self._stopped

    async def _associate(
        self, contexts: Sequence[ProposedContext], turns: "_Turns", route: Route
    ) -> RemoteError | None:
        """Keep one association open while there are shares; why it ended before, if it did.

        One that is lost is opened again for what has not begun, so that an object the destination breaks off
        at fails alone.
        """
        fruitless = 0
        share: list[Located] = []
        is_new = True
        while not self._stopped and (share or turns.shares):
            stored = self.completed + self.warnings
            try:
                async with AsyncExitStack() as stack:
                    async with turns.opening:
                        if is_new and turns.refusal is not None:
                            return turns.refusal
                        user = await self._opened(stack, contexts, route)
                        is_new = False
                    if user is None:
                        return None
                    while not self._stopped and (share or turns.shares):
                        share = share or turns.shares.popleft()
                        await self.store(user, share)
                        share = []
            except RemoteError as error:
                share = self._not_begun(share)
                fruitless = 0 if self.completed + self.warnings > stored else fruitless + 1
                if fruitless == FRUITLESS or not isinstance(error, AssociationAborted):
                    turns.refusal = error
                    return error
        return None

    async def _opened(
        self, stack: AsyncExitStack, contexts: Sequence[ProposedContext], route: Route
    ) -> ServiceUser | None:
        """An association, open as long as `stack`; None when all is stopped before. Raises RemoteError."""
        task = asyncio.current_task()
        if self._stopped or task is None:
            return None
        self._opening.add(task)
        try:
            for delay in LISTENS_SOON:
                try:
                    return await stack.enter_async_context(_connection(contexts, route))
                except PeerNotListening:
                    await asyncio.sleep(delay)
            return await stack.enter_async_context(_connection(contexts, route))
        except asyncio.CancelledError:
            if self._stopped and not task.uncancel():
                return None
            raise  # somebody else has cancelled the task, too
        finally:
            self._opening.discard(task)

    def _not_begun(self, objects: Iterable[Located]) -> list[Located]:
        return [] if self._stopped else [one for one in objects if one.sop_instance in self._waiting]

    def _dealt(
        self, objects: Sequence[Located], context_of: ContextOf
    ) -> tuple[list[Located], deque[tuple[Located, AcceptedContext]]]:
        """What goes as it is stored, and what has to be made first: transcoded, as a rule.

        That for which there is no context either way has failed (PS3.4 C.4.2.3.1).
        """
        at_hand: list[Located] = []
        to_make: deque[tuple[Located, AcceptedContext]] = deque()
        refused: dict[tuple[UID, UID], list[UID]] = {}
        targets: dict[tuple[UID, UID], UID | None] = {}  # many objects are of few kinds
        for one in objects:
            accepted = context_of.get(one.sop_class, {})
            kind = one.sop_class, one.transfer_syntax
            if kind not in targets:
                targets[kind] = self._instances.choose(one.transfer_syntax, accepted)
            target = targets[kind]
            if target is None:
                refused.setdefault(kind, []).append(one.sop_instance)
            elif self._instances.is_at_hand(one, target):
                at_hand.append(one)
            else:
                to_make.append((one, accepted[target]))
        for kind, instances in refused.items():
            self._refused(*kind, instances)
        return at_hand, to_make

    def _refused(self, sop_class: UID, transfer_syntax: UID, instances: list[UID]) -> None:
        """There is no context for a kind of object: one line of the log, not one for each of them."""
        self.reason = self.reason or f"not accepted: {name_of(sop_class)}, {name_of(transfer_syntax)}"
        self.failed += instances
        for sop_instance in instances:
            del self._waiting[sop_instance]
        self._log.warning(
            "context.refused", sop_class=sop_class, transfer_syntax=transfer_syntax, objects=len(instances)
        )

    async def _making_lane(self, user: ServiceUser, waiting: deque[tuple[Located, AcceptedContext]]) -> None:
        """Have one object after the other made, and store it."""
        while waiting and not self._stopped:
            located, context = waiting.popleft()
            async with AsyncExitStack() as stack:
                making = self._instances.made(located, context.transfer_syntax)
                try:
                    data, size = await stack.enter_async_context(making)
                except (OperationError, OSError) as error:
                    self.not_stored(located, str(error))
                    continue
                if self._stopped:
                    return
                await self._store(user, context, located, data, size)

    async def _store(
        self,
        user: ServiceUser,
        context: AcceptedContext,
        located: Located,
        data: AsyncGenerator[memoryview, None],
        size: int,
    ) -> None:
        """Store an object whose data set, as it goes, has `size` bytes."""
        origin = self._origin
        leaving = self._leaving(located, data)
        try:
            reply = await user.c_store(
                context, located.sop_instance, leaving, priority=origin.priority, originator=origin.move
            )
        except RemoteError as error:
            if located.sop_instance not in self._waiting:  # else it goes on the next association
                self.not_stored(located, str(error))
            raise
        except OSError as error:  # in the middle of a large object: the message cannot be completed
            self.not_stored(located, f"its file cannot be read: {error.strerror}")
            raise AssociationAborted("an object could not be read to its end") from error
        self.answered(located, size, reply.status, reply.comment)

    async def _leaving(
        self, located: Located, data: AsyncGenerator[memoryview, None]
    ) -> AsyncGenerator[memoryview, None]:
        """The pieces of a data set, which has begun when the first is asked for: the request has left."""
        self.begun(located)
        async with aclosing(data):
            async for piece in data:
                yield piece

    # What is counted

    def begun(self, located: Located) -> None:
        del self._waiting[located.sop_instance]

    def answered(self, located: Located, size: int, status: int, comment: str) -> None:
        if status == SUCCESS:
            self.completed += 1
        elif is_warning(status) or status == DUPLICATE_SOP_INSTANCE:  # it has the object
            self.warnings += 1
        else:
            self.not_stored(located, comment or "refused", status)
            return
        self.bytes += size
        if self._on_stored is not None:
            self._on_stored(located)

    def not_stored(self, located: Located, reason: str, status: int | None = None) -> None:
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
        self.lost = error
        self.failed += self._waiting
        self._log.warning(
            "destination.lost", destination=str(route.peer), objects=len(self._waiting), reason=str(error)
        )
        self._waiting.clear()


def _connection(
    contexts: Sequence[ProposedContext], route: Route
) -> AbstractAsyncContextManager[ServiceUser]:
    return connect(route.peer, route.calling_ae, contexts, window=route.window, timeouts=route.timeouts)


def _shares(objects: Sequence[Located], associations: int) -> Iterator[list[Located]]:
    """What one association sends in a turn: everything, unless there are others."""
    turns = associations * SHARES
    length = len(objects) if associations == 1 else min(MAX_SHARE, -(-len(objects) // turns))
    return (list(objects[start : start + length]) for start in range(0, len(objects), length))
