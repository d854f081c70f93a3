"""The one writer of the index: group commit, and the files that go with it.

A thread takes everything that waits and writes it in one transaction. Small objects are checked here and
written to their files before the commit; larger ones have a file in incoming/ and get their place after it.
Rows go into the transaction while other threads still make the objects durable. A commit waits for that, but
that of new small objects (early.py). Then all of the group are answered at once: what is acknowledged is
durable and has a row. Groups grow with the load, and nobody waits for a timer.
"""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final

import structlog

from pacsnode.archive.early import Early
from pacsnode.archive.files import Layout, out_of_resources
from pacsnode.archive.index import Index
from pacsnode.archive.instance import Arrival, SmallObject, Stored, settle
from pacsnode.archive.judge import Judge, Verdict
from pacsnode.archive.schema import remedy_for
from pacsnode.archive.scribe import Scribe
from pacsnode.archive.settling import SETTLE_AFTER, SETTLE_AT_LEAST
from pacsnode.archive.small_files import SmallFiles
from pacsnode.errors import OutOfResources

MAX_PLACED: Final = 4000  # files; a start adopts some 2,000 a second
MAX_GROUP: Final = 256  # instances; bounds the wait of the first one and the work of a redo

log = structlog.get_logger()


@dataclass(slots=True)
class _Change:
    """Work on the index that is no arrival; it has a transaction of its own."""

    work: Callable[[Index], None]
    done: asyncio.Future[None]


class _Loss:
    """The journal could not take what is committed; the writer shall look."""


_Entry = Arrival | SmallObject | _Change | _Loss | None
_Result = tuple[asyncio.Future[Stored], Stored | Exception]


class _Group:
    """What is written at one go. `results`: of what is answered already, for it was refused by a check."""

    __slots__ = ("arrivals", "changes", "is_last", "results", "size", "small")

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.small: list[SmallObject] = []
        self.changes: list[_Change] = []
        self.results: list[_Result] = []
        self.is_last = False
        self.size = 0

    def add(self, entry: _Entry) -> None:
        """Take one entry, None for the end; a small object is checked. A loss has made itself known."""
        self.size += 1
        if isinstance(entry, SmallObject):
            self.small.append(entry)
            try:
                self.arrivals.append(entry.arrive())
            except Exception as error:
                self.results.append((entry.future, error))
        elif isinstance(entry, Arrival):
            self.arrivals.append(entry)
        elif isinstance(entry, _Change):
            self.changes.append(entry)
        elif entry is None:
            self.is_last = True


class Writer:
    """Owns the write connection; submit() may be called from any thread."""

    def __init__(
        self,
        index: Index,
        layout: Layout,
        loop: asyncio.AbstractEventLoop,
        judge: Judge,
        small: SmallFiles,
        scribe: Scribe,
        early: Early,
        sync: str,
        on_stored: Callable[[], None],
    ) -> None:
        """`sync` is storage.sync; with "file" the log of the index is synced once for many groups.

        `on_stored` is called in the loop after each commit of arrivals.
        """
        self._index = index
        self._layout = layout
        self._loop = loop
        self._judge = judge
        self._small = small
        self._scribe = scribe
        self._early = early
        self._sync = sync
        self._on_stored = on_stored
        self._queue: SimpleQueue[_Entry] = SimpleQueue()
        self._placed: list[str] = []  # in objects/ too; their names in incoming/ wait for the log's sync
        self._placed_at = 0.0
        self._unsettled: list[tuple[str, str]] = []
        self._thread = threading.Thread(target=self._run, name="archive-writer", daemon=True)
        self._thread.start()

    def submit(self, arrival: Arrival | SmallObject) -> None:
        self._queue.put(arrival)

    async def change(self, work: Callable[[Index], None]) -> None:
        """Run `work` in the writer's thread, in a transaction; what that raises undoes it."""
        change = _Change(work, self._loop.create_future())
        self._queue.put(change)
        await change.done

    def close(self) -> None:
        """Commit what was submitted, answer it, then close the index."""
        self._queue.put(None)
        self._thread.join()
        self._index.close()

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to be taken back."""
        return not self._early.lost

    def _run(self) -> None:
        while self._deal_with(self._take()):
            pass

    def _take(self) -> _Group:
        """Wait for one entry, then take what came with it.

        An empty group: nothing came for a while, and there is something to settle meanwhile.
        """
        group = _Group()
        with contextlib.suppress(Empty):
            group.add(self._queue.get(timeout=SETTLE_AFTER if self._placed else None))
            while not group.is_last and group.size < MAX_GROUP:
                group.add(self._queue.get_nowait())
        return group

    def _deal_with(self, group: _Group) -> bool:
        """Write one group; False when there will be no other.

        What was in it is let go of before the next one is waited for: an arrival knows its association.
        """
        self._take_back()
        self._store(group)
        if group.changes or group.is_last:
            self._scribe.catch_up()  # a change may forget the last commits, and at the end the index goes
            self._take_back()
        for change in group.changes:
            self._apply(change)
        quiet = group.is_last or not group.size
        if self._placed and (quiet or self._is_settling_due()):
            self._settle_placed()
        return not group.is_last

    def _apply(self, change: _Change) -> None:
        failure: Exception | None = None
        try:
            self._index.begin(())
            change.work(self._index)
            self._index.commit()
        except Exception as error:
            self._index.rollback()
            failure = error
        self._loop.call_soon_threadsafe(_finish, change.done, failure)

    def _store(self, group: _Group) -> None:
        """Commit arrivals, give the files their places, answer. Nothing escapes: all would wait for ever."""
        arrivals, results = group.arrivals, group.results
        verdicts: list[Verdict] = []
        if arrivals:
            try:
                verdicts = self._commit_group(arrivals)
                for verdict in verdicts:
                    self._settle_files(verdict)
            except Exception as error:
                log.exception("archive.job_failed")
                results += [(arrival.future, error) for arrival in arrivals]
                verdicts = []
        kept = {verdict.arrival.token for verdict in verdicts if verdict.place is not None}
        if len(kept) < len(results) + len(verdicts):
            refused = bool(results) or any(isinstance(verdict.result, Exception) for verdict in verdicts)
            self._revoke([small for small in group.small if small.token not in kept], refused=refused)
        self._scribe.after(group.small, partial(self._answer, group, verdicts))

    def _answer(self, group: _Group, verdicts: Sequence[Verdict]) -> None:
        """Answer a group that the journal has, all but what it has not; in this thread or in the scribe's."""
        lost = self._early.settle(verdicts)
        results = [(v.arrival.future, v.result) for v in verdicts if v.arrival.token not in lost]
        if lost:
            self._queue.put(_Loss())
        if results := group.results + results:
            self._loop.call_soon_threadsafe(self._settle, results)
        self._scribe.finish(group.small)

    def _take_back(self) -> None:
        """Have nothing stay of what was committed and then was not journaled, and refuse it."""
        lost = self._early.lost
        if not lost:
            return
        try:
            self._index.begin(())
            for token in lost:
                self._index.remove(token)
            self._index.commit()
            for verdict in lost.values():
                self._layout.remove(verdict.arrival.row.path)
        except Exception as error:
            self._index.rollback()
            log.error("instance.unrefused", error=str(error), instances=len(lost))
        else:
            self._early.taken_back(lost.values())
        results: list[_Result] = []
        for verdict in lost.values():
            assert verdict.arrival.durable is not None
            assert verdict.arrival.durable.failure is not None
            results.append((verdict.arrival.future, verdict.arrival.durable.failure))
        self._loop.call_soon_threadsafe(self._settle, results)

    def _revoke(self, objects: Sequence[SmallObject], *, refused: bool) -> None:
        """Have the journal forget what was not kept, before any of it is `refused`."""
        revoked = self._scribe.revoke(objects)
        if refused:
            for durable in revoked:
                if not durable.has_come():
                    log.error("journal.failed", error="a refused object could not be revoked")

    def _settle(self, results: list[_Result]) -> None:
        """Runs in the loop."""
        settle(results)
        self._on_stored()

    def _commit_group(self, arrivals: Sequence[Arrival], *, alone: bool = False) -> list[Verdict]:
        try:
            return self._commit(arrivals, may_be_early=not alone)
        except Exception as error:
            if len(arrivals) == 1 or _concerns_all(error):
                refusal = _refusal(error)
                return [Verdict(arrival, refusal) for arrival in arrivals]
        verdicts = []  # one of them spoils the group: each by itself finds out which
        for arrival in arrivals:
            verdicts += self._commit_group([arrival], alone=True)
        return verdicts

    def _commit(self, arrivals: Sequence[Arrival], *, may_be_early: bool) -> list[Verdict]:
        index = self._index
        self._make_sure_of(arrivals)
        self._small.begin()
        verdicts: list[Verdict] = []
        try:
            index.begin([arrival.row.sop_instance for arrival in arrivals])
            verdicts = [self._judge.judge(arrival) for arrival in arrivals]
            if not (may_be_early and self._early.begin(verdicts)):
                index.write()
                self._wait_for(arrivals)
            self._small.write(verdicts)
            conflicts = index.commit()
        except Exception:
            index.rollback()
            self._small.take_back()
            self._early.cancel(verdicts)
            raise
        for conflict in conflicts:
            log.warning(
                "study.conflict",
                study=conflict.study,
                sop_instance=conflict.sop_instance,
                attributes=conflict.attributes,
            )
        return verdicts

    def _make_sure_of(self, arrivals: Sequence[Arrival]) -> None:
        """Let nobody be judged by an object that may still be taken back. Raises OutOfResources."""
        self._early.make_sure_of(arrivals)
        self._take_back()
        self._early.refuse(arrivals)

    def _wait_for(self, arrivals: Sequence[Arrival]) -> None:
        """Until the objects are durable. Raises what that failed with."""
        for arrival in arrivals:
            if arrival.durable is not None:
                arrival.durable.wait()
        if self._sync == "full":
            self._sync_names(arrivals)

    def _settle_files(self, verdict: Verdict) -> None:
        """Do the renames of a committed arrival, or remove the file of one that got no row."""
        self._retry_unsettled()
        arrival = verdict.arrival
        if verdict.place is None and arrival.content is None:
            with contextlib.suppress(OSError):  # it has no row: the next start sees to it
                self._layout.remove(self._layout.incoming_path(arrival.token, arrival.row.size))
        if verdict.displaces:
            self._settle_placed()  # the index must know of the replaced object before it moves
        if verdict.displaces and self._unsettled:  # perhaps of the same place: one after the other
            self._unsettled += verdict.moves
        else:
            self._move(verdict.moves)
        self._judge.tell(verdict)

    def _move(self, moves: Sequence[tuple[str, str]]) -> None:
        """Do moves in their order; what comes after one that fails may have to wait for it to leave."""
        for number, (source, target) in enumerate(moves):
            try:
                self._place(source, target)
            except OSError as error:
                # File and row are durable, so the answer stays Success: the next group, or the next
                # start, finds the file in incoming/ under the number of its row.
                log.error("instance.unsettled", path=target, error=error.strerror)
                if not isinstance(error, FileNotFoundError):
                    self._unsettled += moves[number:]
                    return

    def _sync_names(self, arrivals: Sequence[Arrival]) -> None:
        """With storage.sync = "full" a new file's name is made durable too; POSIX asks for that."""
        if any(arrival.content is None for arrival in arrivals):
            self._layout.sync_folder(self._layout.incoming)

    def _place(self, source: str, target: str) -> None:
        if not source.startswith("incoming/"):
            self._layout.move(source, target)
            return
        self._layout.place(source, target)
        if self._sync != "file":
            self._layout.remove(source)
            return
        if not self._placed:
            self._placed_at = time.monotonic()
        self._placed.append(source)

    def _is_settling_due(self) -> bool:
        """Under load nothing is ever quiet; a long list would make the start after a crash slow."""
        return len(self._placed) >= MAX_PLACED or time.monotonic() - self._placed_at > SETTLE_AT_LEAST

    def _settle_placed(self) -> None:
        """Make the index durable up to here; then the names in incoming/ have nothing left to tell.

        When that fails they stay for the next start: another sync would not know what this one has lost.
        """
        try:
            if self._sync == "file":
                self._index.sync_log()
            for path in self._placed:
                self._layout.remove(path)
        except OSError as error:
            log.error("index.unsettled", error=error.strerror)
        self._placed.clear()

    def _retry_unsettled(self) -> None:
        while self._unsettled:
            try:
                self._place(*self._unsettled[0])
            except FileNotFoundError:
                pass  # somebody has removed it: nothing is left to move
            except OSError:
                return
            del self._unsettled[0]


def _finish(done: asyncio.Future[None], failure: Exception | None) -> None:
    """Runs in the loop."""
    if done.done():
        return
    if failure is None:
        done.set_result(None)
    else:
        done.set_exception(failure)


def _concerns_all(error: Exception) -> bool:
    """Whether the index is held by somebody else: each by itself would wait for it again."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY


def _refusal(error: Exception) -> Exception:
    """What the sender of an arrival hears that could not be committed."""
    if isinstance(error, OSError):
        return out_of_resources(error)
    remedy = remedy_for(error) if isinstance(error, sqlite3.Error) else ""
    if isinstance(error, sqlite3.OperationalError) or remedy:  # disk full, I/O error: no fault of the arrival
        log.error("index.failed", error=f"{error}{remedy}")
        return OutOfResources("the index cannot be written")
    return error
