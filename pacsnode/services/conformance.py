"""The DICOM Conformance Statement of the DIMSE face, in Markdown, read from service classes (PS3.2 A).

Negotiation asks the service classes the same, so the statement cannot differ from what the node accepts. What
it requests by itself has no service class to ask: INITIATED says that, a row for each activity.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from pacsnode import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, __version__
from pacsnode.config import Dimse, Settings
from pacsnode.dicom.sop_class import (
    INSTANCE_AVAILABILITY,
    MPPS,
    MPPS_NOTIFICATION,
    STORAGE_COMMITMENT,
    STORAGE_SOP_CLASSES,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    name_of,
)
from pacsnode.dicom.uid import UID
from pacsnode.dimse.status import STATUS_OF
from pacsnode.net.service import ServiceClass
from pacsnode.ul.negotiation import APPLICATION_CONTEXT

INITIATED: Final[tuple[tuple[str, str, tuple[UID, ...]], ...]] = (
    ("C-MOVE of a peer", "C-STORE", ()),
    ("Rules that forward what arrives", "C-STORE", ()),
    (
        "Rules that fetch prior studies",
        "C-FIND, then C-MOVE or C-GET",
        (STUDY_ROOT_FIND, STUDY_ROOT_MOVE, STUDY_ROOT_GET),
    ),
    ("What was sent is to be committed", "N-ACTION as SCU", (STORAGE_COMMITMENT,)),
    ("A commitment a peer has asked for", "N-EVENT-REPORT as SCP", (STORAGE_COMMITMENT,)),
    ("Performed steps for other managers", "N-CREATE, N-SET as SCU", (MPPS,)),
    ("Performed steps, for those who want to know", "N-EVENT-REPORT as SCP", (MPPS_NOTIFICATION,)),
    ("Objects that peers are told of", "N-CREATE as SCU", (INSTANCE_AVAILABILITY,)),
)
_OFFER: Final = bytes([1] * 8)  # all that PS3.4 C.5 defines

Row = Sequence[object]


def statement(settings: Settings, services: Sequence[ServiceClass]) -> str:
    """The statement for a configuration, as Markdown; sections as PS3.2 A has them."""
    return "\n".join(
        (
            f"# DICOM Conformance Statement: pacsnode {__version__}",
            "",
            *_overview(services),
            *_association_policies(settings),
            *_initiation(),
            *_acceptance(settings.dimse, services),
            *_rest(settings),
        )
    )


def table(head: Row, rows: Iterable[Row]) -> Iterator[str]:
    """A table in Markdown, with an empty line behind it."""
    yield f"| {' | '.join(map(str, head))} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(str(cell) for cell in row)} |"
    yield ""


def _overview(services: Sequence[ServiceClass]) -> Iterator[str]:
    yield "## 1 Overview"
    yield ""
    yield "A DICOM node: it stores, indexes, commits, answers queries and retrievals, serves the modality"
    yield "worklist and manages performed procedure steps."
    yield ""
    requested = {uid for _, _, uids in INITIATED for uid in uids} | STORAGE_SOP_CLASSES
    rows = [
        (name_of(uid), f"`{uid}`", "yes" if uid in requested else "no", "yes")
        for service in services
        for uid in sorted(service.sop_classes(), key=name_of)
    ]
    served = {uid for service in services for uid in service.sop_classes()}
    rows += [(name_of(uid), f"`{uid}`", "yes", "no") for uid in sorted(requested - served)]
    yield from table(("SOP class", "UID", "SCU", "SCP"), rows)


def _association_policies(settings: Settings) -> Iterator[str]:
    dimse = settings.dimse
    yield "## 2 Application Entity"
    yield ""
    yield "### 2.1 Association policies"
    yield ""
    window = "unlimited" if dimse.async_window == 0 else str(dimse.async_window)
    called = "has to be the AE title" if dimse.require_called_ae_title else "is not looked at"
    calling = ", ".join(dimse.allowed_calling_ae_titles) or "any"
    rows = (
        ("AE title", settings.node.ae_title),
        ("Application context", f"`{APPLICATION_CONTEXT}`"),
        ("Implementation class UID", f"`{IMPLEMENTATION_CLASS_UID}`"),
        ("Implementation version name", IMPLEMENTATION_VERSION_NAME),
        ("Longest PDU received", f"{dimse.max_pdu_length or 'unlimited'} bytes"),
        ("Associations at one time", dimse.max_associations),
        ("Asynchronous operations performed", window),
        ("Called AE title", called),
        ("Calling AE titles", calling),
        ("ARTIM timer", f"{dimse.artim_timeout:g} s"),
        ("Wait for the next part of a message", f"{dimse.dimse_timeout:g} s"),
        ("Idle associations are aborted after", f"{dimse.idle_timeout:g} s"),
    )
    yield from table(("Policy", "Value"), rows)


def _initiation() -> Iterator[str]:
    yield "### 2.2 Association initiation"
    yield ""
    rows = (
        (activity, operations, ", ".join(name_of(uid) for uid in uids) or "all of Storage")
        for activity, operations, uids in INITIATED
    )
    yield from table(("Activity", "Operations", "SOP classes"), rows)
    yield "Storage is proposed with the transfer syntaxes that the objects have and those that can be made of"
    yield "them, all else with Explicit and Implicit VR Little Endian."
    yield ""


def _acceptance(dimse: Dimse, services: Sequence[ServiceClass]) -> Iterator[str]:
    yield "### 2.3 Association acceptance"
    yield ""
    chosen = ", ".join(map(name_of, dimse.preferred_transfer_syntaxes)) or "the first one the requestor names"
    yield f"Of the transfer syntaxes proposed is accepted: {chosen}."
    yield "Where the requestor is SCP only (C-GET), an uncompressed one goes before all others."
    if dimse.accept_unknown_sop_classes:
        yield "SOP classes that are not listed are accepted as Storage."
    yield ""
    for service in services:
        yield from _service(service)


def _service(service: ServiceClass) -> Iterator[str]:
    yield f"#### {type(service).__name__.removesuffix('Service')}"
    yield ""
    operations = sorted(
        (field.name.removesuffix("_RQ").replace("_", "-", 1).replace("_", "-"))
        for field in {*service.operations(), *service.streams()}
    )
    role = "SCP, and SCU where the requestor proposes to be SCP" if service.is_user() else "SCP"
    yield f"Operations: {', '.join(operations)}. Role: {role}."
    yield ""
    rows = []
    for uid in sorted(service.sop_classes(), key=name_of):
        answer = service.extended_negotiation(uid, _OFFER)
        rows.append((name_of(uid), f"`{uid}`", "none" if answer is None else " ".join(map(str, answer))))
    yield from table(("SOP class", "UID", "Extended negotiation, all asked for"), rows)
    syntaxes = ((name_of(uid), f"`{uid}`") for uid in service.transfer_syntaxes())
    yield from table(("Transfer syntax", "UID"), syntaxes)


def _rest(settings: Settings) -> Iterator[str]:
    yield "### 2.4 Statuses of failure"
    yield ""
    statuses = sorted((f"{status:04X}H", error.__name__) for error, status in STATUS_OF.items())
    yield from table(("Status", "Reason"), statuses)
    yield "## 3 Network interfaces"
    yield ""
    yield f"TCP/IP, IPv4 and IPv6. DICOM on {settings.dimse.host} port {settings.dimse.port},"
    yield f"HTTP on {settings.web.host} port {settings.web.port}."
    yield ""
    yield "## 4 Character sets"
    yield ""
    yield "All of PS3.3 C.12.1.1.2, with and without code extensions. DICOM JSON and XML are UTF-8."
    yield ""
    yield "## 5 Security"
    yield ""
    yield "De-identification by the Basic Application Level Confidentiality Profile (PS3.15 E), no options,"
    yield "for `anonymize=yes` of the URI service; objects whose pixels may show names are refused. No secure"
    yield "transport profile: a proxy has to provide TLS."
    yield ""
