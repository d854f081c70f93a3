"""From the header of an object to the rows of the index (PS3.4 C.6, PS3.5 6.1).

Pure. Text becomes Unicode here, once; the bytes stay in the file and in the kept header. Objects of one
series describe the same patient, study and series, so that part is decoded once and shared: the writer sees
by identity that nothing changed.
"""

from dataclasses import dataclass
from typing import Final

from pacsnode.archive.files import Layout
from pacsnode.dicom.fuzzy import name_words
from pacsnode.dicom.header import Encoding, Form, Header
from pacsnode.dicom.header_form import HeaderReader
from pacsnode.dicom.information_model import INDEXED_TAGS, SPECIFIC_CHARACTER_SET, Level, columns_of
from pacsnode.dicom.text import Decoder, decoder, person_name_key
from pacsnode.dicom.uid import UID, uid_of
from pacsnode.errors import DataSetMismatch

Value = str | int | None
Values = tuple[Value, ...]

SOP_CLASS_UID: Final = 0x00080016
SOP_INSTANCE_UID: Final = 0x00080018
STUDY_INSTANCE_UID: Final = 0x0020000D
SERIES_INSTANCE_UID: Final = 0x0020000E

PARENTS_REMEMBERED: Final = 4096  # series; a few MB
FORMS_REMEMBERED: Final = 64

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


@dataclass(frozen=True, slots=True, eq=False)
class _OfForm:
    """What the rows of a form have in common. `blanks`: position, tag and VR of values they have not."""

    parents: Parents
    values: Values
    blanks: tuple[tuple[int, int, str], ...]

    def values_of(self, header: Header) -> Values:
        """The values of an instance, in the order of column_names()."""
        raw = header.values
        coded = decoder(raw.get(SPECIFIC_CHARACTER_SET))
        values = list(self.values)
        for position, tag, vr in self.blanks:
            values[position] = _value(raw.get(tag), vr, coded, header.encoding.little_endian)
        return tuple(values)


class RowBuilder:
    """Builds rows; remembers the headers and parents seen last. Shared by threads: a race only costs time."""

    def __init__(self) -> None:
        self.headers = HeaderReader(INDEXED_TAGS)
        self._parents: dict[tuple[object, ...], Parents] = {}
        self._of_forms: dict[Form, _OfForm] = {}

    def build(self, header: Header) -> InstanceRow:
        """The row of an object, still without file facts.

        Raises DataSetMismatch for a UID that every composite IOD has and this object has not (A900H), and
        CannotUnderstand for one that is no UID (C000H).
        """
        values = header.values
        sop_class = _uid(values, SOP_CLASS_UID, "SOP Class UID")
        sop_instance = _uid(values, SOP_INSTANCE_UID, "SOP Instance UID")
        shared = self._of_form(header)
        parents = self._parents_of(header) if shared is None else shared.parents
        return InstanceRow(
            parents=parents,
            sop_class=sop_class,
            sop_instance=sop_instance,
            transfer_syntax=header.transfer_syntax,
            encoding=header.encoding,
            values=_image_values(header) if shared is None else shared.values_of(header),
            path=Layout.object_path(parents.study_uid, parents.series_uid, sop_instance),
        )

    def _of_form(self, header: Header) -> _OfForm | None:
        """What is known of the form of a header; None where it has none, or its objects share no parents."""
        form = header.form
        if form is None or not form.filled.isdisjoint(_PARENT_TAGS):
            return None
        known = self._of_forms.get(form)
        if known is None:
            blanks = tuple(
                (at, tag, vr) for at, (tag, vr) in enumerate(_PLAN[Level.IMAGE]) if tag in form.filled
            )
            known = _OfForm(self._parents_of(header), _image_values(header), blanks)
            if len(self._of_forms) >= FORMS_REMEMBERED:
                self._of_forms.clear()
            self._of_forms[form] = known
        return known

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


def _image_values(header: Header) -> Values:
    return _values(Level.IMAGE, header.values, header.encoding.little_endian)


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
        value = _value(get(tag), vr, coded, little_endian)
        values.append(value)
        if vr == "PN":
            names += (person_name_key(str(value)), name_words(str(value))) if value else ("", "")
    return (*values, *names)


def _value(raw: bytes | None, vr: str, coded: Decoder, little_endian: bool) -> Value:
    if vr == "US":
        return _unsigned_short(raw, little_endian)
    if not raw:
        return ""
    return coded.text(raw, vr) if vr in _CODED_VRS else _plain(raw)


def _plain(raw: bytes) -> str:
    """A value whose VR is confined to the default repertoire; both paddings go (PS3.5 6.2).

    Other bytes than its are kept as they are: an answer writes the same ones.
    """
    return str(raw, "latin_1").strip(" \0")


def _unsigned_short(raw: bytes | None, little_endian: bool) -> int | None:
    if raw is None or len(raw) < 2:
        return None
    return int.from_bytes(raw[:2], "little" if little_endian else "big")
