"""Which arrivals a rule of the configuration is for: the sender, the modality, any attribute.

Sender and modality are decided on what the index tells of an arrival; other attributes by the search that
answers C-FIND (PS3.4 C.2.2.2), on columns and kept headers. An attribute that is absent does not match here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Final

from pydicom.datadict import dictionary_VR, tag_for_keyword

from pacsnode.archive.archive import Archive
from pacsnode.archive.changes import Arrived
from pacsnode.dicom.information_model import UNIQUE_KEYS, InformationModel, Level
from pacsnode.dicom.matching import glob
from pacsnode.dicom.query import Query, QueryOptions, RequestedKey, query_of
from pacsnode.errors import ConfigurationError

INSTANCE: Final = UNIQUE_KEYS[Level.IMAGE]
_OPTIONS: Final = QueryOptions(relational=True, match_unknown=False)


class Selection:
    """What of the arrivals is meant; patterns are `*` and `?` as in C-FIND."""

    def __init__(
        self,
        archive: Archive,
        calling_ae: Sequence[str] = (),
        modality: Sequence[str] = (),
        match: Mapping[str, str] | None = None,
    ) -> None:
        """Raises ConfigurationError for keys of `match` that cannot be matched."""
        self._archive = archive
        self._calling_ae = calling_ae
        self._modality = modality
        self._keys = tuple(_requested(path.split("."), pattern) for path, pattern in (match or {}).items())
        if unsupported := _query(self._keys, ()).unsupported:
            tags = ", ".join(f"{tag:08X}" for tag in unsupported)
            raise ConfigurationError(f"rules cannot match {tags}: there is no single value, or no text")

    async def of(self, arrived: Sequence[Arrived]) -> list[Arrived]:
        """Those of the arrivals that are meant."""
        chosen = [
            one
            for one in arrived
            if is_one_of(one.source_ae, self._calling_ae) and is_one_of(one.modality, self._modality)
        ]
        if not chosen or not self._keys:
            return chosen
        matching = await self._matching([one.sop_instance for one in chosen])
        return [one for one in chosen if one.sop_instance in matching]

    async def _matching(self, sop_instances: Sequence[str]) -> set[str]:
        query = _query(self._keys, sop_instances)
        position = next(number for number, key in enumerate(query.keys) if key.tag == INSTANCE.tag)
        found = [match[position] async for chunk in self._archive.search(query) for match in chunk]
        return {uid for uid in found if isinstance(uid, str)}


def is_one_of(value: str, patterns: Sequence[str]) -> bool:
    """Whether a value is what any pattern says; no pattern at all: any value."""
    return not patterns or any(fnmatchcase(value, glob(pattern)) for pattern in patterns)


def _query(keys: Sequence[RequestedKey], sop_instances: Sequence[str]) -> Query:
    instances = RequestedKey(INSTANCE.tag, "UI", "\\".join(sop_instances))
    query = query_of(Level.IMAGE, InformationModel.PATIENT_ROOT, (*keys, instances), _OPTIONS)
    return replace(query, match_unknown=False)


def _requested(path: Sequence[str], pattern: str) -> RequestedKey:
    """A key as an identifier would have it; the configuration has checked the keywords."""
    tag = tag_for_keyword(path[0])
    assert tag is not None
    if len(path) > 1:
        return RequestedKey(tag, "SQ", items=((_requested(path[1:], pattern),),))
    return RequestedKey(tag, dictionary_VR(tag).partition(" ")[0], pattern)
