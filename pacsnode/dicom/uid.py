"""Unique identifiers and AE titles: their types and what may be one (PS3.5 6.2 and 9). Pure."""

import re
import uuid
from hashlib import blake2b
from typing import NewType

from pacsnode.errors import CannotUnderstand

UID = NewType("UID", str)
AETitle = NewType("AETitle", str)

STANDARD_ROOT = "1.2.840.10008."  # what DICOM itself has named (PS3.6 A)
MAX_UID_LENGTH = 64  # characters (PS3.5 9.1)
MAX_AE_TITLE_LENGTH = 16  # characters (PS3.5 Table 6.2-1)

# Leading zeros in a component are against PS3.5 9.1 but met in the field; they harm nobody. Everything else
# is refused, because a UID becomes the name of a file or a folder.
_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_RAW_UID = re.compile(rb"[0-9]+(?:\.[0-9]+)*")
_AE_TITLE = re.compile(r"[ -\[\]-~]+")  # the default repertoire without control characters and backslash


def is_uid(text: str) -> bool:
    """Tell whether `text` is a UID of PS3.5 9.1, leading zeros in a component allowed."""
    return len(text) <= MAX_UID_LENGTH and _UID.fullmatch(text) is not None


def uid_of(raw: bytes) -> UID:
    """The UID in an encoded value, without its padding (PS3.5 6.2, UI).

    A trailing space is taken for the NUL it should have been. Raises CannotUnderstand when it is no UID.
    """
    stripped = raw.rstrip(b"\0 ")
    if len(stripped) > MAX_UID_LENGTH or _RAW_UID.fullmatch(stripped) is None:
        raise CannotUnderstand(f"not a UID: {stripped[:MAX_UID_LENGTH]!r}")
    return UID(stripped.decode("ascii"))


def ae_title(text: str) -> AETitle:
    """The AE title in `text`, without the spaces around it, which mean nothing (PS3.5 6.2, AE).

    Raises ValueError when nothing is left, or it is too long, or a character is not allowed.
    """
    title = text.strip(" ")
    if not title:
        raise ValueError("an AE title needs at least one character that is not a space")
    if len(title) > MAX_AE_TITLE_LENGTH:
        raise ValueError(f"AE title {title!r} is longer than {MAX_AE_TITLE_LENGTH} characters")
    if _AE_TITLE.fullmatch(title) is None:
        raise ValueError(f"AE title {title!r} may hold printable ASCII characters only, and no backslash")
    return AETitle(title)


def new_uid() -> UID:
    """A new UID derived from a random UUID (PS3.5 B.2)."""
    return UID(f"2.25.{uuid.uuid4().int}")


def pseudonymous_uid(uid: UID, key: bytes) -> UID:
    """The UID that stands for another one under a key of up to 64 bytes; those of the standard stay."""
    if not uid or uid.startswith(STANDARD_ROOT):
        return uid
    digest = blake2b(uid.encode(), key=key, digest_size=16).digest()
    return UID(f"2.25.{uuid.UUID(bytes=digest, version=4).int}")
