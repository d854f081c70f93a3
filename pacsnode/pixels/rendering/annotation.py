"""Text burnt into a picture on request: annotation=patient,technique (PS3.18 8.3.5.1.1)."""

from collections.abc import Collection, Iterator
from typing import Final

from PIL import Image, ImageDraw
from pydicom import Dataset

from pacsnode.pixels.rendering.graphics import font_for

PATIENT: Final = "patient"
TECHNIQUE: Final = "technique"
KEYWORDS: Final = (PATIENT, TECHNIQUE)

_PATIENT_LINES: Final = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_TECHNIQUE_LINES: Final = (
    ("", "StudyDate"),
    ("", "StudyDescription"),
    ("", "SeriesDescription"),
    ("Se ", "SeriesNumber"),
    ("Im ", "InstanceNumber"),
    ("Loc ", "SliceLocation"),
    ("kV ", "KVP"),
    ("mA ", "XRayTubeCurrent"),
    ("TR ", "RepetitionTime"),
    ("TE ", "EchoTime"),
    ("Thk ", "SliceThickness"),
)


def annotated(picture: Image.Image, shown: Dataset, wanted: Collection[str], frame: int) -> Image.Image:
    """The picture with who it shows at the top left, and how it was made at the top right."""
    drawn = picture.copy()
    if PATIENT in wanted:
        _write(drawn, list(_patient(shown)), at_right=False)
    if TECHNIQUE in wanted:
        _write(drawn, list(_technique(shown, frame)), at_right=True)
    return drawn


def _patient(shown: Dataset) -> Iterator[str]:
    for keyword in _PATIENT_LINES:
        if text := str(shown.get(keyword) or ""):
            yield text.replace("^", " ").strip()


def _technique(shown: Dataset, frame: int) -> Iterator[str]:
    for prefix, keyword in _TECHNIQUE_LINES:
        if text := str(shown.get(keyword) or ""):
            yield prefix + text
    if int(shown.get("NumberOfFrames") or 1) > 1:
        yield f"Fr {frame}/{shown.NumberOfFrames}"


def _write(picture: Image.Image, lines: list[str], at_right: bool) -> None:
    """White letters with a black rim, readable on any image."""
    draw = ImageDraw.Draw(picture)
    font = font_for(picture)
    white, black = (255, 0) if picture.mode == "L" else ((255, 255, 255), (0, 0, 0))
    place, anchor = ((picture.width - 4, 4), "ra") if at_right else ((4, 4), "la")
    draw.multiline_text(
        place,
        "\n".join(lines),
        fill=white,
        font=font,
        anchor=anchor,
        align="right" if at_right else "left",
        stroke_width=1,
        stroke_fill=black,
    )
