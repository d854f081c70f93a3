"""A picture of a video (PS3.5 8.2.5 to 8.2.8). PyAV is an extra of the package ([video])."""

from importlib.util import find_spec
from io import BytesIO
from itertools import islice
from typing import TYPE_CHECKING, Final

from PIL import Image

from pacsnode.errors import CannotUnderstand

if TYPE_CHECKING:
    from av.container import InputContainer

FURTHEST: Final = 300  # frames decoded on the way from a key frame to the middle
IS_POSSIBLE: Final = find_spec("av") is not None


def video_picture(stream: bytes) -> Image.Image:
    """The picture in the middle, or the first where the stream does not tell its length.

    Raises CannotUnderstand.
    """
    import av

    try:
        with av.open(BytesIO(stream), "r") as container:
            middle = _seek_middle(container)
            picture = None
            for frame in islice(container.decode(video=0), FURTHEST):
                picture = frame
                if frame.time is None or frame.time >= middle:
                    break
            if picture is None:
                raise CannotUnderstand("the video has no picture")
            shown: Image.Image = picture.to_image()  # type: ignore[no-untyped-call]
            return shown
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise CannotUnderstand(f"the video cannot be read: {error}") from error


def _seek_middle(container: "InputContainer") -> float:
    """Go to the last key frame before the middle; the time of that, in seconds."""
    if not container.duration:
        return 0.0
    middle = (container.start_time or 0) + container.duration // 2  # microseconds
    container.seek(middle)
    return middle / 1e6
