"""How long a peer may keep this side waiting: the limits, and the clock that is held against them.

ARTIM (PS3.8 9.1.5) is the upper layer's. Over an association that is established nobody watches by the
standard; here it is aborted when the peer has said nothing for too long while it is its turn.
"""

from dataclasses import dataclass

from pacsnode.config import Dimse
from pacsnode.dimse.assembler import Assembler
from pacsnode.net.invoker import Invoker
from pacsnode.net.performer import Performer
from pacsnode.net.transport import Transport


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; 0 switches one off."""

    artim: float = 30.0
    idle: float = 600.0
    dimse: float = 60.0


def timeouts_of(dimse: Dimse) -> Timeouts:
    """The timeouts of the settings."""
    return Timeouts(artim=dimse.artim_timeout, idle=dimse.idle_timeout, dimse=dimse.dimse_timeout)


class Patience:
    """Watches one association. A peer on a slow line, which still takes what was sent, is not silent."""

    def __init__(
        self,
        timeouts: Timeouts,
        transport: Transport,
        assembler: Assembler,
        performer: Performer,
        invoker: Invoker,
        now: float,
    ) -> None:
        """`now`, here and below, on the clock of the loop."""
        self._timeouts = timeouts
        self._transport = transport
        self._assembler = assembler
        self._performer = performer
        self._invoker = invoker
        self._last_sent = now
        self._taken = 0  # bytes that the peer's system had taken at the last look
        self._is_leaving = False  # it had not taken all then

    def sent_at(self, now: float) -> None:
        """A piece of a message has left."""
        self._last_sent = now

    def exhausted(self, now: float) -> str | None:
        """Why the peer has been waited for long enough, if it has; to be asked once a second."""
        self._look_at_line(now)
        dimse, idle = self._timeouts.dimse, self._timeouts.idle
        quiet = now - max(self._transport.last_received, self._last_sent)
        if dimse and self._transport.is_reading and not self._assembler.is_idle and quiet > dimse:
            return f"no more of a message for {dimse:g} s"
        waiting = self._invoker.waiting_since()
        if dimse and waiting is not None and min(quiet, now - waiting) > dimse:
            return f"no response for {dimse:g} s"
        if idle and quiet > idle and (self._waits_for_the_peer or not self._transport.is_writable):
            return f"idle for {idle:g} s"
        return None

    def _look_at_line(self, now: float) -> None:
        """What it has taken since the last look, and had not then, was on a slow line."""
        taken = self._transport.bytes_taken
        if self._is_leaving and taken > self._taken:
            self._last_sent = now
        self._taken, self._is_leaving = taken, taken < self._transport.bytes_sent

    @property
    def _waits_for_the_peer(self) -> bool:
        """Nothing goes on but what the peer may begin, or has begun and not continued."""
        begun = not self._assembler.is_idle
        return self._performer.is_idle and self._invoker.is_idle and (self._transport.is_reading or not begun)
