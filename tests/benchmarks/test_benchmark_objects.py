"""The synthetic objects are what pydicom, which shares no code with their encoder, says they are."""

from io import BytesIO

import pydicom
import pytest

from benchmarks.objects import CT, SMALL, TINY, Instance, Shape, batches

BIT_OF_BIG = Shape("multi-frame", 16, frames=3)


def read(instance: Instance) -> pydicom.FileDataset:
    return pydicom.dcmread(BytesIO(instance.part10_head + instance.pixels))


@pytest.mark.parametrize("shape", [TINY, SMALL, CT, BIT_OF_BIG], ids=lambda shape: shape.name)
def test_an_object_reads_back_as_encoded(shape: Shape) -> None:
    (batch,) = batches(shape, 1, 1)
    found = read(batch.instances[0])
    assert (found.SOPClassUID, found.file_meta.MediaStorageSOPClassUID) == (shape.sop_class, shape.sop_class)
    assert (found.StudyInstanceUID, found.PatientID) == (batch.of.study, batch.of.patient_id)
    assert found.SOPInstanceUID == batch.instances[0].sop_instance
    assert len(found.PixelData) == shape.side**2 * 2 * shape.frames
    assert found.get("NumberOfFrames", 1) == shape.frames
    assert all(
        found[tag].value.is_valid for tag in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    )


def test_objects_are_dealt_out_over_one_new_study_an_association() -> None:
    dealt = batches(TINY, 7, 3)
    assert [len(batch.instances) for batch in dealt] == [3, 2, 2]
    assert len({batch.of.study for batch in dealt}) == 3
    assert len({each.sop_instance for batch in dealt for each in batch.instances}) == 7
