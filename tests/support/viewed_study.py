"""A study as viewers meet it: CT slices of real pixels, their segmentation, their contours, a PDF."""

import copy
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.pixels.utils import pack_bits
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SLICES = 6
_SIDE = 128
_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
_PDF = "1.2.840.10008.5.1.4.1.1.104.1"
_OF_STUDY = (
    "SpecificCharacterSet",
    "PatientName",
    "PatientID",
    "StudyDescription",
    "AccessionNumber",
    "StudyDate",
    "StudyTime",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
)
PDF = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Contents 4 0 R>>endobj
4 0 obj<</Length 24>>stream
1 0 0 rg 50 50 200 99 re f
endstream endobj
trailer<</Root 1 0 R>>
"""


def viewed_study() -> list[Dataset]:
    """The objects; the first are the slices, whose contents differ."""
    slices = list(_slices())
    return [*slices, _segmentation(slices), _structures(slices), _document(slices[0])]


def part10(one: Dataset) -> bytes:
    buffer = BytesIO()
    one.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _slices() -> Iterator[Dataset]:
    original = dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    original.remove_private_tags()
    cells = original.pixel_array
    study, series, frame_of_reference = generate_uid(), generate_uid(), generate_uid()
    x, y, z = (float(value) for value in original.ImagePositionPatient)
    for number in range(SLICES):
        one = copy.deepcopy(original)
        one.SpecificCharacterSet = "ISO_IR 100"
        one.PatientName, one.PatientID = "Müller^Jürgen", "VW-55"
        one.StudyDescription, one.SeriesDescription = "CT Schädel nativ", "Schädel 5.0"
        one.AccessionNumber, one.StudyDate = "A1004", "20240515"
        one.StudyInstanceUID, one.SeriesInstanceUID = study, series
        one.FrameOfReferenceUID = frame_of_reference
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        one.SeriesNumber, one.InstanceNumber = 1, number + 1
        one.ImagePositionPatient = [x, y, z + 5 * number]
        one.PixelData = np.roll(cells, 9 * number, axis=0).tobytes()
        yield one


def _derived(slice_: Dataset, sop_class: str, modality: str, description: str, number: int) -> Dataset:
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword in _OF_STUDY:
        setattr(one, keyword, getattr(slice_, keyword))
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = sop_class
    one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    one.SeriesInstanceUID = generate_uid()
    one.Modality, one.SeriesDescription = modality, description
    one.SeriesNumber, one.InstanceNumber = number, 1
    one.SeriesDate = one.ContentDate = "20240515"
    one.SeriesTime = one.ContentTime = "120000"
    return one


def _item(**values: object) -> Dataset:
    one = Dataset()
    for keyword, value in values.items():
        setattr(one, keyword, value)
    return one


def _reference(slice_: Dataset) -> Dataset:
    return _item(ReferencedSOPClassUID=slice_.SOPClassUID, ReferencedSOPInstanceUID=slice_.SOPInstanceUID)


def _segmentation(slices: list[Dataset]) -> Dataset:
    """A disc through all slices."""
    one = _derived(slices[0], _SEGMENTATION, "SEG", "Segmentierung", 2)
    one.ImageType = ["DERIVED", "PRIMARY"]
    one.Rows = one.Columns = _SIDE
    one.BitsAllocated = one.BitsStored = one.SamplesPerPixel = 1
    one.HighBit = one.PixelRepresentation = 0
    one.PhotometricInterpretation, one.SegmentationType = "MONOCHROME2", "BINARY"
    one.ContentLabel, one.NumberOfFrames = "SEG", len(slices)
    one.ReferencedSeriesSequence = [
        _item(
            SeriesInstanceUID=slices[0].SeriesInstanceUID,
            ReferencedInstanceSequence=list(map(_reference, slices)),
        )
    ]
    tissue = [_item(CodeValue="T-D0050", CodingSchemeDesignator="SRT", CodeMeaning="Tissue")]
    one.SegmentSequence = [
        _item(
            SegmentNumber=1,
            SegmentLabel="Kreis",
            SegmentAlgorithmType="MANUAL",
            SegmentedPropertyCategoryCodeSequence=tissue,
            SegmentedPropertyTypeCodeSequence=tissue,
            RecommendedDisplayCIELabValue=[34885, 53485, 50171],  # red
        )
    ]
    one.SharedFunctionalGroupsSequence = [
        _item(
            PlaneOrientationSequence=[_item(ImageOrientationPatient=slices[0].ImageOrientationPatient)],
            PixelMeasuresSequence=[
                _item(PixelSpacing=slices[0].PixelSpacing, SliceThickness="5", SpacingBetweenSlices="5")
            ],
        )
    ]
    one.PerFrameFunctionalGroupsSequence = [
        _item(
            FrameContentSequence=[_item(DimensionIndexValues=[1, number + 1])],
            PlanePositionSequence=[_item(ImagePositionPatient=slice_.ImagePositionPatient)],
            SegmentIdentificationSequence=[_item(ReferencedSegmentNumber=1)],
            DerivationImageSequence=[_item(SourceImageSequence=[_reference(slice_)])],
        )
        for number, slice_ in enumerate(slices)
    ]
    y, x = np.mgrid[:_SIDE, :_SIDE]
    disc = ((x - 64) ** 2 + (y - 64) ** 2 < 30**2).astype(np.uint8)
    one.add_new("PixelData", "OB", pack_bits(np.stack([disc] * len(slices))))
    return one


def _structures(slices: list[Dataset]) -> Dataset:
    """A square in each slice."""
    one = _derived(slices[0], _STRUCTURES, "RTSTRUCT", "Konturen", 3)
    frame_of_reference = slices[0].FrameOfReferenceUID
    images = list(map(_reference, slices))
    series = _item(SeriesInstanceUID=slices[0].SeriesInstanceUID, ContourImageSequence=images)
    study = _item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
        ReferencedSOPInstanceUID=slices[0].StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    one.StructureSetLabel = "Konturen"
    one.ReferencedFrameOfReferenceSequence = [
        _item(FrameOfReferenceUID=frame_of_reference, RTReferencedStudySequence=[study])
    ]
    one.StructureSetROISequence = [
        _item(
            ROINumber=1,
            ReferencedFrameOfReferenceUID=frame_of_reference,
            ROIName="Quadrat",
            ROIGenerationAlgorithm="MANUAL",
        )
    ]
    contours = [
        _item(
            ContourImageSequence=[_reference(slice_)],
            ContourGeometricType="CLOSED_PLANAR",
            NumberOfContourPoints=4,
            ContourData=_square(slice_),
        )
        for slice_ in slices
    ]
    one.ROIContourSequence = [
        _item(ROIDisplayColor=[255, 160, 0], ReferencedROINumber=1, ContourSequence=contours)
    ]
    one.RTROIObservationsSequence = [
        _item(ObservationNumber=1, ReferencedROINumber=1, RTROIInterpretedType="ORGAN", ROIInterpreter="")
    ]
    return one


def _square(slice_: Dataset) -> list[float]:
    x, y, z = (float(value) for value in slice_.ImagePositionPatient)
    down, right = (float(value) for value in slice_.PixelSpacing)
    corners = ((30, 30), (98, 30), (98, 98), (30, 98))
    return [value for i, j in corners for value in (round(x + i * right, 3), round(y + j * down, 3), z)]


def _document(slice_: Dataset) -> Dataset:
    one = _derived(slice_, _PDF, "DOC", "Befund", 4)
    one.DocumentTitle, one.MIMETypeOfEncapsulatedDocument = "Befund", "application/pdf"
    one.EncapsulatedDocument = PDF + b"\0" * (len(PDF) % 2)
    one.EncapsulatedDocumentLength = len(PDF)
    return one
