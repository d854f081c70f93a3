"""Fragments become messages (PS3.7 6.3, PS3.8 Annex E)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacsnode.dicom.uid import UID
from pacsnode.dimse import message as messages
from pacsnode.dimse.assembler import Assembler, MemorySink
from pacsnode.dimse.command import MAX_COMMAND_SET
from pacsnode.errors import InvalidMessage, OutOfResources
from pacsnode.ul.pdu import PDataFragment

STORE = messages.c_store_rq(1, UID("1.2"), UID("1.2.3"))
ECHO = messages.c_echo_rq(2, UID("1.2.840.10008.1.1"))


def fragment(data: bytes, *, command: bool, last: bool, context: int = 1) -> PDataFragment:
    return PDataFragment(context, command, last, memoryview(data))


@pytest.fixture
def assembler() -> Assembler:
    return Assembler(lambda context_id, command: MemorySink())


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)] or [b""]


@given(st.integers(1, 200), st.integers(1, 50), st.binary(max_size=400))
def test_message_is_the_same_however_it_is_cut(command_size: int, data_size: int, data: bytes) -> None:
    assembler = Assembler(lambda context_id, command: MemorySink())
    pieces = cut(STORE, command_size)
    for at, piece in enumerate(pieces):
        assert assembler.feed(fragment(piece, command=True, last=at == len(pieces) - 1)) is None
    pieces = cut(data, data_size)
    for piece in pieces[:-1]:
        assert assembler.feed(fragment(piece, command=False, last=False)) is None
    message = assembler.feed(fragment(pieces[-1], command=False, last=True))
    assert message is not None
    assert isinstance(message.data, MemorySink)
    assert message.data.value() == data
    assert message.command.sop_instance == "1.2.3"
    assert assembler.is_idle


def test_command_without_data_set_is_a_message_by_itself(assembler: Assembler) -> None:
    message = assembler.feed(fragment(ECHO, command=True, last=True))
    assert message is not None
    assert message.data is None


def test_data_set_before_its_command_is_refused(assembler: Assembler) -> None:
    with pytest.raises(InvalidMessage):
        assembler.feed(fragment(b"x", command=False, last=True))


def test_fragment_of_another_context_inside_a_message_is_refused(assembler: Assembler) -> None:
    assembler.feed(fragment(STORE, command=True, last=True))
    with pytest.raises(InvalidMessage):
        assembler.feed(fragment(b"x", command=False, last=True, context=3))


def test_second_command_inside_a_message_is_refused(assembler: Assembler) -> None:
    assembler.feed(fragment(STORE, command=True, last=True))
    with pytest.raises(InvalidMessage):
        assembler.feed(fragment(ECHO, command=True, last=True))


def test_endless_command_set_is_refused(assembler: Assembler) -> None:
    for _ in range(MAX_COMMAND_SET // 1024):
        assembler.feed(fragment(bytes(1024), command=True, last=False))
    with pytest.raises(InvalidMessage):
        assembler.feed(fragment(b"x", command=True, last=False))


def test_identifier_beyond_the_limit_is_out_of_resources() -> None:
    sink = MemorySink()
    for _ in range(17):
        sink.write(memoryview(bytes(2**20)))
    with pytest.raises(OutOfResources):
        sink.value()


def test_discard_forgets_the_half_received_message(assembler: Assembler) -> None:
    assembler.feed(fragment(STORE, command=True, last=True))
    assembler.discard()
    assert assembler.is_idle
    assert assembler.feed(fragment(ECHO, command=True, last=True)) is not None
