"""The acceptor's answer to A-ASSOCIATE-RQ, and how the requestor reads it (PS3.8 7.1, PS3.7 D.3)."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.presentation import PresentationContext, negotiate_as_acceptor

from pacsnode.dicom.uid import UID
from pacsnode.ul.negotiation import (
    AcceptedContext,
    AcceptorPolicy,
    AssociateAccept,
    AssociateReject,
    AssociateRequest,
    CommonExtended,
    ProposedContext,
    Rejection,
    Result,
    Support,
    UserIdentity,
    negotiate,
    resolve,
)

CT = UID("1.2.840.10008.5.1.4.1.1.2")
MR = UID("1.2.840.10008.5.1.4.1.1.4")
UNKNOWN = UID("1.2.3.4")
IMPLICIT = UID("1.2.840.10008.1.2")
EXPLICIT = UID("1.2.840.10008.1.2.1")
JPEG = UID("1.2.840.10008.1.2.4.50")
JPEG_LS = UID("1.2.840.10008.1.2.4.80")
BOTH = frozenset({IMPLICIT, EXPLICIT})


def asking(*contexts: ProposedContext, **changes: object) -> AssociateRequest:
    request = AssociateRequest(
        called_ae="PACSNODE",
        calling_ae="MODALITY",
        contexts=contexts or (ProposedContext(1, CT, (IMPLICIT, EXPLICIT)),),
    )
    return replace(request, **changes)  # type: ignore[arg-type]


def supporting(support: Support) -> Callable[[UID], Support | None]:
    return {CT: support, MR: support}.get


@pytest.fixture
def policy() -> AcceptorPolicy:
    return AcceptorPolicy(ae_title="PACSNODE", support=supporting(Support(BOTH)))


def accepted(request: AssociateRequest, policy: AcceptorPolicy) -> AssociateAccept:
    answer = negotiate(request, policy)
    assert isinstance(answer, AssociateAccept)
    return answer


def rejected(request: AssociateRequest, policy: AcceptorPolicy) -> AssociateReject:
    answer = negotiate(request, policy)
    assert isinstance(answer, AssociateReject)
    return answer


# Transfer syntaxes


def test_first_supported_transfer_syntax_of_the_requestor_is_chosen(policy: AcceptorPolicy) -> None:
    answer = accepted(asking(ProposedContext(5, CT, (JPEG, EXPLICIT, IMPLICIT))), policy)
    assert answer.contexts == (
        AcceptedContext(5, Result.ACCEPTANCE, CT, EXPLICIT, as_scu=False, as_scp=True),
    )


def test_preferred_transfer_syntax_comes_before_the_requestors_order(policy: AcceptorPolicy) -> None:
    preferring = replace(policy, transfer_syntax_preference=(JPEG, IMPLICIT))
    answer = accepted(asking(ProposedContext(1, CT, (EXPLICIT, IMPLICIT))), preferring)
    assert answer.contexts[0].transfer_syntax == IMPLICIT


def test_without_a_preferred_one_proposed_the_requestors_order_decides(policy: AcceptorPolicy) -> None:
    preferring = replace(policy, transfer_syntax_preference=(JPEG,))
    answer = accepted(asking(ProposedContext(1, CT, (EXPLICIT, IMPLICIT))), preferring)
    assert answer.contexts[0].transfer_syntax == EXPLICIT


def test_preferred_but_unsupported_transfer_syntax_is_not_chosen(policy: AcceptorPolicy) -> None:
    preferring = replace(policy, transfer_syntax_preference=(JPEG,))
    answer = accepted(asking(ProposedContext(1, CT, (JPEG, IMPLICIT))), preferring)
    assert answer.contexts[0].transfer_syntax == IMPLICIT


@pytest.mark.parametrize(
    ("roles", "chosen"), [(None, JPEG_LS), ((False, True), EXPLICIT), ((True, True), JPEG_LS)]
)
def test_what_is_uncompressed_comes_first_where_only_this_side_sends(
    roles: tuple[bool, bool] | None, chosen: UID
) -> None:
    """An object that cannot be had as JPEG-LS could not be fetched at all (PS3.4 C.4.3)."""
    both = Support(frozenset({*BOTH, JPEG_LS}), as_scu=True)
    policy = AcceptorPolicy(ae_title="PACSNODE", support=supporting(both))
    request = replace(
        asking(ProposedContext(1, CT, (JPEG, JPEG_LS, EXPLICIT, IMPLICIT))),
        roles={CT: roles} if roles else {},
    )
    assert accepted(request, policy).contexts[0].transfer_syntax == chosen
    preferring = replace(policy, transfer_syntax_preference=(JPEG_LS,))
    assert accepted(request, preferring).contexts[0].transfer_syntax == JPEG_LS


# Presentation contexts


def test_each_context_has_its_own_result(policy: AcceptorPolicy) -> None:
    answer = accepted(
        asking(
            ProposedContext(1, UNKNOWN, (IMPLICIT,)),
            ProposedContext(3, CT, (JPEG,)),
            ProposedContext(5, CT, (IMPLICIT,)),
            ProposedContext(7, CT, ()),
        ),
        policy,
    )
    assert [(context.id, context.result) for context in answer.contexts] == [
        (1, Result.ABSTRACT_SYNTAX_NOT_SUPPORTED),
        (3, Result.TRANSFER_SYNTAXES_NOT_SUPPORTED),
        (5, Result.ACCEPTANCE),
        (7, Result.TRANSFER_SYNTAXES_NOT_SUPPORTED),
    ]


def test_association_without_an_acceptable_context_is_accepted(policy: AcceptorPolicy) -> None:
    answer = accepted(asking(ProposedContext(1, UNKNOWN, (IMPLICIT,))), policy)
    assert not any(context.as_scp or context.as_scu for context in answer.contexts)


def test_abstract_syntax_that_is_no_uid_is_refused_even_by_a_policy_that_takes_any() -> None:
    anything = AcceptorPolicy(ae_title="PACSNODE", support=lambda uid: Support(BOTH))
    answer = accepted(asking(ProposedContext(1, UID("../x"), (IMPLICIT,))), anything)
    assert answer.contexts[0].result is Result.ABSTRACT_SYNTAX_NOT_SUPPORTED


def test_128_contexts_are_answered_in_their_order(policy: AcceptorPolicy) -> None:
    contexts = [ProposedContext(number, CT, (IMPLICIT,)) for number in range(255, 0, -2)]
    answer = accepted(asking(*contexts), policy)
    assert [context.id for context in answer.contexts] == [context.id for context in contexts]


@given(st.lists(st.tuples(st.sampled_from([CT, MR, UNKNOWN]), st.permutations([IMPLICIT, EXPLICIT, JPEG]))))
def test_results_agree_with_pynetdicoms(proposals: list[tuple[UID, list[UID]]]) -> None:
    policy = AcceptorPolicy(ae_title="PACSNODE", support={CT: Support(BOTH)}.get)
    ours = accepted(
        asking(
            *(
                ProposedContext(2 * number + 1, abstract, tuple(transfer[:2]))
                for number, (abstract, transfer) in enumerate(proposals)
            )
        ),
        policy,
    )
    theirs = []
    for number, (abstract, transfer) in enumerate(proposals):
        context = PresentationContext()
        context.context_id = 2 * number + 1
        context.abstract_syntax = abstract
        context.transfer_syntax = list(transfer[:2])
        theirs.append(context)
    supported = PresentationContext()
    supported.abstract_syntax = CT
    supported.transfer_syntax = [IMPLICIT, EXPLICIT]
    expected, _ = negotiate_as_acceptor(theirs, [supported])
    if proposals:
        assert [(c.id, c.result) for c in ours.contexts] == [(c.context_id, c.result) for c in expected]


# Rejections


def test_another_application_context_is_rejected(policy: AcceptorPolicy) -> None:
    answer = rejected(asking(application_context=UID("1.2.3")), policy)
    assert answer == AssociateReject(1, 1, 2)
    assert answer.meaning == "rejected-permanent by the service-user: application context name not supported"


def test_protocol_version_without_bit_0_is_rejected(policy: AcceptorPolicy) -> None:
    answer = rejected(asking(protocol_version=2), policy)
    assert answer == AssociateReject.of(Rejection.PROTOCOL_VERSION_NOT_SUPPORTED) == AssociateReject(1, 2, 2)


def test_further_protocol_versions_do_not_matter(policy: AcceptorPolicy) -> None:
    assert accepted(asking(protocol_version=0xFFFF), policy).protocol_version == 1


def test_unknown_called_ae_title_is_rejected_where_it_must_be_known(policy: AcceptorPolicy) -> None:
    request = asking(called_ae="OTHER")
    assert accepted(request, policy)
    assert rejected(request, replace(policy, require_called_ae=True)) == AssociateReject(1, 1, 7)
    assert accepted(asking(), replace(policy, require_called_ae=True))


def test_calling_ae_title_that_is_not_allowed_is_rejected(policy: AcceptorPolicy) -> None:
    closed = replace(policy, allowed_calling_aes=frozenset({"WORKSTATION"}))
    assert rejected(asking(), closed) == AssociateReject(1, 1, 3)
    assert accepted(asking(calling_ae="WORKSTATION"), closed)


@pytest.mark.parametrize("rejection", Rejection)
def test_each_rejection_says_what_it_means(rejection: Rejection) -> None:
    error = AssociateReject.of(rejection).as_error()
    assert (error.result, error.source, error.reason) == rejection.value
    assert str(error).startswith("rejected-transient" if rejection.value[0] == 2 else "rejected-permanent")


def test_load_is_a_transient_reason() -> None:
    assert AssociateReject.of(Rejection.TEMPORARY_CONGESTION) == AssociateReject(2, 3, 1)
    assert AssociateReject.of(Rejection.LOCAL_LIMIT_EXCEEDED) == AssociateReject(2, 3, 2)


def test_reserved_rejection_is_told_by_its_numbers() -> None:
    assert AssociateReject(9, 8, 7).meaning == "result 9 by the source 8: reason 7"


# Window


@pytest.mark.parametrize(
    ("offered", "most", "agreed"),
    [
        (None, (16, 16), None),
        ((16, 1), (16, 16), (16, 1)),
        ((32, 4), (16, 16), (16, 4)),
        ((0, 0), (16, 1), (16, 1)),
        ((8, 0), (0, 0), (8, 0)),
        ((1, 1), (0, 0), (1, 1)),
        ((5, 5), (1, 1), (1, 1)),
    ],
)
def test_window_is_lowered_never_raised_and_absent_where_not_offered(
    policy: AcceptorPolicy,
    offered: tuple[int, int] | None,
    most: tuple[int, int],
    agreed: tuple[int, int] | None,
) -> None:
    assert accepted(asking(window=offered), replace(policy, window=most)).window == agreed


# Roles


@pytest.mark.parametrize(
    ("asked", "support", "answered", "as_scu", "as_scp"),
    [
        (None, Support(BOTH), None, False, True),
        ((True, False), Support(BOTH), (True, False), False, True),
        ((True, True), Support(BOTH), (True, False), False, True),
        ((True, True), Support(BOTH, as_scu=True), (True, True), True, True),
        ((False, True), Support(BOTH, as_scu=True), (False, True), True, False),
        ((False, True), Support(BOTH), None, False, True),
        ((False, True), Support(BOTH, as_scu=True, as_scp=False), (False, True), True, False),
        ((False, False), Support(BOTH, as_scu=True), None, False, True),
    ],
)
def test_roles_are_those_asked_for_and_supported(
    asked: tuple[bool, bool] | None,
    support: Support,
    answered: tuple[bool, bool] | None,
    as_scu: bool,
    as_scp: bool,
) -> None:
    policy = AcceptorPolicy(ae_title="PACSNODE", support=supporting(support))
    answer = accepted(asking(roles={CT: asked} if asked else {}), policy)
    assert answer.roles == ({CT: answered} if answered else {})
    assert (answer.contexts[0].as_scu, answer.contexts[0].as_scp) == (as_scu, as_scp)


def test_context_is_refused_where_only_the_other_role_is_supported() -> None:
    policy = AcceptorPolicy(ae_title="PACSNODE", support=supporting(Support(BOTH, as_scu=True, as_scp=False)))
    assert accepted(asking(), policy).contexts[0].result is Result.USER_REJECTION


def test_role_of_a_refused_context_is_not_answered() -> None:
    policy = AcceptorPolicy(ae_title="PACSNODE", support=supporting(Support(BOTH, as_scu=True)))
    request = asking(ProposedContext(1, CT, (JPEG,)), roles={CT: (True, True), UNKNOWN: (True, True)})
    assert accepted(request, policy).roles == {}


# Extended negotiation and user identity


def test_extended_negotiation_is_answered_for_accepted_sop_classes_only(policy: AcceptorPolicy) -> None:
    asked: list[UID] = []

    def extended(sop_class: UID, offered: bytes) -> bytes | None:
        asked.append(sop_class)
        return b"\1\1\1\1" if sop_class == CT else None

    request = asking(
        ProposedContext(1, CT, (IMPLICIT,)),
        ProposedContext(3, MR, (IMPLICIT,)),
        extended={CT: b"\1\0\1", MR: b"\1", UNKNOWN: b"\1"},
    )
    answer = accepted(request, replace(policy, extended=extended))
    assert asked == [CT, MR]
    assert answer.extended == {CT: b"\1\1\1"}  # never longer than what was offered


def test_extended_negotiation_not_offered_is_not_answered(policy: AcceptorPolicy) -> None:
    assert accepted(asking(), replace(policy, extended=lambda uid, offered: b"\1")).extended == {}


def test_user_identity_gets_no_positive_response_without_authentication(policy: AcceptorPolicy) -> None:
    answer = accepted(asking(user_identity=UserIdentity(1, b"user", response_requested=True)), policy)
    assert answer.user_identity_response is None


# The requestor's reading


def answered(*contexts: AcceptedContext, **changes: object) -> AssociateAccept:
    accept = AssociateAccept(called_ae="PACSNODE", calling_ae="MODALITY", contexts=contexts)
    return replace(accept, **changes)  # type: ignore[arg-type]


def test_requestor_gets_abstract_syntax_and_role_from_its_request() -> None:
    accept = answered(AcceptedContext(1, Result.ACCEPTANCE, UID(""), IMPLICIT))
    resolved = resolve(asking(), accept)
    assert resolved.contexts == (
        AcceptedContext(1, Result.ACCEPTANCE, CT, IMPLICIT, as_scu=True, as_scp=False),
    )


def test_context_that_was_not_proposed_is_dropped() -> None:
    assert (
        resolve(asking(), answered(AcceptedContext(9, Result.ACCEPTANCE, UID(""), IMPLICIT))).contexts == ()
    )


def test_context_with_a_transfer_syntax_that_was_not_proposed_is_unusable() -> None:
    accept = answered(AcceptedContext(1, Result.ACCEPTANCE, UID(""), JPEG))
    context = resolve(asking(), accept).contexts[0]
    assert context.result is Result.TRANSFER_SYNTAXES_NOT_SUPPORTED
    assert not context.as_scu


def test_role_that_was_not_proposed_is_ignored() -> None:
    context = AcceptedContext(1, Result.ACCEPTANCE, UID(""), IMPLICIT)
    accept = answered(context, roles={CT: (True, True), MR: (True, True)})
    resolved = resolve(asking(roles={CT: (False, True)}), accept)
    assert resolved.roles == {CT: (False, True)}
    assert (resolved.contexts[0].as_scu, resolved.contexts[0].as_scp) == (False, True)


def test_role_that_was_not_answered_is_the_default_one() -> None:
    accept = answered(AcceptedContext(1, Result.ACCEPTANCE, UID(""), IMPLICIT))
    context = resolve(asking(roles={CT: (True, True)}), accept).contexts[0]
    assert (context.as_scu, context.as_scp) == (True, False)


@pytest.mark.parametrize(
    ("offered", "returned", "agreed"),
    [(None, (5, 5), None), ((4, 1), None, None), ((4, 1), (9, 9), (4, 1)), ((0, 1), (3, 1), (3, 1))],
)
def test_window_is_not_more_than_was_offered(
    offered: tuple[int, int] | None, returned: tuple[int, int] | None, agreed: tuple[int, int] | None
) -> None:
    assert resolve(asking(window=offered), answered(window=returned)).window == agreed


def test_extended_negotiation_that_was_not_offered_is_ignored() -> None:
    accept = answered(extended={CT: b"\1", MR: b"\1"})
    assert resolve(asking(extended={CT: b"\1"}), accept).extended == {CT: b"\1"}


@given(st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_both_sides_see_opposite_roles(asked_scu: bool, asked_scp: bool, as_scu: bool, as_scp: bool) -> None:
    policy = AcceptorPolicy(ae_title="P", support=supporting(Support(BOTH, as_scu=as_scu, as_scp=as_scp)))
    request = asking(roles={CT: (asked_scu, asked_scp)})
    acceptors = accepted(request, policy)
    requestors = resolve(request, acceptors)
    for theirs, ours in zip(acceptors.contexts, requestors.contexts, strict=True):
        assert (theirs.as_scu, theirs.as_scp) == (ours.as_scp, ours.as_scu)


def test_a_specialization_is_taken_for_the_general_class_it_is_related_to(policy: AcceptorPolicy) -> None:
    special, other = UID("1.2.826.0.1.3680043.10.1474.1"), UID("1.2.826.0.1.3680043.10.1474.2")
    common = (
        CommonExtended(special, UID("1.2.840.10008.4.2"), (other, CT)),
        CommonExtended(other, UID("1.2.840.10008.4.2"), ()),
    )
    contexts = (ProposedContext(1, special, (EXPLICIT,)), ProposedContext(3, other, (EXPLICIT,)))
    answer = negotiate(
        AssociateRequest(called_ae="P", calling_ae="C", contexts=contexts, common_extended=common), policy
    )
    assert isinstance(answer, AssociateAccept)
    assert [context.result for context in answer.contexts] == [0, Result.ABSTRACT_SYNTAX_NOT_SUPPORTED]
    assert (answer.contexts[0].abstract_syntax, answer.contexts[0].served_as) == (special, CT)
