"""Forms of pixels, one by one: what the attributes say is true of what is sent (PS3.3 C.7.6.3, PS3.5 8.2)."""

import struct
from collections.abc import Callable
from io import BytesIO

import imagecodecs
import jpeg_ls
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, encapsulate_extended, parse_basic_offsets
from pydicom.uid import UID as KnownUID

from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.part10 import file_meta
from pacsnode.dicom.sop_class import EXPLICIT_VR_BE, EXPLICIT_VR_LE, IMPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotTranscode, CannotUnderstand
from pacsnode.pixels import codec, plan
from pacsnode.pixels.transcode import transcode
from tests.support.objects import encoded

SOP_CLASS, SOP_INSTANCE = UID("1.2.840.10008.5.1.4.1.1.7"), UID("1.2.3.4")
RANDOM = np.random.default_rng(1993)
ROWS, COLUMNS = 24, 16
Cells = NDArray[np.integer]


def image(pixels: Cells, photometric: str = "MONOCHROME2", **attributes: object) -> Dataset:
    """An image of `pixels`: (rows, columns[, samples]), or frames of them."""
    data_set = Dataset()
    data_set.SOPClassUID, data_set.SOPInstanceUID = SOP_CLASS, SOP_INSTANCE
    color = pixels.ndim > 2 and pixels.shape[-1] == 3
    shape = pixels.shape[:-1] if color else pixels.shape
    data_set.SamplesPerPixel, data_set.PhotometricInterpretation = 3 if color else 1, photometric
    if color:
        data_set.PlanarConfiguration = 0
    if len(shape) == 3:
        data_set.NumberOfFrames = shape[0]
    data_set.Rows, data_set.Columns = shape[-2:]
    bits = 8 * pixels.itemsize
    data_set.BitsAllocated = data_set.BitsStored = bits
    data_set.HighBit, data_set.PixelRepresentation = bits - 1, int(pixels.dtype.kind == "i")
    native = pixels.tobytes()
    data_set.add_new(0x7FE00010, "OB" if bits == 8 else "OW", native + bytes(len(native) & 1))
    for keyword, value in attributes.items():
        setattr(data_set, keyword, value)
    return data_set


def compressed(data_set: Dataset, *frames: bytes) -> Dataset:
    data_set.PixelData = encapsulate(list(frames))
    return finished(data_set)


def finished(data_set: Dataset) -> Dataset:
    data_set["PixelData"].VR = "OB"
    data_set["PixelData"].is_undefined_length = True
    return data_set


def made(data_set: Dataset, stored: UID, target: UID) -> Dataset:
    """The data set in another transfer syntax, as pydicom reads it."""
    out = BytesIO()
    transcode(memoryview(encoded(data_set)), stored, target, out)
    head = file_meta(SOP_CLASS, SOP_INSTANCE, target, "TEST")
    found = dcmread(BytesIO(head + out.getvalue()))
    plugin = "pylibjpeg" if target == plan.JPEG_2000_LOSSLESS else ""
    found.pixel_array_options(raw=True, decoding_plugin=plugin)
    return found


def there_and_back(data_set: Dataset, target: UID) -> Dataset:
    """Compressed, and decompressed again."""
    there = BytesIO()
    transcode(memoryview(encoded(data_set)), EXPLICIT_VR_LE, target, there)
    back = BytesIO()
    transcode(memoryview(there.getvalue()), target, EXPLICIT_VR_LE, back)
    found = dcmread(BytesIO(file_meta(SOP_CLASS, SOP_INSTANCE, EXPLICIT_VR_LE, "TEST") + back.getvalue()))
    found.pixel_array_options(raw=True)
    return found


def noise(dtype: str, *shape: int, bits: int | None = None) -> Cells:
    """Samples of the whole range of `bits`."""
    info = np.iinfo(dtype)
    bits = bits or info.bits
    low = -(1 << (bits - 1)) if info.min < 0 else 0
    return RANDOM.integers(low, low + (1 << bits), shape, dtype=dtype)


@pytest.mark.parametrize("target", plan.ENCODABLE)
@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        ("u1", 8),
        ("u1", 7),
        ("u1", 5),
        ("i1", 8),
        ("<u2", 16),
        ("<i2", 16),
        ("<u2", 12),
        ("<i2", 12),
        ("<i2", 9),
    ],
)
def test_samples_of_every_depth_survive(target: UID, dtype: str, stored: int) -> None:
    pixels = noise(dtype, 2, ROWS, COLUMNS, bits=stored)
    data_set = image(pixels, BitsStored=stored, HighBit=stored - 1)
    back = there_and_back(data_set, target)
    assert np.array_equal(back.pixel_array, pixels)
    assert (back.BitsStored, back.HighBit, back.SOPInstanceUID) == (stored, stored - 1, SOP_INSTANCE)
    assert "LossyImageCompression" not in back


@pytest.mark.parametrize("target", plan.ENCODABLE)
@pytest.mark.parametrize("dtype", ["u1", "<u2"])
def test_colour_survives(target: UID, dtype: str) -> None:
    pixels = noise(dtype, 2, ROWS, COLUMNS, 3)
    back = there_and_back(image(pixels, "RGB"), target)
    assert np.array_equal(back.pixel_array, pixels)
    assert (back.PhotometricInterpretation, back.PlanarConfiguration) == ("RGB", 0)


def test_rgb_in_jpeg_2000_is_called_what_it_is() -> None:
    pixels = noise("u1", ROWS, COLUMNS, 3)
    found = made(image(pixels, "RGB"), EXPLICIT_VR_LE, plan.JPEG_2000_LOSSLESS)
    assert found.PhotometricInterpretation == "YBR_RCT"
    assert np.array_equal(found.pixel_array, pixels)


@pytest.mark.parametrize("target", plan.ENCODABLE)
def test_colour_by_plane_becomes_colour_by_pixel(target: UID) -> None:
    pixels = noise("u1", ROWS, COLUMNS, 3)
    data_set = image(pixels, "RGB", PlanarConfiguration=1)
    data_set["PixelData"].value = pixels.transpose(2, 0, 1).tobytes()
    back = there_and_back(data_set, target)
    assert back.PlanarConfiguration == 0
    assert np.array_equal(back.pixel_array, pixels)


@pytest.mark.parametrize("target", [plan.JPEG_LS_LOSSLESS, plan.RLE_LOSSLESS, plan.JPEG_2000_LOSSLESS])
def test_ybr_stays_ybr_where_nothing_is_lost(target: UID) -> None:
    pixels = noise("u1", ROWS, COLUMNS, 3)
    back = there_and_back(image(pixels, "YBR_FULL"), target)
    assert back.PhotometricInterpretation == "YBR_FULL"
    assert np.array_equal(back.pixel_array, pixels)


def test_subsampled_colour_is_compressed_as_full() -> None:
    pairs = noise("u1", ROWS * COLUMNS // 2, 4)
    data_set = image(np.zeros((ROWS, COLUMNS, 3), "u1"), "YBR_FULL_422")
    data_set["PixelData"].value = pairs.tobytes()
    found = made(data_set, EXPLICIT_VR_LE, plan.RLE_LOSSLESS)
    assert found.PhotometricInterpretation == "YBR_FULL"
    pixels = found.pixel_array.reshape(-1, 2, 3)
    assert np.array_equal(pixels[:, :, 0], pairs[:, :2])
    assert np.array_equal(pixels[:, 0, 1:], pairs[:, 2:])
    assert np.array_equal(pixels[:, 1, 1:], pairs[:, 2:])


@pytest.mark.parametrize("target", plan.NATIVE)
def test_frames_of_odd_length_are_padded_at_the_end_only(target: UID) -> None:
    pixels = noise("u1", 3, 3, 5)
    data_set = compressed(image(pixels), *(rle(frame) for frame in pixels))
    found = made(data_set, plan.RLE_LOSSLESS, target)
    assert len(found.PixelData) == 46
    assert np.array_equal(found.pixel_array, pixels)


def rle(frame: Cells) -> bytes:
    """An 8-bit frame; the runs by pydicom."""
    from pydicom.pixels.encoders.native import _encode_segment

    segment = bytes(_encode_segment(frame.tobytes(), frame.shape[1]))
    return struct.pack("<16I", 1, 64, *([0] * 14)) + segment


def test_pixels_in_big_endian_words_come_out_in_order() -> None:
    pixels = noise("<u2", 2, ROWS, COLUMNS)
    big = made(image(pixels), EXPLICIT_VR_LE, EXPLICIT_VR_BE)
    assert big.PixelData == pixels.astype(">u2").tobytes()
    out = BytesIO()
    transcode(memoryview(encoded_in(big, EXPLICIT_VR_BE)), EXPLICIT_VR_BE, IMPLICIT_VR_LE, out)
    assert out.getvalue().endswith(pixels.tobytes())


def encoded_in(data_set: Dataset, transfer_syntax: UID) -> bytes:
    out = BytesIO()
    encoding = encoding_of(transfer_syntax)
    data_set.save_as(
        out, implicit_vr=encoding.implicit, little_endian=encoding.little_endian, enforce_file_format=False
    )
    written = out.getvalue()
    return written[written.index(struct.pack(">HH", 0x0008, 0x0016)) :]


def test_float_pixels_change_byte_order_only() -> None:
    data_set = image(np.zeros((2, 2), "u1"))
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(data_set, keyword)
    data_set.BitsAllocated = 32
    data_set.FloatPixelData = struct.pack("<4f", 1.5, -2.5, float("inf"), 0)
    found = made(data_set, EXPLICIT_VR_LE, EXPLICIT_VR_BE)
    assert found.pixel_array.tolist() == [[1.5, -2.5], [float("inf"), 0]]
    with pytest.raises(CannotTranscode):
        made(data_set, EXPLICIT_VR_LE, plan.RLE_LOSSLESS)


@pytest.mark.parametrize("target", [uid for uid in plan.ENCODABLE if uid != plan.RLE_LOSSLESS])
def test_an_overlay_in_the_unused_bits_is_not_lost_silently(target: UID) -> None:
    pixels = noise("<u2", ROWS, COLUMNS)  # all 16 bits
    data_set = image(pixels, BitsStored=12, HighBit=11)
    data_set.add_new(0x60000100, "US", 16)
    data_set.add_new(0x60000102, "US", 12)
    with pytest.raises(CannotTranscode):
        made(data_set, EXPLICIT_VR_LE, target)
    assert there_and_back(data_set, plan.RLE_LOSSLESS).PixelData == pixels.tobytes()


@pytest.mark.parametrize(
    "data_set",
    [
        pytest.param(image(noise("<u4", 4, 4)), id="32 bits"),
        pytest.param(image(noise("<u2", 4, 4), "MONOCHROME2", BitsStored=12, HighBit=15), id="high bit"),
        pytest.param(image(noise("u1", 4, 4, 3), "CMYK"), id="colour space nobody knows"),
        pytest.param(image(noise("<u2", 4, 4, 3), "YBR_FULL"), id="16 bits of YBR"),
    ],
)
def test_what_has_no_form_is_refused_cleanly(data_set: Dataset) -> None:
    with pytest.raises(CannotTranscode):
        made(data_set, EXPLICIT_VR_LE, plan.JPEG_LS_LOSSLESS)


def jpeg(pixels: Cells) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(pixels, level=80))


def near(pixels: Cells, error: int) -> bytes:
    rows, columns = pixels.shape
    return bytes(
        jpeg_ls.encode_pixel_data(
            pixels.tobytes(),
            lossy_error=error,
            rows=rows,
            columns=columns,
            samples_per_pixel=1,
            bits_stored=8,
        )
    )


def wavelets(pixels: Cells) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, level=40, codecformat="J2K", reversible=False))


GRADIENT = np.add.outer(np.arange(64, dtype="u1"), np.arange(64, dtype="u1"))


@pytest.mark.parametrize(
    ("stored", "stream", "method"),
    [
        (plan.JPEG_BASELINE, jpeg(GRADIENT), "ISO_10918_1"),
        (plan.JPEG_LS_NEAR_LOSSLESS, near(GRADIENT, 2), "ISO_14495_1"),
        (plan.JPEG_2000, wavelets(GRADIENT), "ISO_15444_1"),
    ],
)
def test_what_a_lossy_source_is_stays_written_on_it(stored: UID, stream: bytes, method: str) -> None:
    data_set = compressed(image(GRADIENT), stream)
    found = made(data_set, stored, EXPLICIT_VR_LE)
    assert found.LossyImageCompression == "01"
    assert found.LossyImageCompressionMethod == method
    padded = len(stream) + len(stream) % 2
    assert float(found.LossyImageCompressionRatio) == pytest.approx(64 * 64 / padded, abs=0.01)


def test_what_is_already_written_of_the_loss_is_left_alone() -> None:
    data_set = compressed(image(GRADIENT), jpeg(GRADIENT))
    data_set.LossyImageCompression, data_set.LossyImageCompressionRatio = "01", [12, "3.5"]
    data_set.LossyImageCompressionMethod = ["ISO_15444_1", "ISO_10918_1"]
    found = made(data_set, plan.JPEG_BASELINE, EXPLICIT_VR_LE)
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        assert found[keyword].value == data_set[keyword].value


def test_a_lossless_stream_in_a_lossy_syntax_is_not_called_lossy() -> None:
    found = made(compressed(image(GRADIENT), near(GRADIENT, 0)), plan.JPEG_LS_NEAR_LOSSLESS, EXPLICIT_VR_LE)
    assert "LossyImageCompression" not in found
    assert np.array_equal(found.pixel_array, GRADIENT)


@pytest.mark.parametrize("dtype", ["u1", "<u2"])
def test_lossless_jpeg_with_a_table_for_each_colour_is_decoded(dtype: str) -> None:
    """libjpeg-turbo 3.1 encodes this and cannot read it back."""
    pixels = noise(dtype, 2, ROWS, COLUMNS, 3)
    bits = 8 * pixels.itemsize
    streams = [
        imagecodecs.jpeg8_encode(
            frame, lossless=True, predictor=1, bitspersample=bits, colorspace="YCBCR", outcolorspace="YCBCR"
        )
        for frame in pixels
    ]
    found = made(compressed(image(pixels, "YBR_FULL"), *streams), plan.JPEG_LOSSLESS_SV1, EXPLICIT_VR_LE)
    assert np.array_equal(found.pixel_array, pixels)


def test_lossy_colour_is_sent_as_rgb() -> None:
    pixels = np.stack((GRADIENT, GRADIENT[::-1], GRADIENT[:, ::-1]), axis=-1)
    data_set = compressed(image(pixels, "YBR_FULL_422"), jpeg(pixels))
    found = made(data_set, plan.JPEG_BASELINE, IMPLICIT_VR_LE)
    assert found.PhotometricInterpretation == "RGB"
    assert np.abs(found.pixel_array.astype(int) - pixels).max() < 24


def test_an_icon_is_decoded_with_its_image() -> None:
    icon = image(GRADIENT)
    data_set = compressed(image(GRADIENT), near(GRADIENT, 0))
    data_set.IconImageSequence = [compressed(icon, near(GRADIENT, 0))]
    found = made(data_set, plan.JPEG_LS_LOSSLESS, EXPLICIT_VR_BE)
    assert found.IconImageSequence[0].PixelData == GRADIENT.tobytes()


def fragmented(frames: list[bytes], **options: bool) -> bytes:
    return encapsulate(frames, fragments_per_frame=3, **options)


@pytest.mark.parametrize("has_bot", [True, False])
def test_frames_in_several_fragments_are_joined(has_bot: bool) -> None:
    """By the Basic Offset Table, else by how a frame begins."""
    pixels = noise("u1", 3, ROWS, COLUMNS)
    data_set = image(pixels)
    data_set.PixelData = fragmented([near(frame, 0) for frame in pixels], has_bot=has_bot)
    found = made(finished(data_set), plan.JPEG_LS_LOSSLESS, EXPLICIT_VR_LE)
    assert np.array_equal(found.pixel_array, pixels)


def test_an_extended_offset_table_goes_with_the_frames_it_told_of() -> None:
    pixels = noise("u1", 3, ROWS, COLUMNS)
    data_set = image(pixels)
    data_set.PixelData, data_set.ExtendedOffsetTable, data_set.ExtendedOffsetTableLengths = (
        encapsulate_extended([near(frame, 0) for frame in pixels])
    )
    found = made(finished(data_set), plan.JPEG_LS_LOSSLESS, plan.RLE_LOSSLESS)
    assert np.array_equal(found.pixel_array, pixels)
    assert "ExtendedOffsetTable" not in found
    assert "ExtendedOffsetTableLengths" not in found


def test_fragments_that_belong_to_no_frame_are_refused() -> None:
    pixels = noise("u1", 2, ROWS, COLUMNS)
    data_set = image(pixels)
    data_set.PixelData = encapsulate([rle(frame) for frame in pixels], fragments_per_frame=2, has_bot=False)
    with pytest.raises(CannotUnderstand, match="nothing tells"):
        made(finished(data_set), plan.RLE_LOSSLESS, EXPLICIT_VR_LE)


def test_the_basic_offset_table_leads_to_each_frame() -> None:
    pixels = noise("u1", 4, ROWS, COLUMNS)
    found = made(image(pixels), EXPLICIT_VR_LE, plan.JPEG_LS_LOSSLESS)
    offsets = parse_basic_offsets(found.PixelData)
    start = 8 + 4 * len(offsets)
    items = [found.PixelData[start + offset : start + offset + 4] for offset in offsets]
    assert items == [b"\xfe\xff\x00\xe0"] * 4


def test_a_renamed_stream_is_not_touched() -> None:
    data_set = compressed(image(GRADIENT), near(GRADIENT, 0))
    found = made(data_set, plan.JPEG_LS_LOSSLESS, plan.JPEG_LS_NEAR_LOSSLESS)
    assert found.PixelData == data_set.PixelData
    assert KnownUID(found.file_meta.TransferSyntaxUID) == plan.JPEG_LS_NEAR_LOSSLESS


def test_a_stream_of_another_size_than_the_image_is_never_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg_ls, "decode_pixel_data", None)
    data_set = compressed(image(GRADIENT, Rows=32), near(GRADIENT, 0))
    with pytest.raises(CannotUnderstand, match="64 x 64"):
        made(data_set, plan.JPEG_LS_LOSSLESS, EXPLICIT_VR_LE)


def test_a_stream_of_more_bits_than_are_allocated_is_given_the_room_it_needs() -> None:
    pixels = noise("<u2", ROWS, COLUMNS)
    stream = imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="J2K", reversible=True)
    described = image(pixels, BitsAllocated=8, BitsStored=8, HighBit=7)
    found = made(compressed(described, bytes(stream)), plan.JPEG_2000_LOSSLESS, EXPLICIT_VR_LE)
    assert (found.BitsAllocated, found.BitsStored, found.HighBit) == (16, 16, 15)
    assert np.array_equal(found.pixel_array, pixels)


def test_cells_of_three_bytes_are_refused_cleanly() -> None:
    data_set = compressed(image(GRADIENT, BitsAllocated=24, BitsStored=24), near(GRADIENT, 0))
    with pytest.raises(CannotTranscode):
        made(data_set, plan.JPEG_LS_LOSSLESS, EXPLICIT_VR_LE)


def test_an_encoder_that_is_not_true_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = codec._encode_rle
    lying: Callable[..., bytes] = lambda samples, image: honest(samples ^ 1, image)  # noqa: E731
    monkeypatch.setitem(codec._ENCODERS, plan.RLE_LOSSLESS, lying)
    with pytest.raises(CannotTranscode, match="not true"):
        made(image(GRADIENT), EXPLICIT_VR_LE, plan.RLE_LOSSLESS)


@pytest.mark.parametrize(
    ("stored", "stream"),
    [
        (plan.JPEG_BASELINE, jpeg(GRADIENT)),
        (plan.JPEG_LS_LOSSLESS, near(GRADIENT, 0)),
        (plan.JPEG_2000, wavelets(GRADIENT)),
        (plan.RLE_LOSSLESS, rle(GRADIENT)),
    ],
)
def test_no_cut_of_a_stream_passes_for_what_it_was(stored: UID, stream: bytes) -> None:
    """A codec may fill up what is missing of a lossy image; it may not crash, nor answer with less."""
    for cut in (*range(2, 64, 2), *range(64, len(stream), max(2, len(stream) // 40 * 2))):
        data_set = compressed(image(GRADIENT), stream[:cut])
        try:
            found = made(data_set, stored, EXPLICIT_VR_LE)
        except CannotUnderstand:
            continue
        assert found.pixel_array.shape == GRADIENT.shape


@pytest.mark.parametrize("frames", [2, 10**9])
def test_frames_that_are_not_there_are_missed(frames: int) -> None:
    with pytest.raises(CannotUnderstand):
        made(image(GRADIENT, NumberOfFrames=frames), EXPLICIT_VR_LE, plan.RLE_LOSSLESS)
    data_set = compressed(image(GRADIENT, NumberOfFrames=frames), rle(GRADIENT))
    with pytest.raises(CannotUnderstand):
        made(data_set, plan.RLE_LOSSLESS, EXPLICIT_VR_LE)
