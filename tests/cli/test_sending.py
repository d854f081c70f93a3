"""Which files are objects, and which presentation contexts they need."""

from pathlib import Path

import pytest

from pacsnode.cli.sending import MAX_CONTEXTS, StoredObject, Tally, describe, plan, survey
from pacsnode.dicom.part10 import file_meta
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE, IMPLICIT_VR_LE
from pacsnode.dicom.uid import UID

CT = UID("1.2.840.10008.5.1.4.1.1.2")
MR = UID("1.2.840.10008.5.1.4.1.1.4")
DICOMDIR = UID("1.2.840.10008.1.3.10")


def write(
    path: Path, sop_class: UID = CT, transfer_syntax: UID = EXPLICIT_VR_LE, data: bytes = b"data"
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file_meta(sop_class, UID("1.2.3"), transfer_syntax, "TEST") + data)
    return path


def an_object(sop_class: str, transfer_syntax: UID = EXPLICIT_VR_LE) -> StoredObject:
    return StoredObject(Path("x"), UID(sop_class), UID("1.2.3"), transfer_syntax, 0, 0)


def test_folders_are_walked_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a/9", "c"):
        write(tmp_path / name)
    names = [str(item.path.relative_to(tmp_path)) for item in survey([tmp_path]).objects]
    assert sorted(names) == ["a/9", "b/1", "b/2", "c"]
    assert names.index("a/9") < names.index("b/1") < names.index("b/2")


def test_what_is_no_object_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").touch()
    (tmp_path / "cut").write_bytes(bytes(128) + b"DICM\x02\x00")
    write(tmp_path / "DICOMDIR", DICOMDIR)
    kept = write(tmp_path / "object")
    found = survey([tmp_path])
    assert [item.path for item in found.objects] == [kept]
    assert len(found.skipped) == 4


def test_a_link_that_leads_nowhere_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert survey([tmp_path]).skipped == (tmp_path / "link",)


def test_a_path_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        survey([tmp_path / "nowhere"])


def test_size_is_that_of_the_data_set(tmp_path: Path) -> None:
    found = survey([write(tmp_path / "object", data=bytes(1000))])
    assert found.size == 1000


def test_each_pair_of_sop_class_and_transfer_syntax_gets_a_context() -> None:
    objects = [an_object(CT), an_object(CT, IMPLICIT_VR_LE), an_object(MR), an_object(CT)]
    (batch,) = plan(objects)
    proposed = {(c.abstract_syntax, c.transfer_syntaxes) for c in batch.contexts}
    assert proposed == {(CT, (EXPLICIT_VR_LE,)), (CT, (IMPLICIT_VR_LE,)), (MR, (EXPLICIT_VR_LE,))}
    assert [c.id for c in batch.contexts] == [1, 3, 5]
    assert list(batch.objects) == objects


def test_more_kinds_than_an_association_carries_take_another() -> None:
    objects = [an_object(f"1.2.{number}") for number in range(MAX_CONTEXTS + 1)]
    first, second = plan(objects)
    assert (len(first.contexts), len(second.contexts)) == (128, 1)
    assert [c.id for c in first.contexts] == list(range(1, 256, 2))
    assert len(first.objects) + len(second.objects) == len(objects)


def test_nothing_to_send_needs_no_association() -> None:
    assert plan([]) == []


@pytest.mark.parametrize(
    ("status", "comment", "text"),
    [
        (0xA700, "disk full", "A700H Failure Refused: Out of resources (disk full)"),
        (0xB000, "", "B000H Warning Coercion of data elements"),
        (0x0999, "", "0999H unknown status"),
    ],
)
def test_a_status_is_described_for_people(status: int, comment: str, text: str) -> None:
    assert describe(status, comment).lower() == text.lower()


def test_failures_are_counted_by_reason() -> None:
    tally = Tally(failures=[(an_object(CT), "full"), (an_object(CT), "refused"), (an_object(CT), "full")])
    assert tally.failures_by_reason() == [("full", 2), ("refused", 1)]
