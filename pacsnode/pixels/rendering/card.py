"""A picture for what has no pixels: a card that says what it is, or the first page of a document."""

from io import BytesIO
from typing import Final

from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset

from pacsnode.dicom.sop_class import name_of
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotUnderstand

_SIZE: Final = (384, 384)
_PAPER: Final = (34, 40, 49)
_INK: Final = (238, 238, 238)
_QUIET: Final = (150, 160, 175)


def card(attributes: Dataset) -> Image.Image:
    """Modality, SOP Class and description in letters; no patient attribute."""
    picture = Image.new("RGB", _SIZE, _PAPER)
    draw = ImageDraw.Draw(picture)
    middle = _SIZE[0] // 2
    kind = name_of(UID(str(attributes.get("SOPClassUID", "")))).replace(" Storage", "")
    lines = (
        (120, str(attributes.get("Modality") or "?"), 72, _INK),
        (220, kind, 20, _QUIET),
        (260, str(attributes.get("SeriesDescription") or attributes.get("DocumentTitle") or ""), 18, _QUIET),
    )
    for top, text, size, ink in lines:
        draw.text((middle, top), _short(text), fill=ink, font=ImageFont.load_default(size), anchor="mm")
    return picture


def first_page(document: bytes) -> Image.Image:
    """The first page of a PDF. Raises CannotUnderstand."""
    import pypdfium2

    try:
        pages = pypdfium2.PdfDocument(BytesIO(document))
        rendered: Image.Image = pages[0].render(scale=1.5).to_pil()
    except (pypdfium2.PdfiumError, IndexError, ValueError) as error:
        raise CannotUnderstand(f"the document cannot be read: {error}") from error
    return rendered.convert("RGB")


def _short(text: str) -> str:
    return text if len(text) <= 36 else text[:35] + "…"
