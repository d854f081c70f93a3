import pytest
from pydicom.uid import UID as KnownUID
from pydicom.uid import AllTransferSyntaxes
from pynetdicom import sop_class as known
from pynetdicom.presentation import AllStoragePresentationContexts

from pacsnode.dicom import sop_class
from pacsnode.dicom.sop_class import (
    DEFLATED_TRANSFER_SYNTAXES,
    RETIRED_STORAGE_SOP_CLASSES,
    STORAGE_SOP_CLASSES,
    TRANSFER_SYNTAXES,
    name_of,
)
from pacsnode.dicom.uid import UID, is_uid


def test_every_storage_sop_class_of_pynetdicom_is_stored() -> None:
    assert {str(context.abstract_syntax) for context in AllStoragePresentationContexts} <= STORAGE_SOP_CLASSES


def test_the_retired_storage_sop_classes_are_the_standards() -> None:
    for uid in RETIRED_STORAGE_SOP_CLASSES:
        assert "Storage" in KnownUID(uid).name
        assert KnownUID(uid).is_retired


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("VERIFICATION", "Verification"),
        *(
            (f"{ours}_{operation.upper()}", f"{theirs}QueryRetrieveInformationModel{operation}")
            for ours, theirs in (
                ("PATIENT_ROOT", "PatientRoot"),
                ("STUDY_ROOT", "StudyRoot"),
                ("PATIENT_STUDY_ONLY", "PatientStudyOnly"),
            )
            for operation in ("Find", "Move", "Get")
        ),
    ],
)
def test_a_named_sop_class_is_pynetdicoms_of_that_name(ours: str, theirs: str) -> None:
    assert getattr(sop_class, ours) == getattr(known, theirs)


def test_every_transfer_syntax_is_there_once() -> None:
    assert len(set(TRANSFER_SYNTAXES)) == len(TRANSFER_SYNTAXES)
    assert all(map(is_uid, TRANSFER_SYNTAXES))
    streams = {"1.2.840.10008.1.2.7.1", "1.2.840.10008.1.2.7.2", "1.2.840.10008.1.2.7.3"}
    assert set(AllTransferSyntaxes) - streams <= set(TRANSFER_SYNTAXES)


def test_the_deflated_transfer_syntaxes_are_those_named_so() -> None:
    named = {uid for uid in TRANSFER_SYNTAXES if "Deflate" in name_of(uid) and "Frame" not in name_of(uid)}
    assert named == DEFLATED_TRANSFER_SYNTAXES


def test_every_uid_of_the_tables_has_a_name() -> None:
    for uid in (*STORAGE_SOP_CLASSES, *TRANSFER_SYNTAXES):
        assert name_of(uid) != uid


def test_a_private_uid_is_its_own_name() -> None:
    assert name_of(UID("1.3.6.1.4.1.99999.1")) == "1.3.6.1.4.1.99999.1"
