"""pixels.rendering: thumbnails of what is no image, drawn from what it holds."""

from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pydicom.data
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate

from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotUnderstand
from pacsnode.pixels.rendering.render import rendered
from pacsnode.pixels.rendering.request import Rendering, Viewport
from pacsnode.pixels.rendering.source import Source
from tests.support.objects import encoded


def thumbnail(source: Source) -> Image.Image:
    made = rendered(source, Rendering("image/png", viewport=Viewport(256, 256), thumbnail=True))
    return Image.open(BytesIO(made)).convert("RGB")


def test_the_thumbnail_of_a_structure_set_is_drawn_in_its_colours() -> None:
    path = Path(pydicom.data.__file__).parent / "test_files" / "rtstruct.dcm"  # has no File Meta Information
    structures = dcmread(path, force=True)
    shown = np.asarray(thumbnail(Source(memoryview(encoded(structures)), EXPLICIT_VR_LE))).reshape(-1, 3)
    structure = structures.ROIContourSequence[0]
    assert (np.abs(shown.astype(int) - list(structure.ROIDisplayColor)).max(axis=1) < 40).any()
    assert (shown.max(axis=1) < 40).mean() > 0.5


CORNERS = [(x, y, z) for x in (0, 10) for y in (0, 10) for z in (0, 30)]
FACES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
TRIANGLES = [[CORNERS[one] for one in (a, *pair)] for a, b, c, d in FACES for pair in ((b, c), (c, d))]


def binary_stl() -> bytes:
    cells = b"".join(np.array([(0, 0, 0), *each], "<f4").tobytes() + b"\0\0" for each in TRIANGLES)
    return bytes(80) + len(TRIANGLES).to_bytes(4, "little") + cells


def text_stl() -> bytes:
    loops = "".join(
        "facet normal 0 0 0\nouter loop\n"
        + "".join(f"vertex {x} {y} {z}\n" for x, y, z in each)
        + "endloop\nendfacet\n"
        for each in TRIANGLES
    )
    return f"solid box\n{loops}endsolid box\n".encode()


def obj() -> bytes:
    vertices = "".join(f"v {x} {y} {z}\n" for x, y, z in CORNERS)
    return (vertices + "".join(f"f {' '.join(f'{one - 8}//1' for one in face)}\n" for face in FACES)).encode()


def model(document: bytes, media_type: str) -> Source:
    data_set = Dataset()
    data_set.SOPClassUID, data_set.MIMETypeOfEncapsulatedDocument = (
        "1.2.840.10008.5.1.4.1.1.104.3",
        media_type,
    )
    data_set.EncapsulatedDocument = document + bytes(len(document) % 2)
    data_set.EncapsulatedDocumentLength = len(document)
    return Source(memoryview(encoded(data_set)), EXPLICIT_VR_LE)


def test_the_thumbnail_of_a_model_is_shaded_whatever_its_format() -> None:
    first, *others = (
        np.asarray(thumbnail(model(document, media_type)), int)
        for document, media_type in (
            (binary_stl(), "model/stl"),
            (text_stl(), "model/stl"),
            (obj(), "model/obj"),
        )
    )
    assert all((np.abs(one - first).max(axis=2) < 3).mean() > 0.99 for one in others)
    _, counts = np.unique(first[:, :, 0] // 8, return_counts=True)
    assert (counts > 500).sum() == 4, "three sides of a box, before the background"
    rows, columns = np.nonzero(first[:, :, 0] > 60)
    assert np.ptp(rows) > 1.5 * np.ptp(columns), "z is up"


@pytest.mark.parametrize(
    "document", [b"", b"solid nothing", bytes(84), b"solid\nvertex 1 2 x\nvertex 1 1 1\n"]
)
def test_a_damaged_model_is_told(document: bytes) -> None:
    with pytest.raises(CannotUnderstand, match="model"):
        thumbnail(model(document, "model/stl"))


@pytest.mark.parametrize(
    ("codec", "container", "suffix"), [("libx264", "mp4", "102"), ("mpeg2video", "mpegts", "100")]
)
def test_the_thumbnail_of_a_video_is_from_its_middle(codec: str, container: str, suffix: str) -> None:
    """Red, then green, then blue."""
    out = BytesIO()
    with av.open(out, "w", format=container) as made:
        stream = made.add_stream(codec, rate=25, width=64, height=48, pix_fmt="yuv420p")
        for colour in ("red", "lime", "blue"):
            for _ in range(25):
                picture = Image.new("RGB", (64, 48), colour)
                made.mux(stream.encode(av.VideoFrame.from_image(picture)))
        made.mux(stream.encode())
    data_set = Dataset()
    data_set.SamplesPerPixel, data_set.PhotometricInterpretation = 3, "YBR_PARTIAL_420"
    data_set.Rows, data_set.Columns, data_set.NumberOfFrames, data_set.BitsAllocated = 48, 64, 75, 8
    data_set.BitsStored, data_set.HighBit, data_set.PixelRepresentation = 8, 7, 0
    data_set.PixelData = encapsulate([out.getvalue()])
    data_set["PixelData"].VR, data_set["PixelData"].is_undefined_length = "OB", True
    uid = UID(f"1.2.840.10008.1.2.4.{suffix}")
    shown = thumbnail(Source(memoryview(encoded(data_set)), uid))
    red, green, blue = np.asarray(shown)[100, 128].tolist()
    assert green > 200
    assert max(red, blue) < 60
