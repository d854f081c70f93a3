"""Which transfer syntaxes can be made of a stored one, in order of preference (PS3.5 10). Tables only.

The order is a product decision: as stored, then what needs no codec, then what is uncompressed, and only then
another compression, the quickest to encode first. Every peer that keeps to PS3.5 10.1 takes Implicit VR
Little Endian, so a lossless compression is chosen only for one that does not.
"""

from collections.abc import Collection
from typing import Final

from pacsnode.dicom.sop_class import DEFLATED, EXPLICIT_VR_BE, EXPLICIT_VR_LE, IMPLICIT_VR_LE
from pacsnode.dicom.uid import UID

JPEG_BASELINE: Final = UID("1.2.840.10008.1.2.4.50")
JPEG_EXTENDED: Final = UID("1.2.840.10008.1.2.4.51")
JPEG_LOSSLESS: Final = UID("1.2.840.10008.1.2.4.57")
JPEG_LOSSLESS_SV1: Final = UID("1.2.840.10008.1.2.4.70")
JPEG_LS_LOSSLESS: Final = UID("1.2.840.10008.1.2.4.80")
JPEG_LS_NEAR_LOSSLESS: Final = UID("1.2.840.10008.1.2.4.81")
JPEG_2000_LOSSLESS: Final = UID("1.2.840.10008.1.2.4.90")
JPEG_2000: Final = UID("1.2.840.10008.1.2.4.91")
HTJ2K_LOSSLESS: Final = UID("1.2.840.10008.1.2.4.201")
HTJ2K_LOSSLESS_RPCL: Final = UID("1.2.840.10008.1.2.4.202")
HTJ2K: Final = UID("1.2.840.10008.1.2.4.203")
RLE_LOSSLESS: Final = UID("1.2.840.10008.1.2.5")
DEFLATED_FRAMES: Final = UID("1.2.840.10008.1.2.8.1")
ENCAPSULATED_UNCOMPRESSED: Final = UID("1.2.840.10008.1.2.1.98")
# MPEG2, MPEG-4 AVC/H.264 and HEVC/H.265, fragmentable or not; PS3.5 8.2.5 to 8.2.8
VIDEO: Final = frozenset(
    UID(f"1.2.840.10008.1.2.4.{suffix}")
    for suffix in (*(f"{number}{part}" for number in range(100, 107) for part in ("", ".1")), "107", "108")
)

NATIVE: Final = (EXPLICIT_VR_LE, IMPLICIT_VR_LE, DEFLATED, EXPLICIT_VR_BE)
ENCODABLE: Final = (JPEG_LS_LOSSLESS, JPEG_LOSSLESS_SV1, JPEG_LOSSLESS, RLE_LOSSLESS, JPEG_2000_LOSSLESS)
DECODABLE_LOSSLESS: Final = frozenset(
    {*ENCODABLE, HTJ2K_LOSSLESS, HTJ2K_LOSSLESS_RPCL, DEFLATED_FRAMES, ENCAPSULATED_UNCOMPRESSED}
)
# What may have lost something, though a stream in one of these can be lossless all the same
DECODABLE_LOSSY: Final = frozenset({JPEG_BASELINE, JPEG_EXTENDED, JPEG_LS_NEAR_LOSSLESS, JPEG_2000, HTJ2K})

# A transfer syntax whose every stream is a stream of the others too (PS3.5 A.4): only the UID changes.
_RENAMED: Final = {
    JPEG_LOSSLESS_SV1: (JPEG_LOSSLESS,),
    JPEG_LS_LOSSLESS: (JPEG_LS_NEAR_LOSSLESS,),
    JPEG_2000_LOSSLESS: (JPEG_2000,),
    HTJ2K_LOSSLESS_RPCL: (HTJ2K_LOSSLESS, HTJ2K),
    HTJ2K_LOSSLESS: (HTJ2K,),
}


def is_renamed(stored: UID, target: UID) -> bool:
    """Tell whether the encapsulated streams of `stored` are streams of `target` as they are."""
    return target in _RENAMED.get(stored, ())


def targets_of(stored: UID, recompress_lossy: bool = False) -> tuple[UID, ...]:
    """The transfer syntaxes an object can be sent in, in order of preference, `stored` first.

    Of a lossy source only uncompressed ones, unless `recompress_lossy`: a lossless stream of what has lost
    is many times as long as the first one, and gains nothing.
    """
    made: tuple[UID, ...] = ()
    if stored in NATIVE:
        made = (*NATIVE, *ENCODABLE)
    elif stored in DECODABLE_LOSSLESS or (stored in DECODABLE_LOSSY and recompress_lossy):
        made = (*_RENAMED.get(stored, ()), *NATIVE, *ENCODABLE)
    elif stored in DECODABLE_LOSSY:
        made = NATIVE
    return tuple(dict.fromkeys((stored, *made)))


def choose(stored: UID, accepted: Collection[UID], recompress_lossy: bool = False) -> UID | None:
    """The transfer syntax to send in, among those a peer accepts; None when nothing can be made of it."""
    return next((uid for uid in targets_of(stored, recompress_lossy) if uid in accepted), None)
