"""PDUs to bytes and back, the reader against awkward streams (PS3.8 9.3, Annex E)."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_RJ, A_RELEASE_RP, A_RELEASE_RQ, P_DATA_TF

from pacsnode.dicom.uid import UID
from pacsnode.errors import InvalidPdu
from pacsnode.ul.negotiation import AssociateAccept, AssociateReject, AssociateRequest, ProposedContext
from pacsnode.ul.pdu import (
    LENGTH_TOLERANCE,
    MAX_GATHERED,
    MAX_UNLIMITED_PDU,
    Abort,
    AbortReason,
    AbortSource,
    PDataFragment,
    Pdu,
    PduReader,
    ReleaseRp,
    ReleaseRq,
    encode,
    p_data_tf,
)

REQUEST = AssociateRequest(
    called_ae="A", calling_ae="B", contexts=(ProposedContext(1, UID("1.2"), (UID("1.3"),)),)
)
ACCEPT = AssociateAccept(called_ae="A", calling_ae="B", contexts=())
SMALL = [REQUEST, ACCEPT, AssociateReject(2, 3, 2), ReleaseRq(), ReleaseRp(), Abort(2, 6)]


def pdv(context_id: int, control: int, data: bytes) -> bytes:
    return (len(data) + 2).to_bytes(4, "big") + bytes((context_id, control)) + data


def p_data(*pdvs: bytes) -> bytes:
    body = b"".join(pdvs)
    return b"\4\0" + len(body).to_bytes(4, "big") + body


def read(*chunks: bytes, max_pdu_length: int = 0) -> list[Pdu]:
    reader = PduReader(max_pdu_length)
    return [pdu for chunk in chunks for pdu in reader.receive(chunk)]


def facts(pdus: list[Pdu]) -> list[tuple[int, bool, bool, bytes]]:
    """What a list of nothing but fragments says."""
    found = []
    for pdu in pdus:
        assert isinstance(pdu, PDataFragment)
        found.append((pdu.context_id, pdu.is_command, pdu.is_last, bytes(pdu.data)))
    return found


def invalid(*chunks: bytes, max_pdu_length: int = 0) -> InvalidPdu:
    last = read(*chunks, max_pdu_length=max_pdu_length)[-1]
    assert isinstance(last, InvalidPdu)
    return last


# PDUs other than P-DATA-TF


@pytest.mark.parametrize("pdu", SMALL, ids=lambda pdu: type(pdu).__name__)
def test_pdu_survives_its_encoding(pdu: Pdu) -> None:
    assert not isinstance(pdu, PDataFragment | InvalidPdu)
    assert read(encode(pdu)) == [pdu]


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_reject_and_abort_survive_their_encoding_whatever_they_say(a: int, b: int, c: int) -> None:
    pdus = [AssociateReject(a, b, c), Abort(a, b)]
    assert read(*map(encode, pdus)) == pdus


def test_small_pdus_are_those_of_pynetdicom() -> None:
    reject = A_ASSOCIATE_RJ()
    reject.result, reject.source, reject.reason_diagnostic = 2, 3, 2
    abort = A_ABORT_RQ()
    abort.source, abort.reason_diagnostic = 2, 6
    assert encode(AssociateReject(2, 3, 2)) == reject.encode()
    assert encode(Abort(2, 6)) == abort.encode()
    assert encode(ReleaseRq()) == A_RELEASE_RQ().encode()
    assert encode(ReleaseRp()) == A_RELEASE_RP().encode()


def test_reserved_bytes_are_not_tested() -> None:
    assert read(b"\5\xff\0\0\0\4\xff\xff\xff\xff") == [ReleaseRq()]


@pytest.mark.parametrize("pdu", SMALL, ids=lambda pdu: type(pdu).__name__)
def test_pdu_that_arrives_byte_by_byte_is_read(pdu: Pdu) -> None:
    assert not isinstance(pdu, PDataFragment | InvalidPdu)
    encoded = encode(pdu)
    assert read(*(encoded[at : at + 1] for at in range(len(encoded)))) == [pdu]


def test_several_pdus_in_one_chunk_come_in_order() -> None:
    stream = encode(REQUEST) + p_data(pdv(1, 3, b"ab")) + encode(ReleaseRq()) + encode(Abort())
    pdus = read(stream)
    assert [type(pdu) for pdu in pdus] == [AssociateRequest, PDataFragment, ReleaseRq, Abort]


def test_abort_says_what_it_means() -> None:
    assert Abort().meaning == "aborted by the service-user"
    provider = Abort(AbortSource.SERVICE_PROVIDER, AbortReason.UNEXPECTED_PDU)
    assert provider.meaning == "aborted by the service-provider: unexpected PDU"
    assert Abort(2, 3).meaning == "aborted by the service-provider: reason 3"
    assert Abort(1, 0).meaning == "aborted by the source 1: reason not specified"


# P-DATA-TF received


def test_pdvs_of_one_pdu_are_given_out_one_by_one() -> None:
    stream = p_data(pdv(1, 3, b"command"), pdv(1, 0, b"data"), pdv(3, 2, b"end"))
    assert facts(read(stream)) == [
        (1, True, True, b"command"),
        (1, False, False, b"data"),
        (3, False, True, b"end"),
    ]


def test_pdv_without_data_is_given_out_with_its_flags() -> None:
    assert facts(read(p_data(pdv(5, 2, b"")))) == [(5, False, True, b"")]


def test_pdv_without_data_at_the_end_of_a_chunk_is_given_out_at_once() -> None:
    stream = p_data(pdv(1, 0, b""), pdv(1, 2, b"ab"))
    assert facts(read(stream[:12])) == [(1, False, False, b"")]
    assert facts(read(stream[:12], stream[12:])) == [(1, False, False, b""), (1, False, True, b"ab")]


def test_upper_bits_of_the_message_control_header_are_not_checked() -> None:
    assert facts(read(p_data(pdv(1, 0xFF, b"ab"), pdv(1, 0xFC, b"cd")))) == [
        (1, True, True, b"ab"),
        (1, False, False, b"cd"),
    ]


def test_only_the_final_piece_of_a_cut_pdv_is_the_last_fragment() -> None:
    stream = p_data(pdv(1, 2, b"abcdef"))
    assert facts(read(stream[:14], stream[14:16], stream[16:])) == [
        (1, False, False, b"ab"),
        (1, False, False, b"cd"),
        (1, False, True, b"ef"),
    ]


def test_chunk_that_ends_behind_a_pdv_header_gives_no_empty_fragment() -> None:
    stream = p_data(pdv(1, 2, b"ab"))
    assert facts(read(stream[:12], stream[12:])) == [(1, False, True, b"ab")]


def test_byte_by_byte_gives_one_fragment_a_byte() -> None:
    stream = p_data(pdv(1, 3, b"ab"), pdv(1, 2, b"c")) + p_data(pdv(1, 2, b"d"))
    assert facts(read(*(stream[at : at + 1] for at in range(len(stream))))) == [
        (1, True, False, b"a"),
        (1, True, True, b"b"),
        (1, False, True, b"c"),
        (1, False, True, b"d"),
    ]


def test_fragments_are_views_of_the_chunk() -> None:
    chunk = p_data(pdv(1, 2, bytes(1000)))
    (fragment,) = read(chunk)
    assert isinstance(fragment, PDataFragment)
    assert fragment.data.obj is chunk


def test_pdu_of_four_gigabytes_costs_no_memory() -> None:
    reader = PduReader()
    chunk = bytes(2**20)
    reader.receive(b"\4\0\xff\xff\xff\xff" + b"\xff\xff\xff\xfb\1\2")
    tracemalloc.start()
    try:
        for _ in range(64):
            (fragment,) = reader.receive(chunk)
            assert isinstance(fragment, PDataFragment)
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [16384, 16384 + LENGTH_TOLERANCE])
def test_pdu_up_to_the_announced_length_is_taken(size: int) -> None:
    assert facts(read(p_data(pdv(1, 2, bytes(size - 6))), max_pdu_length=16384))


def test_pdu_over_the_announced_length_is_invalid_at_its_header() -> None:
    header = p_data(pdv(1, 2, bytes(16384 + LENGTH_TOLERANCE)))[:6]
    assert invalid(header, max_pdu_length=16384).reason == AbortReason.INVALID_PARAMETER


# What is no PDU


def test_unknown_type_is_an_unrecognized_pdu() -> None:
    assert invalid(b"GET / HTTP/1.1").reason == AbortReason.UNRECOGNIZED_PDU
    assert invalid(b"\x08\0\0\0\0\0").reason == AbortReason.UNRECOGNIZED_PDU


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b"\4\0\0\0\0\0", id="P-DATA-TF without a PDV"),
        pytest.param(b"\4\0\0\0\0\5", id="P-DATA-TF shorter than a PDV header"),
        pytest.param(p_data(b"\0\0\0\1\1\2"), id="PDV without a message control header"),
        pytest.param(p_data(b"\0\0\0\0\1\2"), id="PDV of nothing"),
        pytest.param(p_data(b"\0\0\0\x09\1\2ab"), id="PDV longer than its PDU"),
        pytest.param(p_data(pdv(1, 2, b"ab") + b"\0\0\0"), id="rest of a PDU too short for a PDV"),
        pytest.param(b"\1\0\0\0\0\0", id="A-ASSOCIATE-RQ without a body"),
        pytest.param(b"\1\0\0\0\0\4abcd", id="A-ASSOCIATE-RQ cut"),
        pytest.param(b"\3\0\0\0\0\0", id="A-ASSOCIATE-RJ without a body"),
        pytest.param(b"\5\0\0\0\0\5", id="A-RELEASE-RQ too long"),
        pytest.param(b"\6\0\0\0\0\3", id="A-RELEASE-RP too short"),
        pytest.param(b"\7\0\xff\xff\xff\xff", id="A-ABORT of four gigabytes"),
    ],
)
def test_lengths_that_contradict_each_other_are_invalid(stream: bytes) -> None:
    assert invalid(stream).reason == AbortReason.INVALID_PARAMETER


def test_association_request_over_the_limit_is_invalid_at_its_header() -> None:
    assert read(b"\1\0" + MAX_GATHERED.to_bytes(4, "big")) == []
    assert invalid(b"\1\0" + (MAX_GATHERED + 1).to_bytes(4, "big"))


def test_what_came_before_invalid_bytes_is_given_out() -> None:
    pdus = read(encode(ReleaseRq()) + b"\x99\0\0\0\0\0" + encode(ReleaseRp()))
    assert [type(pdu) for pdu in pdus] == [ReleaseRq, InvalidPdu]


def test_nothing_is_read_after_invalid_bytes() -> None:
    reader = PduReader()
    reader.receive(b"\x99\0\0\0\0\0")
    assert reader.receive(encode(ReleaseRq())) == []


# P-DATA-TF to send


def sent(data: bytes, max_pdu_length: int, *, last: bool = True, command: bool = False) -> list[bytes]:
    """The PDUs, each as one piece of bytes."""
    stream = b"".join(p_data_tf(3, command, data, max_pdu_length, last=last))
    pdus = []
    while stream:
        end = 6 + int.from_bytes(stream[2:6], "big")
        pdus.append(stream[:end])
        stream = stream[end:]
    return pdus


@given(st.binary(max_size=200), st.integers(8, 64) | st.just(0), st.booleans(), st.booleans())
def test_sent_data_are_read_as_they_were(data: bytes, limit: int, command: bool, last: bool) -> None:
    pdus = sent(data, limit, last=last, command=command)
    fragments = facts(read(*pdus))
    assert b"".join(piece for *_, piece in fragments) == data
    assert {(context_id, is_command) for context_id, is_command, *_ in fragments} == {(3, command)}
    assert [is_last for *_, is_last, _ in fragments] == [False] * (len(pdus) - 1) + [last]
    assert all(len(pdu) - 6 <= limit for pdu in pdus if limit)


def test_pynetdicom_reads_what_is_sent() -> None:
    pdu = P_DATA_TF()
    pdu.decode(sent(b"abcd", 0, command=True)[0])
    (item,) = pdu.presentation_data_value_items
    assert (item.presentation_context_id, item.presentation_data_value) == (3, b"\3abcd")


def test_fragments_are_even_where_the_limit_is_odd() -> None:
    assert [len(pdu) - 12 for pdu in sent(bytes(10), 11)] == [4, 4, 2]


def test_long_data_are_sent_without_a_copy() -> None:
    data = bytes(100_000)
    views = [part for part in p_data_tf(1, False, data, 16384) if isinstance(part, memoryview)]
    assert all(view.obj is data for view in views)
    assert sum(map(len, views)) == len(data)


def test_short_message_is_one_buffer() -> None:
    assert len(p_data_tf(1, True, bytes(200), 16384)) == 1


def test_empty_data_are_one_pdv_without_data() -> None:
    assert facts(read(*sent(b"", 16384))) == [(3, False, True, b"")]


def test_peer_without_a_limit_still_gets_pdus_of_bounded_length() -> None:
    sizes = [len(pdu) - 6 for pdu in sent(bytes(3 * MAX_UNLIMITED_PDU), 0)]
    assert max(sizes) == MAX_UNLIMITED_PDU


@pytest.mark.parametrize("limit", [1, 6, 7])
def test_limit_without_room_for_data_does_not_send_for_ever(limit: int) -> None:
    assert [len(pdu) - 12 for pdu in sent(b"abcd", limit)] == [2, 2]
