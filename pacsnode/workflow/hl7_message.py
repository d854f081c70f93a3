"""HL7 v2 messages: bytes to fields, and acknowledgements (HL7 v2.5.1 chapter 2).

What a field means stands in workflow.hl7_mapping. Reading is lenient where senders differ (line ends,
undeclared character sets) and strict where a guess could harm a patient.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self

from pacsnode.errors import MessageRefused

SEGMENT_SEQUENCE_ERROR: Final = 100  # HL7 table 0357
REQUIRED_FIELD_MISSING: Final = 101
DATA_TYPE_ERROR: Final = 102
VALUE_NOT_FOUND: Final = 103
UNSUPPORTED_MESSAGE: Final = 200
UNSUPPORTED_EVENT: Final = 201
UNKNOWN_KEY: Final = 204
INTERNAL_ERROR: Final = 207
MEANINGS: Final = {
    SEGMENT_SEQUENCE_ERROR: "Segment sequence error",
    REQUIRED_FIELD_MISSING: "Required field missing",
    DATA_TYPE_ERROR: "Data type error",
    VALUE_NOT_FOUND: "Table value not found",
    UNSUPPORTED_MESSAGE: "Unsupported message type",
    UNSUPPORTED_EVENT: "Unsupported event code",
    UNKNOWN_KEY: "Unknown key identifier",
    INTERNAL_ERROR: "Application internal error",
}

# HL7 table 0211, as it is spelt without spaces and signs, by Python codec.
_CODECS: Final = {
    "ASCII": "ascii",
    "ISOIR6": "ascii",
    **{f"8859{part}": f"iso8859_{part}" for part in range(1, 16) if part != 12},
    "UNICODE": "utf_8",
    "UNICODEUTF8": "utf_8",
    "UTF8": "utf_8",
    "ISOIR14": "shift_jis",  # its upper half
    "ISOIR87": "iso2022_jp_ext",
    "ISOIR159": "iso2022_jp_ext",
    "GB18030": "gb18030",
    "GB180302000": "gb18030",
    "KSX1001": "euc_kr",
    "BIG5": "big5",
}
MOST: Final = 64  # repetitions or components that are looked at; names and identifiers have a few
_LINE_END: Final = re.compile(r"\r\n?|\n")
_HEX: Final = re.compile(r"X([0-9A-Fa-f]+)")
_NULL: Final = '""'  # a field that is to be emptied (2.7.1)
_HEADER: Final = re.compile(r"MSH([^\w\s])((?:(?!\1)[^\w\s]){1,5})\1")
_SEPARATORS: Final = "|^~\\&"


class Segment:
    """One segment; fields, repetitions, components and subcomponents count from 1.

    Nothing is split before it is asked for: a sender may put a million separators into a message.
    """

    __slots__ = ("_codecs", "_fields", "_separators", "name")

    def __init__(self, line: str, separators: str, codecs: tuple[str, ...] = ("utf_8",)) -> None:
        """`separators` as in MSH-1 and MSH-2: of fields, components, repetitions, escape, subcomponents.

        `codecs`: what bytes that are escaped may be in, the likeliest first.
        """
        self._fields = line.split(separators[0])
        self._separators = separators
        self._codecs = codecs
        self.name = self._fields[0]
        if self.name == "MSH":
            self._fields.insert(1, separators[0])  # the separator itself is the first field (2.15.9.1)

    def text(self, field: int, component: int = 1, subcomponent: int = 1, repetition: int = 1) -> str:
        """A value, its escapes resolved; "" when absent or null."""
        part = self._field(field)
        for separator, number in zip("214", (repetition, component, subcomponent), strict=True):
            parts = part.split(self._separators[int(separator)])
            part = parts[number - 1] if number <= len(parts) else ""
        text = part.strip()
        return "" if text == _NULL else self._unescaped(text)

    def repetitions(self, field: int) -> range:
        value = self._field(field)
        return range(1, min(value.count(self._separators[2]), MOST) + 2) if value else range(0)

    def components(self, field: int) -> list[str]:
        """All components of a field, in its first repetition."""
        first = self._field(field).split(self._separators[2])[0]
        count = min(first.count(self._separators[1]), MOST) + 1
        return [self.text(field, number) for number in range(1, count + 1)]

    def is_null(self, field: int) -> bool:
        """Whether the sender wants the field to be emptied."""
        return self._field(field).strip() == _NULL

    def _field(self, number: int) -> str:
        return self._fields[number] if number < len(self._fields) else ""

    def _unescaped(self, text: str) -> str:
        escape = self._separators[3]
        return _escapes(escape).sub(self._escape, text) if escape in text else text

    def _escape(self, match: re.Match[str]) -> str:
        """What an escape sequence stands for (2.7); highlighting and the unknown stand for nothing."""
        if match["bytes"]:
            return self._decoded(bytes.fromhex("".join(_HEX.findall(match["bytes"]))))
        code = match["code"]
        known = {**dict(zip("FSRET", self._separators, strict=True)), ".br": "\n"}
        if code in known:
            return known[code]
        return "\n" if code.startswith(".sp") else ""

    def _decoded(self, data: bytes) -> str:
        """Escaped bytes (2.7.3), which are in the character set of the message."""
        for codec in self._codecs:
            with suppress(UnicodeDecodeError):
                return data.decode(codec)
        return data.decode(self._codecs[0], "replace")


@lru_cache(maxsize=16)
def _escapes(escape: str) -> re.Pattern[str]:
    """Escape sequences; bytes in neighbouring ones may be of one character."""
    mark = re.escape(escape)
    return re.compile(f"(?P<bytes>(?:{mark}X(?:[0-9A-Fa-f]{{2}})+{mark})+)|{mark}(?P<code>[^{mark}]*){mark}")


@dataclass(frozen=True, slots=True)
class Message:
    """A message with its header (2.15.9)."""

    segments: tuple[Segment, ...]
    codec: str

    @classmethod
    def parse(cls, body: bytes, default_character_set: str) -> Self:
        """Read a message. Raises MessageRefused."""
        codec = _codec_of(body, default_character_set)
        try:
            text = body.decode(codec)
        except UnicodeDecodeError as error:
            reason = f"byte {error.start} is not in the character set that MSH-18 names"
            raise MessageRefused(reason, DATA_TYPE_ERROR, "MSH-18") from None
        lines = _lines(text)
        separators = _separators_of(lines)
        if not separators:
            reason = "the message does not begin with a header (MSH)"
            raise MessageRefused(reason, SEGMENT_SEQUENCE_ERROR, "MSH", rejected=True)
        codecs = (codec, _codec_named(default_character_set))
        return cls(tuple(Segment(line, separators, codecs) for line in lines), codec)

    @classmethod
    def header_only(cls, body: bytes) -> Self | None:
        """What can be read in any character set of a message that cannot: whom to answer, and to what."""
        lines = _lines(body.decode("ascii", "replace"))[:1]
        separators = _separators_of(lines)
        return cls((Segment(lines[0], separators),), "ascii") if separators else None

    @property
    def header(self) -> Segment:
        return self.segments[0]

    @property
    def kind(self) -> str:
        """Message code and trigger event: `ORM^O01`."""
        return "^".join(filter(None, (self.header.text(9), self.header.text(9, 2))))

    @property
    def control_id(self) -> str:
        return self.header.text(10)

    @property
    def version(self) -> str:
        return self.header.text(12)

    @property
    def sender(self) -> str:
        """Sending application and facility."""
        return "|".join((self.header.text(3), self.header.text(4)))

    def named(self, name: str) -> Iterator[Segment]:
        return (segment for segment in self.segments if segment.name == name)


def _lines(text: str) -> list[str]:
    return [line for line in _LINE_END.split(text.strip("\r\n \0\ufeff")) if line.strip()]


def _separators_of(lines: Sequence[str]) -> str:
    """The separators that MSH-1 and MSH-2 name, the usual ones for those left out; "" without a header."""
    header = _HEADER.match(lines[0]) if lines else None
    if header is None:
        return ""
    return header[1] + header[2][:4] + _SEPARATORS[1 + len(header[2]) :]


def text_of(body: bytes, default_character_set: str) -> str:
    """A message for people to read, whatever it is."""
    try:
        return body.decode(_codec_of(body, default_character_set), "replace")
    except MessageRefused:
        return body.decode("latin_1")


def _codec_of(body: bytes, default: str) -> str:
    """The codec of a message, of which MSH-18 tells the character sets (2.15.9.18). Raises MessageRefused."""
    header = re.split(rb"[\r\n]", body.strip(b"\r\n \0"), maxsplit=1)[0]
    separator = header[3:4] or b"|"
    fields = header.split(separator)
    declared = fields[17].decode("latin_1").strip() if len(fields) > 17 else ""
    names = [name for name in re.split(r"[~^]", declared) if name.strip()]
    codecs = [_codec_named(name) for name in names]
    if "iso2022_jp_ext" in codecs:
        return "iso2022_jp_ext"
    if codecs and (codecs[0] != "ascii" or body.isascii()):
        return codecs[0]
    try:  # not declared, or declared as ASCII and more than that
        body.decode("utf_8")
    except UnicodeDecodeError:
        return _codec_named(default)
    return "utf_8"


def _codec_named(name: str) -> str:
    codec = _CODECS.get(re.sub(r"[^A-Z0-9]", "", name.upper()))
    if codec is None:
        raise MessageRefused(f"character set {name!r} is not known", VALUE_NOT_FOUND, "MSH-18", rejected=True)
    return codec


def character_set_is_known(name: str) -> bool:
    try:
        return bool(_codec_named(name))
    except MessageRefused:
        return False


def acknowledgement(message: Message | None, refusal: MessageRefused | None, at: str, number: int) -> bytes:
    """The answer to a message in its own character set: AA, AE or AR with the reason (2.9.2, 2.15.1, 2.15.5).

    `at` is the time as HL7 writes it, `number` makes our control ID. None: it has no header to answer to.
    """
    given = message.header if message is not None else None
    names = [given.text(field) if given else "" for field in (5, 6, 3, 4)]
    event = _escaped(given.text(9, 2) if given else "")
    version = (message.version if message else "") or "2.5.1"
    kind = f"ACK^{event}^ACK" if event else "ACK"
    processing = (given.text(11) if given else "") or "P"
    sets = given.text(18) if given else ""
    answer = "AA" if refusal is None else "AR" if refusal.rejected else "AE"
    told = [_escaped(processing), _escaped(version)]
    header = ["MSH", "^~\\&", *map(_escaped, names), at, "", kind, f"PACSNODE{number}", *told]
    if character_set_is_known(sets):
        header += ["", "", "", "", "", sets]
    segments = [header, ["MSA", answer, _escaped(message.control_id if message else "")]]
    if refusal is not None:
        segments[1].append(_escaped(str(refusal)))
        segments.append(_error(refusal, version))
    text = "".join("|".join(fields).rstrip("|") + "\r" for fields in segments)
    return text.encode(message.codec if message else "ascii", "replace")


def _error(refusal: MessageRefused, version: str) -> list[str]:
    """ERR, as it was before 2.5 and as it is since (2.15.5)."""
    segment, _, field = refusal.location.partition("-")
    meaning = MEANINGS[refusal.code]
    place = f"{segment}^1^{field}" if field else segment
    if version < "2.5":
        return ["ERR", f"{place}{'^' * (3 - place.count('^'))}{refusal.code}&{meaning}&HL70357"]
    return ["ERR", "", place, f"{refusal.code}^{meaning}^HL70357", "E", "", "", "", _escaped(str(refusal))]


def _escaped(text: str) -> str:
    for character, code in zip("\\|^~&", "EFSRT", strict=True):
        text = text.replace(character, f"\\{code}\\")
    return re.sub(r"[\r\n]+", " ", text)
