"""DICOM JSON of an object whose patient was updated or merged since it came (PS3.18 F.2, PS3.3 C.12.1.1.9).

It says what pixels.coerce makes of the object.
"""

import json

from pacsnode.dicom.json_values import text_values
from pacsnode.dicom.patient import (
    COERCE,
    ISSUER_QUALIFIERS,
    MODIFICATION_DATE_TIME,
    MODIFIED_ATTRIBUTES,
    MODIFYING_SYSTEM,
    ORIGINAL_ATTRIBUTES,
    PATIENT_ATTRIBUTES,
    REASON,
    REQUIRED,
    SOURCE_OF_PREVIOUS_VALUES,
    Coercion,
)

_Json = dict[str, object]


def coerced_json(text: str, coercion: Coercion) -> str:
    """The object with the patient attributes it is to have; the same when it has them."""
    model: dict[str, _Json] = json.loads(text)
    previous: _Json = {}
    said = {keyword: _text(model.get(f"{one.tag:08X}", {})) for keyword, one in PATIENT_ATTRIBUTES.items()}
    for attribute, value in coercion.changes(said):
        name = f"{attribute.tag:08X}"
        previous[name] = model.pop(name, {"vr": attribute.vr})
        if value or attribute.keyword in REQUIRED:
            model[name] = _value(value, attribute.vr)
        if attribute.keyword == "IssuerOfPatientID" and (qualifiers := f"{ISSUER_QUALIFIERS:08X}") in model:
            previous[qualifiers] = model.pop(qualifiers)
    if not previous:
        return text
    originals = f"{ORIGINAL_ATTRIBUTES:08X}"
    former = model.get(originals, {}).get("Value", [])
    assert isinstance(former, list)
    model[originals] = {"vr": "SQ", "Value": [*former, _item(previous, coercion)]}
    return json.dumps(dict(sorted(model.items())), ensure_ascii=False, separators=(",", ":"))


def _item(previous: _Json, coercion: Coercion) -> _Json:
    return {
        f"{MODIFIED_ATTRIBUTES:08X}": {"vr": "SQ", "Value": [dict(sorted(previous.items()))]},
        f"{MODIFICATION_DATE_TIME:08X}": _value(coercion.moment, "DT"),
        f"{MODIFYING_SYSTEM:08X}": _value(coercion.system, "LO"),
        f"{SOURCE_OF_PREVIOUS_VALUES:08X}": _value("", "LO"),
        f"{REASON:08X}": _value(COERCE, "CS"),
    }


def _text(attribute: _Json) -> str:
    """What an attribute says, as dicom.text has it."""
    values = attribute.get("Value", [])
    assert isinstance(values, list)
    return "\\".join(_name(value) if isinstance(value, dict) else str(value or "") for value in values)


def _name(groups: dict[str, str]) -> str:
    named = (groups.get(group, "") for group in ("Alphabetic", "Ideographic", "Phonetic"))
    return "=".join(named).rstrip("=")


def _value(text: str, vr: str) -> _Json:
    """An attribute that is text."""
    values = text_values(text, vr)
    return {"vr": vr, "Value": json.loads(f"[{values}]")} if values else {"vr": vr}
