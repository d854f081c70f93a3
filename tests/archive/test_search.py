"""Queries answered from the index (PS3.4 C.2.2.2, C.4.1.3)."""

import asyncio
import shutil
import sqlite3
import zlib
from collections.abc import AsyncIterator, Iterable
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
from pydicom import Dataset, Sequence
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from pacsnode.archive import readers as readers_module
from pacsnode.archive.answers import Answers
from pacsnode.archive.plan import BoundPlan
from pacsnode.archive.readers import Readers
from pacsnode.archive.schema import migrate
from pacsnode.archive.search import CHUNKS, Match, Search
from pacsnode.archive.sql import sql_of
from pacsnode.archive.statement import plan_for
from pacsnode.dicom.element import Element, split_values
from pacsnode.dicom.fuzzy import name_words
from pacsnode.dicom.information_model import ATTRIBUTES, Attribute, InformationModel, Level
from pacsnode.dicom.matching import predicate
from pacsnode.dicom.query import LITERAL, Query, QueryOptions, Reading, RequestedKey, key_of, query_of
from pacsnode.dicom.text import person_name_key
from pacsnode.errors import ArchiveError, InvalidIdentifier, OutOfResources

BY_KEYWORD = {attribute.keyword: attribute for attribute in ATTRIBUTES}
PROTOCOL_NAME_OF_HEADER = RequestedKey(0x00321060, "LO")  # Requested Procedure Description: no column


class Rows:
    """Inserts entities; what is not given is empty."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path)

    def add(self, level: Level, parent: int | None = None, **values: str | int) -> int:
        columns: dict[str, str | int] = {}
        for keyword, value in values.items():
            attribute = BY_KEYWORD[keyword]
            columns[attribute.column] = value
            if attribute.key_column:
                columns[attribute.key_column] = person_name_key(str(value))
            if attribute.words_column:
                columns[attribute.words_column] = name_words(str(value))
        if parent is not None:
            columns[f"{list(Level)[level.depth - 1].table}_fk"] = parent
        if level is Level.PATIENT:
            columns["scope"] = str(self.connection.total_changes)  # the tests care for no identity here
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        sql = f"INSERT INTO {level.table} ({names}) VALUES ({marks})"
        row_id = self.connection.execute(sql, tuple(columns.values())).lastrowid
        assert row_id is not None
        return row_id

    def add_header(self, instance: int, dataset: Dataset) -> None:
        buffer = DicomBytesIO()
        buffer.is_implicit_VR, buffer.is_little_endian = True, True
        write_dataset(buffer, dataset)
        row = (instance, 1, zlib.compress(buffer.getvalue()))
        self.connection.execute("INSERT INTO header VALUES (?, ?, ?)", row)

    def studies(self, *entries: dict[str, str | int]) -> None:
        """One study of a patient of its own for each entry, attributes of both levels mixed."""
        for number, entry in enumerate(entries):
            of_patient = {k: v for k, v in entry.items() if BY_KEYWORD[k].level is Level.PATIENT}
            of_study = {k: v for k, v in entry.items() if BY_KEYWORD[k].level is Level.STUDY}
            of_study.setdefault("StudyInstanceUID", f"1.2.{number}")
            self.add(Level.STUDY, self.add(Level.PATIENT, **of_patient), **of_study)


@pytest.fixture(scope="module")
def empty_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "index.sqlite"
    migrate(path)
    return path


@pytest.fixture
def path(empty_index: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(empty_index, tmp_path))


@pytest.fixture
def rows(path: Path) -> Iterable[Rows]:
    rows = Rows(path)
    yield rows
    rows.connection.close()


@pytest_asyncio.fixture
async def readers(path: Path) -> AsyncIterator[Readers]:
    readers = Readers(path, 1)
    await readers.open()
    yield readers
    await readers.close()


@pytest_asyncio.fixture
async def search(readers: Readers, rows: Rows) -> Search:
    return Search(readers, Answers())


def ask(
    level: Level,
    *extra: RequestedKey,
    model: InformationModel = InformationModel.STUDY_ROOT,
    match_unknown: bool = True,
    combined: bool = False,
    **keys: str,
) -> Query:
    requested = [RequestedKey(BY_KEYWORD[k].tag, BY_KEYWORD[k].vr, v) for k, v in keys.items()]
    options = QueryOptions(
        relational=True, match_unknown=match_unknown, combined_date_time=combined, lenient_hierarchy=False
    )
    return query_of(level, model, [*requested, *extra], options)


async def find(search: Search, query: Query) -> list[Match]:
    search_rows = [match async for chunk in search.find(query) for match in chunk]
    assert all(len(match) == len(query.keys) for match in search_rows)
    return search_rows


async def uids(search: Search, query: Query) -> set[str]:
    """The Study Instance UIDs of the matches."""
    position = [key.tag for key in query.keys].index(0x0020000D)
    return {str(match[position]) for match in await find(search, query)}


# Kinds of matching, each against the Python engine

STORED: dict[str, list[str | int]] = {
    "PatientName": [
        "", "^^", " ^=", "DOE^JOHN", "Doe^John^^", "DOE", "DOERING^JOHN", "doe^jane^m", "[A]b^c", "Abc^c",
        "100%", "O'NEIL^J_",
        "Yamada^Tarou=山田^太郎=やまだ^たろう", "=山田^花子", "Hong^Gildong==홍^길동", "MÜLLER^JÖRG", "ax=yb",
    ],
    "OtherPatientNames": ["", "DOE^JOHN\\ROE^JANE", "ROE^J", "AB^C\\D"],
    "ReferringPhysicianName": ["", "MEYER^EVA", "MAIER^EVA^^DR", "Müller^U", "SMITH"],
    "PatientID": ["P1", "p1", "P10", "P[1]", "P%", "P_1", "P*1", "", "ÄÖ"],
    "OtherPatientIDs": ["", "A\\B ", "AB", "B\\C"],
    "PatientBirthDate": ["", "19990101", "1999.01.01", "19991231", "20000101"],
    "PatientBirthTime": ["", "22", "2230", "223000.5", "22:30:00", "225959", "23"],
    "PatientWeight": ["", "70", "70.0", "7.0E1", "71", "heavy"],
    "OtherStudyNumbers": ["", "1\\02", "3", "12"],
    "StudyID": ["", "1", "01"],
    "ModalitiesInStudy": ["CT", "CT\\SR", "MR\\SR", "MR", "XCT"],
    "NumberOfStudyRelatedSeries": [0, 3, 30],
    "StudyDescription": ["", "Head CT", "HEAD CT", "Thorax [routine]", "x"],
}  # fmt: skip
ASKED = {
    "PatientName": [
        "DOE^JOHN", "doe^john^", "DOE*", "DOE^*", "*JOHN", "*doe*", "D?E", "?OE^J*", "[a]*", "100%",
        "o'neil^j_", "山田*", "=山田*", "=*花子", "*たろう", "yamada*=山田*", "yamada*=佐藤*", "*=*=홍*",
        "*=*", "^^",
        "*müller*",
        "MÜLLER^*", "DOE^JOHN\\ROE*", "a*b", "*x=y*", "DOE^J*^*", "*'NE?L*", '*"oe*', "*ohn*", "*oh*",
        "*hn^*", "**doe**", "*[a]*", "*^jo*", "*üll*", "*?doe*", "*ohn", "*O'N*",
    ],
    "OtherPatientNames": ["ROE^JANE", "roe*", "A*D", "?OE^J", "DOE^*"],
    "ReferringPhysicianName": ["MEYER^EVA", "*eye*", "*a", "M?YER*"],
    "PatientID": ["P1", "P*", "P?", "?1", "P[1]", "P%", "P_*", "*1", "P1\\P10", "P1\\P?1", "Ä*", "p1"],
    "OtherPatientIDs": ["A", "B", "A*B", "A?", "C\\AB"],
    "PatientBirthDate": ["19990101", "1999", "199912", "-1999", "19990102-20000101", "2000-",
                         "19990101\\20000101"],
    "PatientBirthTime": ["22", "2230", "223000", "223000.5", "2230-2245", "-2230", "2231-"],
    "PatientWeight": ["70", "70.00", "heavy", "7*"],
    "OtherStudyNumbers": ["2", "1", "+3", "12"],
    "StudyID": ["1", "?1"],
    "ModalitiesInStudy": ["CT", "C*", "SR\\MR", "?R", "CT\\SR"],
    "NumberOfStudyRelatedSeries": ["3", "03", "x", "0"],
    "StudyDescription": ["HEAD CT", "*CT", "Head*", "*[routine]", "?", "H?AD CT"],
}  # fmt: skip


@pytest.mark.parametrize("match_unknown", [True, False])
@pytest.mark.parametrize(
    ("keyword", "asked"), [(k, asked) for k, values in ASKED.items() for asked in values]
)
async def test_index_finds_what_the_rules_of_matching_say(
    search: Search, rows: Rows, keyword: str, asked: str, match_unknown: bool
) -> None:
    attribute = BY_KEYWORD[keyword]
    rows.studies(*({keyword: stored} for stored in STORED[keyword]))
    rows.connection.commit()
    wanted = _expected(attribute, asked, match_unknown)
    query = ask(Level.STUDY, match_unknown=match_unknown, StudyInstanceUID="", **{keyword: asked})
    assert await uids(search, query) == wanted


FUZZY = {
    "PatientName": [
        "DOE", "JOHN^DOE", "MUELLER", "Mull*", "*ULLER", "^JOERG", "YAMADA^TARO", "山田", "=山田",
        "M?LLER^J*", "DOERING\\HONG", "*ohn*", "*oe^j*", "O'Neill", "NOBODY", "^^", "B*", "a=*",
    ],
    "OtherPatientNames": ["ROE", "JAYNE", "*oe", "D*", "ROE^J*"],
    "ReferringPhysicianName": ["MAIER", "MUELLER^U", "MULL*", "*eye*", "EVA", "SMYTH"],
}  # fmt: skip


@pytest.mark.parametrize("match_unknown", [True, False])
@pytest.mark.parametrize(
    ("keyword", "asked"), [(k, asked) for k, values in FUZZY.items() for asked in values]
)
async def test_index_finds_the_names_that_fuzzy_matching_says(
    search: Search, rows: Rows, keyword: str, asked: str, match_unknown: bool
) -> None:
    attribute = BY_KEYWORD[keyword]
    rows.studies(*({keyword: stored} for stored in STORED[keyword]))
    rows.connection.commit()
    wanted = _expected(attribute, asked, match_unknown, Reading(fuzzy_names=True))
    options = QueryOptions(relational=True, match_unknown=match_unknown, fuzzy_names=True)
    requested = [RequestedKey(attribute.tag, "PN", asked), RequestedKey(0x0020000D, "UI")]
    query = query_of(Level.STUDY, InformationModel.STUDY_ROOT, requested, options)
    assert await uids(search, query) == wanted


def _expected(attribute: Attribute, asked: str, match_unknown: bool, reading: Reading = LITERAL) -> set[str]:
    test = predicate(key_of(RequestedKey(attribute.tag, attribute.vr, asked), reading), match_unknown)
    stored = STORED[attribute.keyword]
    return {f"1.2.{n}" for n, value in enumerate(stored) if test(split_values(str(value), attribute.vr))}


async def test_list_of_uids_may_be_long(search: Search, rows: Rows) -> None:
    rows.studies(*({"StudyInstanceUID": f"1.2.{n}"} for n in range(5)))
    rows.connection.commit()
    asked = "\\".join(f"1.2.{n}" for n in range(3, 40_000))
    assert await uids(search, ask(Level.STUDY, StudyInstanceUID=asked)) == {"1.2.3", "1.2.4"}


@pytest.mark.parametrize(
    ("keyword", "value", "many"),
    [("PatientName", "DOE^{}", 250), ("OtherPatientIDs", "P{}", 800), ("StudyDate", "19{:06}-", 800)],
)
async def test_a_key_may_have_many_values_but_not_any_number(
    search: Search, rows: Rows, keyword: str, value: str, many: int
) -> None:
    rows.studies({keyword: value.format(7).rstrip("-")}, {keyword: "20240101"})
    rows.connection.commit()
    asked = [value.format(n) for n in range(2000)]
    query = ask(Level.STUDY, match_unknown=False, StudyInstanceUID="", **{keyword: "\\".join(asked[:many])})
    assert "1.2.0" in await uids(search, query)
    query = ask(Level.STUDY, StudyInstanceUID="", **{keyword: "\\".join(asked)})
    with pytest.raises(InvalidIdentifier, match=f"{keyword} has more values"):
        await uids(search, query)


@pytest.mark.parametrize(
    ("combined", "found"), [(False, {"1.2.1", "1.2.2"}), (True, {"1.2.1", "1.2.2", "1.2.3", "1.2.4"})]
)
async def test_date_and_time_are_one_when_negotiated(
    search: Search, rows: Rows, combined: bool, found: set[str]
) -> None:
    """The example of PS3.4 C.2.2.2.5.4: from 5 July, 10 am, until 7 July, 6 pm."""
    moments = (
        ("20060705", "0959"), ("20060705", "1000"), ("20060706", "1200"),
        ("20060706", "2300"), ("20060707", "0300"), ("20060707", "1801"), ("20060708", "1100"),
    )  # fmt: skip
    rows.studies(*({"StudyDate": date, "StudyTime": time} for date, time in moments))
    rows.connection.commit()
    query = ask(
        Level.STUDY,
        combined=combined,
        StudyInstanceUID="",
        StudyDate="20060705-20060707",
        StudyTime="1000-1800",
    )
    assert await uids(search, query) == found


@pytest.mark.parametrize(
    ("date", "time", "found"),
    [
        ("20060705-20060707", "1200", {"1.2.2"}),  # a single time is met on each day
        ("20060705-", "-1000", {"1.2.0", "1.2.1", "1.2.4", "1.2.6"}),
        ("20060706", "1000-1800", {"1.2.2"}),
        ("20060705-20060707", "1200-1200", {"1.2.2", "1.2.3", "1.2.4"}),
    ],
)
async def test_only_ranges_of_the_same_form_are_one(
    search: Search, rows: Rows, date: str, time: str, found: set[str]
) -> None:
    """PS3.4 C.2.2.2.5.4."""
    moments = (
        ("20060705", "0959"), ("20060705", "1000"), ("20060706", "1200"),
        ("20060706", "2300"), ("20060707", "0300"), ("20060707", "1801"), ("20060708", "0900"),
    )  # fmt: skip
    rows.studies(*({"StudyDate": date, "StudyTime": time} for date, time in moments))
    rows.connection.commit()
    query = ask(Level.STUDY, combined=True, StudyInstanceUID="", StudyDate=date, StudyTime=time)
    assert await uids(search, query) == found


@pytest.mark.parametrize(("combined", "found"), [(False, {1, 5}), (True, {1, 2, 3, 5})])
async def test_date_and_time_of_the_kept_header_are_one_too(
    search: Search, rows: Rows, combined: bool, found: set[int]
) -> None:
    """Performed Procedure Step End Date and Time are no columns."""
    moments = [
        ("20060705", "0959"), ("20060705", "1000"), ("20060706", "2300"), ("20060707", "0300"),
        ("20060707", "1801"), ("20060706", ""),
    ]  # fmt: skip
    for number, (date, time) in enumerate(moments):
        header = Dataset()
        header.PerformedProcedureStepEndDate, header.PerformedProcedureStepEndTime = date, time
        study = rows.add(Level.STUDY, rows.add(Level.PATIENT), StudyInstanceUID=f"1.2.{number}")
        series = rows.add(Level.SERIES, study, SeriesInstanceUID=f"1.3.{number}")
        rows.add_header(rows.add(Level.IMAGE, series, SOPInstanceUID=f"1.4.{number}"), header)
    rows.connection.commit()
    ends = [
        RequestedKey(0x00400250, "DA", "20060705-20060707"),
        RequestedKey(0x00400251, "TM", "1000-1800"),
    ]
    query = ask(Level.SERIES, *ends, combined=combined, SeriesInstanceUID="")
    position = [key.tag for key in query.keys].index(0x0020000E)
    assert {str(match[position]) for match in await find(search, query)} == {f"1.3.{n}" for n in found}


# Clocks (PS3.4 C.2.2.2.1.3)

CLOCKS = (
    ("20240105", "2330", "+0000"),
    ("20240106", "003000", "+0100"),  # the same moment
    ("20240106", "0030", ""),  # not told: the clock of the query
    ("20240105", "1930", "-0500"),  # an hour later
    ("20240105", "", "+0900"),
    ("", "", ""),
)


def on_clock(timezone: str, combined: bool = False, **keys: str) -> Query:
    requested = [RequestedKey(BY_KEYWORD[k].tag, BY_KEYWORD[k].vr, v) for k, v in keys.items()]
    options = QueryOptions(adjust_timezone=True, combined_date_time=combined, match_unknown=False)
    requested += [RequestedKey(0x0020000D, "UI"), RequestedKey(0x00080201, "SH", timezone)]
    return query_of(Level.STUDY, InformationModel.STUDY_ROOT, requested, options)


@pytest.fixture
def clocks(rows: Rows) -> Rows:
    rows.studies(
        *({"StudyDate": d, "StudyTime": t, "TimezoneOffsetFromUTC": offset} for d, t, offset in CLOCKS)
    )
    rows.connection.commit()
    return rows


@pytest.mark.parametrize(
    ("timezone", "keys", "found"),
    [
        ("+0100", {"StudyDate": "20240106"}, {0, 1, 2, 3}),
        ("+0100", {"StudyDate": "20240106", "StudyTime": "0030"}, {0, 1, 2}),
        ("+0000", {"StudyDate": "20240105", "StudyTime": "23-"}, {0, 1}),
        ("+0000", {"StudyTime": "0030"}, {2, 3}),
        ("-0500", {"StudyDate": "20240105"}, {0, 1, 3, 4}),
        ("+1400", {"StudyDate": "20240107-"}, set()),
        ("", {"StudyDate": "20240105"}, {0, 3, 4}),
    ],
)
async def test_dates_and_times_are_matched_on_the_clock_of_the_query(
    search: Search, clocks: Rows, timezone: str, keys: dict[str, str], found: set[int]
) -> None:
    assert await uids(search, on_clock(timezone, **keys)) == {f"1.2.{n}" for n in found}


async def test_date_and_time_are_one_moment_on_the_clock_of_the_query(search: Search, clocks: Rows) -> None:
    query = on_clock("+0000", combined=True, StudyDate="20240105-20240106", StudyTime="2300-0015")
    assert await uids(search, query) == {"1.2.0", "1.2.1"}


async def test_answers_are_on_the_clock_of_the_query(search: Search, clocks: Rows) -> None:
    query = on_clock("+0200", StudyDate="", PatientBirthDate="")
    days = [match[0] for match in await find(search, query)]
    assert days == ["20240106", "20240106", "20240106", "20240106", "20240105", ""]
    assert len(await find(search, on_clock("+0200", StudyTime="", PatientID=""))) == len(CLOCKS)


# Hierarchy


@pytest.fixture
def hierarchy(rows: Rows) -> Rows:
    """Two patients; the first has two series, of one and of two instances."""
    anna = rows.add(Level.PATIENT, PatientID="P1", PatientName="ANNA")
    bert = rows.add(Level.PATIENT, PatientID="P2", PatientName="BERT")
    rows.add(Level.PATIENT, PatientName="NOBODY")
    study = rows.add(Level.STUDY, anna, StudyInstanceUID="1.1", AccessionNumber="A1")
    rows.add(Level.STUDY, bert, StudyInstanceUID="1.2")
    ct = rows.add(Level.SERIES, study, SeriesInstanceUID="1.1.1", Modality="CT", SeriesNumber="1")
    sr = rows.add(Level.SERIES, study, SeriesInstanceUID="1.1.2", Modality="SR", SeriesNumber="02")
    for number, series in ((1, ct), (2, ct), (3, sr)):
        instance = rows.add(
            Level.IMAGE, series, SOPInstanceUID=f"1.1.1.{number}", InstanceNumber=str(number), Rows=number
        )
        header = Dataset()
        header.RequestedProcedureDescription = f"procedure {number}"
        code = Dataset()
        code.CodeValue = f"C{number}"
        header.ProcedureCodeSequence = Sequence([code])
        rows.add_header(instance, header)
    rows.connection.commit()
    return rows


@pytest.mark.parametrize(
    ("level", "count"), [(Level.PATIENT, 3), (Level.STUDY, 2), (Level.SERIES, 2), (Level.IMAGE, 3)]
)
async def test_each_level_has_one_match_per_entity(
    search: Search, hierarchy: Rows, level: Level, count: int
) -> None:
    assert len(await find(search, ask(level, model=InformationModel.PATIENT_ROOT))) == count


async def test_keys_of_upper_levels_are_matched_and_answered(search: Search, hierarchy: Rows) -> None:
    query = ask(Level.IMAGE, PatientName="anna", Modality="CT", InstanceNumber="", SOPInstanceUID="")
    assert await find(search, query) == [
        ("1.1.1.1", "CT", "ANNA", "1.1", "1.1.1", "1"),
        ("1.1.1.2", "CT", "ANNA", "1.1", "1.1.1", "2"),
    ]


async def test_unknown_patient_id_is_no_match_for_a_unique_key(search: Search, hierarchy: Rows) -> None:
    by_patient = ask(Level.PATIENT, model=InformationModel.PATIENT_ROOT, PatientID="P1")
    assert await find(search, by_patient) == [("P1",)]


async def test_numbers_with_leading_zeros_are_found(search: Search, hierarchy: Rows) -> None:
    assert len(await find(search, ask(Level.SERIES, SeriesNumber="2"))) == 1
    assert len(await find(search, ask(Level.IMAGE, Rows="2"))) == 1


# Attributes that are no columns


@pytest.mark.parametrize(
    ("level", "asked", "count"),
    [
        (Level.IMAGE, "procedure*", 3),
        (Level.IMAGE, "procedure 2", 1),
        (Level.SERIES, "procedure 3", 1),
        (Level.SERIES, "procedure 2", 0),  # the first instance speaks for its series
        (Level.STUDY, "procedure 1", 2),  # the study without instances does not know
        (Level.PATIENT, "procedure 1", 3),
    ],
)
async def test_kept_header_is_matched(
    search: Search, hierarchy: Rows, level: Level, asked: str, count: int
) -> None:
    key = RequestedKey(0x00321060, "LO", asked)
    query = ask(level, key, model=InformationModel.PATIENT_ROOT)
    assert len(await find(search, query)) == count


async def test_values_of_header_and_columns_come_in_the_order_of_the_keys(
    search: Search, hierarchy: Rows
) -> None:
    item = (RequestedKey(0x00080100, "SH", "C3"),)
    sequence = RequestedKey(0x00081032, "SQ", items=(item,))
    query = ask(
        Level.IMAGE, sequence, PROTOCOL_NAME_OF_HEADER, InstanceNumber="", Modality="", match_unknown=False
    )
    code = (Element(0x00080100, "SH", "C3"),)
    assert await find(search, query) == [("SR", (code,), "1.1", "1.1.2", "3", "procedure 3")]


async def test_instance_without_kept_header_still_answers_its_columns(
    search: Search, hierarchy: Rows
) -> None:
    hierarchy.connection.execute("DELETE FROM header")
    hierarchy.connection.commit()
    query = ask(Level.IMAGE, PROTOCOL_NAME_OF_HEADER, SOPInstanceUID="1.1.1.3")
    assert await find(search, query) == [("1.1.1.3", "1.1", "1.1.2", "")]


# Paging and streaming


def paged(query: Query, limit: int | None, offset: int) -> Query:
    return Query(
        query.level, query.model, query.keys, ordered=True, limit=limit, offset=offset, match_unknown=False
    )


@pytest.mark.parametrize("extra", [(), (PROTOCOL_NAME_OF_HEADER,)])
@pytest.mark.parametrize(
    ("limit", "offset", "found"), [(1, 0, [1]), (2, 1, [2, 3]), (None, 2, [3]), (5, 9, [])]
)
async def test_pages_are_cut_the_same_by_sql_and_by_python(
    search: Search,
    hierarchy: Rows,
    extra: tuple[RequestedKey, ...],
    limit: int | None,
    offset: int,
    found: list[int],
) -> None:
    query = paged(ask(Level.IMAGE, *extra, SOPInstanceUID=""), limit, offset)
    assert [match[0] for match in await find(search, query)] == [f"1.1.1.{number}" for number in found]


@pytest.fixture
def many(rows: Rows) -> int:
    first, most = CHUNKS
    count = 3 * first + 2 * most + 7
    rows.studies(*({"StudyInstanceUID": f"1.2.{n}", "PatientName": "A\\B"} for n in range(count)))
    rows.connection.commit()
    return count


async def test_matches_come_in_chunks(search: Search, many: int) -> None:
    first, most = CHUNKS
    chunks = [len(chunk) async for chunk in search.find(ask(Level.STUDY, StudyInstanceUID=""))]
    assert chunks == [first, 2 * first, most, most, 7]


async def test_chunk_without_matches_is_not_yielded(search: Search, many: int) -> None:
    key = RequestedKey(0x00321060, "LO", "x")
    query = ask(Level.STUDY, key, StudyInstanceUID="", match_unknown=False)
    assert [chunk async for chunk in search.find(query)] == []


async def test_closing_the_search_gives_its_connection_back(
    search: Search, readers: Readers, many: int
) -> None:
    query = ask(Level.STUDY, StudyInstanceUID="")
    for _ in range(5):
        chunks = search.find(query)
        await anext(chunks)
        assert readers.in_use == 1
        await chunks.aclose()
        assert readers.in_use == 0


async def test_connection_is_free_before_the_last_chunk_is_taken(
    search: Search, readers: Readers, hierarchy: Rows
) -> None:
    chunks = search.find(ask(Level.STUDY))
    await anext(chunks)
    assert readers.in_use == 0
    await chunks.aclose()


async def test_cancelled_search_stops_looking(search: Search, readers: Readers, many: int) -> None:
    """A header key makes every row a hit of SQL: the fetch is long and is broken off."""
    key = RequestedKey(0x00321060, "LO", "x")
    query = ask(Level.STUDY, key, match_unknown=False)
    task = asyncio.ensure_future(find(search, query))
    await asyncio.wait([task], timeout=0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert readers.in_use == 0
    assert await find(search, ask(Level.STUDY, StudyInstanceUID="1.2.5")) == [("1.2.5",)]


async def test_slow_readers_do_not_keep_others_waiting(search: Search, many: int) -> None:
    slow = [search.find(ask(Level.STUDY, StudyInstanceUID="")) for _ in range(8)]
    for chunks in slow:
        await anext(chunks)
    assert len(await find(search, ask(Level.STUDY, StudyInstanceUID="1.2.5"))) == 1
    for chunks in slow:
        await chunks.aclose()


async def test_too_many_searches_are_refused(
    search: Search, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers_module, "WAIT", 0.01)
    slow = [search.find(ask(Level.STUDY, StudyInstanceUID="")) for _ in range(1 + readers_module.SPARE)]
    for chunks in slow:
        await anext(chunks)
    with pytest.raises(OutOfResources):
        await find(search, ask(Level.STUDY))
    for chunks in slow:
        await chunks.aclose()


async def test_search_sees_what_was_committed_before_it_began(search: Search, rows: Rows) -> None:
    assert await find(search, ask(Level.STUDY, StudyInstanceUID="1.2.0")) == []
    rows.studies({"PatientName": "A"})
    rows.connection.commit()
    assert await find(search, ask(Level.STUDY, StudyInstanceUID="1.2.0")) == [("1.2.0",)]


async def test_index_that_went_away_is_out_of_resources(search: Search, rows: Rows) -> None:
    rows.connection.execute("DROP TABLE header")
    rows.connection.commit()
    with pytest.raises(OutOfResources):
        await find(search, ask(Level.STUDY, PROTOCOL_NAME_OF_HEADER))


async def test_who_is_done_soon_is_waited_for(readers: Readers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_module, "PATIENCE", 3600)
    first = await readers.acquire()
    others = [asyncio.create_task(readers.acquire()) for _ in range(3)]
    await asyncio.sleep(0.02)
    others.pop().cancel()
    readers.release(first)
    done, waiting = await asyncio.wait(others, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    assert [await task for task in done] == [first]
    readers.release(first)
    assert await waiting.pop() is first
    readers.release(first)
    assert readers.in_use == 0


async def test_who_takes_long_keeps_nobody_waiting(readers: Readers) -> None:
    taken = [await readers.acquire() for _ in range(3)]
    assert readers.in_use == 3
    for each in taken:
        readers.release(each)


async def test_who_has_taken_long_is_waited_for_by_nobody(
    readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await readers.acquire()
    monkeypatch.setattr(readers_module, "PATIENCE", 0.0)
    await asyncio.sleep(0.01)
    monkeypatch.setattr(readers, "_wait_for_others", None)  # whoever waited would fail
    second = await readers.acquire()
    assert second is not first
    assert readers.in_use == 2
    for each in (first, second):
        readers.release(each)


async def test_index_that_is_missing_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError):
        await Readers(tmp_path / "none.sqlite", 1).open()


# Plans


@pytest.mark.parametrize(
    "keys",
    [
        {"PatientID": "P1"},
        {"PatientName": "DOE^JOHN"},
        {"PatientName": "DOE*"},
        {"PatientName": "=山田*"},
        {"AccessionNumber": "A1"},
        {"AccessionNumber": "A*"},
        {"StudyInstanceUID": "1.2"},
        {"StudyInstanceUID": "1.2\\1.3"},
        {"StudyID": "1"},
        {"StudyDate": "20240101-20240107", "ModalitiesInStudy": "CT"},
        {"StudyTime": "10-11"},
        {"ReferringPhysicianName": "DOE*"},
        {"PatientBirthDate": "19990101"},
        {"PatientName": "*son*"},
        {"PatientName": "*oh?son"},
    ],
    ids=str,
)
def test_search_by_key_never_reads_the_whole_table(path: Path, keys: dict[str, str]) -> None:
    returned = {"PatientName": "", "StudyDate": "", "NumberOfStudyRelatedInstances": ""}
    assert _scans(path, plan_for(ask(Level.STUDY, **{**returned, **keys}))) == []


def _scans(path: Path, bound: BoundPlan) -> list[str]:
    """The steps of a statement that read a table from end to end."""
    sql, constants = sql_of(bound.plan)
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"EXPLAIN QUERY PLAN {sql}", {**constants, **bound.parameters})
        steps = [str(row[3]) for row in rows]
    return [step for step in steps if step.startswith("SCAN") and "VIRTUAL TABLE" not in step]


def test_fuzzy_search_never_reads_the_whole_table(path: Path) -> None:
    options = QueryOptions(fuzzy_names=True)
    requested = [RequestedKey(0x00100010, "PN", "MUELLER^J*")]
    bound = plan_for(query_of(Level.STUDY, InformationModel.STUDY_ROOT, requested, options))
    assert _scans(path, bound) == []


def test_search_on_another_clock_never_reads_the_whole_table(path: Path) -> None:
    assert _scans(path, plan_for(on_clock("+0100", StudyDate="20240105", StudyTime="12"))) == []


def test_queries_of_one_shape_share_their_statement() -> None:
    plans = {plan_for(ask(Level.STUDY, PatientID=f"P{n}", StudyDate="2024")).plan for n in range(5)}
    assert len(plans) == 1
