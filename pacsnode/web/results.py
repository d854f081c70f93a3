"""Results of a search as DICOM JSON, made row by row (PS3.18 10.6.3.3, F.2)."""

from collections.abc import Callable, Iterable
from typing import Final

from pacsnode.archive.search import Match
from pacsnode.dicom.element import Element, Value
from pacsnode.dicom.information_model import INSTANCE_AVAILABILITY, TIMEZONE_OFFSET_FROM_UTC, Level
from pacsnode.dicom.json_model import element_json, value_json
from pacsnode.dicom.json_values import text_values
from pacsnode.dicom.qido import INSTANCE_UID, RETRIEVE_URL, SERIES_UID, STUDY_UID, WebQuery

_PATHS: Final = {
    Level.STUDY: (("studies", STUDY_UID),),
    Level.SERIES: (("studies", STUDY_UID), ("series", SERIES_UID)),
    Level.IMAGE: (("studies", STUDY_UID), ("series", SERIES_UID), ("instances", INSTANCE_UID)),
}
_NUMBERS: Final = frozenset({"IS", "DS", "US", "UL", "SS", "SL"})

Write = Callable[[Value | int | None], str]
"""A value to what follows the VR in the member of its attribute, "" for no value."""


class ResultWriter:
    """Writes the objects of matches; called in readers' threads."""

    def __init__(self, web_query: WebQuery, root: str) -> None:
        """`root`: the base URI of the services, which Retrieve URL begins with."""
        query = web_query.query
        positions = {key.tag: position for position, key in enumerate(query.keys)}
        members: list[tuple[int, int, Write, bool]] = [
            (
                key.tag,
                position,
                _writer(key.tag, key.vr, key.attribute is None),
                key.tag in web_query.optional,
            )
            for position, key in enumerate(query.keys)
            if not (query.timezone and key.tag == TIMEZONE_OFFSET_FROM_UTC)
        ]
        constants = {INSTANCE_AVAILABILITY: ("CS", "ONLINE")} if web_query.with_availability else {}
        if query.timezone:
            constants[TIMEZONE_OFFSET_FROM_UTC] = ("SH", query.timezone)
        for tag, (vr, text) in constants.items():
            members.append((tag, 0, _constant(tag, vr, text), False))
        members.append((RETRIEVE_URL, -1, lambda _value: "", False))
        self._members = [
            (position, f'"{tag:08X}":', write, optional)
            for tag, position, write, optional in sorted(members, key=lambda member: member[0])
        ]
        self._root = root
        self._path = [(name, positions[tag]) for name, tag in _PATHS[query.level]]

    def __call__(self, matches: Iterable[Match]) -> list[str]:
        return [self._object(match) for match in matches]

    def _object(self, match: Match) -> str:
        parts: list[str] = []
        for position, head, write, optional in self._members:
            if position < 0:
                parts.append(f'{head}{{"vr":"UR","Value":["{self._url(match)}"]}}')
                continue
            value = match[position]
            if optional and not value:
                continue
            parts.append(head + write(value))
        return "{" + ",".join(parts) + "}"

    def _url(self, match: Match) -> str:
        path = [f"/{name}/{uid}" for name, position in self._path if isinstance(uid := match[position], str)]
        return self._root + "".join(path)


def _constant(tag: int, vr: str, text: str) -> Write:
    written = f'{{"vr":"{vr}"{value_json(vr, text)}}}'
    return lambda _value: written


def _writer(tag: int, vr: str, from_header: bool) -> Write:
    """The object of an attribute: of the index, where text and numbers stand; or of a kept header."""
    head = f'{{"vr":"{vr}"'
    empty = head + "}"
    begin = head + ',"Value":['
    if from_header:
        width = len(f'"{tag:08X}":')
        return lambda value: element_json(Element(tag, vr, _neutral(value)))[width:]

    def write(value: Value | int | None) -> str:
        if value is None or value == "":
            return empty
        return f"{begin}{text_values(str(value), vr)}]}}"

    def write_number(value: Value | int | None) -> str:
        return f"{begin}{value}]}}" if isinstance(value, int) else write(value)

    return write_number if vr in _NUMBERS else write


def _neutral(value: Value | int | None) -> Value:
    return str(value) if isinstance(value, int) else (value or "")
