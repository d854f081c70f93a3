"""Instance Availability Notification with pynetdicom as SCP (PS3.4 R)."""

from pathlib import Path

import pytest
from pydicom import dcmread
from pynetdicom.sop_class import (
    InstanceAvailabilityNotification,
    ModalityPerformedProcedureStep,
)

from pacsnode.node import Node
from tests.conftest import SettingsOf, real_objects
from tests.support.dimse_n import asked, listening, step
from tests.support.objects import part10
from tests.support.sending import send_files
from tests.support.waiting import eventually

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SOON: dict[str, object] = {"series_complete_after": 0.1, "study_stable_after": 0.3}
QUICK: dict[str, object] = {"retry_after": 0.05, "retry_longest": 0.2}


def a_real_study() -> dict[str, list[Path]]:
    """The files of the real study with the most series, by Series Instance UID."""
    studies: dict[str, dict[str, dict[str, Path]]] = {}
    for path in real_objects():
        found = dcmread(path, stop_before_pixels=True)
        if found.file_meta.MediaStorageSOPInstanceUID != found.SOPInstanceUID:
            continue
        series = studies.setdefault(found.StudyInstanceUID, {}).setdefault(found.SeriesInstanceUID, {})
        series[found.SOPInstanceUID] = path
    chosen = max(studies.values(), key=lambda series: (len(series), sum(map(len, series.values()))))
    return {uid: list(files.values()) for uid, files in chosen.items()}


async def test_a_stable_study_is_told_with_its_steps_series_and_instances(settings_of: SettingsOf) -> None:
    files = a_real_study()
    data_sets = {p: dcmread(p, stop_before_pixels=True) for paths in files.values() for p in paths}
    study = next(iter(data_sets.values())).StudyInstanceUID
    with listening("RIS", as_scp=[InstanceAvailabilityNotification]) as ris:
        ris.statuses += [0x0213]  # it is told again
        peers = {"RIS": f"127.0.0.1:{ris.port}"}
        settings = settings_of(availability={"notify": ["RIS"]}, peers=peers, workflow=SOON, jobs=QUICK)
        async with Node(settings) as node:
            performed = step()
            performed.ScheduledStepAttributesSequence[0].StudyInstanceUID = study
            await asked(
                node.dimse_port,
                lambda a: a.send_n_create(performed, ModalityPerformedProcedureStep, "1.2.840.99.7"),
            )
            await send_files(node.dimse_port, [part10(path) for path in data_sets])
            await eventually(lambda: len(ris.told) >= 2, "the RIS has been told")
    first, second = ris.told[:2]
    assert first.sop_instance == second.sop_instance  # the same notification, not another
    told = second.data
    assert told.StudyInstanceUID == study
    assert [(i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID) for i in
            told.ReferencedPerformedProcedureStepSequence] == [
        (ModalityPerformedProcedureStep, "1.2.840.99.7")
    ]  # fmt: skip
    found = {
        (s.SeriesInstanceUID, i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID)
        for s in told.ReferencedSeriesSequence
        for i in s.ReferencedSOPSequence
    }
    assert found == {(d.SeriesInstanceUID, d.SOPClassUID, d.SOPInstanceUID) for d in data_sets.values()}
    items = [i for s in told.ReferencedSeriesSequence for i in s.ReferencedSOPSequence]
    assert {(i.InstanceAvailability, i.RetrieveAETitle) for i in items} == {("ONLINE", "PACSNODE")}
    assert {e.keyword for e in told} <= {  # others are forbidden (R.3.2.1.2)
        "ReferencedPerformedProcedureStepSequence",
        "StudyInstanceUID",
        "ReferencedSeriesSequence",
    }
