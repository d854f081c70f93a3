"""A-ASSOCIATE-RQ and -AC as bytes: against themselves, against pynetdicom's codec, and damaged."""

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom import pdu_primitives as primitives
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ

from pacsnode.dicom.uid import UID
from pacsnode.errors import InvalidPdu
from pacsnode.ul.associate import (
    UNSTATED_MAX_PDU_LENGTH,
    decode_accept,
    decode_request,
    encode_accept,
    encode_request,
)
from pacsnode.ul.negotiation import (
    APPLICATION_CONTEXT,
    AcceptedContext,
    AssociateAccept,
    AssociateRequest,
    CommonExtended,
    ProposedContext,
    Result,
    UserIdentity,
)
from pacsnode.ul.pdu import encode

CT = UID("1.2.840.10008.5.1.4.1.1.2")
MR = UID("1.2.840.10008.5.1.4.1.1.4")
IMPLICIT = UID("1.2.840.10008.1.2")
EXPLICIT = UID("1.2.840.10008.1.2.1")
STORAGE_SERVICE = UID("1.2.840.10008.4.2")
FIXED = 68  # bytes before the first item

uids = st.lists(st.integers(0, 99999), min_size=2, max_size=8).map(
    lambda parts: UID(".".join(map(str, parts)))
)
titles = st.text("ABXYZ019_-", min_size=1, max_size=16)
context_ids = st.integers(0, 127).map(lambda number: 2 * number + 1)
windows = st.none() | st.tuples(st.integers(0, 65535), st.integers(0, 65535))
flags = st.tuples(st.booleans(), st.booleans())
common = {
    "called_ae": titles,
    "calling_ae": titles,
    "max_pdu_length": st.integers(0, 2**32 - 1),
    "implementation_class_uid": uids,
    "implementation_version": titles,
    "window": windows,
    "roles": st.dictionaries(uids, flags, max_size=4),
    "extended": st.dictionaries(uids, st.binary(max_size=8), max_size=4),
    "application_context": uids,
    "protocol_version": st.integers(0, 65535),
}
requests = st.builds(
    AssociateRequest,
    contexts=st.lists(
        st.builds(ProposedContext, context_ids, uids, st.lists(uids, max_size=4).map(tuple)),
        max_size=8,
        unique_by=lambda context: context.id,
    ).map(tuple),
    common_extended=st.lists(
        st.builds(CommonExtended, uids, uids, st.lists(uids, max_size=3).map(tuple)), max_size=3
    ).map(tuple),
    user_identity=st.none()
    | st.builds(
        UserIdentity, st.integers(1, 5), st.binary(max_size=20), st.binary(max_size=20), st.booleans()
    ),
    **common,
)
accepted = st.builds(AcceptedContext, context_ids, st.just(Result.ACCEPTANCE), st.just(UID("")), uids)
refused = st.builds(
    AcceptedContext,
    context_ids,
    st.sampled_from(Result).filter(bool),
    st.just(UID("")),
    st.just(UID("")),
)
accepts = st.builds(
    AssociateAccept,
    contexts=st.lists(accepted | refused, max_size=8, unique_by=lambda context: context.id).map(tuple),
    user_identity_response=st.none() | st.binary(max_size=20),
    **common,
)


def item(kind: int, value: bytes) -> bytes:
    return bytes((kind, 0)) + len(value).to_bytes(2, "big") + value


def body(*items: bytes, called: bytes = b"CALLED", calling: bytes = b"CALLING") -> bytes:
    return b"\0\1\0\0" + called.ljust(16) + calling.ljust(16) + bytes(32) + b"".join(items)


@given(requests)
def test_request_survives_its_encoding(request: AssociateRequest) -> None:
    assert decode_request(encode_request(request)) == request


@given(accepts)
def test_accept_survives_its_encoding(accept: AssociateAccept) -> None:
    assert decode_accept(encode_accept(accept)) == accept


def test_request_of_128_contexts_survives_its_encoding() -> None:
    contexts = tuple(
        ProposedContext(number, UID(f"1.2.3.{number}"), (IMPLICIT, EXPLICIT)) for number in range(1, 256, 2)
    )
    request = AssociateRequest(called_ae="A", calling_ae="B", contexts=contexts)
    assert len(contexts) == 128
    assert decode_request(encode_request(request)) == request


@pytest.fixture
def full_request() -> AssociateRequest:
    return AssociateRequest(
        called_ae="PACSNODE",
        calling_ae="MODALITY",
        contexts=(ProposedContext(1, CT, (IMPLICIT, EXPLICIT)), ProposedContext(255, MR, (EXPLICIT,))),
        max_pdu_length=32768,
        window=(16, 1),
        roles={CT: (False, True)},
        extended={CT: b"\2\0\3\0\1\0"},
        common_extended=(CommonExtended(MR, STORAGE_SERVICE, (CT,)),),
        user_identity=UserIdentity(2, b"user", b"secret", True),
    )


def test_pynetdicom_reads_our_request(full_request: AssociateRequest) -> None:
    pdu = A_ASSOCIATE_RQ()
    pdu.decode(encode(full_request))
    primitive = pdu.to_primitive()
    assert (primitive.called_ae_title, primitive.calling_ae_title) == ("PACSNODE", "MODALITY")
    assert primitive.application_context_name == APPLICATION_CONTEXT
    assert [
        (c.context_id, c.abstract_syntax, tuple(c.transfer_syntax))
        for c in primitive.presentation_context_definition_list
    ] == [(c.id, c.abstract_syntax, c.transfer_syntaxes) for c in full_request.contexts]
    said = {type(entry): entry for entry in primitive.user_information}
    assert said[primitives.MaximumLengthNotification].maximum_length_received == 32768
    window = said[primitives.AsynchronousOperationsWindowNegotiation]
    assert (window.maximum_number_operations_invoked, window.maximum_number_operations_performed) == (16, 1)
    role = said[primitives.SCP_SCU_RoleSelectionNegotiation]
    assert (role.sop_class_uid, role.scu_role, role.scp_role) == (CT, False, True)
    extended = said[primitives.SOPClassExtendedNegotiation]
    assert extended.service_class_application_information == b"\2\0\3\0\1\0"
    general = said[primitives.SOPClassCommonExtendedNegotiation]
    assert general.service_class_uid == STORAGE_SERVICE
    assert general.related_general_sop_class_identification == [CT]
    identity = said[primitives.UserIdentityNegotiation]
    assert (identity.user_identity_type, identity.primary_field, identity.secondary_field) == (
        2,
        b"user",
        b"secret",
    )


def test_request_comes_back_from_pynetdicom_as_it_went(full_request: AssociateRequest) -> None:
    pdu = A_ASSOCIATE_RQ()
    pdu.decode(encode(full_request))
    again = A_ASSOCIATE_RQ()
    again.from_primitive(pdu.to_primitive())
    assert decode_request(again.encode()[6:]) == full_request


def test_pynetdicom_reads_our_accept() -> None:
    accept = AssociateAccept(
        called_ae="PACSNODE",
        calling_ae="MODALITY",
        contexts=(
            AcceptedContext(1, Result.ACCEPTANCE, CT, EXPLICIT),
            AcceptedContext(3, Result.ABSTRACT_SYNTAX_NOT_SUPPORTED, MR, IMPLICIT),
        ),
        window=(4, 1),
        roles={CT: (False, True)},
        extended={CT: b"\2"},
        user_identity_response=b"",
    )
    pdu = A_ASSOCIATE_AC()
    pdu.decode(encode(accept))
    primitive = pdu.to_primitive()
    results = [
        (c.context_id, c.result, c.transfer_syntax[0])
        for c in primitive.presentation_context_definition_results_list
    ]
    assert results == [(1, 0, EXPLICIT), (3, 3, IMPLICIT)]
    again = A_ASSOCIATE_AC()
    again.from_primitive(primitive)
    assert decode_accept(again.encode()[6:]).roles == {CT: (False, True)}


def test_ae_titles_lose_the_spaces_around_them() -> None:
    request = decode_request(body(called=b"  PACS NODE", calling=b"MODALITY\0\0"))
    assert (request.called_ae, request.calling_ae) == ("PACS NODE", "MODALITY")


def test_ae_title_of_spaces_is_empty() -> None:
    assert decode_request(body(called=b"")).called_ae == ""


def test_ae_title_with_control_characters_is_made_harmless() -> None:
    assert decode_request(body(calling=b"A\x1b[2J\\B\xe9")).calling_ae == "A?[2J?B?"


def test_answer_repeats_the_title_fields_byte_by_byte() -> None:
    raw = body(called=b"  PACSNODE")
    request = decode_request(raw)
    answer = encode_accept(
        AssociateAccept(called_ae=request.called_ae, calling_ae="", contexts=(), echo=request.echo)
    )
    assert answer[4:FIXED] == raw[4:FIXED]


def test_items_of_unrecognized_types_are_skipped() -> None:
    request = decode_request(
        body(
            item(0xEE, b"future"),
            item(0x10, APPLICATION_CONTEXT.encode()),
            item(0x20, b"\1\0\0\0" + item(0x30, CT.encode()) + item(0x99, b"?") + item(0x40, b"1.2")),
            item(0x50, item(0x77, b"private") + item(0x51, b"\0\0\x40\0")),
        )
    )
    assert request.contexts == (ProposedContext(1, CT, (UID("1.2"),)),)
    assert request.max_pdu_length == 16384


def test_uid_loses_its_padding() -> None:
    request = decode_request(body(item(0x20, b"\1\0\0\0" + item(0x30, b"1.2.3\0") + item(0x40, b"1.2 "))))
    assert request.contexts == (ProposedContext(1, UID("1.2.3"), (UID("1.2"),)),)


def test_request_without_user_information_gets_the_defaults() -> None:
    request = decode_request(body())
    assert request.max_pdu_length == UNSTATED_MAX_PDU_LENGTH
    assert request.window is None
    assert request.user_identity is None


def test_user_identity_without_a_secondary_field_is_read() -> None:
    request = decode_request(body(item(0x50, item(0x58, b"\1\0\0\4user"))))
    assert request.user_identity == UserIdentity(1, b"user")


def test_credentials_are_not_in_the_repr(full_request: AssociateRequest) -> None:
    assert "secret" not in repr(full_request)


def test_transfer_syntax_of_a_refused_context_is_not_looked_at() -> None:
    accept = decode_accept(body(item(0x21, b"\1\0\3\0"), item(0x21, b"\3\0\4\0\xff\xff\xff")))
    assert [context.result for context in accept.contexts] == [3, 4]


def test_reserved_result_of_a_context_is_a_refusal() -> None:
    accept = decode_accept(body(item(0x21, b"\1\0\x63\0")))
    assert accept.contexts[0].result is Result.NO_REASON


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(body()[: FIXED - 1], id="fixed fields cut"),
        pytest.param(body(b"\x20\0"), id="item header cut"),
        pytest.param(body(b"\x20\0\0\x09\1"), id="item longer than the PDU"),
        pytest.param(body(item(0x20, b"\1\0")), id="context cut"),
        pytest.param(body(item(0x20, b"\2\0\0\0")), id="even context ID"),
        pytest.param(body(item(0x20, b"\0\0\0\0")), id="context ID 0"),
        pytest.param(body(item(0x20, b"\1\0\0\0"), item(0x20, b"\1\0\0\0")), id="context ID used twice"),
        pytest.param(body(item(0x20, b"\1\0\0\0\x30\0\0\x05")), id="sub-item longer than the context"),
        pytest.param(body(item(0x50, item(0x51, b"\0\0"))), id="maximum length cut"),
        pytest.param(body(item(0x50, item(0x53, b"\0"))), id="window cut"),
        pytest.param(body(item(0x50, item(0x54, b"\0"))), id="role UID length cut"),
        pytest.param(body(item(0x50, item(0x54, b"\0\x031.2\1"))), id="role flags cut"),
        pytest.param(body(item(0x50, item(0x56, b"\0\x091.2"))), id="extended UID cut"),
        pytest.param(body(item(0x50, item(0x57, b"\0\x031.2"))), id="common extended cut"),
        pytest.param(body(item(0x50, item(0x57, b"\0\0\0\0\0\3\0\x091"))), id="related SOP class cut"),
        pytest.param(body(item(0x50, item(0x58, b"\1"))), id="identity cut"),
        pytest.param(body(item(0x50, item(0x58, b"\1\0\0\x09user"))), id="identity longer than its item"),
    ],
)
def test_request_that_contradicts_itself_is_invalid(damaged: bytes) -> None:
    with pytest.raises(InvalidPdu) as raised:
        decode_request(damaged)
    assert raised.value.reason == 6


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(body(item(0x21, b"\2\0\0\0")), id="even context ID"),
        pytest.param(body(item(0x21, b"\1\0\0\0\x40\0\0\x05")), id="sub-item longer than the context"),
        pytest.param(body(item(0x50, item(0x59, b"\0\x05"))), id="server response cut"),
    ],
)
def test_accept_that_contradicts_itself_is_invalid(damaged: bytes) -> None:
    with pytest.raises(InvalidPdu):
        decode_accept(damaged)


@pytest.mark.parametrize("decode", [decode_request, decode_accept])
@given(tail=st.binary(max_size=300))
def test_any_bytes_are_taken_or_invalid(decode: Callable[[bytes], object], tail: bytes) -> None:
    with contextlib.suppress(InvalidPdu):
        decode(body(tail))
