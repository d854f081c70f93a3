"""pixels.rendering.render: every real object has a thumbnail; files are what they say they are."""

import warnings
import xml.etree.ElementTree as ET
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageCms
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, generate_frames

from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotUnderstand
from pacsnode.pixels.rendering.icc import IccProfile, well_known
from pacsnode.pixels.rendering.picture import picture_of
from pacsnode.pixels.rendering.render import rendered
from pacsnode.pixels.rendering.request import Rendering, Viewport
from pacsnode.pixels.rendering.source import Source
from tests.conftest import real_object, real_objects
from tests.pixels.rendering.test_source import opened
from tests.support.objects import encoded

FORMATS = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/gif": "GIF",
    "image/jp2": "JPEG2000",
}


@pytest.mark.parametrize("path", real_objects(), ids=lambda path: path.name)
def test_every_object_that_can_be_read_has_a_thumbnail(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            source = opened(path)
            thumbnail = rendered(source, Rendering("image/jpeg", viewport=Viewport(96, 96), thumbnail=True))
        except CannotUnderstand as error:
            pytest.skip(f"damaged: {error}")
    picture = Image.open(BytesIO(thumbnail))
    assert picture.format == "JPEG"
    assert max(picture.size) == 96


def test_nearly_every_object_can_be_read() -> None:
    unreadable = 0
    for path in real_objects():
        try:
            source = opened(path)
            if source.has_pixels:
                source.frame(1)
        except CannotUnderstand:
            unreadable += 1
    assert unreadable <= len(real_objects()) // 12


@pytest.mark.parametrize("media_type", FORMATS)
def test_a_picture_is_of_the_type_it_is_asked_for(media_type: str) -> None:
    picture = Image.open(BytesIO(rendered(opened(real_object("CT_small.dcm")), Rendering(media_type))))
    assert picture.format == FORMATS[media_type]
    assert picture.size == (128, 128)


def test_a_multi_frame_image_becomes_an_animation() -> None:
    source = opened(real_object("rtdose.dcm"))
    frames = tuple(range(1, min(source.n_frames, 6) + 1))
    picture = Image.open(BytesIO(rendered(source, Rendering("image/gif", frames))))
    assert getattr(picture, "n_frames", 1) == len(frames) > 1
    with pytest.raises(CannotUnderstand, match="one frame"):
        rendered(source, Rendering("image/png", frames))


def test_annotations_are_burnt_in() -> None:
    source = opened(real_object("CT_small.dcm"))
    plain = np.asarray(Image.open(BytesIO(rendered(source, Rendering("image/png")))), int)
    both = Rendering("image/png", annotation=("patient", "technique"))
    drawn = np.asarray(Image.open(BytesIO(rendered(source, both))), int)
    rows, columns = np.nonzero(plain - drawn)
    assert len(rows) > 100
    assert columns.min() < 30
    assert columns.max() > 100


@pytest.mark.parametrize("profile", ["yes", "srgb", "adobergb", "rommrgb"])
def test_a_profile_is_embedded(profile: str) -> None:
    source = opened(real_object("SC_rgb_small_odd.dcm"))
    picture = Image.open(BytesIO(rendered(source, Rendering("image/png", icc_profile=profile))))
    assert ImageCms.getProfileName(ImageCms.ImageCmsProfile(BytesIO(picture.info["icc_profile"])))


def test_the_profile_of_a_compressed_frame_is_kept() -> None:
    """PS3.18 8.3.5.1.5, where the object has none of its own."""
    path = real_object("SC_rgb_jpeg_dcmtk.dcm")
    with_profile = dcmread(path)
    frame = Image.open(BytesIO(next(generate_frames(with_profile.PixelData, number_of_frames=1))))
    stream = BytesIO()
    frame.save(stream, "JPEG", icc_profile=well_known(IccProfile.ADOBE_RGB))
    with_profile.PixelData = encapsulate([stream.getvalue()])
    del with_profile.file_meta
    source = Source(memoryview(encoded(with_profile)), UID("1.2.840.10008.1.2.4.50"))
    for wanted, expected in (("yes", well_known(IccProfile.ADOBE_RGB)), ("", None), ("no", None)):
        picture = Image.open(BytesIO(rendered(source, Rendering("image/png", icc_profile=wanted))))
        assert picture.info.get("icc_profile") == expected


def test_the_profile_of_a_presentation_state_is_in_the_picture() -> None:
    """PS3.18 8.3.5.1.6, unless it is not wanted."""
    state = Dataset()
    state.ICCProfile = well_known(IccProfile.ADOBE_RGB)
    source = opened(real_object("SC_rgb_small_odd.dcm"))
    for wanted, expected in (("", state.ICCProfile), ("no", None)):
        made = rendered(source, Rendering("image/png", icc_profile=wanted), state)
        assert Image.open(BytesIO(made)).info.get("icc_profile") == expected


def test_a_report_is_html_text_and_xml() -> None:
    source = opened(real_object("test-SR.dcm"))
    page = rendered(source, Rendering("text/html")).decode()
    assert "3 cm" in page
    assert "&lt;&gt;" in page
    assert "Diameter: 3 cm" in rendered(source, Rendering("text/plain")).decode()
    model = ET.fromstring(rendered(source, Rendering("text/xml")))
    values = [one.text for one in model.iterfind(".//{*}DicomAttribute[@keyword='NumericValue']/{*}Value")]
    assert "3" in values


def test_an_ecg_is_drawn() -> None:
    source = opened(real_object("waveform_ecg.dcm"))
    picture = Image.open(BytesIO(rendered(source, Rendering("image/png"))))
    dark = np.asarray(picture.convert("L")) < 60
    assert all(dark[top : top + 120].any() for top in range(0, picture.height, 120)), "each of 12 leads"
    with pytest.raises(CannotUnderstand, match="no picture"):
        rendered(opened(real_object("rtplan.dcm")), Rendering("image/png"))


def test_a_multi_frame_image_becomes_a_video() -> None:
    source = opened(real_object("rtdose.dcm"))
    made = rendered(source, Rendering("video/mp4", tuple(range(1, source.n_frames + 1))))
    with av.open(BytesIO(made)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    assert len(frames) == source.n_frames
    for frame, number in zip(frames, range(1, source.n_frames + 1), strict=True):
        picture = picture_of(source, number, None, None).convert("L")
        shown = np.asarray(frame.convert("L"), int)[: picture.height, : picture.width]
        assert np.abs(shown - np.asarray(picture, int)).mean() < 8
