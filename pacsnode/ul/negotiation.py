"""What two AEs say in A-ASSOCIATE, and how an acceptor answers (PS3.8 7.1, PS3.7 Annex D). Pure.

`negotiate` is a function from a request and a policy to an accept or a reject. It is written here, not taken
from pynetdicom's `presentation`, because that one chooses by the acceptor's order of transfer syntaxes: a
modality that offers JPEG before Implicit VR would have to decompress. Here the requestor's order decides,
unless the policy has a preference. Where it is this side that will send (C-GET), what is uncompressed goes
before all else: of many an object that is the only form there is.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from typing import Final

from pacsnode import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pacsnode.dicom.sop_class import EXPLICIT_VR_BE, EXPLICIT_VR_LE, IMPLICIT_VR_LE
from pacsnode.dicom.uid import UID, is_uid
from pacsnode.errors import AssociationRejected

APPLICATION_CONTEXT: Final = UID("1.2.840.10008.3.1.1.1")  # the only one there is (PS3.7 A.2.1)
PROTOCOL_VERSION: Final = 1  # bit 0: version 1 (PS3.8 9.3.2)
OUR_IMPLEMENTATION: Final = UID(IMPLEMENTATION_CLASS_UID)
UNCOMPRESSED: Final = (EXPLICIT_VR_LE, IMPLICIT_VR_LE, EXPLICIT_VR_BE)
DEFAULT_MAX_PDU_LENGTH: Final = 262144  # bytes; long PDUs cost the receiver nothing, it does not hold them

# (SCU, SCP): may the association-requestor be it? Without role selection: SCU only (PS3.7 D.3.3.4).
DEFAULT_ROLES: Final = (True, False)
# (invoked, performed) without a window item: synchronous (PS3.7 D.3.3.3).
DEFAULT_WINDOW: Final = (1, 1)


class Result(IntEnum):
    """Result/Reason of one presentation context (PS3.8 Table 9-18)."""

    ACCEPTANCE = 0
    USER_REJECTION = 1
    NO_REASON = 2
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4


class Rejection(Enum):
    """Result, source and reason of A-ASSOCIATE-RJ (PS3.8 Table 9-21): each combination with a meaning."""

    NO_REASON_GIVEN = (1, 1, 1)
    APPLICATION_CONTEXT_NAME_NOT_SUPPORTED = (1, 1, 2)
    CALLING_AE_TITLE_NOT_RECOGNIZED = (1, 1, 3)
    CALLED_AE_TITLE_NOT_RECOGNIZED = (1, 1, 7)
    USER_IDENTITY_NOT_AUTHORIZED = (1, 2, 1)  # PS3.7 D.3.3.7.3; on the wire: no reason given
    PROTOCOL_VERSION_NOT_SUPPORTED = (1, 2, 2)
    TEMPORARY_CONGESTION = (2, 3, 1)
    LOCAL_LIMIT_EXCEEDED = (2, 3, 2)


_RESULTS: Final = {1: "rejected-permanent", 2: "rejected-transient"}
_SOURCES: Final = {1: "service-user", 2: "service-provider (ACSE)", 3: "service-provider (presentation)"}
_REASONS: Final = {
    (1, 1): "no reason given",
    (1, 2): "application context name not supported",
    (1, 3): "calling AE title not recognized",
    (1, 7): "called AE title not recognized",
    (2, 1): "no reason given",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """A presentation context as proposed (PS3.8 9.3.2.2). `id` is odd, 1 to 255."""

    id: int
    abstract_syntax: UID
    transfer_syntaxes: tuple[UID, ...]


@dataclass(frozen=True, slots=True)
class AcceptedContext:
    """A presentation context as answered (PS3.8 9.3.3.2).

    `as_scu` and `as_scp`: the roles that this side has in it, whichever side asked for the association.
    `served_as`: the more general SOP class that the acceptor takes it for, if it does not know it itself.
    Only `id`, `result` and `transfer_syntax` are on the wire; the rest follows from the request.
    """

    id: int
    result: Result
    abstract_syntax: UID
    transfer_syntax: UID
    as_scu: bool = False
    as_scp: bool = False
    served_as: UID = UID("")  # noqa: RUF009  # immutable


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """User identity (PS3.7 D.3.3.7). Kinds: 1 username, 2 and passcode, 3 Kerberos, 4 SAML, 5 JWT."""

    kind: int
    primary: bytes = field(repr=False)  # credentials stay out of logs and tracebacks
    secondary: bytes = field(default=b"", repr=False)
    response_requested: bool = False


@dataclass(frozen=True, slots=True)
class CommonExtended:
    """SOP Class Common Extended Negotiation (PS3.7 D.3.3.6)."""

    sop_class: UID
    service_class: UID
    related_general_sop_classes: tuple[UID, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociateRequest:
    """What A-ASSOCIATE-RQ says (PS3.8 9.3.2). AE titles come without their spaces, otherwise unchecked.

    `max_pdu_length`: longest P-DATA-TF body the requestor takes, in bytes, 0 for any. `window`: operations
    (invoked, performed) by the requestor, 0 for any number. `roles`: (SCU, SCP) of the requestor.
    `echo`: bytes 11 to 74 as received, which the answer repeats (PS3.8 Table 9-17).
    """

    called_ae: str
    calling_ae: str
    contexts: tuple[ProposedContext, ...]
    max_pdu_length: int = DEFAULT_MAX_PDU_LENGTH
    implementation_class_uid: UID = OUR_IMPLEMENTATION
    implementation_version: str = IMPLEMENTATION_VERSION_NAME
    window: tuple[int, int] | None = None
    roles: dict[UID, tuple[bool, bool]] = field(default_factory=dict)
    extended: dict[UID, bytes] = field(default_factory=dict)
    common_extended: tuple[CommonExtended, ...] = ()
    user_identity: UserIdentity | None = None
    application_context: UID = APPLICATION_CONTEXT
    protocol_version: int = PROTOCOL_VERSION
    echo: bytes = field(default=b"", compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociateAccept:
    """What A-ASSOCIATE-AC says (PS3.8 9.3.3); the fields are those of `AssociateRequest`.

    `window` and `roles` keep the requestor's point of view, lowered to what the acceptor agrees to.
    """

    called_ae: str
    calling_ae: str
    contexts: tuple[AcceptedContext, ...]
    max_pdu_length: int = DEFAULT_MAX_PDU_LENGTH
    implementation_class_uid: UID = OUR_IMPLEMENTATION
    implementation_version: str = IMPLEMENTATION_VERSION_NAME
    window: tuple[int, int] | None = None
    roles: dict[UID, tuple[bool, bool]] = field(default_factory=dict)
    extended: dict[UID, bytes] = field(default_factory=dict)
    user_identity_response: bytes | None = None
    application_context: UID = APPLICATION_CONTEXT
    protocol_version: int = PROTOCOL_VERSION
    echo: bytes = field(default=b"", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class AssociateReject:
    """What A-ASSOCIATE-RJ says (PS3.8 9.3.4)."""

    result: int
    source: int
    reason: int

    @classmethod
    def of(cls, rejection: Rejection) -> "AssociateReject":
        return cls(*rejection.value)

    @property
    def meaning(self) -> str:
        """The three fields in words."""
        result = _RESULTS.get(self.result, f"result {self.result}")
        source = _SOURCES.get(self.source, f"source {self.source}")
        reason = _REASONS.get((self.source, self.reason), f"reason {self.reason}")
        return f"{result} by the {source}: {reason}"

    def as_error(self) -> AssociationRejected:
        return AssociationRejected(self.result, self.source, self.reason, self.meaning)


@dataclass(frozen=True, slots=True)
class Support:
    """What the acceptor can do with one abstract syntax. `as_scu`: it may be SCU if role selection asks."""

    transfer_syntaxes: frozenset[UID]
    as_scu: bool = False
    as_scp: bool = True


def _no_extended_negotiation(sop_class: UID, offered: bytes) -> bytes | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptorPolicy:
    """What an acceptor agrees to.

    `support(abstract_syntax)`: None when it is not supported.
    `transfer_syntax_preference`: chosen before all others, the best first; empty: the requestor's order.
    `allowed_calling_aes`: None for anyone.
    `window`: the most operations the requestor may (invoke, perform) at once, 0 for any number.
    `extended(sop_class, offered)`: the answer to SOP Class Extended Negotiation; None leaves the item out.
    """

    ae_title: str
    support: Callable[[UID], Support | None]
    transfer_syntax_preference: tuple[UID, ...] = ()
    require_called_ae: bool = False
    allowed_calling_aes: frozenset[str] | None = None
    max_pdu_length: int = DEFAULT_MAX_PDU_LENGTH
    window: tuple[int, int] = DEFAULT_WINDOW
    extended: Callable[[UID, bytes], bytes | None] = _no_extended_negotiation


def negotiate(request: AssociateRequest, policy: AcceptorPolicy) -> AssociateAccept | AssociateReject:
    """Answer an A-ASSOCIATE indication. One of which every context is refused is an accept all the same."""
    rejection = _rejection(request, policy)
    if rejection is not None:
        return AssociateReject.of(rejection)
    served = _served(request, policy)
    roles = {
        uid: agreed
        for uid, asked in request.roles.items()
        if uid in served and (agreed := _agreed_roles(asked, served[uid].support))
    }
    contexts = tuple(
        _answer(context, served.get(context.abstract_syntax), roles.get(context.abstract_syntax), policy)
        for context in request.contexts
    )
    accepted = {context.abstract_syntax for context in contexts if context.result is Result.ACCEPTANCE}
    return AssociateAccept(
        called_ae=request.called_ae,
        calling_ae=request.calling_ae,
        contexts=contexts,
        max_pdu_length=policy.max_pdu_length,
        window=_agreed_window(request.window, policy.window),
        roles={uid: agreed for uid, agreed in roles.items() if uid in accepted},
        extended=_answered_extended(request, accepted, policy),
        echo=request.echo,
    )


def resolve(request: AssociateRequest, accept: AssociateAccept) -> AssociateAccept:
    """An A-ASSOCIATE-AC as its requestor must read it (PS3.7 D.3.3).

    Contexts get the abstract syntax and the roles that the request gives them. What the acceptor may not say
    has no effect: contexts, transfer syntaxes, roles and windows that were not proposed.
    """
    proposed = {context.id: context for context in request.contexts}
    roles = {
        uid: (accept.roles[uid][0] and asked[0], accept.roles[uid][1] and asked[1])
        for uid, asked in request.roles.items()
        if uid in accept.roles
    }
    window = None
    if request.window is not None and accept.window is not None:
        window = _agreed_window(request.window, accept.window)
    return replace(
        accept,
        contexts=tuple(
            _resolved(context, proposed[context.id], roles)
            for context in accept.contexts
            if context.id in proposed
        ),
        roles=roles,
        window=window,
        extended={uid: answer for uid, answer in accept.extended.items() if uid in request.extended},
    )


def _rejection(request: AssociateRequest, policy: AcceptorPolicy) -> Rejection | None:
    if not request.protocol_version & PROTOCOL_VERSION:
        return Rejection.PROTOCOL_VERSION_NOT_SUPPORTED
    if request.application_context != APPLICATION_CONTEXT:
        return Rejection.APPLICATION_CONTEXT_NAME_NOT_SUPPORTED
    if policy.require_called_ae and request.called_ae != policy.ae_title:
        return Rejection.CALLED_AE_TITLE_NOT_RECOGNIZED
    if policy.allowed_calling_aes is not None and request.calling_ae not in policy.allowed_calling_aes:
        return Rejection.CALLING_AE_TITLE_NOT_RECOGNIZED
    return None


@dataclass(frozen=True, slots=True)
class _Served:
    """How an abstract syntax is supported. `by`: the SOP class that is."""

    support: Support
    by: UID


def _served(request: AssociateRequest, policy: AcceptorPolicy) -> dict[UID, _Served]:
    """The proposed abstract syntaxes that are supported.

    One may be so by a more general SOP class that SOP Class Common Extended Negotiation relates it to
    (PS3.7 D.3.3.6).
    """
    related = {item.sop_class: item.related_general_sop_classes for item in request.common_extended}
    served: dict[UID, _Served] = {}
    for abstract_syntax in {context.abstract_syntax for context in request.contexts}:
        if not is_uid(abstract_syntax):
            continue  # a policy that takes unknown SOP classes must not be handed what is no UID
        for uid in (abstract_syntax, *related.get(abstract_syntax, ())):
            support = policy.support(uid) if is_uid(uid) else None
            if support is not None:
                served[abstract_syntax] = _Served(support, uid)
                break
    return served


def _agreed_roles(asked: tuple[bool, bool], support: Support) -> tuple[bool, bool] | None:
    """The roles the requestor may have of those it asked for; None: none of them, the default ones apply."""
    as_scu, as_scp = asked
    agreed = (as_scu and support.as_scp, as_scp and support.as_scu)
    return agreed if any(agreed) else None


def _answer(
    context: ProposedContext,
    served: _Served | None,
    agreed: tuple[bool, bool] | None,
    policy: AcceptorPolicy,
) -> AcceptedContext:
    if served is None:
        return _refused(context, Result.ABSTRACT_SYNTAX_NOT_SUPPORTED)
    support = served.support
    requestor_is_scu, requestor_is_scp = agreed or DEFAULT_ROLES
    if not agreed and not support.as_scp:
        return _refused(context, Result.USER_REJECTION)
    sends = requestor_is_scp and not requestor_is_scu
    preference = (*policy.transfer_syntax_preference, *(_plain(context) if sends else ()))
    transfer_syntax = _chosen(context.transfer_syntaxes, support, preference)
    if transfer_syntax is None:
        return _refused(context, Result.TRANSFER_SYNTAXES_NOT_SUPPORTED)
    return AcceptedContext(
        context.id,
        Result.ACCEPTANCE,
        context.abstract_syntax,
        transfer_syntax,
        as_scu=requestor_is_scp,
        as_scp=requestor_is_scu,
        served_as=served.by if served.by != context.abstract_syntax else UID(""),
    )


def _refused(context: ProposedContext, result: Result) -> AcceptedContext:
    # One transfer syntax must be there though it means nothing; old requestors expect one of their own.
    insignificant = context.transfer_syntaxes[0] if context.transfer_syntaxes else UID("")
    return AcceptedContext(context.id, result, context.abstract_syntax, insignificant)


def _plain(context: ProposedContext) -> tuple[UID, ...]:
    """The uncompressed ones of the transfer syntaxes proposed."""
    return tuple(uid for uid in context.transfer_syntaxes if uid in UNCOMPRESSED)


def _chosen(proposed: tuple[UID, ...], support: Support, preference: tuple[UID, ...]) -> UID | None:
    for transfer_syntax in preference:
        if transfer_syntax in proposed and transfer_syntax in support.transfer_syntaxes:
            return transfer_syntax
    return next((uid for uid in proposed if uid in support.transfer_syntaxes), None)


def _agreed_window(offered: tuple[int, int] | None, most: tuple[int, int]) -> tuple[int, int] | None:
    if offered is None:
        return None
    return _lower(offered[0], most[0]), _lower(offered[1], most[1])


def _lower(offered: int, most: int) -> int:
    """The smaller of two limits where 0 is none."""
    return min(offered or most, most or offered)


def _answered_extended(
    request: AssociateRequest, accepted: set[UID], policy: AcceptorPolicy
) -> dict[UID, bytes]:
    answers: dict[UID, bytes] = {}
    for uid, offered in request.extended.items():
        answer = policy.extended(uid, offered) if uid in accepted else None
        if answer is not None:
            # Options appended by later editions are unknown to whoever did not offer them.
            answers[uid] = answer[: len(offered)]
    return answers


def _resolved(
    answered: AcceptedContext, proposed: ProposedContext, roles: dict[UID, tuple[bool, bool]]
) -> AcceptedContext:
    result = answered.result
    if result is Result.ACCEPTANCE and answered.transfer_syntax not in proposed.transfer_syntaxes:
        result = Result.TRANSFER_SYNTAXES_NOT_SUPPORTED
    as_scu, as_scp = roles.get(proposed.abstract_syntax, DEFAULT_ROLES)
    usable = result is Result.ACCEPTANCE
    return AcceptedContext(
        answered.id,
        result,
        proposed.abstract_syntax,
        answered.transfer_syntax,
        as_scu=usable and as_scu,
        as_scp=usable and as_scp,
    )
