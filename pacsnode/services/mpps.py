"""Modality Performed Procedure Step and its Retrieve SOP class (PS3.4 F.7, F.8): N-CREATE, N-SET, N-GET."""

import asyncio
from collections.abc import Mapping
from typing import Final

from pydicom import Dataset

from pacsnode.dicom.data_set import empty_element, encode_data_set, read_whole
from pacsnode.dicom.sop_class import MPPS, MPPS_RETRIEVE
from pacsnode.dicom.uid import UID
from pacsnode.dimse.command import CommandField, Element
from pacsnode.dimse.message import UID_LENGTH
from pacsnode.dimse.status import ATTRIBUTE_LIST_ERROR, REQUESTED_ATTRIBUTES_MISSING, SUCCESS
from pacsnode.errors import (
    CannotUnderstand,
    InvalidAttributeValue,
    NoSuchSopClass,
    UnrecognizedOperation,
)
from pacsnode.net.service import Operation, Request, Response, ServiceClass
from pacsnode.services.room import Room
from pacsnode.workflow.mpps import PerformedStep, Received
from pacsnode.workflow.mpps_rules import ALWAYS_THERE

_CHARACTER_SET: Final = 0x00080005


class MppsService(ServiceClass):
    """Keeps the performed procedure steps that modalities tell of, and gives them back."""

    def __init__(self, room: Room) -> None:
        self._steps = room.workflow.mpps

    def sop_classes(self) -> tuple[UID, ...]:
        return (MPPS, MPPS_RETRIEVE)

    def operations(self) -> Mapping[CommandField, Operation]:
        return {
            CommandField.N_CREATE_RQ: self.n_create,
            CommandField.N_SET_RQ: self.n_set,
            CommandField.N_GET_RQ: self.n_get,
        }

    async def n_create(self, request: Request) -> Response:
        """Success when the step is durable; a UID of ours is told in the response (PS3.7 10.1.5.1.4)."""
        _check_sop_class(request, MPPS)
        given = request.command.sop_instance or None
        step = await self._steps.create(given, await asyncio.to_thread(_received, request))
        request.association.log.info("mpps.created", **_facts(step))
        return Response(SUCCESS, sop_instance=None if given else step.sop_instance)

    async def n_set(self, request: Request) -> Response:
        """Success, or 0107H with the attributes that N-SET may not change (PS3.7 10.1.3.1.9)."""
        _check_sop_class(request, MPPS)
        step, ignored = await self._steps.modify(
            request.command.sop_instance, await asyncio.to_thread(_received, request)
        )
        request.association.log.info("mpps.modified", ignored=len(ignored), **_facts(step))
        return Response(ATTRIBUTE_LIST_ERROR, attributes=ignored) if ignored else Response(SUCCESS)

    async def n_get(self, request: Request) -> Response:
        """The attributes asked for, or all; 0001H when some are not there (PS3.4 Table F.8.2-2)."""
        _check_sop_class(request, MPPS_RETRIEVE)
        asked = request.command.tags(Element.ATTRIBUTE_IDENTIFIER_LIST)
        step = await self._steps.get(request.command.sop_instance)
        found, absent = _selected(step.attributes, asked)
        request.association.log.debug("mpps.retrieved", sop_instance=step.sop_instance, absent=len(absent))
        status = REQUESTED_ATTRIBUTES_MISSING if absent else SUCCESS
        data = encode_data_set(found, request.context.transfer_syntax)
        return Response(status, data=data, offending=tuple(absent))


def _check_sop_class(request: Request, sop_class: UID) -> None:
    """A command goes on a context of its own SOP class. Raises UnrecognizedOperation, NoSuchSopClass."""
    if request.context.abstract_syntax != sop_class:
        raise UnrecognizedOperation(f"{request.command.name} is no operation of this SOP class")
    named = request.command.sop_class
    if named != sop_class:
        raise NoSuchSopClass(f"SOP class {named[:UID_LENGTH]} on a context for another")


def _received(request: Request) -> Received:
    """The attributes of a request. Raises InvalidAttributeValue when they cannot be read."""
    transfer_syntax = request.context.transfer_syntax
    encoded = request.identifier_bytes
    try:
        attributes = read_whole(encoded, transfer_syntax)
    except CannotUnderstand as error:
        raise InvalidAttributeValue(str(error)) from error
    return Received(attributes, encoded, transfer_syntax, request.association.calling_ae)


def _selected(attributes: Dataset, asked: tuple[int, ...]) -> tuple[Dataset, list[int]]:
    """The attributes asked for, and the tags of those this node does not have."""
    if not asked:
        return attributes, []
    found, absent = Dataset(), []
    for tag in asked:
        if tag in attributes:
            found.add(attributes[tag])
        elif tag in ALWAYS_THERE:
            found.add(empty_element(tag))
        elif tag != _CHARACTER_SET:  # not there where all is ASCII
            absent.append(tag)
    if _CHARACTER_SET in attributes:  # needed to read the text, asked for or not (Table F.8.2-1)
        found.add(attributes[_CHARACTER_SET])
    return found, absent


def _facts(step: PerformedStep) -> dict[str, str | int]:
    return {
        "sop_instance": step.sop_instance,
        "state": step.state.value,
        "study": step.scheduled[0].study,
        "instances": len(step.performed),
    }
