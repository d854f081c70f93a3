"""archive.answers: what is kept of queries is what the index would answer, whatever was changed meanwhile."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, closing
from itertools import product
from pathlib import Path
from random import Random

import pytest
import pytest_asyncio

from pacsnode.archive.aliases import Alias
from pacsnode.archive.answers import CHANGES_KNOWN, ENTRY, FORMS, SEARCHES_KNOWN, WORTH, Answers
from pacsnode.archive.archive import Archive
from pacsnode.archive.index import Index
from pacsnode.archive.search import CHUNKS
from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.identifier import ResponseEncoder
from pacsnode.dicom.information_model import BY_TAG, InformationModel, Level
from pacsnode.dicom.query import Query, QueryOptions, RequestedKey, query_of
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE, IMPLICIT_VR_LE
from tests.archive.conftest import OpenArchive, store
from tests.support.objects import made

KEYWORDS = {attribute.keyword: attribute for attribute in BY_TAG.values()}
USUAL = ("StudyDate", "StudyTime", "AccessionNumber", "ModalitiesInStudy", "StudyDescription", "PatientSex")
N_STUDIES = WORTH + 30

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"


def asked(
    character_set: str = "", model: InformationModel = InformationModel.STUDY_ROOT, **keys: str
) -> Query:
    """A query at the STUDY level for the usual keys, some of them with values."""
    wanted = {**dict.fromkeys(USUAL, ""), "PatientName": "", "PatientID": "", "StudyInstanceUID": "", **keys}
    requested = [RequestedKey(KEYWORDS[k].tag, KEYWORDS[k].vr, text) for k, text in wanted.items()]
    options = QueryOptions(lenient_hierarchy=True)
    return query_of(Level.STUDY, model, requested, options, character_set)


def encoder(query: Query, transfer_syntax: str = EXPLICIT_VR_LE, ae_title: str = "NODE") -> ResponseEncoder:
    return ResponseEncoder(query, encoding_of(transfer_syntax), ae_title)  # type: ignore[arg-type]


async def known(archive: Archive, query: Query, **form: str) -> list[bytes]:
    """The answers as a node gives them."""
    return [one async for chunk in archive.search_encoded(query, encoder(query, **form)) for one in chunk]


async def anew(archive: Archive, query: Query, **form: str) -> list[bytes]:
    """The answers made of the rows of the index."""
    made_of = encoder(query, **form).encode
    return [one async for chunk in archive.search_as(query, made_of) for one in chunk]


def answers_of(archive: Archive) -> Answers:
    return archive._search._answers


async def store_studies(archive: Archive, count: int = N_STUDIES, **values: object) -> None:
    objects = [made(1, study=n, **{"StudyDescription": f"Study {n}", **values}) for n in range(1, count + 1)]
    await asyncio.gather(*(store(archive, one) for one in objects))


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many answers each search had to fetch for itself beside those that were known."""
    from pacsnode.archive import answers

    counts: list[int] = []
    original = answers.AnswersOfSearch._fetching

    def fetching(self: answers.AnswersOfSearch, studies: Sequence[int]) -> object:
        counts.append(len(studies))
        return original(self, studies)

    monkeypatch.setattr(answers.AnswersOfSearch, "_fetching", fetching)
    return counts


# The same answers as without


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("many") / "root"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def full(many: Path) -> AsyncIterator[Archive]:
    """Some hundred studies that differ in all that is asked for; some share a patient, some say little."""
    from pacsnode.archive.archive import ArchiveOptions

    chance = Random(3)
    archive = await Archive.open(many, ArchiveOptions(sync="none", reserve=0, workers=1, readers=2))
    names = [
        "Simpson^Homer",
        "Müller^Jörg",
        "Yamada^Tarou=山田^太郎",
        "Jónsson^Jón",
        "",
        "Robson^Ann",
        "Doe^J",
    ]
    objects = [
        made(
            1,
            study=number,
            PatientID=f"P{chance.randrange(200)}",
            PatientName=chance.choice(names),
            PatientSex=chance.choice("MFO") if chance.random() < 0.8 else "",
            StudyDate=f"2024{chance.randrange(1, 13):02}{chance.randrange(1, 29):02}",
            StudyTime=f"{chance.randrange(24):02}1500" if chance.random() < 0.9 else "",
            StudyDescription=chance.choice(["Head", "Schädel", "Chest^PA", ""]),
            Modality=chance.choice(["CT", "MR", "US"]),
            ReferringPhysicianName=chance.choice(names),
        )
        for number in range(1, 601)
    ]
    await asyncio.gather(*(store(archive, one) for one in objects))
    yield archive
    await archive.close()


CONDITIONS: list[dict[str, str]] = [
    {},
    {"PatientName": "*son*"},
    {"PatientName": "*so*"},
    {"PatientName": "S*"},
    {"PatientName": "*ü*"},
    {"PatientName": "=山*"},
    {"PatientName": "*s?n*"},
    {"StudyDate": "20240301-20240930"},
    {"StudyDate": "20240301-", "PatientSex": "F"},
    {"StudyDate": "20240301-", "ModalitiesInStudy": "MR"},
    {"ModalitiesInStudy": "CT"},
    {"ModalitiesInStudy": "C*"},
    {"StudyDescription": "*a*"},
    {"StudyTime": "080000-120000"},
    {"PatientSex": "M"},
    {"PatientID": "P1*"},
    {"PatientID": "P7"},
    {"ReferringPhysicianName": "R*"},
    {"ReferringPhysicianName": "*son*", "PatientName": "*o*"},
    {"PatientName": "*son*", "NumberOfStudyRelatedInstances": ""},
    {"PatientName": "*son*", "NumberOfStudyRelatedSeries": "", "NumberOfPatientRelatedStudies": ""},
    {"StudyInstanceUID": "1.2.3"},
]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("conditions", CONDITIONS, ids=str)
async def test_answers_and_their_order_are_those_of_the_index(
    full: Archive, conditions: dict[str, str]
) -> None:
    forms = product(("", "ISO_IR 100", "ISO_IR 192"), (EXPLICIT_VR_LE, IMPLICIT_VR_LE), ("NODE", "OTHER"))
    for character_set, transfer_syntax, ae_title in forms:
        query = asked(character_set, **conditions)
        form = {"transfer_syntax": transfer_syntax, "ae_title": ae_title}
        expected = await anew(full, query, **form)
        for _ in range(3):
            assert await known(full, query, **form) == expected
    patient_root = asked(model=InformationModel.PATIENT_ROOT, **conditions)
    assert await known(full, patient_root) == await anew(full, patient_root)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_second_time_nothing_is_fetched_and_nothing_encoded(
    full: Archive, fetched: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    query = asked(PatientName="*o*")
    first = await known(full, query, ae_title="SECOND")
    assert len(first) > WORTH

    def encode(self: object, matches: object) -> list[bytes]:
        raise AssertionError("it was encoded before")

    monkeypatch.setattr(ResponseEncoder, "encode", encode)
    assert await known(full, query, ae_title="SECOND") == first
    assert fetched == []


@pytest.mark.asyncio(loop_scope="module")
async def test_few_matches_take_no_memory(full: Archive) -> None:
    before = answers_of(full).size
    for number in range(20):
        assert 0 < len(await known(full, asked(StudyDate=f"2024010{number % 9 + 1}"), ae_title="FEW")) < WORTH
    assert answers_of(full).size == before


# Changes


async def change_nothing(archive: Archive) -> None:
    await store(archive, made(1, study=5, StudyDescription="Study 5"))


async def add_an_instance(archive: Archive) -> None:
    await store(archive, made(2, study=5))


async def add_a_study(archive: Archive) -> None:
    await store(archive, made(1, study=1000))


async def add_a_study_of_a_known_patient(archive: Archive) -> None:
    await store(archive, made(1, study=1000, PatientID="P5", PatientName="Made^00005"))


async def add_a_modality(archive: Archive) -> None:
    await store(archive, made(1, study=5, series=2, Modality="MR"))


async def add_a_sop_class(archive: Archive) -> None:
    await store(archive, made(2, study=5, SOPClassUID=MR_IMAGE), sop_class=MR_IMAGE)


async def fill_what_was_empty(archive: Archive) -> None:
    await store(archive, made(2, study=5, PatientSex="F", ReferringPhysicianName="Ref^Doctor"))


async def fill_what_the_study_lacked(archive: Archive) -> None:
    await store(archive, made(2, study=5, ReferringPhysicianName="Ref^Doctor"))


async def fill_the_patient_by_another_study(archive: Archive) -> None:
    await store(archive, made(1, study=1000, PatientID="P5", PatientSex="F", PatientName="Made^00005"))


async def replace_the_only_object(archive: Archive) -> None:
    """The study goes, and its number is given to another one if it is the last."""
    one = made(1, study=N_STUDIES)
    await store(archive, made(1, study=2000, SOPInstanceUID=one.sop), sop_instance=one.sop)


async def replace_the_series_of_a_modality(archive: Archive) -> None:
    await store(archive, made(1, study=6, series=2, Modality="MR"))
    assert await known(archive, asked()) == await anew(archive, asked())
    one = made(1, study=6, series=2)
    await store(archive, made(9, study=6, SOPInstanceUID=one.sop), sop_instance=one.sop)


async def replace_an_object_by_one_of_another_study(archive: Archive) -> None:
    await store(archive, made(1, study=6, series=2, Modality="MR"))
    assert await known(archive, asked()) == await anew(archive, asked())
    one = made(1, study=6, series=2)
    await store(archive, made(9, study=7, SOPInstanceUID=one.sop), sop_instance=one.sop)


async def merge_patients(archive: Archive) -> None:
    merged = {"PatientID": "P7", "PatientName": "Other^Name", "PatientSex": "M"}
    await archive.change_aliases([Alias(1, "P5", "", merged, "RIS", 1.0)], 1)


async def merge_and_undo(archive: Archive) -> None:
    await merge_patients(archive)
    assert await known(archive, asked()) == await anew(archive, asked())
    await archive.change_aliases([], 2, only=True)


async def update_a_patient(archive: Archive) -> None:
    updated = {"PatientName": "Renamed^Person"}
    await archive.change_aliases([Alias(1, "P5", "", updated, "RIS", 1.0)], 1)


CHANGES = [
    change_nothing,
    add_an_instance,
    add_a_study,
    add_a_study_of_a_known_patient,
    add_a_modality,
    add_a_sop_class,
    fill_what_was_empty,
    fill_what_the_study_lacked,
    fill_the_patient_by_another_study,
    replace_the_only_object,
    replace_the_series_of_a_modality,
    replace_an_object_by_one_of_another_study,
    merge_patients,
    merge_and_undo,
    update_a_patient,
]


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_is_seen_at_once_and_the_rest_is_kept(
    open_archive: OpenArchive, fetched: list[int], change: object
) -> None:
    queries = [
        asked(),
        asked(SOPClassesInStudy="", ReferringPhysicianName=""),
        asked(NumberOfStudyRelatedSeries="", NumberOfStudyRelatedInstances=""),
        asked(NumberOfPatientRelatedStudies="", NumberOfPatientRelatedInstances=""),
        asked(PatientName="*made*"),
        asked(StudyDate="20240101-"),
    ]
    async with open_archive(duplicates="replace", readers=2) as archive:
        await store_studies(archive)
        for query in queries:
            before = await known(archive, query)
            assert before == await known(archive, query) == await anew(archive, query)
        assert fetched == []
        await change(archive)  # type: ignore[operator]
        del fetched[:]
        for query in queries:
            expected = await anew(archive, query)
            assert await known(archive, query) == expected
            assert await known(archive, query) == expected
        assert sum(fetched) <= 3 * len(queries)  # a few studies, not all
        if change is change_nothing:
            assert fetched == []


async def test_a_study_that_gets_the_patient_it_lacked(open_archive: OpenArchive) -> None:
    async with open_archive() as archive:
        await store_studies(archive)
        await store(archive, made(1, study=500, PatientID="", PatientName="Stranger"))
        for _ in range(2):
            assert await known(archive, asked()) == await anew(archive, asked())
        await store(archive, made(2, study=500, PatientID="P1"))
        expected = await anew(archive, asked())
        assert await known(archive, asked()) == expected
        assert sum(b"Stranger" in one for one in expected) == 0


async def test_what_was_rolled_back_changed_nothing(
    open_archive: OpenArchive, fetched: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_archive() as archive:
        await store_studies(archive)
        before = [await known(archive, asked()) for _ in range(2)]

        def fails(self: Index) -> None:
            raise ValueError("no")

        with monkeypatch.context() as patched:
            patched.setattr(Index, "_write_all", fails)
            with pytest.raises(ValueError, match="no"):
                await store(archive, made(1, study=5, series=2, Modality="MR"))
        assert await known(archive, asked()) == before[0] == before[1]
        assert fetched == []
        await add_a_modality(archive)
        assert await known(archive, asked()) == await anew(archive, asked()) != before[0]


async def test_whoever_reads_on_sees_one_commit_and_leaves_nothing_that_was_changed(
    open_archive: OpenArchive, fetched: list[int]
) -> None:
    async with open_archive(readers=3) as archive:
        await store_studies(archive, CHUNKS[0] + CHUNKS[1] + 50)
        query = asked()
        before = await anew(archive, query)
        for series, kind in enumerate(("made of rows", "mostly known"), 2):
            async with aclosing(archive.search_encoded(query, encoder(query))) as chunks:
                found = list(await anext(chunks))
                for study in (CHUNKS[0] + 5, CHUNKS[0] + CHUNKS[1]):
                    await store(archive, made(1, study=study, series=series, Modality=f"M{series}"))
                between = await known(archive, query)  # its answers are of the new rows
                assert between == await anew(archive, query) != before
                found += [one async for chunk in chunks for one in chunk]
            assert found == before, kind
            assert await known(archive, query) == await anew(archive, query)
            before = await anew(archive, query)
        assert fetched != []


async def test_a_study_without_its_patient_is_no_match_however_it_is_found(
    open_archive: OpenArchive, root: Path
) -> None:
    """No node makes such an index; a damaged one is to be answered from the same way each time."""
    async with open_archive() as archive:
        await store_studies(archive)
        before = await known(archive, asked())
        with closing(sqlite3.connect(root / "index.sqlite")) as connection, connection:
            connection.execute("INSERT INTO study (patient_fk, study_instance_uid) VALUES (99999, '1.2')")
        for _ in range(2):
            assert await known(archive, asked()) == await anew(archive, asked()) == before


async def test_nothing_stays_open_when_somebody_stops(open_archive: OpenArchive) -> None:
    async with open_archive() as archive:
        await store_studies(archive, CHUNKS[0] + 20)
        query = asked()
        for _ in range(4):
            async with aclosing(archive.search_encoded(query, encoder(query))) as chunks:
                assert len(await anext(chunks)) == CHUNKS[0]
        (connection,) = archive._readers._idle
        assert not connection.in_transaction
        await add_a_study(archive)
        assert len(await known(archive, query)) == CHUNKS[0] + 21


async def test_a_search_that_fails_leaves_no_transaction(
    open_archive: OpenArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_archive() as archive:
        await store_studies(archive)
        query = asked()
        before = [await known(archive, query) for _ in range(2)]

        def fails(self: Answers, *_: object) -> None:
            raise ValueError("no")

        with monkeypatch.context() as patched:
            patched.setattr(Answers, "take", fails)
            with pytest.raises(ValueError, match="no"):
                await known(archive, query)
        (connection,) = archive._readers._idle
        assert not connection.in_transaction
        assert await known(archive, query) == before[0]


async def test_under_load_every_answer_is_as_true_as_the_index(open_archive: OpenArchive) -> None:
    """Studies change all the time: whatever was acknowledged before a query began is in its answers."""
    async with open_archive(readers=3, duplicates="replace") as archive:
        await store_studies(archive)
        chance = Random(5)
        sent: list[str] = []

        async def change() -> None:
            for number in range(150):
                study = chance.randrange(1, N_STUDIES + 1)
                modality = f"M{number}"
                await store(archive, made(1, study=study, series=number + 10, Modality=modality))
                sent.append(modality)

        async def ask() -> None:
            while not changing.done():
                acknowledged = set(sent)
                answers = await known(archive, asked())
                told = {modality for one in answers for modality in modalities_of(one)}
                assert acknowledged <= told
                assert len(answers) == N_STUDIES
                await asyncio.sleep(0)

        changing = asyncio.ensure_future(change())
        await asyncio.gather(changing, *(ask() for _ in range(3)))
        assert await known(archive, asked()) == await anew(archive, asked())


def modalities_of(answer: bytes) -> list[str]:
    """Modalities in Study of an answer in explicit VR little endian."""
    start = answer.index(b"\x08\x00\x61\x00CS") + 8
    length = int.from_bytes(answer[start - 2 : start], "little")
    return answer[start : start + length].decode().strip().split("\\")


# What is kept, by itself


def test_nothing_is_given_or_taken_while_a_study_changes() -> None:
    answers = Answers()
    begun = answers.generation
    assert answers.put("form", begun, [1, 2], [b"one", b"two"]) == 2
    with answers.changing({1}):
        assert answers.take("form", answers.generation, [1, 2]) == [None, b"two"]
        assert answers.put("form", answers.generation, [1, 2], [b"old", b"two"]) == 1
        during = answers.generation
    for old in (begun, during):  # their rows may be of before
        assert answers.put("form", old, [1], [b"old"]) == 0
    assert answers.take("form", answers.generation, [1]) == [None]
    assert answers.put("form", answers.generation, [1], [b"new"]) == 1
    assert answers.take("form", answers.generation, [1, 2]) == [b"new", b"two"]
    assert answers.take("form", begun, [1, 2]) == [None, b"two"]  # its rows were others
    assert answers.take("another", begun, [1, 2]) == [None, None]


def test_a_commit_that_fails_is_a_change_too() -> None:
    answers = Answers()
    answers.put("form", answers.generation, [1], [b"one"])
    with pytest.raises(ValueError, match="full"), answers.changing({1}):
        raise ValueError("full")
    assert answers.take("form", answers.generation, [1]) == [None]
    assert answers.put("form", answers.generation, [1], [b"one"]) == 1


def test_a_search_older_than_all_known_changes_gets_and_leaves_nothing() -> None:
    answers = Answers()
    old = answers.generation
    answers.put("form", old, [1], [b"one"])
    with answers.changing(range(10, 11 + CHANGES_KNOWN)):
        pass
    assert answers.take("form", old, [1]) == [None]
    assert answers.put("form", old, [20], [b"old"]) == 0
    assert answers.take("form", answers.generation, [1, 20]) == [b"one", None]


def test_memory_is_bounded_and_counted() -> None:
    answers = Answers(most=100 * (ENTRY + 10))
    chance = Random(1)
    for n in range(200):
        studies = [chance.randrange(1000) for _ in range(20)]
        form = chance.randrange(3)
        answers.put(form, answers.generation, studies, [bytes(10)] * 20)
        with answers.changing({chance.randrange(1000)}):
            pass
        kept = [form.answers for form in answers._forms.values()]
        assert answers.size == sum(len(one) for one in kept) * (ENTRY + 10)
        assert answers.size <= answers.most + 20 * (ENTRY + 10), n
    for number in range(3 * FORMS):
        answers.put(f"form {number}", answers.generation, [1], [b"x"])
    assert len(answers._forms) <= FORMS
    for number in range(2 * SEARCHES_KNOWN):
        answers.note("form 47", number, is_here=True)
    assert answers.has_most("form 47", 2 * SEARCHES_KNOWN - 1)
    assert len(answers._forms["form 47"].searches) <= SEARCHES_KNOWN


def test_the_form_used_least_lately_goes_first() -> None:
    answers = Answers(most=3 * (ENTRY + 10))
    for form in ("a", "b", "c"):
        answers.put(form, 0, [1], [bytes(10)])
    assert not answers.has_most("a", 1)  # asked for: used
    answers.put("d", 0, [1, 2], [bytes(10)] * 2)
    answers.put("d", 0, [3], [bytes(10)])
    assert answers.take("a", 0, [1]) == [bytes(10)]
    assert answers.take("b", 0, [1]) == [None]


async def test_more_studies_than_fit_are_answered_without_driving_each_other_out(
    open_archive: OpenArchive, fetched: list[int]
) -> None:
    async with open_archive() as archive:
        await store_studies(archive, 400)
        answers = answers_of(archive)
        answers.most = 100 * (ENTRY + 200)
        few = asked(StudyDescription="Study 3*")
        assert WORTH < len(await known(archive, few)) < 150
        everything = await anew(archive, asked())
        for _ in range(4):
            assert await known(archive, asked()) == everything
            assert answers.size <= answers.most + CHUNKS[1] * (ENTRY + 400)
        assert fetched == []  # it was never taken for known


async def test_what_is_kept_is_gone_with_the_archive(open_archive: OpenArchive) -> None:
    async with open_archive() as archive:
        await store_studies(archive)
        before = await known(archive, asked())
    async with open_archive() as archive:
        assert answers_of(archive).size == 0
        assert await known(archive, asked()) == before
