"""Media types that are acceptable, and the one that is selected (PS3.18 8.7.5 to 8.7.8; RFC 9110 12.5.1).

The `accept` query parameter goes before the header. Quoted and unquoted parameter values are one (8.7.1).
What is no media range is ignored (8.7.7); a request without an Accept header is answered as if it had said
`*/*`, which the standard forbids (8.7.5) and every client that leaves it out expects.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from starlette.requests import Request

from pacsnode.errors import RequestRefused

JSON: Final = "application/dicom+json"
XML: Final = "application/dicom+xml"
DICOM: Final = "application/dicom"
OCTETS: Final = "application/octet-stream"
MULTIPART: Final = "multipart/related"
ANY: Final = "*/*"
AS_STORED: Final = "*"  # the transfer-syntax parameter that viewers send (8.7.3.5.2)

RANGES_LIMIT: Final = 64  # of one request; a microscopy viewer sends eight

# Those that cannot be meant as the other: a JPEG may be bulk data, and a PDF too
_DICOM_TYPES: Final = frozenset({DICOM, JSON, XML})
_RENDERED_TYPES: Final = frozenset(
    {"image/gif", "image/png", "image/jph", "text/html", "text/plain", "text/xml", "text/rtf"}
)
_OLD_NAMES: Final = {"image/x-jls": "image/jls", "image/x-dicom-rle": "image/dicom-rle"}  # 8.7.3.3.2 note 3
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_WEIGHT: Final = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One acceptable media range.

    `type` is in lower case, wildcards included; `root` is the type of the parts of a multipart/related, ""
    where any will do. `transfer_syntax` is a UID, AS_STORED, or "" when none is named.
    """

    type: str
    root: str = ""
    transfer_syntax: str = ""
    charset: str = ""
    weight: float = 1.0

    @property
    def is_multipart(self) -> bool:
        return self.type == MULTIPART


@dataclass(frozen=True, slots=True)
class Offer:
    """A representation that can be had: its type, alone or as the parts of a multipart/related."""

    type: str
    multipart: bool = False

    def __str__(self) -> str:
        return f'{MULTIPART}; type="{self.type}"' if self.multipart else self.type


class Acceptable:
    """What a request accepts: the ranges of the query parameter, then those of the header."""

    def __init__(self, query: Sequence[MediaRange], header: Sequence[MediaRange]) -> None:
        self.query = tuple(query)
        self.header = tuple(header)

    @property
    def ranges(self) -> tuple[MediaRange, ...]:
        """All of them, the most wanted first; equal ones stay in the order in which they were sent."""
        return tuple(
            media_range
            for group in (self.query, self.header)
            for media_range in sorted(group, key=lambda one: -one.weight)
            if media_range.weight > 0
        )

    def select(self, offers: Sequence[Offer]) -> Offer:
        """The offer of highest weight; of equal ones the first, so offer the default first (8.7.8.1).

        Raises RequestRefused (406) naming the offers when none is acceptable.
        """
        selected = self._selected(offers)
        if selected is not None:
            return selected
        offered = ", ".join(dict.fromkeys(map(str, offers)))
        raise RequestRefused(406, f"none of the acceptable media types can be had here; there are: {offered}")

    def accepts(self, offers: Sequence[Offer]) -> bool:
        """Whether one of the offers is acceptable."""
        return self._selected(offers) is not None

    def names(self, types: Collection[str]) -> bool:
        """Whether one of the types is among what is acceptable, wildcards aside."""
        return any((one.root or one.type) in types for one in self.ranges)

    def _selected(self, offers: Sequence[Offer]) -> Offer | None:
        for group in (self.query, self.header):
            weights = [_weight(offer, group) for offer in offers]
            best = max(weights, default=0.0)
            if best > 0:
                return offers[weights.index(best)]
        return None

    def transfer_syntaxes(self, offer: Offer) -> tuple[str, ...]:
        """The transfer syntaxes named with an offer, the most wanted first; "" stands for its default."""
        named = (one.transfer_syntax for one in self.ranges if _specificity(offer, one) is not None)
        return tuple(dict.fromkeys(named))


def acceptable(request: Request, parameter: str = "accept") -> Acceptable:
    """What a request accepts, by its header and the query parameter of that name.

    Raises RequestRefused (400) for a list of DICOM and Rendered Media Types (8.7.5).
    """
    query = request.query_params.getlist(parameter) if request.scope["query_string"] else ()
    return _acceptable(tuple(query), tuple(request.headers.getlist("accept")))


@lru_cache(maxsize=1024)
def _acceptable(query: tuple[str, ...], headers: tuple[str, ...]) -> Acceptable:
    """A viewer says the same in every request."""
    in_header = _ranges(headers) if any(map(str.strip, headers)) else [MediaRange(ANY)]
    in_query = _ranges(query, in_query=True)
    for ranges in (in_query, in_header):
        types = {one.root or one.type for one in ranges}
        if types & _DICOM_TYPES and types & _RENDERED_TYPES:
            raise RequestRefused(400, "DICOM media types and rendered ones are accepted at once (8.7.5)")
    return Acceptable(in_query, in_header)


def parse(text: str, *, in_query: bool = False) -> MediaRange | None:
    """One media range with its parameters; None when it is none.

    In a query an unescaped plus sign has become a space: "application/dicom json" is read as it was meant.
    """
    name, *parameters = _split(text, ";")
    name = name.strip().lower()
    if in_query:
        name = name.replace(" ", "+")
    kind, slash, subtype = name.partition("/")
    if not (slash and _TOKEN.fullmatch(kind) and _TOKEN.fullmatch(subtype)) or (kind == "*" != subtype):
        return None
    values = dict(_parameter(parameter) for parameter in reversed(parameters))
    root, _, nested = values.get("type", "").partition(";")
    if nested:  # Orthanc's way: both parameters between one pair of quotes
        values = dict(_parameter(parameter) for parameter in nested.split(";")) | values
    root = (root.strip().replace(" ", "+") if in_query else root.strip()).lower()
    weight = values.get("q", "1")
    return MediaRange(
        _OLD_NAMES.get(name, name),
        _OLD_NAMES.get(root, root) if name == MULTIPART else "",
        values.get("transfer-syntax", ""),
        values.get("charset", ""),
        float(weight) if _WEIGHT.fullmatch(weight) else 1.0,
    )


def _ranges(fields: Iterable[str], *, in_query: bool = False) -> list[MediaRange]:
    found = [parse(part, in_query=in_query) for field in fields for part in _split(field, ",")]
    return [one for one in found if one is not None][:RANGES_LIMIT]


def _parameter(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    value = value.strip()
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    return name.strip().lower(), value.strip()


def _split(text: str, separator: str) -> Iterator[str]:
    """Cut at separators that stand outside of quotes."""
    start, quoted, escaped = 0, False, False
    for position, character in enumerate(text):
        if escaped:
            escaped = False
        elif character == "\\" and quoted:
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif character == separator and not quoted:
            yield text[start:position]
            start = position + 1
    yield text[start:]


def _weight(offer: Offer, ranges: Iterable[MediaRange]) -> float:
    """The weight of the most specific range that an offer matches, 0 when there is none."""
    found = [(specificity, one.weight) for one in ranges if (specificity := _specificity(offer, one))]
    return max(found, default=(0, 0.0))[1]


def _specificity(offer: Offer, media_range: MediaRange) -> int | None:
    """How precisely a range names an offer, from 1 on; None when it does not."""
    if media_range.type == ANY:
        return 1
    name = offer.type.lower()  # video/H265
    if not offer.multipart:
        return _named(name, media_range.type)
    if media_range.type == "multipart/*":
        return 2
    if not media_range.is_multipart:
        return None
    return _named(name, media_range.root or ANY)


def _named(name: str, pattern: str) -> int | None:
    if pattern == name:
        return 4
    if pattern == ANY:
        return 2
    return 3 if pattern.endswith("/*") and name.startswith(pattern[:-1]) else None
