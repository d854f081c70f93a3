"""PDVs to messages (PS3.7 6.3, PS3.8 Annex E): fragments in, whole messages out.

The data set of a message is not gathered here: each fragment goes straight to a `Sink`, opened the moment
the command set is complete. So a C-STORE of 2 GB passes through without being held.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from pacsnode.dimse.command import MAX_COMMAND_SET, CommandSet, decode
from pacsnode.errors import InvalidMessage, OperationError, OutOfResources
from pacsnode.ul.pdu import PDataFragment


class Sink(Protocol):
    """Where the fragments of one data set go."""

    @property
    def unwritten(self) -> int:
        """Bytes taken that wait for a disk; the association stops reading when they grow too many."""

    on_flushed: Callable[[], None] | None
    """Called whenever `unwritten` has become smaller."""

    def write(self, data: memoryview) -> None:
        """Take a fragment. Never blocks, never raises: what is wrong is told when the message is handled."""

    def discard(self) -> None:
        """Forget everything taken: the message will not be completed."""


@dataclass(slots=True)
class Message:
    """A complete DIMSE message. `data` is None when the command announced no data set."""

    context_id: int
    command: CommandSet
    data: Sink | None


class MemorySink:
    """A data set held in memory: identifiers and the small data sets of DIMSE-N."""

    LIMIT: Final = 16 * 2**20  # bytes; a list of 100,000 UIDs needs 7 MB
    unwritten: Final = 0

    def __init__(self) -> None:
        self.on_flushed: Callable[[], None] | None = None
        self.size = 0  # bytes received
        self._data = bytearray()

    def write(self, data: memoryview) -> None:
        self.size += len(data)
        if self.size <= self.LIMIT:
            self._data += data
        else:
            self._data.clear()

    def discard(self) -> None:
        self._data.clear()

    def value(self) -> bytes:
        """The whole data set. Raises OutOfResources when it was longer than the limit."""
        if self.size > self.LIMIT:
            raise OutOfResources(f"data set of {self.size} bytes where at most {self.LIMIT} are taken")
        return bytes(self._data)


class RefusingSink:
    """Swallows a data set whose operation was refused when its command arrived; the error answers it."""

    unwritten: Final = 0

    def __init__(self, error: OperationError) -> None:
        self.on_flushed: Callable[[], None] | None = None
        self.error = error

    def write(self, data: memoryview) -> None:
        pass

    def discard(self) -> None:
        pass


class Assembler:
    """Puts the messages of one association together, one after the other."""

    __slots__ = ("_command", "_context_id", "_open_sink", "_parts", "_sink", "_size")

    def __init__(self, open_sink: Callable[[int, CommandSet], Sink]) -> None:
        """`open_sink(context_id, command)` is called when a command that announces a data set is complete."""
        self._open_sink = open_sink
        self._parts: list[bytes] = []
        self._size = 0
        self._context_id = 0  # of the message under way; 0: none is
        self._command: CommandSet | None = None
        self._sink: Sink | None = None

    @property
    def is_idle(self) -> bool:
        """No message is half received."""
        return self._context_id == 0

    def feed(self, fragment: PDataFragment) -> Message | None:
        """Take the next fragment; give the message it completes. Raises InvalidMessage."""
        if self._context_id == 0:
            self._context_id = fragment.context_id
        elif self._context_id != fragment.context_id:
            raise InvalidMessage("a fragment of another presentation context inside a message")
        if fragment.is_command:
            return self._feed_command(fragment)
        if self._sink is None:
            raise InvalidMessage("a data set fragment before its command")
        self._sink.write(fragment.data)
        if not fragment.is_last:
            return None
        return self._complete()

    def discard(self) -> None:
        """Forget the half received message, if there is one."""
        if self._sink is not None:
            self._sink.discard()
        self._reset()

    def _feed_command(self, fragment: PDataFragment) -> Message | None:
        if self._command is not None:
            raise InvalidMessage("a command fragment where the data set was due")
        self._size += len(fragment.data)
        if self._size > MAX_COMMAND_SET:
            raise InvalidMessage(f"a command set of over {MAX_COMMAND_SET} bytes")
        self._parts.append(bytes(fragment.data))
        if not fragment.is_last:
            return None
        parts = self._parts
        self._command = command = decode(parts[0] if len(parts) == 1 else b"".join(parts))
        if not command.has_data_set:
            return self._complete()
        self._sink = self._open_sink(fragment.context_id, command)
        return None

    def _complete(self) -> Message:
        assert self._command is not None
        message = Message(self._context_id, self._command, self._sink)
        self._reset()
        return message

    def _reset(self) -> None:
        self._parts = []
        self._size = self._context_id = 0
        self._command = self._sink = None
