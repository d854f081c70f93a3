"""The instances that a retrieve identifier selects (PS3.4 C.4.2.2.1), and reading their data sets ahead."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from pacsnode.archive import outgoing
from pacsnode.archive.archive import Archive
from pacsnode.archive.locate import Located
from pacsnode.dicom.information_model import InformationModel, Level
from pacsnode.dicom.query import RequestedKey
from pacsnode.dicom.retrieval import retrieval_of
from pacsnode.errors import InvalidIdentifier, MatchesNotCounted
from tests.archive.conftest import store
from tests.support.objects import Made, made, object_path

PATIENT_ROOT = InformationModel.PATIENT_ROOT
STUDY_ROOT = InformationModel.STUDY_ROOT
TAG_OF = {"patient": 0x00100020, "study": 0x0020000D, "series": 0x0020000E, "sop": 0x00080018}
VR_OF = {"patient": "LO", "study": "UI", "series": "UI", "sop": "UI"}


def keys(**values: str) -> list[RequestedKey]:
    return [RequestedKey(TAG_OF[name], VR_OF[name], text) for name, text in values.items()]


async def locate(
    archive: Archive, level: Level, model: InformationModel = STUDY_ROOT, **values: str
) -> list[Located]:
    retrieval = retrieval_of(level, model, keys(**values))
    return [one async for chunk in archive.locate(retrieval) for one in chunk]


def sops(located: Sequence[Located]) -> list[str]:
    return [one.sop_instance for one in located]


@pytest.fixture
def objects() -> list[Made]:
    """Two studies; the first has series 2 before series 1, each with images 1, 2 and 10."""
    return [
        made(number, study=study, series=series)
        for study, series in ((1, 2), (1, 1), (2, 1))
        for number in (10, 2, 1)
    ]


@pytest.fixture
async def filled(archive: Archive, objects: list[Made]) -> Archive:
    await asyncio.gather(*(store(archive, item) for item in objects))
    return archive


async def test_a_study_comes_by_series_number_and_instance_number(filled: Archive) -> None:
    expected = [made(number, study=1, series=series).sop for series in (1, 2) for number in (1, 2, 10)]
    assert sops(await locate(filled, Level.STUDY, study=made(1).study)) == expected


async def test_every_level_selects_its_own(filled: Archive) -> None:
    item = made(2, study=1, series=2)
    series = [made(number, study=1, series=2).sop for number in (1, 2, 10)]
    assert (sops(await locate(filled, Level.IMAGE, study=item.study, series=item.series, sop=item.sop))) == [
        item.sop
    ]
    assert sops(await locate(filled, Level.SERIES, study=item.study, series=item.series)) == series
    assert len(await locate(filled, Level.STUDY, study=item.study)) == 6
    assert len(await locate(filled, Level.PATIENT, PATIENT_ROOT, patient="P1")) == 6


async def test_lists_of_uids_at_study_series_and_image_level(filled: Archive) -> None:
    studies = "\\".join(made(1, study=study).study for study in (1, 2))
    assert len(await locate(filled, Level.STUDY, study=studies)) == 9
    first, second = made(1, series=1), made(1, series=2)
    both = f"{first.series}\\{second.series}"
    assert len(await locate(filled, Level.SERIES, study=first.study, series=both)) == 6
    two = [made(1).sop, made(10).sop]
    located = await locate(
        filled, Level.IMAGE, study=first.study, series=first.series, sop="\\".join(reversed(two))
    )
    assert sops(located) == two


async def test_keys_above_the_level_must_fit(filled: Archive) -> None:
    item, other = made(1, study=1), made(1, study=2)
    assert await locate(filled, Level.SERIES, study=other.study, series=item.series) == []
    assert await locate(filled, Level.STUDY, PATIENT_ROOT, patient="P2", study=item.study) == []


async def test_a_patient_id_is_no_pattern(filled: Archive) -> None:
    assert await locate(filled, Level.PATIENT, PATIENT_ROOT, patient="P?") == []


async def test_located_instances_tell_what_sending_needs(
    filled: Archive, root: Path, objects: list[Made]
) -> None:
    item = objects[0]
    (located,) = await locate(filled, Level.IMAGE, study=item.study, series=item.series, sop=item.sop)
    assert located.sop_class == "1.2.840.10008.5.1.4.1.1.2"
    assert located.transfer_syntax == "1.2.840.10008.1.2.1"
    assert root / located.path == object_path(root, item)
    assert located.size == object_path(root, item).stat().st_size


@pytest.mark.parametrize(
    ("level", "model", "values", "offending"),
    [
        (Level.STUDY, STUDY_ROOT, {}, 0x0020000D),
        (Level.STUDY, STUDY_ROOT, {"study": ""}, 0x0020000D),
        (Level.STUDY, STUDY_ROOT, {"study": "*"}, 0x0020000D),
        (Level.STUDY, STUDY_ROOT, {"study": "1.2.*"}, 0x0020000D),
        (Level.STUDY, PATIENT_ROOT, {"study": "1.2"}, 0x00100020),
        (Level.SERIES, STUDY_ROOT, {"series": "1.2"}, 0x0020000D),
        (Level.SERIES, STUDY_ROOT, {"study": "1.2\\1.3", "series": "1.2"}, 0x0020000D),
        (Level.IMAGE, STUDY_ROOT, {"study": "1.2", "sop": "1.2"}, 0x0020000E),
        (Level.PATIENT, PATIENT_ROOT, {"patient": "A\\B"}, 0x00100020),
        (Level.PATIENT, STUDY_ROOT, {"patient": "A"}, 0x00080052),
        (Level.SERIES, InformationModel.PATIENT_STUDY_ONLY, {"series": "1.2"}, 0x00080052),
    ],
)
def test_an_identifier_against_the_hierarchy_names_its_offending_element(
    level: Level, model: InformationModel, values: dict[str, str], offending: int
) -> None:
    with pytest.raises(InvalidIdentifier) as refused:
        retrieval_of(level, model, keys(**values))
    assert refused.value.offending == (offending,)


def test_relational_retrieval_needs_the_keys_of_its_level_only() -> None:
    retrieval = retrieval_of(Level.IMAGE, STUDY_ROOT, keys(sop="1.2\\1.3"), relational=True)
    assert retrieval.keys == ((Level.IMAGE, ("1.2", "1.3")),)


def test_attributes_that_are_no_unique_keys_are_ignored_and_named() -> None:
    extra = [RequestedKey(0x00080060, "CS", "CT"), RequestedKey(0x00100010, "PN", ""), *keys(study="1.2")]
    assert retrieval_of(Level.STUDY, STUDY_ROOT, extra).ignored == (0x00080060,)


async def test_an_index_that_cannot_be_read_is_a_failure_to_count(
    filled: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pacsnode.archive.locate._sql_of", lambda levels: "SELECT * FROM nothing")
    with pytest.raises(MatchesNotCounted):
        await locate(filled, Level.STUDY, study="1.2")


# Reading ahead


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def read(archive: Archive, located: Sequence[Located]) -> list[bytes | str]:
    """The data sets in order; of one that cannot be read the reason."""
    source, found = archive.read(located), []
    while (one := await source.next()) is not None:
        if one.data is None:
            found.append(one.failure)
        elif isinstance(one.data, memoryview):
            found.append(bytes(one.data))
        else:
            found.append(b"".join([piece async for piece in one.data]))
    return found


async def located_all(archive: Archive, objects: Sequence[Made]) -> list[Located]:
    studies = "\\".join(sorted({item.study for item in objects}))
    return await locate(archive, Level.STUDY, study=studies)


async def test_data_sets_are_read_byte_for_byte_in_order(filled: Archive, objects: list[Made]) -> None:
    located = await located_all(filled, objects)
    data_of = {item.sop: item.data for item in objects}
    assert await read(filled, located) == [data_of[sop] for sop in sops(located)]


@pytest.mark.parametrize("pixels", [1000, 4096, 10_000, 12_345])
async def test_a_large_data_set_is_read_in_pieces(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, pixels: int
) -> None:
    monkeypatch.setattr(outgoing, "PIECE", 1024)
    monkeypatch.setattr(outgoing, "LARGE", 1024)
    item = made(1, pixels=pixels)
    await store(archive, item)
    assert await read(archive, await located_all(archive, [item])) == [item.data]


async def test_what_cannot_be_read_fails_alone(filled: Archive, root: Path, objects: list[Made]) -> None:
    located = await located_all(filled, objects)
    (root / located[1].path).unlink()
    (root / located[2].path).write_bytes(b"short")
    found = await read(filled, located)
    assert [type(one) for one in found] == [bytes, str, str] + [bytes] * 6


async def test_an_object_between_its_commit_and_its_move_is_read(
    filled: Archive, root: Path, objects: list[Made]
) -> None:
    located = (await located_all(filled, objects))[:1]
    (root / located[0].path).rename(root / "incoming" / f"{located[0].token}.{located[0].size}.part")
    (found,) = await read(filled, located)
    assert isinstance(found, bytes)


async def test_several_readers_share_the_objects(filled: Archive, objects: list[Made]) -> None:
    source = filled.read(await located_all(filled, objects))
    found = await asyncio.gather(*(source.next() for _ in range(len(objects) + 2)))
    assert [one is None for one in found] == [False] * len(objects) + [True] * 2


async def test_a_large_object_that_is_not_sent_to_its_end_leaves_no_open_file(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "PIECE", 1024)
    monkeypatch.setattr(outgoing, "LARGE", 1024)
    item = made(1, pixels=10_000)
    await store(archive, item)
    before = open_files()
    one = await archive.read(await located_all(archive, [item])).next()
    assert one is not None
    assert one.data is not None
    assert not isinstance(one.data, memoryview)
    await anext(one.data)
    await one.data.aclose()
    assert open_files() == before
