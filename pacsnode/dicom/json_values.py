"""Values of data elements as JSON text (PS3.18 F.2.3 to F.2.5). Pure.

Numbers that were text stay the digits they were: what JSON cannot carry becomes a string, as the note of
Table F.2.3-1 allows. Nothing is padded, and a value that is empty says so by its absence.
"""

import re
import struct
from functools import lru_cache
from json.encoder import encode_basestring as quoted
from math import isfinite
from typing import Final

from pacsnode.dicom.element import STRUCT_OF

_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")
_SINGLE_VALUED: Final = frozenset({"LT", "ST", "UR", "UT"})  # a backslash is text there (PS3.5 6.4)
_EXACT_INTEGER: Final = 2**53  # beyond it a JSON number, a double for most readers, is another number
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")  # RFC 8259 6
_DECIMAL: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")  # PS3.5 6.2 DS


def text_values(text: str, vr: str) -> str:
    """The members of the Value array of an attribute that is text, "" when it has no value.

    `text` is decoded and without padding, several values joined by a backslash.
    """
    if not text:
        return ""
    if vr in _SINGLE_VALUED:
        return quoted(text)
    write = _WRITERS.get(vr, quoted)
    if "\\" not in text:
        return write(text)
    return ",".join([write(value) if value else "null" for value in text.split("\\")])


def person_name(name: str) -> str:
    """The component groups that are not empty (PS3.5 6.2.1.2)."""
    if "=" not in name:
        return f'{{"Alphabetic":{quoted(name)}}}'
    named = zip(_GROUPS, [value.strip(" ") for value in name.split("=")], strict=False)
    members = ",".join([f'"{group}":{quoted(value)}' for group, value in named if value])
    return f"{{{members}}}" if members else "null"


def integer_string(text: str) -> str:
    """An IS."""
    if not _INTEGER.fullmatch(text) or len(text) > 18:
        return quoted(text)
    return integer(int(text))


def decimal_string(text: str) -> str:
    """A DS, digit for digit."""
    if not _DECIMAL.fullmatch(text) or not isfinite(float(text)):
        return quoted(text)
    if _NUMBER.fullmatch(text):
        return text
    mantissa, exponent, power = text.lstrip("+").lower().partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    whole = whole.lstrip("0") or "0"
    return f"{sign}{whole}{'.' * bool(fraction)}{fraction}{exponent}{power}"


def integer(number: int) -> str:
    """A binary integer, SV and UV included."""
    return str(number) if -_EXACT_INTEGER <= number <= _EXACT_INTEGER else f'"{number}"'


_WRITERS: Final = {"PN": person_name, "IS": integer_string, "DS": decimal_string}


def is_packed(vr: str) -> bool:
    """Whether values are numbers in binary: read by `packed_values`."""
    return vr in STRUCT_OF or vr == "AT"


def packed_values(raw: bytes, vr: str, order: str) -> str | None:
    """The members of the Value array of binary numbers; `order` as in `struct`.

    None when one of them is no JSON number: not a number, or infinite.
    """
    packed = _layout(order, vr)
    values = packed.iter_unpack(raw[: len(raw) // packed.size * packed.size])
    if vr == "AT":
        return ",".join([f'"{group:04X}{element:04X}"' for group, element in values])
    if vr in ("FL", "FD"):
        numbers = [value for (value,) in values]
        return ",".join(map(repr, numbers)) if all(map(isfinite, numbers)) else None
    return ",".join([integer(value) for (value,) in values])


@lru_cache(maxsize=32)
def _layout(order: str, vr: str) -> struct.Struct:
    return struct.Struct(order + ("HH" if vr == "AT" else STRUCT_OF[vr]))
