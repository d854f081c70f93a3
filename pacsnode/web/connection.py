"""One HTTP connection: uvicorn's protocol, with an end to what a client may send or leave unsent (RFC 9110).

uvicorn reads a head of any length and waits for ever. Here a head has a length and a time, and so have the
pauses within a body and within an answer, so that clients that do nothing hold nothing. What is refused
before there is a request is answered as any other error is (problem.py).
"""

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from pacsnode.errors import RequestRefused
from pacsnode.web.problem import problem

log = structlog.get_logger()

URL_LIMIT: Final = 48 * 1024  # bytes; room for a list of 700 UIDs
HEAD_LIMIT: Final = 64 * 1024  # bytes of request line and headers; nginx takes 32 KiB in all
OVERHEAD_LIMIT: Final = 64 * 1024  # bytes of a body that are no content: chunk extensions and trailers
OVERHEAD_OF_CONTENT: Final = 16  # times the content: a chunk of one byte takes five more
UNREAD_LIMIT: Final = 2**20  # bytes passed over behind an answer that ends the connection


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds a client may take: for a head, for the next bytes of a body, to take any of an answer.

    `last`: to read the answer that ends the connection.
    """

    head: float = 30.0
    body: float = 60.0
    answer: float = 300.0
    last: float = 2.0


PATIENCE: Final = Patience()


class Connection(HttpToolsProtocol):
    """A connection that is looked at once a second by the server."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        now = self.loop.time()
        self._heard = now
        self._head_since: float | None = now
        self._in_message, self._in_head = False, True
        self._head = self._overhead = self._content = 0  # bytes
        self._unsent, self._unsent_since = 0, now
        self._refusal: RequestRefused | None = None
        self._unread: int | None = None  # bytes passed over so far, behind a refusal

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        if self._unread is not None:
            self._pass_over(data)
            return
        if self._head_since is None and not self._in_message:
            self._head_since = self._heard
        if self._in_head:
            self._head += len(data)
        else:
            self._overhead += len(data)
        super().data_received(data)
        if self._in_head and self._head > HEAD_LIMIT:
            self._refuse(_head_too_long())
        elif self._in_message and self._overhead > OVERHEAD_LIMIT + OVERHEAD_OF_CONTENT * self._content:
            self._refuse(RequestRefused(400, "the body is little but chunk extensions and trailers"))

    # Called by the parser; what they raise comes back as send_400_response()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_message, self._head_since = True, self.loop.time()

    def on_url(self, url: bytes) -> None:
        if len(self.url) + len(url) > URL_LIMIT:
            self._stop(RequestRefused(414, f"the URL is longer than {URL_LIMIT} bytes"))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # trailers are no headers, whatever they say (RFC 9110 6.5.1)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > HEAD_LIMIT:
            self._stop(_head_too_long())
        super().on_headers_complete()
        self._in_head, self._head_since = False, None
        self._overhead = self._content = 0

    def on_body(self, body: bytes) -> None:
        self._overhead -= len(body)
        self._content += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_message, self._in_head, self._head = False, True, 0

    def _stop(self, refusal: RequestRefused) -> None:
        self._refusal = refusal
        raise refusal

    def send_400_response(self, msg: str) -> None:
        """What uvicorn does about a request that the parser gave up."""
        self._refuse(self._refusal or RequestRefused(400, "that is no HTTP request"))

    # The end

    def _refuse(self, refusal: RequestRefused) -> None:
        """Answer, and end the connection once the client has read it."""
        if self.transport.is_closing() or self._unread is not None:
            return
        log.warning("http.refused", status=refusal.status, reason=str(refusal), client=self._address)
        self._unread, self._heard = 0, self.loop.time()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:  # nothing can follow the half of an answer
                self.transport.abort()
                return
        answer = problem(refusal.status, str(refusal), {"Connection": "close"})
        fields = [*self.server_state.default_headers, *answer.raw_headers]
        lines = [STATUS_LINE[refusal.status], *(name + b": " + value + b"\r\n" for name, value in fields)]
        self.transport.write(b"".join([*lines, b"\r\n", bytes(answer.body)]))
        self.transport.write_eof()
        self.flow.resume_reading()

    def _pass_over(self, data: bytes) -> None:
        """A client that is still sending reads nothing of an answer if the connection is reset under it."""
        self._unread = (self._unread or 0) + len(data)
        if self._unread > UNREAD_LIMIT:
            self.transport.abort()

    def look(self, now: float, patience: Patience) -> None:
        """End the connection if its client has taken longer than it may; `now` on the clock of the loop."""
        if self.transport.is_closing():
            return
        if self._unread is not None:
            if now - self._heard > patience.last:
                self.transport.abort()
        elif self._head_since is not None and now - self._head_since > patience.head:
            self._end_head(patience)
        elif self._waits_for_body and now - self._heard > patience.body:
            self._refuse(RequestRefused(408, f"nothing of the body came for {patience.body:g} s"))
        elif self._is_unread_for(now) > patience.answer:
            log.warning("http.unread", client=self._address, bytes=self._unsent)
            self.transport.abort()

    def _end_head(self, patience: Patience) -> None:
        if self._head:
            self._refuse(RequestRefused(408, f"the request did not come within {patience.head:g} s"))
        else:
            self.transport.close()  # browsers open connections that they may not need

    @property
    def _waits_for_body(self) -> bool:
        return self._in_message and not self._in_head and not self.flow.read_paused

    def _is_unread_for(self, now: float) -> float:
        """Seconds since the client took anything of an answer that is waiting for it."""
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        return now - self._unsent_since

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""


def _head_too_long() -> RequestRefused:
    return RequestRefused(431, f"the head of the request is longer than {HEAD_LIMIT} bytes")
