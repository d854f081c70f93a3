"""Where a client reaches this server, for the URLs in answers: RetrieveURL, BulkDataURI (RFC 7239).

A configured public URL goes first, then what proxies tell in Forwarded or X-Forwarded-*. The Host header is
believed when its port is the one listened on: a proxy that passes a Host without the port would make URLs
that lead nowhere. When nobody can tell, URLs begin at the root: the client adds the authority it used.
"""

import re
from functools import lru_cache
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request

ROOT: Final = "/dicomweb"
_AUTHORITY: Final = re.compile(r"[A-Za-z0-9._~-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")
_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9._~%+-]+)*")
_PAIR: Final = re.compile(r'\s*([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*))')
_TELLING: Final = frozenset(
    {
        b"host",
        b"forwarded",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-proto",
        b"x-forwarded-prefix",
    }
)
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


def base_url(request: Request, public_url: str) -> str:
    """What stands before the paths of this server, "" where URLs begin at the root; no slash at the end."""
    if public_url:
        return public_url
    scope = request.scope
    told = tuple([(name, value) for name, value in scope["headers"] if name in _TELLING])
    server = scope.get("server")
    return _base_url(told, scope["scheme"], str(server[1]) if server else "")


@lru_cache(maxsize=256)  # clients say the same in each request
def _base_url(told: tuple[tuple[bytes, bytes], ...], own_scheme: str, own_port: str) -> str:
    headers = Headers(raw=list(told))
    prefix = _first(headers, "x-forwarded-prefix").rstrip("/")
    prefix = prefix if _PREFIX.fullmatch(prefix) else ""
    scheme, authority = _forwarded(headers)
    if not authority:
        authority = _trusted_host(headers, own_scheme, own_port)
        if not authority:
            return prefix
    scheme = scheme if scheme in _DEFAULT_PORTS else own_scheme
    return f"{scheme}://{authority}{prefix}"


def dicomweb_root(request: Request, public_url: str) -> str:
    """The base URI of the DICOMweb services."""
    return base_url(request, public_url) + ROOT


def _forwarded(headers: Headers) -> tuple[str, str]:
    """Scheme and authority as the outermost proxy tells them, "" for what it does not."""
    found = {
        name.lower(): quoted.replace("\\", "") or plain
        for name, quoted, plain in _PAIR.findall(_outermost(headers.get("forwarded", "")))
    }
    if "host" in found:
        return found.get("proto", "").lower(), _checked(found["host"])
    authority = _checked(_first(headers, "x-forwarded-host"))
    port = _first(headers, "x-forwarded-port")
    scheme = (found.get("proto") or _first(headers, "x-forwarded-proto")).lower()
    has_port = bool(re.search(r":[0-9]+$", authority))
    if authority and port.isdigit() and not has_port and _DEFAULT_PORTS.get(scheme) != port:
        authority = f"{authority}:{port}"
    return scheme, authority


def _outermost(forwarded: str) -> str:
    """The first element of Forwarded; commas inside quotes do not end it."""
    match = re.match(r'(?:[^,"]|"(?:[^"\\]|\\.)*")*', forwarded)
    return match[0] if match else ""


def _trusted_host(headers: Headers, own_scheme: str, own_port: str) -> str:
    host = _checked(headers.get("host", ""))
    port = re.search(r":([0-9]+)$", host)
    named = port[1] if port else _DEFAULT_PORTS.get(own_scheme, "")
    return host if named and named == own_port else ""


def _first(headers: Headers, name: str) -> str:
    return headers.get(name, "").partition(",")[0].strip()


def _checked(authority: str) -> str:
    return authority if _AUTHORITY.fullmatch(authority) else ""
