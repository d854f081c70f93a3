"""What became of the parts of a Store request: the Store Instances Response Module (PS3.18 Annex I)."""

import json
from dataclasses import dataclass, field
from typing import Any, Final

from pacsnode import errors
from pacsnode.archive.instance import Outcome, Stored
from pacsnode.dicom.uid import UID
from pacsnode.dicom.xml_model import native_model
from pacsnode.web.media import XML

# Table I.2-2; the nearest class above an error decides.
FAILURE_REASON_OF: Final[dict[type[errors.PacsnodeError], int]] = {
    errors.OutOfResources: 0xA700,
    errors.StudyMismatch: 0xA900,
    errors.DataSetMismatch: 0xA900,
    errors.CannotUnderstand: 0xC000,
    errors.CannotTranscode: 0xC122,
    errors.DuplicateInstance: 0x0111,
    errors.SopClassNotSupported: 0x0122,
    errors.InvalidMultipart: 0xC000,
    errors.PacsnodeError: 0x0110,
}

# Table I.2-1 lets implementations have their own. This one is known from Azure's service.
WARNING_REASON_OF: Final = {Outcome.KEPT_ASIDE: 0xB00E}

MEANINGS: Final = {
    0xA700: "Refused: out of resources. The disk is full, or would be",
    0xA900: "The data set does not match: another SOP Class, Instance or Study than it was sent as",
    0xC000: "Cannot understand: no DICOM file, a broken data set, bulk data that did not come",
    0xC122: "The transfer syntax is not supported, or there is none for the compressed pixel data",
    0x0111: "Another object has the SOP Instance UID, and `storage.duplicates` is `refuse`",
    0x0122: "The SOP Class is not supported",
    0x0110: "Processing failure",
    0xB00E: "Warning: another object has the SOP Instance UID; this one is kept beside it, not served",
}


def failure_reason(error: Exception) -> int:
    return next(
        (FAILURE_REASON_OF[kind] for kind in type(error).__mro__ if kind in FAILURE_REASON_OF), 0x0110
    )


@dataclass(slots=True)
class StoreReport:
    """Collects outcomes; `reasons` are sentences for the Warning header, in the order they were met."""

    stored: list[Stored] = field(default_factory=list)
    failed: list[tuple[UID, UID, int]] = field(default_factory=list)
    other_failures: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def add_failure(self, sop_class: UID | None, sop_instance: UID | None, error: Exception) -> None:
        """Note a part that was not stored; without UIDs it is one of the other failures."""
        reason = failure_reason(error)
        if sop_class and sop_instance:
            self.failed.append((sop_class, sop_instance, reason))
        else:
            self.other_failures.append(reason)
        self.reasons.append(f"{reason:04X}: {error}")

    def add_stored(self, stored: Stored) -> None:
        self.stored.append(stored)
        if stored.outcome in WARNING_REASON_OF:
            self.reasons.append(f"{WARNING_REASON_OF[stored.outcome]:04X}: {stored.outcome.value}")

    @property
    def status(self) -> int:
        """200 all stored, 202 some, or with warnings, 409 none (Table 10.5.3-1)."""
        if not self.stored:
            return 409
        return 202 if self.reasons else 200

    def model(self, root: str) -> dict[str, Any]:
        """The module as DICOM JSON; `root` is the base URI of the services."""
        studies = {one.study for one in self.stored}
        study_url = f"{root}/studies/{studies.pop()}" if len(studies) == 1 else ""
        model: dict[str, Any] = {"00081190": _url(study_url)}
        if self.failed:
            model["00081198"] = _sequence(
                [{**_reference(*uids), "00081197": _number(reason)} for *uids, reason in self.failed]
            )
        if self.stored:
            model["00081199"] = _sequence([_stored(one, root) for one in self.stored])
        if self.other_failures:
            model["0008119A"] = _sequence([{"00081197": _number(reason)} for reason in self.other_failures])
        return model

    def encoded(self, media_type: str, root: str) -> bytes:
        model = self.model(root)
        return native_model(model) if media_type == XML else json.dumps(model).encode()


def _stored(one: Stored, root: str) -> dict[str, Any]:
    url = f"{root}/studies/{one.study}/series/{one.series}/instances/{one.sop_instance}"
    item = {**_reference(one.sop_class, one.sop_instance), "00081190": _url(url)}
    if one.outcome in WARNING_REASON_OF:
        item["00081196"] = _number(WARNING_REASON_OF[one.outcome])
    return item


def _reference(sop_class: UID, sop_instance: UID) -> dict[str, Any]:
    return {
        "00081150": {"vr": "UI", "Value": [sop_class]},
        "00081155": {"vr": "UI", "Value": [sop_instance]},
    }


def _url(url: str) -> dict[str, Any]:
    return {"vr": "UR", "Value": [url]} if url else {"vr": "UR"}


def _number(value: int) -> dict[str, Any]:
    return {"vr": "US", "Value": [value]}


def _sequence(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"vr": "SQ", "Value": items}
