"""The key that replaced UIDs and Patient IDs are derived with (PS3.15 E.1.1, action U).

It is a file of its own in the data root, `deidentification.key`, which only the owner reads: with the same
key references between objects that are de-identified on different days stay together; where it is removed,
nobody can tell any more which of them belong to what is stored.
"""

import asyncio
import os
import secrets
from pathlib import Path
from typing import Final

FILE_NAME: Final = "deidentification.key"
LENGTH: Final = 32  # bytes


class DeidentificationKey:
    """The key of a data root, made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self._path = root / FILE_NAME
        self._key: bytes | None = None
        self._turn = asyncio.Lock()

    async def get(self) -> bytes:
        """Raises OSError when it can neither be read nor made."""
        async with self._turn:
            if self._key is None:
                self._key = await asyncio.to_thread(_read_or_make, self._path)
            return self._key


def _read_or_make(path: Path) -> bytes:
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = b""
    return key if len(key) == LENGTH else _make(path)


def _make(path: Path) -> bytes:
    """A new key, whole or not at all."""
    key = secrets.token_bytes(LENGTH)
    beginning = path.with_suffix(".part")
    with open(os.open(beginning, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    beginning.replace(path)
    return key
