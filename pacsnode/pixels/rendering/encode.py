"""Pictures as files of the Rendered Media Types (PS3.18 8.7.4), with an ICC profile where it is wanted."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from io import BytesIO
from typing import Final

import imagecodecs
import numpy as np
from PIL import Image

from pacsnode.errors import CannotUnderstand

DEFAULT_QUALITY: Final = 90  # of 100
LEAST_DELAY: Final = 20  # ms; browsers take a shorter one for 100 ms


def encoded(
    pictures: Sequence[Image.Image], media_type: str, quality: int, delay: float, icc: bytes
) -> bytes:
    """One picture, or several as an animation, `delay` ms a frame. Raises CannotUnderstand.

    `icc`: a profile to embed; empty: none.
    """
    try:
        encoder = _ENCODERS[media_type]
    except KeyError:
        raise CannotUnderstand(f"nothing is rendered as {media_type}") from None
    return encoder(pictures, quality, max(delay, LEAST_DELAY), icc)


def _jpeg(pictures: Sequence[Image.Image], quality: int, _delay: float, icc: bytes) -> bytes:
    out = BytesIO()
    # colours are not subsampled where quality is asked for
    pictures[0].save(
        out, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2, icc_profile=icc or None
    )
    return out.getvalue()


def _png(pictures: Sequence[Image.Image], _quality: int, _delay: float, icc: bytes) -> bytes:
    out = BytesIO()
    pictures[0].save(out, "PNG", compress_level=3, icc_profile=icc or None)
    return out.getvalue()


def _gif(pictures: Sequence[Image.Image], _quality: int, delay: float, _icc: bytes) -> bytes:
    out = BytesIO()
    first, *others = pictures
    first.save(out, "GIF", save_all=bool(others), append_images=others, duration=round(delay), loop=0)
    return out.getvalue()


def _jp2(pictures: Sequence[Image.Image], quality: int, _delay: float, icc: bytes) -> bytes:
    if icc:
        out = BytesIO()
        pictures[0].save(out, "JPEG2000", icc_profile=icc)
        return out.getvalue()
    level = 0 if quality == 100 else 30 + quality // 4  # dB of noise; 0 is lossless
    return bytes(imagecodecs.jpeg2k_encode(np.asarray(pictures[0]), level=level, codecformat="jp2"))


def _jxl(pictures: Sequence[Image.Image], quality: int, _delay: float, _icc: bytes) -> bytes:
    distance = 0.0 if quality == 100 else max(0.1, (100 - quality) / 10)
    return bytes(
        imagecodecs.jpegxl_encode(np.asarray(pictures[0]), distance=distance, lossless=quality == 100)
    )


def _mp4(pictures: Sequence[Image.Image], quality: int, delay: float, _icc: bytes) -> bytes:
    """VP9 in MP4, which browsers play and whose codec is free; PyAV is an extra of the package ([video])."""
    import av

    out = BytesIO()
    with av.open(out, "w", "mp4") as container:
        stream = container.add_stream("libvpx-vp9", rate=Fraction(1000, round(delay)))
        stream.width, stream.height = (side + side % 2 for side in pictures[0].size)
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(15 + (100 - quality) // 3), "b:v": "0", "cpu-used": "6", "row-mt": "1"}
        for picture in pictures:
            even = Image.new("RGB", (stream.width, stream.height))
            even.paste(picture.convert("RGB"))
            frame = av.VideoFrame.from_image(even)  # type: ignore[no-untyped-call]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


_ENCODERS: Final[dict[str, Callable[[Sequence[Image.Image], int, float, bytes], bytes]]] = {
    "image/jpeg": _jpeg,
    "image/png": _png,
    "image/gif": _gif,
    "video/mp4": _mp4,
    "image/jp2": _jp2,
    "image/jxl": _jxl,
}
IMAGE_TYPES: Final = tuple(_ENCODERS)
