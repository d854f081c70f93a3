"""An object file read back: the row it would have in the index. For recovery and rebuild; blocking."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pacsnode.archive.files import Layout, digest
from pacsnode.archive.kept import compressed
from pacsnode.archive.rows import InstanceRow, RowBuilder
from pacsnode.dicom.header import scan
from pacsnode.dicom.information_model import INDEXED_TAGS
from pacsnode.dicom.part10 import read_file_meta
from pacsnode.errors import CannotUnderstand, OperationError


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that could not be indexed; it stays where it is."""

    path: str
    reason: str


def row_of_file(layout: Layout, rows: RowBuilder, path: str) -> InstanceRow | Unreadable:
    """The row of one file, with the path it has now."""
    absolute = layout.absolute(path)
    try:
        with mapped(absolute) as view:
            row = row_of_content(view, rows)
        row.stored_at = os.stat(absolute).st_mtime
        row.path = path
    except OperationError as error:
        return Unreadable(path, str(error))
    except OSError as error:
        return Unreadable(path, error.strerror or type(error).__name__)
    return row


def row_of_content(view: memoryview, rows: RowBuilder) -> InstanceRow:
    """The row of a file, given by its bytes, at the path of a new object. Raises OperationError."""
    meta = read_file_meta(view)
    data = view[meta.data_offset :]
    header = scan(data, meta.transfer_syntax, len(data), INDEXED_TAGS)
    row = rows.build(header)
    row.digest = digest(data).digest()
    row.size = len(view)
    row.kept = compressed(header.kept)
    row.source_ae = meta.source_ae or ""
    return row


@contextmanager
def mapped(path: str) -> Iterator[memoryview]:
    """A file's bytes. Raises CannotUnderstand when it is empty."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise CannotUnderstand("the file is empty")
        # Closed by its last reference: a traceback that still holds a slice must not turn into BufferError.
        yield memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
