"""Presentation contexts for stored objects: what to propose and what the answer means (PS3.4 B.3, PS3.5 10).

Each object shall go as it is stored, so every pair of SOP class and transfer syntax found has a context of
its own; a further one per SOP class offers what every Storage SCP has to take (PS3.5 10.1), if it can be made
of what is stored. Pure.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pacsnode.archive.locate import Located
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE, IMPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.ul.negotiation import AcceptedContext, ProposedContext

MAX_CONTEXTS: Final = 128  # per association; their IDs are the odd numbers to 255 (PS3.8 9.3.2.2)
ALTERNATIVES: Final = (EXPLICIT_VR_LE, IMPLICIT_VR_LE)


TargetsOf = Callable[[UID], tuple[UID, ...]]
"""Stored transfer syntax -> those an object in it can be sent in."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Objects that one association can carry."""

    contexts: tuple[ProposedContext, ...]
    objects: tuple[Located, ...]


def batches(objects: Sequence[Located], targets_of: TargetsOf) -> list[Batch]:
    """Deal objects out over as few associations as their contexts need, in the order of their SOP classes."""
    stored: dict[UID, dict[UID, None]] = {}
    for one in objects:
        stored.setdefault(one.sop_class, {})[one.transfer_syntax] = None
    groups: list[list[tuple[UID, tuple[UID, ...]]]] = []
    for sop_class, transfer_syntaxes in stored.items():
        wanted = [(sop_class, syntaxes) for syntaxes in _proposed(tuple(transfer_syntaxes), targets_of)]
        if not groups or len(groups[-1]) + len(wanted) > MAX_CONTEXTS:
            groups.append([])
        groups[-1] += wanted
    return [_batch(group, objects) for group in groups]


def _proposed(stored: tuple[UID, ...], targets_of: TargetsOf) -> list[tuple[UID, ...]]:
    """The transfer syntaxes of each context for one SOP class."""
    made = {target for one in stored for target in targets_of(one)}
    alternatives = tuple(uid for uid in ALTERNATIVES if uid in made and uid not in stored)
    best = {targets_of(one)[0]: None for one in stored}  # not always itself: a rule may want another
    # gdcmscu reads all that it receives in the transfer syntax of the last context: that of the objects.
    single = [uid for uid in best if uid not in stored] + list(stored)
    return [*([alternatives] if alternatives else []), *((uid,) for uid in single)]


def _batch(group: Sequence[tuple[UID, tuple[UID, ...]]], objects: Sequence[Located]) -> Batch:
    contexts = (
        ProposedContext(2 * number + 1, sop_class, transfer_syntaxes)
        for number, (sop_class, transfer_syntaxes) in enumerate(group)
    )
    carried = {sop_class for sop_class, _ in group}
    return Batch(tuple(contexts), tuple(one for one in objects if one.sop_class in carried))


ContextOf = Mapping[UID, Mapping[UID, AcceptedContext]]
"""SOP class -> transfer syntax -> context to store on."""


def contexts_to_store_on(contexts: Iterable[AcceptedContext]) -> ContextOf:
    """Those in which this side is SCU, the first of each transfer syntax."""
    found: dict[UID, dict[UID, AcceptedContext]] = {}
    for context in contexts:
        if context.as_scu:
            found.setdefault(context.abstract_syntax, {}).setdefault(context.transfer_syntax, context)
    return found
