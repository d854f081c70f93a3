"""ICC profiles of pictures: the object's own, or a well-known colour space (PS3.18 8.3.5.1.5)."""

from enum import Enum
from functools import cache
from io import BytesIO
from typing import Final

import imagecodecs
from PIL import Image, ImageCms
from pydicom import Dataset


class IccProfile(Enum):
    """The values of the parameter."""

    UNSAID = ""
    NO = "no"
    YES = "yes"
    SRGB = "srgb"
    ADOBE_RGB = "adobergb"
    ROMM_RGB = "rommrgb"


# White point, primaries (x, y, Y of red, green, blue) and gamma of ROMM RGB (ISO 22028-2)
_ROMM_WHITE: Final = (0.3457, 0.3585, 1.0)
_ROMM_PRIMARIES: Final = (0.7347, 0.2653, 1.0, 0.1596, 0.8404, 1.0, 0.0366, 0.0001, 1.0)
_ROMM_GAMMA: Final = 1.8


def in_color_space(picture: Image.Image, wanted: IccProfile, own: bytes | None) -> tuple[Image.Image, bytes]:
    """The picture in the colour space wanted, and the profile to embed; empty: none.

    `own`: the profile that the colours are in, if there is one.
    """
    if wanted in (IccProfile.NO, IccProfile.UNSAID):
        return picture, b""
    if wanted is IccProfile.YES:
        return picture, own or (well_known(IccProfile.SRGB) if picture.mode == "RGB" else b"")
    target = well_known(wanted)
    rgb = picture.convert("RGB")
    source = ImageCms.ImageCmsProfile(BytesIO(own or well_known(IccProfile.SRGB)))
    try:
        converted = ImageCms.profileToProfile(rgb, source, ImageCms.ImageCmsProfile(BytesIO(target)))
    except ImageCms.PyCMSError:  # the object's profile is damaged, or is none for red, green and blue
        converted = rgb
    return converted or rgb, target


def embedded_profile(stream: bytes) -> bytes:
    """The profile in a compressed frame that Pillow can read; empty: none."""
    try:
        with Image.open(BytesIO(stream)) as frame:
            return frame.info.get("icc_profile") or b""
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return b""


def own_profile(shown: Dataset) -> bytes:
    """The ICC Profile of the object, or of its first optical path."""
    paths = shown.get("OpticalPathSequence")
    value = shown.get("ICCProfile") or (paths[0].get("ICCProfile") if paths else None)
    return bytes(value) if isinstance(value, bytes) else b""


@cache
def well_known(space: IccProfile) -> bytes:
    if space is IccProfile.ROMM_RGB:
        return bytes(
            imagecodecs.cms_profile(
                "rgb", whitepoint=_ROMM_WHITE, primaries=_ROMM_PRIMARIES, gamma=_ROMM_GAMMA
            )
        )
    return bytes(imagecodecs.cms_profile(space.value))
