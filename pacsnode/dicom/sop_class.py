"""SOP classes and transfer syntaxes by their UIDs (PS3.4 B.5, C.6, PS3.5 10, PS3.6 A). Tables only."""

from typing import Final

from pydicom.uid import UID as KnownUID
from pynetdicom.presentation import AllStoragePresentationContexts

from pacsnode.dicom.uid import UID

VERIFICATION: Final = UID("1.2.840.10008.1.1")

# PS3.4 Table C.6.1-1, C.6.2-1 and the retired C.6.3-1
PATIENT_ROOT_FIND: Final = UID("1.2.840.10008.5.1.4.1.2.1.1")
PATIENT_ROOT_MOVE: Final = UID("1.2.840.10008.5.1.4.1.2.1.2")
PATIENT_ROOT_GET: Final = UID("1.2.840.10008.5.1.4.1.2.1.3")
STUDY_ROOT_FIND: Final = UID("1.2.840.10008.5.1.4.1.2.2.1")
STUDY_ROOT_MOVE: Final = UID("1.2.840.10008.5.1.4.1.2.2.2")
STUDY_ROOT_GET: Final = UID("1.2.840.10008.5.1.4.1.2.2.3")
PATIENT_STUDY_ONLY_FIND: Final = UID("1.2.840.10008.5.1.4.1.2.3.1")
PATIENT_STUDY_ONLY_MOVE: Final = UID("1.2.840.10008.5.1.4.1.2.3.2")
PATIENT_STUDY_ONLY_GET: Final = UID("1.2.840.10008.5.1.4.1.2.3.3")

# PS3.4 Table Y.6.1.3-1, Z.6.1.3-1
COMPOSITE_INSTANCE_ROOT_MOVE: Final = UID("1.2.840.10008.5.1.4.1.2.4.2")
COMPOSITE_INSTANCE_ROOT_GET: Final = UID("1.2.840.10008.5.1.4.1.2.4.3")
WITHOUT_BULK_DATA_GET: Final = UID("1.2.840.10008.5.1.4.1.2.5.3")

MODALITY_WORKLIST_FIND: Final = UID("1.2.840.10008.5.1.4.31")  # PS3.4 K.6.1.4

# PS3.4 F.7.3, F.8.3, F.9.3, J.3.4, J.3.5, R.3.3
MPPS: Final = UID("1.2.840.10008.3.1.2.3.3")
MPPS_RETRIEVE: Final = UID("1.2.840.10008.3.1.2.3.4")
MPPS_NOTIFICATION: Final = UID("1.2.840.10008.3.1.2.3.5")
STORAGE_COMMITMENT: Final = UID("1.2.840.10008.1.20.1")
STORAGE_COMMITMENT_INSTANCE: Final = UID("1.2.840.10008.1.20.1.1")
INSTANCE_AVAILABILITY: Final = UID("1.2.840.10008.5.1.4.33")

# Retired, so pynetdicom no longer lists them; archives being migrated and old devices still send them.
RETIRED_STORAGE_SOP_CLASSES: Final[frozenset[UID]] = frozenset(
    UID(f"1.2.840.10008.5.1.{suffix}")
    for suffix in (
        "1.27",  # Stored Print
        "1.29",  # Hardcopy Grayscale Image
        "1.30",  # Hardcopy Color Image
        "4.1.1.3",  # Ultrasound Multi-frame Image
        "4.1.1.5",  # Nuclear Medicine Image
        "4.1.1.6",  # Ultrasound Image
        "4.1.1.8",  # Standalone Overlay
        "4.1.1.9",  # Standalone Curve
        "4.1.1.9.1",  # Waveform, trial
        "4.1.1.10",  # Standalone Modality LUT
        "4.1.1.11",  # Standalone VOI LUT
        "4.1.1.12.3",  # X-Ray Angiographic Bi-Plane Image
        "4.1.1.77.1",  # VL Image, trial
        "4.1.1.77.2",  # VL Multi-frame Image, trial
        "4.1.1.88.1",  # Text SR, trial
        "4.1.1.88.2",  # Audio SR, trial
        "4.1.1.88.3",  # Detail SR, trial
        "4.1.1.88.4",  # Comprehensive SR, trial
        "4.1.1.129",  # Standalone PET Curve
    )
)

# PS3.4 Table B.5-1. Non-patient objects (PS3.4 GG) are another service: they belong to no study.
STORAGE_SOP_CLASSES: Final[frozenset[UID]] = RETIRED_STORAGE_SOP_CLASSES | {
    UID(str(context.abstract_syntax)) for context in AllStoragePresentationContexts
}

IMPLICIT_VR_LE: Final = UID("1.2.840.10008.1.2")
EXPLICIT_VR_LE: Final = UID("1.2.840.10008.1.2.1")
EXPLICIT_VR_BE: Final = UID("1.2.840.10008.1.2.2")
DEFLATED: Final = UID("1.2.840.10008.1.2.1.99")
JPIP_REFERENCED_DEFLATE: Final = UID("1.2.840.10008.1.2.4.95")
JPIP_HTJ2K_REFERENCED_DEFLATE: Final = UID("1.2.840.10008.1.2.4.205")

# The whole data set is a deflate stream (PS3.5 A.5, A.7); not so in Deflated Image Frame Compression.
DEFLATED_TRANSFER_SYNTAXES: Final[frozenset[UID]] = frozenset(
    {DEFLATED, JPIP_REFERENCED_DEFLATE, JPIP_HTJ2K_REFERENCED_DEFLATE}
)

# Every transfer syntax of PS3.5 10 and Annex A that a stored object can have, the retired processes too. Not
# here: the SMPTE ST 2110 syntaxes (real-time streams, never stored), RFC 2557, XML and Papyrus 3.
TRANSFER_SYNTAXES: Final[tuple[UID, ...]] = tuple(
    UID(f"1.2.840.10008.1.2{suffix}")
    for suffix in (
        "",  # Implicit VR Little Endian
        ".1",  # Explicit VR Little Endian
        ".1.98",  # Encapsulated Uncompressed Explicit VR Little Endian
        ".1.99",  # Deflated Explicit VR Little Endian
        ".2",  # Explicit VR Big Endian, retired
        ".4.50",  # JPEG Baseline (process 1)
        ".4.51",  # JPEG Extended (processes 2 and 4)
        *(f".4.{number}" for number in range(52, 57)),  # JPEG processes 3 to 13 but 4, retired
        ".4.57",  # JPEG Lossless (process 14)
        *(f".4.{number}" for number in range(58, 67)),  # JPEG processes 15 to 29, retired
        ".4.70",  # JPEG Lossless SV1 (process 14, selection value 1)
        ".4.80",  # JPEG-LS Lossless
        ".4.81",  # JPEG-LS Near-Lossless
        ".4.90",  # JPEG 2000 Lossless
        ".4.91",  # JPEG 2000
        ".4.92",  # JPEG 2000 Part 2 Multi-component Lossless
        ".4.93",  # JPEG 2000 Part 2 Multi-component
        ".4.94",  # JPIP Referenced
        ".4.95",  # JPIP Referenced Deflate
        ".4.100",  # MPEG2 Main Profile / Main Level
        ".4.100.1",  # the same, fragmentable
        ".4.101",  # MPEG2 Main Profile / High Level
        ".4.101.1",
        ".4.102",  # MPEG-4 AVC/H.264 High Profile / Level 4.1
        ".4.102.1",
        ".4.103",  # MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1
        ".4.103.1",
        ".4.104",  # MPEG-4 AVC/H.264 High Profile / Level 4.2 for 2D video
        ".4.104.1",
        ".4.105",  # MPEG-4 AVC/H.264 High Profile / Level 4.2 for 3D video
        ".4.105.1",
        ".4.106",  # MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2
        ".4.106.1",
        ".4.107",  # HEVC/H.265 Main Profile / Level 5.1
        ".4.108",  # HEVC/H.265 Main 10 Profile / Level 5.1
        ".4.110",  # JPEG XL Lossless
        ".4.111",  # JPEG XL JPEG Recompression
        ".4.112",  # JPEG XL
        ".4.201",  # High-Throughput JPEG 2000 Lossless
        ".4.202",  # High-Throughput JPEG 2000 Lossless with RPCL options
        ".4.203",  # High-Throughput JPEG 2000
        ".4.204",  # JPIP HTJ2K Referenced
        ".4.205",  # JPIP HTJ2K Referenced Deflate
        ".5",  # RLE Lossless
        ".8.1",  # Deflated Image Frame Compression
    )
)

# Newer than pydicom's dictionary (PS3.6 Table A-1)
_NAMES: Final = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
    "1.2.840.10008.5.1.4.1.1.9.100.1": "Waveform Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.9.100.2": "Waveform Acquisition Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.66.8": "Height Map Segmentation Storage",
}


def name_of(uid: UID) -> str:
    """The UID's name in PS3.6 Annex A, or the UID itself when it is not there (a private one)."""
    return _NAMES.get(uid) or KnownUID(uid).name
