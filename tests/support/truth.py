"""What an archive must say about a set of files, computed from the files by pydicom alone."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset, dcmread

from tests.support.objects import Part10, part10

# Files of the collections that no archive may take, and the status that says so (PS3.4 B.2.3).
REFUSED = {
    "MR_truncated.dcm": 0xC000,
    "rtplan_truncated.dcm": 0xC000,
    "emri_small_jpeg_2k_lossless_too_short.dcm": 0xC000,  # the last fragment is cut off
    "bad_sequence.dcm": 0xC000,  # its UIDs are hexadecimal digests
}


@dataclass
class Truth:
    """Whole files, the first one of each SOP Instance UID, in the order they are sent."""

    items: list[Part10] = field(default_factory=list)
    headers: dict[str, Dataset] = field(default_factory=dict)  # by SOP Instance UID

    @classmethod
    def of(cls, paths: Iterable[Path]) -> "Truth":
        truth = cls()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for path in paths:
                if path.name not in REFUSED:
                    truth.add(path)
        return truth

    def add(self, path: Path) -> None:
        item = part10(path)
        if item.sop not in self.headers:
            self.items.append(item)
            self.headers[item.sop] = dcmread(path, stop_before_pixels=True)

    @property
    def studies(self) -> dict[str, list[Part10]]:
        found: dict[str, list[Part10]] = {}
        for item in self.items:
            found.setdefault(item.study, []).append(item)
        return found

    @property
    def series(self) -> dict[tuple[str, str], list[Part10]]:
        found: dict[tuple[str, str], list[Part10]] = {}
        for item in self.items:
            found.setdefault((item.study, item.series), []).append(item)
        return found

    @property
    def patients(self) -> dict[tuple[str, str], set[str]]:
        """Studies by patient identity: Patient ID and issuer; a study without one is its own patient."""
        found: dict[tuple[str, str], set[str]] = {}
        for study, items in self.studies.items():
            header = self.headers[items[0].sop]
            patient_id = str(header.get("PatientID") or "")
            issuer = str(header.get("IssuerOfPatientID") or "")
            key = (patient_id, issuer) if patient_id else ("", study)
            found.setdefault(key, set()).add(study)
        return found

    def values(self, items: Iterable[Part10], keyword: str) -> set[str]:
        """The different values of an attribute among some files; an empty or absent one is none."""
        return {str(v) for item in items if (v := self.headers[item.sop].get(keyword)) not in (None, "")}
