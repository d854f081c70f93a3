"""From the header of an object to the rows of the index (PS3.4 C.6, PS3.5 6.1).

Pure. Text becomes Unicode here, once; the bytes stay in the file and in the kept header. Objects of one
series describe the same patient, study and series, so that part is decoded once and shared: the writer sees
by identity that nothing changed.
"""

from dataclasses import dataclass
from typing import Final

from pacsnode.archive.files import Layout
from pacsnode.dicom.fuzzy import name_words
from pacsnode.dicom.header import Encoding, Header
from pacsnode.dicom.information_model import SPECIFIC_CHARACTER_SET, Level, columns_of
from pacsnode.dicom.text import decoder, person_name_key
from pacsnode.dicom.uid import UID, uid_of
from pacsnode.errors import DataSetMismatch

Value = str | int | None
Values = tuple[Value, ...]

SOP_CLASS_UID: Final = 0x00080016
SOP_INSTANCE_UID: Final = 0x00080018
STUDY_INSTANCE_UID: Final = 0x0020000D
SERIES_INSTANCE_UID: Final = 0x0020000E

PARENTS_REMEMBERED: Final = 4096  # series; a few MB

_PARENT_LEVELS: Final = (Level.PATIENT, Level.STUDY, Level.SERIES)
_PARENT_TAGS: Final = (
    SPECIFIC_CHARACTER_SET,
    *(attribute.tag for level in _PARENT_LEVELS for attribute in columns_of(level)),
)
_PLAN: Final = {level: tuple((a.tag, a.vr) for a in columns_of(level)) for level in Level}
_CODED_VRS: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})  # PS3.5 6.1.2.2: by (0008,0005)


def column_names(level: Level) -> tuple[str, ...]:
    """The columns filled from an object: its attributes, then what every person name is found by."""
    attributes = columns_of(level)
    derived = ((attribute.key_column, attribute.words_column) for attribute in attributes)
    return (
        *(attribute.column for attribute in attributes),
        *(column for pair in derived for column in pair if column is not None),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Parents:
    """Patient, study and series as an object describes them, in the order of column_names()."""

    study_uid: UID
    series_uid: UID
    patient: Values
    study: Values
    series: Values


@dataclass(slots=True, eq=False)
class InstanceRow:
    """One instance and, by reference, what it hangs from. From source_ae on: known when its file is written.

    `stored_at` is in seconds since the epoch, `digest` of the data set (files.digest), `kept` compressed.
    """

    parents: Parents
    sop_class: UID
    sop_instance: UID
    transfer_syntax: UID
    encoding: Encoding
    values: Values
    path: str
    source_ae: str = ""
    size: int = 0
    digest: bytes = b""
    kept: bytes = b""
    stored_at: float = 0.0


class RowBuilder:
    """Builds rows; remembers the parents seen last. Shared by threads: a race only decodes once more."""

    def __init__(self) -> None:
        self._parents: dict[tuple[object, ...], Parents] = {}

    def build(self, header: Header) -> InstanceRow:
        """The row of an object, still without file facts.

        Raises DataSetMismatch for a UID that every composite IOD has and this object has not (A900H), and
        CannotUnderstand for one that is no UID (C000H).
        """
        values = header.values
        sop_class = _uid(values, SOP_CLASS_UID, "SOP Class UID")
        sop_instance = _uid(values, SOP_INSTANCE_UID, "SOP Instance UID")
        parents = self._parents_of(header)
        return InstanceRow(
            parents=parents,
            sop_class=sop_class,
            sop_instance=sop_instance,
            transfer_syntax=header.transfer_syntax,
            encoding=header.encoding,
            values=_values(Level.IMAGE, values, header.encoding.little_endian),
            path=Layout.object_path(parents.study_uid, parents.series_uid, sop_instance),
        )

    def _parents_of(self, header: Header) -> Parents:
        get = header.values.get
        key = (header.encoding.little_endian, *map(get, _PARENT_TAGS))
        known = self._parents.get(key)
        if known is not None:
            return known
        parents = Parents(
            _uid(header.values, STUDY_INSTANCE_UID, "Study Instance UID"),
            _uid(header.values, SERIES_INSTANCE_UID, "Series Instance UID"),
            *(_values(level, header.values, header.encoding.little_endian) for level in _PARENT_LEVELS),
        )
        if len(self._parents) >= PARENTS_REMEMBERED:
            self._parents.clear()
        self._parents[key] = parents
        return parents


def patient_values(header: Header) -> Values:
    """What an object says of its patient, in the order of column_names()."""
    return _values(Level.PATIENT, header.values, header.encoding.little_endian)


def _uid(values: dict[int, bytes], tag: int, name: str) -> UID:
    raw = values.get(tag, b"").strip(b"\0 ")
    if not raw:
        raise DataSetMismatch(f"{name} is missing")
    return uid_of(raw)


def _values(level: Level, raw: dict[int, bytes], little_endian: bool) -> Values:
    """The column values of one level, then those of its names; "" or None (a number) if absent."""
    get = raw.get
    coded = decoder(get(SPECIFIC_CHARACTER_SET))
    values: list[Value] = []
    names: list[Value] = []
    for tag, vr in _PLAN[level]:
        value = get(tag)
        if vr == "US":
            values.append(_unsigned_short(value, little_endian))
            continue
        text = ""
        if value:
            text = coded.text(value, vr) if vr in _CODED_VRS else _plain(value)
        values.append(text)
        if vr == "PN":
            names += (person_name_key(text), name_words(text)) if text else ("", "")
    return (*values, *names)


def _plain(raw: bytes) -> str:
    """A value whose VR is confined to the default repertoire; both paddings go (PS3.5 6.2).

    Other bytes than its are kept as they are: an answer writes the same ones.
    """
    return str(raw, "latin_1").strip(" \0")


def _unsigned_short(raw: bytes | None, little_endian: bool) -> int | None:
    if raw is None or len(raw) < 2:
        return None
    return int.from_bytes(raw[:2], "little" if little_endian else "big")
