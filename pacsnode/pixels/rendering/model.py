"""A picture of an encapsulated 3D model, STL or OBJ: shaded, seen from the front (PS3.3 A.85)."""

import re
from io import BytesIO
from itertools import pairwise
from math import ceil, cos, radians, sin
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pacsnode.errors import CannotUnderstand

Triangles = NDArray[np.float64]
"""Corners by triangle: (triangles, 3, 3)."""

STL: Final = "model/stl"
OBJ: Final = "model/obj"
MODEL_TYPES: Final = frozenset({STL, OBJ})

SIDE: Final = 512  # pixels
MOST: Final = 300_000  # triangles drawn; of a finer model some of them
_MARGIN: Final = 0.06  # of the side
_FINER: Final = 2  # times as large while it is drawn: its edges are smoothed then
_TURN, _TILT = radians(25), radians(15)
_LIGHT: Final = np.array((-0.35, -0.85, 0.4)) / np.linalg.norm((-0.35, -0.85, 0.4))
_DARKEST: Final = 0.2  # of the colour, where no light falls
_BACKGROUND: Final = (34, 40, 49)
_COLOUR: Final = np.array((232, 222, 204))

_STL_HEAD: Final = 84  # bytes: 80 of text, and how many triangles there are
_STL_TRIANGLE: Final = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_VERTEX: Final = re.compile(rb"\bvertex\s+(\S+)\s+(\S+)\s+(\S+)", re.IGNORECASE)


def model_picture(document: bytes, media_type: str) -> Image.Image:
    """A model in the coordinates of the patient, the head up (PS3.3 C.7.6.2.1.1). Raises CannotUnderstand."""
    try:
        triangles = _stl(document) if media_type == STL else _obj(document)
    except (ValueError, IndexError) as error:
        raise CannotUnderstand(f"the model cannot be read: {error}") from error
    triangles = triangles[np.isfinite(triangles).all(axis=(1, 2))]
    if not len(triangles):
        raise CannotUnderstand("the model has no triangles")
    return _drawn(_turned(triangles[:: ceil(len(triangles) / MOST)]))


def _stl(document: bytes) -> Triangles:
    """Binary, if it is as long as its number of triangles says; else the vertices of the text."""
    count = int.from_bytes(document[_STL_HEAD - 4 : _STL_HEAD], "little")
    length = _STL_HEAD + count * _STL_TRIANGLE.itemsize
    if length <= len(document) <= length + 1:  # it may be padded
        corners = np.frombuffer(document, _STL_TRIANGLE, count, _STL_HEAD)["corners"]
        return corners.astype(np.float64)
    vertices = np.array(_VERTEX.findall(document), np.bytes_).astype(np.float64).reshape(-1, 3)
    return vertices[: len(vertices) // 3 * 3].reshape(-1, 3, 3)


def _obj(document: bytes) -> Triangles:
    """Faces as fans of triangles; an index counts from 1, or backwards from the last vertex so far."""
    vertices: list[list[float]] = []
    faces: list[tuple[int, int, int]] = []
    for line in BytesIO(document):
        words = line.split()
        if words[:1] == [b"v"]:
            vertices.append([float(word) for word in words[1:4]])
        elif words[:1] == [b"f"]:
            numbers = [int(word.partition(b"/")[0]) for word in words[1:]]
            places = [number - 1 if number > 0 else len(vertices) + number for number in numbers]
            faces += [(places[0], *pair) for pair in pairwise(places[1:])]
    return np.array(vertices, np.float64).reshape(-1, 3)[np.array(faces, np.int64).reshape(-1, 3)]


def _turned(triangles: Triangles) -> Triangles:
    """Seen a little from the side and from above: x to the right, y away from the viewer, z up."""
    about_z = np.array(((cos(_TURN), -sin(_TURN), 0), (sin(_TURN), cos(_TURN), 0), (0, 0, 1)))
    about_x = np.array(((1, 0, 0), (0, cos(_TILT), -sin(_TILT)), (0, sin(_TILT), cos(_TILT))))
    turned: Triangles = triangles @ (about_x @ about_z).T
    return turned


def _drawn(triangles: Triangles) -> Image.Image:
    """The far ones first, each in one colour."""
    triangles = triangles[np.argsort(-triangles[:, :, 1].mean(axis=1))]
    side = SIDE * _FINER
    flat = triangles[:, :, (0, 2)] * (1, -1)
    least, greatest = flat.min(axis=(0, 1)), flat.max(axis=(0, 1))
    scale = side * (1 - 2 * _MARGIN) / max(float((greatest - least).max()), 1e-9)
    places = (flat - (least + greatest) / 2) * scale + side / 2
    picture = Image.new("RGB", (side, side), _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    corners = places.reshape(-1, 6).round().tolist()
    for corner, colour in zip(corners, _shades(triangles).tolist(), strict=True):
        draw.polygon(corner, fill=tuple(colour))
    return picture.resize((SIDE, SIDE), Image.Resampling.BOX)


def _shades(triangles: Triangles) -> NDArray[np.uint8]:
    """Matt, lit from both sides: which side is the outer one models do not agree on."""
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    falls = np.abs(normals @ _LIGHT) / np.where(lengths > 0, lengths, 1)
    shades: NDArray[np.uint8] = ((_DARKEST + (1 - _DARKEST) * falls)[:, None] * _COLOUR).astype(np.uint8)
    return shades
