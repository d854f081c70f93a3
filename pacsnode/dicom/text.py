"""Text in the character sets of DICOM, to Unicode and back (PS3.5 6.1, PS3.3 C.12.1.1.2). Pure.

Reading is lenient: a term is understood however it is spelt, every escape sequence is followed whether it was
declared or not, and what cannot be decoded becomes U+FFFD. Writing is strict. ISO 2022 is done here and not
left to pydicom: it needs the escape sequences of GB 2312 removed, and it must never raise.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

_ESCAPE: Final = b"\x1b"
_ASCII: Final = "ascii"
_UTF_8: Final = "ISO_IR 192"


class _CodeElement(NamedTuple):
    """One half of a code table: which Python codec has it, and the sequence that designates it."""

    codec: str
    escape: bytes


# G0, the seven-bit half (PS3.3 Tables C.12-3 and C.12-4). The terms are those of value 2 and following.
_G0_ASCII: Final = _CodeElement(_ASCII, b"\x1b(B")
_G0_ROMAJI: Final = _CodeElement(_ASCII, b"\x1b(J")  # read as ASCII: its yen sign is the value delimiter
_G0_KANJI: Final = _CodeElement("iso2022_jp", b"\x1b$B")
_G0_SUPPLEMENTARY_KANJI: Final = _CodeElement("iso2022_jp_2", b"\x1b$(D")

# G1, the upper half, by the number of its ISO-IR registration.
_G1: Final = {
    13: _CodeElement("shift_jis", b"\x1b)I"),
    58: _CodeElement("gb2312", b"\x1b$)A"),
    100: _CodeElement("latin_1", b"\x1b-A"),
    101: _CodeElement("iso8859_2", b"\x1b-B"),
    109: _CodeElement("iso8859_3", b"\x1b-C"),
    110: _CodeElement("iso8859_4", b"\x1b-D"),
    126: _CodeElement("iso8859_7", b"\x1b-F"),
    127: _CodeElement("iso8859_6", b"\x1b-G"),
    138: _CodeElement("iso8859_8", b"\x1b-H"),
    144: _CodeElement("iso8859_5", b"\x1b-L"),
    148: _CodeElement("iso8859_9", b"\x1b-M"),
    149: _CodeElement("euc_kr", b"\x1b$)C"),
    166: _CodeElement("iso8859_11", b"\x1b-T"),
    203: _CodeElement("iso8859_15", b"\x1b-b"),
}
_EXTENSIONS: Final = {**_G1, 87: _G0_KANJI, 159: _G0_SUPPLEMENTARY_KANJI}

_G0_BY_ESCAPE: Final = {
    element.escape: element for element in (_G0_ASCII, _G0_ROMAJI, _G0_KANJI, _G0_SUPPLEMENTARY_KANJI)
} | {b"\x1b$@": _G0_KANJI}  # JIS C 6226-1978, the predecessor, met in old Japanese devices
_G1_BY_ESCAPE: Final = {element.escape: element for element in _G1.values()}

# A term that stands alone: no code extensions with it (PS3.5 6.1.2.5.4 d).
_STAND_ALONE: Final = {
    "ISOIR192": "utf_8",
    "UTF8": "utf_8",
    "GB18030": "gb18030",
    "GBK": "gbk",
    "ISO2022GBK": "gbk",
}
_REGISTRATION: Final = re.compile(r"(?:ISO)?(?:2022)?(?:IR)?([0-9]+)")
_SPELLING: Final = re.compile(r"[^A-Z0-9]")  # "ISO-IR 100", "ISO_IR_100" and "iso ir 100" are all met

# What is undeclared is read as Latin-1, as pydicom does: most of what is met there is, and nothing is lost.
_UNDECLARED: Final = "latin_1"

_TOKEN: Final = re.compile(
    rb"\x1b[!-/]+[0-~]|[\x00-\x20]|[\x21-\x7f]+|[\x80-\xff]+"  # escape sequence, control, G0, G1
)
_CODED_VRS: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})  # PS3.5 6.1.2.2
_SINGLE_VALUED_VRS: Final = frozenset({"LT", "ST", "UT", "UR"})  # backslash is a character, PS3.5 6.2
_LEADING_SPACE_VRS: Final = frozenset({"LT", "ST", "UT", "UR", "UC"})  # leading spaces are significant
_PADDING: Final = " \0"


@dataclass(frozen=True, slots=True)
class Decoder:
    """Decodes the text of a data set that has one Specific Character Set."""

    codec: str  # of value 1
    extensible: bool  # escape sequences mean something

    def text(self, raw: bytes, vr: str) -> str:
        """The Unicode of an encoded value, its padding removed; several values keep their backslashes."""
        if raw.isascii() and _ESCAPE not in raw:
            text = str(raw, _ASCII)
        elif vr not in _CODED_VRS:
            text = str(raw, _UNDECLARED)
        elif self.extensible and _ESCAPE in raw:
            text = self._extended(raw, vr)
        else:
            text = str(raw, self.codec, "replace")
        return _without_padding(text, vr)

    def _extended(self, raw: bytes, vr: str) -> str:
        """Text with code extensions (PS3.5 6.1.2.5)."""
        delimiters = _delimiters(vr)
        initial = _CodeElement(self.codec, b"")
        g0, g1 = _G0_ASCII, initial
        parts = []
        for token in _TOKEN.findall(raw):
            if token[0] >= 0x80:
                parts.append(str(token, g1.codec, "replace"))
            elif token in _G0_BY_ESCAPE:
                g0 = _G0_BY_ESCAPE[token]
            elif token in _G1_BY_ESCAPE:
                g1 = _G1_BY_ESCAPE[token]
            elif token[0] == 0x1B:
                parts.append("\N{REPLACEMENT CHARACTER}")
            elif token == b" ":  # outside the code elements: changes nothing
                parts.append(" ")
            elif g0.codec == _ASCII or token[0] < 0x20:
                parts.append(str(token, _ASCII))
                if token[0] < 0x20 or not delimiters.isdisjoint(token):
                    g0, g1 = _G0_ASCII, initial
            else:  # a delimiter byte in here is half a character
                parts.append(str(g0.escape + token, g0.codec, "replace"))
        return "".join(parts)


@lru_cache(maxsize=256)
def decoder(raw: bytes | None) -> Decoder:
    """The decoder for an encoded Specific Character Set; None and empty: the default repertoire."""
    terms = [_SPELLING.sub("", term.upper()) for term in (raw or b"").decode("latin_1").split("\\")]
    stand_alone = _stand_alone(terms)
    if stand_alone is not None:
        return Decoder(stand_alone, extensible=False)
    element = _G1.get(_registration(terms[0]))
    return Decoder(element.codec if element else _UNDECLARED, extensible=True)


def charset_for(
    texts: Iterable[str], requested: str = "", names: Iterable[str] = ()
) -> tuple[str, str | None]:
    """The Specific Character Set to answer in, and the Python codec that writes it.

    None ("") when all is ASCII; the requestor's when it can carry everything; else UTF-8, which every reader
    of non-ASCII text knows. The codec is None when code extensions are needed: then `encode` writes it.
    `names` are the person names among the texts: their first component group has to do with the characters
    of value 1, without escape sequences (PS3.5 6.2.1.2).
    """
    joined = "".join(texts)
    if joined.isascii():
        return "", _ASCII
    writer = _writer(requested)
    if writer is not None and writer.can_write(joined) and all(map(writer.can_write_name, names)):
        return requested, writer.codec
    return _UTF_8, "utf_8"


def encode(text: str, charset: str, vr: str = "LO") -> bytes:
    """Encode `text` in a Specific Character Set, not padded; a character that it lacks becomes "?"."""
    if text.isascii():
        return text.encode(_ASCII)
    writer = _writer(charset)
    return writer.encode(text, vr) if writer is not None else text.encode(_ASCII, "replace")


def search_key(text: str) -> str:
    """`text` as it is compared when case and composition of accents do not matter."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def person_name_key(name: str) -> str:
    """A person name as it is compared: folded, without the delimiters and spaces that say nothing.

    The component groups stay apart: alphabetic=ideographic=phonetic (PS3.5 6.2.1).
    """
    folded = search_key(name)
    if "=" in folded or "\\" in folded:
        values = folded.split("\\")
        return "\\".join("=".join(map(_group_key, value.split("="))).rstrip("=") for value in values)
    return _group_key(folded)


def _group_key(group: str) -> str:
    if " " in group:
        group = "^".join(component.strip(" ") for component in group.split("^"))
    return group.rstrip("^")


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes text in one Specific Character Set: `codec` alone, or code elements that change (ISO 2022)."""

    codec: str | None
    g0: _CodeElement
    g1: _CodeElement | None  # None: value 1 has no upper half
    extensions: tuple[_CodeElement, ...]

    def can_write(self, text: str) -> bool:
        if self.codec is None:
            return all(self._element_for(character, None) for character in set(text) if character >= "\x80")
        try:
            text.encode(self.codec)
        except UnicodeEncodeError:
            return False
        return True

    def can_write_name(self, name: str) -> bool:
        """Whether the first component group of a name, or of several, needs no escape sequence."""
        if self.codec is not None:
            return True
        characters = {character for value in name.split("\\") for character in value.partition("=")[0]}
        own = self.g1
        return all(c < "\x80" or (own is not None and _encoded(c, own)) for c in characters)

    def encode(self, text: str, vr: str) -> bytes:
        """Encode with the initial state restored before each delimiter (PS3.5 6.1.2.5.3)."""
        if self.codec is not None:
            return text.encode(self.codec, "replace")
        delimiters = _delimiters(vr)
        state: tuple[_CodeElement, _CodeElement | None] = (self.g0, self.g1)
        out = bytearray()
        for character in text:
            if character < "\x80":
                ends = character < " " or ord(character) in delimiters
                state = self._designate(out, state, (self.g0, self.g1 if ends else state[1]))
                out += character.encode(_ASCII)
                continue
            element = self._element_for(character, state)
            if element is None:
                state = self._designate(out, state, (self.g0, state[1]))
                out += b"?"
                continue
            in_g0 = element.escape in _G0_BY_ESCAPE
            state = self._designate(out, state, (element, state[1]) if in_g0 else (self.g0, element))
            out += _encoded(character, element)
        self._designate(out, state, (self.g0, self.g1))
        return bytes(out)

    def _element_for(
        self, character: str, state: tuple[_CodeElement, _CodeElement | None] | None
    ) -> _CodeElement | None:
        """A code element that has `character`: preferably one that is designated already."""
        candidates = (*(state or ()), self.g1, *self.extensions)
        return next((element for element in candidates if element and _encoded(character, element)), None)

    @staticmethod
    def _designate(
        out: bytearray,
        state: tuple[_CodeElement, _CodeElement | None],
        wanted: tuple[_CodeElement, _CodeElement | None],
    ) -> tuple[_CodeElement, _CodeElement | None]:
        for now, then in zip(state, wanted, strict=True):
            if then is not None and then is not now:
                out += then.escape
        return wanted


@lru_cache(maxsize=256)
def _writer(charset: str) -> _Writer | None:
    """The writer of a Specific Character Set; None for one that is unknown or a term of which is."""
    terms = [_SPELLING.sub("", term.upper()) for term in charset.split("\\")]
    stand_alone = _stand_alone(terms)
    if stand_alone is not None:
        return _Writer(stand_alone, _G0_ASCII, None, ())
    numbers = [_registration(term) if term else 6 for term in terms]
    if any(number != 6 and number not in _EXTENSIONS for number in numbers):
        return None
    first, *others = numbers
    extensions = tuple(_EXTENSIONS[number] for number in others if number != 6)
    if not extensions and first != 13:
        element = _G1.get(first)
        return _Writer(element.codec if element else _ASCII, _G0_ASCII, None, ())
    return _Writer(None, _G0_ROMAJI if first == 13 else _G0_ASCII, _G1.get(first), extensions)


def _encoded(character: str, element: _CodeElement) -> bytes:
    """A character that is not ASCII in one code element; nothing when the element lacks it."""
    try:
        encoded = character.encode(element.codec)
    except UnicodeEncodeError:
        return b""
    if element.escape in _G0_BY_ESCAPE:  # these codecs add the escape sequences before and behind
        return encoded[len(element.escape) : -3] if encoded.startswith(element.escape) else b""
    if element.codec == "shift_jis" and len(encoded) != 1:  # the katakana of JIS X 0201 only
        return b""
    return encoded if encoded[0] >= 0x80 else b""


def _stand_alone(terms: list[str]) -> str | None:
    """The codec of a set that takes no others; after a value 1 of plain ASCII it is meant, if not allowed."""
    leading = terms[:1] if _registration(terms[0]) not in (0, 6) else terms
    return next((_STAND_ALONE[term] for term in leading if term in _STAND_ALONE), None)


def _registration(term: str) -> int:
    """The ISO-IR number in a defined term; 0 when there is none."""
    match = _REGISTRATION.fullmatch(term)
    return int(match[1]) if match and len(match[1]) <= 3 else 0


def _delimiters(vr: str) -> frozenset[int]:
    """The bytes before which the initial state is restored, beside control characters (PS3.5 6.1.2.5.3)."""
    if vr in _SINGLE_VALUED_VRS:
        return frozenset()
    return frozenset(b"\\^=") if vr == "PN" else frozenset(b"\\")


def _without_padding(text: str, vr: str) -> str:
    if vr in _SINGLE_VALUED_VRS:
        return text.rstrip(_PADDING)
    if "\\" in text:
        return "\\".join(_without_padding(value, vr) for value in text.split("\\"))
    return text.rstrip(_PADDING) if vr in _LEADING_SPACE_VRS else text.strip(_PADDING)
