"""What can be made of what: as stored first, nothing lossy made to look lossless."""

import pytest

from pacsnode.dicom.sop_class import (
    DEFLATED,
    EXPLICIT_VR_BE,
    EXPLICIT_VR_LE,
    IMPLICIT_VR_LE,
    TRANSFER_SYNTAXES,
    name_of,
)
from pacsnode.dicom.uid import UID
from pacsnode.pixels import plan
from pacsnode.pixels.plan import choose, targets_of

MPEG4 = UID("1.2.840.10008.1.2.4.102")
LOSSLESS = sorted(plan.DECODABLE_LOSSLESS)
LOSSY = sorted(plan.DECODABLE_LOSSY)


@pytest.mark.parametrize("stored", TRANSFER_SYNTAXES, ids=name_of)
def test_an_object_goes_as_it_is_stored_where_it_may(stored: UID) -> None:
    assert targets_of(stored)[0] == stored
    assert choose(stored, set(TRANSFER_SYNTAXES)) == stored


@pytest.mark.parametrize("stored", [*LOSSLESS, *LOSSY], ids=name_of)
def test_what_can_be_decoded_goes_to_whoever_takes_the_default_transfer_syntax(stored: UID) -> None:
    assert choose(stored, {IMPLICIT_VR_LE}) == IMPLICIT_VR_LE
    assert choose(stored, {IMPLICIT_VR_LE, EXPLICIT_VR_LE}) == EXPLICIT_VR_LE


@pytest.mark.parametrize("stored", plan.NATIVE, ids=name_of)
def test_uncompressed_is_rather_recoded_than_compressed(stored: UID) -> None:
    assert choose(stored, {plan.JPEG_LS_LOSSLESS, IMPLICIT_VR_LE}) == IMPLICIT_VR_LE
    assert set(targets_of(stored)) == {*plan.NATIVE, *plan.ENCODABLE}


@pytest.mark.parametrize("stored", LOSSY, ids=name_of)
def test_a_lossy_source_is_not_compressed_again_unless_the_caller_says_so(stored: UID) -> None:
    assert choose(stored, set(plan.ENCODABLE)) is None
    assert choose(stored, set(plan.ENCODABLE), recompress_lossy=True) in plan.ENCODABLE


@pytest.mark.parametrize(
    ("stored", "accepted"),
    [
        (plan.JPEG_2000_LOSSLESS, plan.JPEG_2000),
        (plan.JPEG_LS_LOSSLESS, plan.JPEG_LS_NEAR_LOSSLESS),
        (plan.JPEG_LOSSLESS_SV1, plan.JPEG_LOSSLESS),
        (plan.HTJ2K_LOSSLESS, plan.HTJ2K),
    ],
)
def test_a_stream_that_is_one_of_the_other_syntax_is_only_renamed(stored: UID, accepted: UID) -> None:
    assert choose(stored, {accepted, IMPLICIT_VR_LE}) == accepted
    assert plan.is_renamed(stored, accepted)
    assert not plan.is_renamed(accepted, stored)


def test_video_is_sent_as_it_is_or_not_at_all() -> None:
    assert targets_of(MPEG4) == (MPEG4,)
    assert choose(MPEG4, {IMPLICIT_VR_LE, EXPLICIT_VR_LE, EXPLICIT_VR_BE, DEFLATED}) is None
