"""Presentation contexts for what is to be sent (PS3.4 B.3, PS3.8 9.3.2.2)."""

from pacsnode.archive.locate import Located
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE, IMPLICIT_VR_LE, STORAGE_SOP_CLASSES
from pacsnode.dicom.uid import UID
from pacsnode.pixels.plan import targets_of
from pacsnode.services.proposal import MAX_CONTEXTS, batches, contexts_to_store_on
from pacsnode.ul.negotiation import AcceptedContext, Result
from tests.support.raw import CT_IMAGE

CT = UID(CT_IMAGE)
JPEG_2000 = UID("1.2.840.10008.1.2.4.90")
MPEG_2 = UID("1.2.840.10008.1.2.4.100")


def stored(sop_class: UID, transfer_syntax: UID, number: int = 1) -> Located:
    return Located(sop_class, UID(f"1.2.{number}"), transfer_syntax, f"objects/{number}.dcm", 1000, number)


def proposed(*objects: Located) -> set[tuple[UID, tuple[UID, ...]]]:
    (batch,) = batches(objects, targets_of)
    return {(context.abstract_syntax, context.transfer_syntaxes) for context in batch.contexts}


def test_each_transfer_syntax_found_has_a_context_of_its_own_and_the_default_ones_another() -> None:
    assert proposed(stored(CT, JPEG_2000)) == {
        (CT, (JPEG_2000,)),
        (CT, (EXPLICIT_VR_LE, IMPLICIT_VR_LE)),
    }
    assert proposed(stored(CT, EXPLICIT_VR_LE), stored(CT, JPEG_2000, 2)) == {
        (CT, (EXPLICIT_VR_LE,)),
        (CT, (JPEG_2000,)),
        (CT, (IMPLICIT_VR_LE,)),
    }


def test_nothing_is_offered_that_cannot_be_made() -> None:
    assert proposed(stored(CT, MPEG_2)) == {(CT, (MPEG_2,))}


def test_the_last_context_of_a_sop_class_is_one_as_stored() -> None:
    (batch,) = batches([stored(CT, EXPLICIT_VR_LE)], targets_of)
    assert batch.contexts[-1].transfer_syntaxes == (EXPLICIT_VR_LE,)


def test_more_kinds_than_contexts_take_several_associations() -> None:
    objects = [
        stored(sop_class, transfer_syntax, number)
        for number, sop_class in enumerate(sorted(STORAGE_SOP_CLASSES))
        for transfer_syntax in (EXPLICIT_VR_LE, JPEG_2000)
    ]
    dealt = batches(objects, targets_of)
    assert len(dealt) > 1
    assert all(len(batch.contexts) <= MAX_CONTEXTS for batch in dealt)
    assert [one for batch in dealt for one in batch.objects] == objects
    for batch in dealt:
        assert [context.id for context in batch.contexts] == list(range(1, 2 * len(batch.contexts), 2))
        assert {one.sop_class for one in batch.objects} == {c.abstract_syntax for c in batch.contexts}


def test_only_contexts_in_which_this_side_is_scu_are_stored_on() -> None:
    as_scu, as_scp = (
        AcceptedContext(number, Result.ACCEPTANCE, CT, transfer_syntax, as_scu=scu, as_scp=not scu)
        for number, transfer_syntax, scu in ((1, EXPLICIT_VR_LE, True), (3, JPEG_2000, False))
    )
    assert contexts_to_store_on([as_scu, as_scp]) == {CT: {EXPLICIT_VR_LE: as_scu}}
