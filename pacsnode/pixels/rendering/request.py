"""What a picture is to be like (PS3.18 8.3.5.1). Plain values that go to a worker process as JSON."""

from dataclasses import dataclass
from enum import Enum


class WindowFunction(Enum):
    """VOI LUT Function (PS3.3 C.11.2.1.2), by its name in a URL and in an object."""

    LINEAR = "LINEAR"
    LINEAR_EXACT = "LINEAR_EXACT"
    SIGMOID = "SIGMOID"


@dataclass(frozen=True, slots=True)
class Window:
    center: float
    width: float
    function: WindowFunction = WindowFunction.LINEAR


@dataclass(frozen=True, slots=True)
class Viewport:
    """The size to fit into, and the region of the source: left, top, width, height in its pixels.

    None: from the first, or to the last pixel. `flip_x`, `flip_y`: the region is mirrored.
    """

    width: int
    height: int
    left: float = 0.0
    top: float = 0.0
    region_width: float | None = None
    region_height: float | None = None
    flip_x: bool = False
    flip_y: bool = False


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the picture as it is shown: from 0.0, left and top, to 1.0 (PS3.18 9.5.1.2.5)."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Rendering:
    """A rendered resource of one object: its frames, counted from 1, and how they are to be shown.

    `region` is cut out first, then fitted into the viewport, which has no region of its own then.
    `icc_profile`: what the parameter says (8.3.5.1.5); "" where it is not there. `thumbnail`: what has no
    picture gets one that says what it is.
    """

    media_type: str
    frames: tuple[int, ...] = (1,)
    window: Window | None = None
    viewport: Viewport | None = None
    region: Region | None = None
    annotation: tuple[str, ...] = ()
    quality: int = 90
    icc_profile: str = ""
    thumbnail: bool = False
