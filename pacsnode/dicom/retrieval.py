"""What a retrieve identifier asks for: a level and its unique keys (PS3.4 C.4.2.1.4.1, C.4.2.2.1). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pacsnode.dicom.information_model import (
    IDENTIFIER_TAGS,
    QUERY_RETRIEVE_LEVEL,
    UNIQUE_KEYS,
    InformationModel,
    Level,
)
from pacsnode.dicom.query import FIRST_TAG, RequestedKey, key_of
from pacsnode.dicom.uid import is_uid
from pacsnode.errors import InvalidIdentifier


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Which entities are to be retrieved.

    `keys` holds the values of each unique key given, from the top of the model down to `level`: alternatives,
    of which a Patient ID and a key above `level` have one. `ignored` are tags that an identifier must not
    hold (C.4.2.1.4.1) and that narrow nothing down.
    """

    level: Level
    model: InformationModel
    keys: tuple[tuple[Level, tuple[str, ...]], ...]
    ignored: tuple[int, ...] = ()


def retrieval_of(
    level: Level, model: InformationModel, requested: Iterable[RequestedKey], *, relational: bool = False
) -> Retrieval:
    """Check an identifier against its information model.

    `relational`: the keys above `level` may be missing (C.4.2.2.2.1). Raises InvalidIdentifier with the
    offending element.
    """
    if level not in model.levels:
        raise InvalidIdentifier(
            f"level {level.value} is not in the {model.value} model", (QUERY_RETRIEVE_LEVEL,)
        )
    wanted = {UNIQUE_KEYS[one].tag: one for one in model.levels if one.depth <= level.depth}
    found: dict[Level, tuple[str, ...]] = {}
    ignored: list[int] = []
    for request in requested:
        if request.tag in wanted:
            found[wanted[request.tag]] = key_of(request).values
        elif _means_something(request):
            ignored.append(request.tag)
    for one in wanted.values():
        _check(one, level, found.get(one, ()), relational)
    keys = tuple((one, found[one]) for one in wanted.values() if found.get(one))
    return Retrieval(level, model, keys, tuple(ignored))


def _means_something(request: RequestedKey) -> bool:
    """Whether it is an attribute at all: group lengths come from old senders, empty keys from lazy ones."""
    if request.tag in IDENTIFIER_TAGS or request.tag < FIRST_TAG or request.tag & 0xFFFF == 0:
        return False
    return bool(request.text or request.items)


def _check(one: Level, level: Level, values: tuple[str, ...], relational: bool) -> None:
    """The rules for the unique key of one level (PS3.4 C.4.2.2.1)."""
    unique = UNIQUE_KEYS[one]
    if not values:
        if one is level or not relational:
            raise InvalidIdentifier(f"{unique.keyword} is missing at {level.value}", (unique.tag,))
        return
    single = one is Level.PATIENT or (one is not level and not relational)
    if single and len(values) > 1:
        raise InvalidIdentifier(f"{unique.keyword} needs a single value at {level.value}", (unique.tag,))
    if one is not Level.PATIENT and not all(map(is_uid, values)):
        raise InvalidIdentifier(f"{unique.keyword} holds what is no UID", (unique.tag,))
