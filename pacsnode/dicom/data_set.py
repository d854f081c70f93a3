"""Small data sets as pydicom objects: identifiers and the attribute lists of DIMSE-N (PS3.5 7, A, PS3.7 10).

For what is exchanged by the dozen. Objects are never parsed like this: see header.py and identifier.py.
"""

from io import BytesIO
from typing import Final

from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VR
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotUnderstand

UTF_8: Final = "ISO_IR 192"
TEXT_VRS: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})  # that Specific Character Set governs


def encode_data_set(data_set: Dataset, transfer_syntax: UID) -> bytes:
    """A data set in an uncompressed transfer syntax."""
    encoding = encoding_of(transfer_syntax)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = encoding.implicit, encoding.little_endian
    write_dataset(buffer, data_set)
    return buffer.getvalue()


def decode_data_set(data: bytes, transfer_syntax: UID) -> Dataset:
    """The reverse of `encode_data_set`. Values are read when asked for, and may raise anything then."""
    encoding = encoding_of(transfer_syntax)
    return read_dataset(BytesIO(data), encoding.implicit, encoding.little_endian)


def read_whole(data: bytes, transfer_syntax: UID) -> Dataset:
    """A data set with every value read and its text in UTF-8. Raises CannotUnderstand."""
    try:
        data_set = decode_data_set(data, transfer_syntax)
        data_set.decode()
        for tag in [tag for tag in data_set if tag.tag.element == 0]:
            del data_set[tag.tag]  # group lengths (PS3.5 7.2), retired but met
        in_utf_8(data_set)
        encode_data_set(data_set, EXPLICIT_VR_LE)
    except Exception as error:  # pydicom raises whatever the bytes lead it to
        raise CannotUnderstand(f"the data set cannot be read: {type(error).__name__}") from error
    return data_set


def in_utf_8(data_set: Dataset) -> None:
    """Have a decoded data set be encoded in UTF-8, declared where there is more than ASCII (PS3.5 6.1.2)."""
    for item in _items(data_set):
        item.pop("SpecificCharacterSet", None)
    if any(e.VR in TEXT_VRS and not str(e.value).isascii() for e in data_set.iterall()):
        data_set.SpecificCharacterSet = UTF_8


def first_of(data_set: Dataset, tag: int) -> DataElement | None:
    """The first element of that tag, at whatever depth; None when there is none."""
    return next((element for element in data_set.iterall() if element.tag == tag), None)


def empty_element(tag: int) -> DataElement:
    """An element of a standard attribute with zero length."""
    vr = dictionary_VR(tag)
    return DataElement(tag, vr, [] if vr == "SQ" else None)


def _items(data_set: Dataset) -> list[Dataset]:
    """The data set and every item in it."""
    found = [data_set]
    for element in data_set:
        if element.VR == "SQ":
            for item in element.value:
                found += _items(item)
    return found
