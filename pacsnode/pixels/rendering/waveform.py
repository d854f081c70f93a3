"""Waveforms drawn on paper: 25 mm/s, 10 mm/mV, a large square each 200 ms (PS3.3 C.10.9)."""

from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset
from pydicom.waveforms.numpy_handler import multiplex_array

from pacsnode.errors import CannotUnderstand

PIXELS_PER_MM: Final = 4
SPEED: Final = 25.0  # mm a second
GAIN: Final = 10.0  # mm a millivolt
LONGEST: Final = 10.0  # seconds drawn; a day of Holter would be 2 km of paper
MOST_CHANNELS: Final = 24
CHANNEL_HEIGHT: Final = 30  # mm

_PAPER: Final = (255, 250, 250)
_FINE: Final = (248, 220, 220)
_COARSE: Final = (238, 180, 180)
_INK: Final = (20, 20, 40)
_MILLIVOLTS: Final = {"V": 1000.0, "mV": 1.0, "uV": 0.001, "nV": 0.000001}


def waveform_picture(attributes: Dataset) -> Image.Image:
    """The channels of the first multiplex group, one below the other. Raises CannotUnderstand."""
    groups = attributes.get("WaveformSequence")
    if not groups:
        raise CannotUnderstand("the object has no waveform")
    group = groups[0]
    try:
        samples = multiplex_array(attributes, 0, as_raw=False)
        rate = float(group.SamplingFrequency)
        channels = list(islice(group.ChannelDefinitionSequence, MOST_CHANNELS))
    except (AttributeError, ValueError, TypeError, KeyError) as error:
        raise CannotUnderstand(f"the waveform cannot be read: {error}") from error
    shown = samples[: max(int(LONGEST * rate), 2)]
    seconds = len(shown) / rate
    picture = _paper(round(seconds * SPEED) + 20, len(channels) * CHANNEL_HEIGHT)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(4 * PIXELS_PER_MM)
    for number, channel in enumerate(channels):
        middle = (number + 0.5) * CHANNEL_HEIGHT * PIXELS_PER_MM
        draw.line(_curve(shown[:, number], channel, rate, middle), fill=_INK, width=2)
        draw.text((PIXELS_PER_MM, middle - 13 * PIXELS_PER_MM), _label(channel), fill=_INK, font=font)
    return picture


def _paper(width: int, height: int) -> Image.Image:
    """Millimetre paper; `width` and `height` in mm."""
    picture = Image.new("RGB", (width * PIXELS_PER_MM, height * PIXELS_PER_MM), _PAPER)
    draw = ImageDraw.Draw(picture)
    for step, colour in ((1, _FINE), (5, _COARSE)):
        for x in range(0, picture.width, step * PIXELS_PER_MM):
            draw.line((x, 0, x, picture.height), colour)
        for y in range(0, picture.height, step * PIXELS_PER_MM):
            draw.line((0, y, picture.width, y), colour)
    return picture


def _curve(
    samples: NDArray[np.floating], channel: Dataset, rate: float, middle: float
) -> list[tuple[float, float]]:
    values = np.nan_to_num(samples.astype(np.float64))
    factor = _MILLIVOLTS.get(_unit(channel))
    if factor is None:  # no voltage: as high as there is room
        span = float(np.ptp(values)) or 1.0
        values = (values - float(values.min())) / span * 2 - 1
        factor = 1.0
    heights = (
        middle - np.clip(values * factor * GAIN, -2 * CHANNEL_HEIGHT, 2 * CHANNEL_HEIGHT) * PIXELS_PER_MM
    )
    places = np.arange(len(values)) / rate * SPEED * PIXELS_PER_MM + 10 * PIXELS_PER_MM
    return list(zip(places.tolist(), heights.tolist(), strict=True))


def _unit(channel: Dataset) -> str:
    units = channel.get("ChannelSensitivityUnitsSequence")
    return str(units[0].get("CodeValue", "")) if units else ""


def _label(channel: Dataset) -> str:
    source = channel.get("ChannelSourceSequence")
    meaning = str(source[0].get("CodeMeaning", "")) if source else ""
    return str(channel.get("ChannelLabel") or meaning)
