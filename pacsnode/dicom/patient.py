"""The attributes that an update or a merge of a patient changes (PS3.3 C.7.1.1, IHE RAD PIR). Pure.

Those of the Patient Module that the index knows. Addresses and the like are no part of that module, size and
weight are of the day of the study: they stay what they were.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pacsnode.dicom.information_model import Attribute, Level, columns_of

PATIENT_ATTRIBUTES: Final[dict[str, Attribute]] = {one.keyword: one for one in columns_of(Level.PATIENT)}
"""By keyword; their values are text."""
REQUIRED: Final = frozenset({"PatientID", "PatientName", "PatientBirthDate", "PatientSex"})  # type 2
ISSUER_QUALIFIERS: Final = 0x00100024  # they qualify an issuer: when that is another, they go

ORIGINAL_ATTRIBUTES: Final = 0x04000561  # PS3.3 C.12.1.1.9
MODIFIED_ATTRIBUTES: Final = 0x04000550
MODIFICATION_DATE_TIME: Final = 0x04000562
MODIFYING_SYSTEM: Final = 0x04000563
SOURCE_OF_PREVIOUS_VALUES: Final = 0x04000564
REASON: Final = 0x04000565
COERCE: Final = "COERCE"  # values replaced in a reconciliation with the master of patients


@dataclass(frozen=True, slots=True)
class Coercion:
    """What objects that name the patient `patient_id` of `issuer` are to say of it when they leave.

    `attributes`: values by keyword, "" for none. `moment`: when `system` decided that, a DT (PS3.5 6.2).
    """

    patient_id: str
    issuer: str
    attributes: tuple[tuple[str, str], ...]
    moment: str
    system: str

    def changes(self, said: Mapping[str, str]) -> list[tuple[Attribute, str]]:
        """The attributes that an object says something else in, with what it is to say.

        `said` is what it says, by keyword. One that names somebody else is left alone.
        """
        if (said["PatientID"], said["IssuerOfPatientID"]) != (self.patient_id, self.issuer):
            return []
        attributes = ((PATIENT_ATTRIBUTES[keyword], value) for keyword, value in self.attributes)
        return [
            (attribute, value)
            for attribute, value in attributes
            if not says_the_same(attribute.vr, said[attribute.keyword], value)
        ]


def says_the_same(vr: str, old: str, new: str) -> bool:
    """Whether two values differ in nothing but delimiters that end a name."""
    if vr != "PN":
        return old == new
    return _names(old) == _names(new)


def _names(text: str) -> list[list[str]]:
    return [[group.rstrip("^ ") for group in name.rstrip("=^ ").split("=")] for name in text.split("\\")]
