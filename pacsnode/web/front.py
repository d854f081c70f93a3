"""What every HTTP request passes: its number, its line in the log, CORS, and the last resort for bugs.

Plain ASGI around the application, so that answers to errors have the headers too and a frame costs a few
microseconds only.
"""

import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pacsnode.web.problem import problem

log = structlog.get_logger()

MAX_AGE: Final = 7200  # seconds a browser may remember a preflight; Chromium keeps none for longer
EXPOSED: Final = "Content-Location, Content-Length, ETag, Link, Location, Retry-After, Warning, X-Request-ID"
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=-]{1,64}")
_FIELD_NAMES: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~,\s-]{0,1024}")

_NO_SNIFFING: Final = (b"x-content-type-options", b"nosniff")  # what is sent is what it is said to be

_Pairs = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Cors:
    """Which pages of other origins may read, and with which methods (Fetch standard 3.2)."""

    origins: Sequence[str]
    methods: Sequence[str]

    def headers(self, origin: str) -> _Pairs:
        """The headers of an answer to a request of a page; none when the origin may not read."""
        allowed = self._allowed(origin)
        if not allowed:
            return []
        return [
            (b"access-control-allow-origin", allowed.encode("latin-1")),
            (b"access-control-expose-headers", EXPOSED.encode()),
            # For pages that are cross-origin isolated: what they load by tag, and documents in frames (PDF)
            (b"cross-origin-resource-policy", b"cross-origin"),
            (b"cross-origin-embedder-policy", b"require-corp"),
        ]

    def preflight(self, origin: str, requested_headers: str) -> _Pairs:
        if not self._allowed(origin):
            return []
        names = requested_headers if _FIELD_NAMES.fullmatch(requested_headers) else ""
        return [
            *self.headers(origin),
            (b"access-control-allow-methods", ", ".join(self.methods).encode()),
            (b"access-control-allow-headers", (names or "accept, authorization, content-type").encode()),
            (b"access-control-max-age", str(MAX_AGE).encode()),
        ]

    def _allowed(self, origin: str) -> str:
        if "*" in self.origins:
            return "*"
        return origin if origin in self.origins else ""


class Front:
    """The outermost application."""

    def __init__(self, app: ASGIApp, cors: Cors) -> None:
        self._app = app
        self._cors = cors
        # Where origins differ a cache must know of it, also of answers to pictures, which name none
        self._for_anybody = "*" in cors.origins
        by_origin = cors.headers("") if self._for_anybody else [(b"vary", b"Origin")]
        self._every_answer = [_NO_SNIFFING, *by_origin]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["app"] = self._app  # Starlette's router raises 404 and 405 then, instead of answering itself
        exchange = _Exchange(scope, send, self._every_answer)
        origin = exchange.field(b"origin")
        if origin and not self._for_anybody:
            exchange.added = [*self._every_answer, *self._cors.headers(origin.decode("latin-1"))]
        try:
            if scope["method"] == "OPTIONS" and exchange.field(b"access-control-request-method"):
                await self._answer_preflight(scope, exchange)
            else:
                await self._app(scope, receive, exchange.send)
        except ClientDisconnect:
            pass  # the client is gone, or was sent away (connection.py): nobody is there to be answered
        except Exception:
            log.exception("http.failed", request=exchange.number, path=scope["path"])
            if exchange.status:
                raise  # part of the answer is under way: the connection ends
            await problem(500, "something went wrong here; the log tells more by the request's number")(
                scope, receive, exchange.send
            )
        finally:
            exchange.log()

    async def _answer_preflight(self, scope: Scope, exchange: "_Exchange") -> None:
        headers = Headers(scope=scope)
        found = self._cors.preflight(
            headers.get("origin", ""), headers.get("access-control-request-headers", "")
        )
        exchange.added = [_NO_SNIFFING, *found]
        vary = (b"vary", b"Origin, Access-Control-Request-Headers")
        await exchange.send({"type": "http.response.start", "status": 204, "headers": [vary]})
        await exchange.send({"type": "http.response.body", "body": b""})


class _Exchange:
    """One request and what has been sent of its answer."""

    __slots__ = ("_scope", "_send", "_started", "added", "number", "sent", "status")

    def __init__(self, scope: Scope, send: Send, added: _Pairs) -> None:
        self._scope = scope
        self._send = send
        self._started = time.perf_counter()
        self.added = added
        self.sent = 0
        self.status = 0
        given = self.field(b"x-request-id")
        self.number = given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(6)
        scope.setdefault("state", {})["request_id"] = self.number

    def field(self, name: bytes) -> bytes:
        """A header of the request, b"" when it is not there."""
        for found, value in self._scope["headers"]:
            if found == name:
                return bytes(value)
        return b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            number = (b"x-request-id", self.number.encode())
            message = {**message, "headers": [*message.get("headers", ()), *self.added, number]}
        elif message["type"] == "http.response.body":
            self.sent += len(message.get("body", b""))
        await self._send(message)

    def log(self) -> None:
        scope = self._scope
        log.info(
            "http.answered",
            request=self.number,
            method=scope["method"],
            path=scope["path"],
            status=self.status,
            bytes=self.sent,
            ms=round((time.perf_counter() - self._started) * 1000, 1),
            client=scope["client"][0] if scope.get("client") else "",
        )
        if scope.get("query_string"):  # may name a patient
            log.debug("http.queried", request=self.number, query=scope["query_string"].decode("latin-1"))
