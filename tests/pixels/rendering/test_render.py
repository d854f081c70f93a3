"""pixels.rendering.render: every real object has a thumbnail; files are what they say they are."""

import warnings
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageCms

from pacsnode.errors import CannotUnderstand
from pacsnode.pixels.rendering.picture import picture_of
from pacsnode.pixels.rendering.render import rendered
from pacsnode.pixels.rendering.request import Rendering, Viewport
from tests.conftest import real_object, real_objects
from tests.pixels.rendering.test_source import opened

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


def test_a_report_is_html_and_text() -> None:
    source = opened(real_object("test-SR.dcm"))
    page = rendered(source, Rendering("text/html")).decode()
    assert "3 cm" in page
    assert "&lt;&gt;" in page
    assert "Diameter: 3 cm" in rendered(source, Rendering("text/plain")).decode()


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
