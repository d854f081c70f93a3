"""Measure the query path on an index of synthetic studies: latency by key, rows per second, query plans.

    python -m benchmarks.query_plan [--studies 100000] [--index FILE] [--plans]

The rows go straight into the tables; the queries take the way of C-FIND from identifier bytes to response
bytes, without the network.
"""

import argparse
import asyncio
import random
import sqlite3
import statistics
import string
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from pacsnode.archive.answers import Answers
from pacsnode.archive.readers import Readers
from pacsnode.archive.schema import migrate
from pacsnode.archive.search import Search
from pacsnode.archive.sql import sql_of
from pacsnode.archive.statement import plan_for
from pacsnode.dicom.fuzzy import name_words
from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.identifier import ResponseEncoder
from pacsnode.dicom.information_model import InformationModel
from pacsnode.dicom.query import Query, QueryOptions, level_of, query_of
from pacsnode.dicom.request_identifier import RequestIdentifier
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
from pacsnode.dicom.text import person_name_key

SEED = 7
REPEATS = 60  # of each query
FAMILIES = ("SMITH", "JONES", "GARCIA", "MULLER", "TANAKA", "NGUYEN", "KOWALSKI", "ROSSI", "SILVA", "DUBOIS")
ENDS = ("", "", "SON", "SEN", "MANN", "BERG", "INI", "OVA")
GIVEN = ("ANNA", "JOHN", "MARIA", "PETER", "YUKI", "LINH", "EWA", "LUCA", "ANA", "JEAN", "OLGA", "LARS")
MODALITIES = ("CT", "CT", "MR", "CR", "DX", "US", "MG", "PT\\CT", "CT\\SR")
BASELINE = QueryOptions()
ENCODING = encoding_of(EXPLICIT_VR_LE)

KEYS = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "StudyDescription",
    "ModalitiesInStudy",
    "NumberOfStudyRelatedInstances",
)


def synthetic_studies(count: int, seed: int = SEED) -> Iterator[tuple[dict[str, object], dict[str, object]]]:
    """Yield the patient and the study row of each of `count` studies; a patient each, for the most names."""
    chance = random.Random(seed)
    for number in range(count):
        yield _patient(number, chance), _study(number, chance)


def _patient(number: int, chance: random.Random) -> dict[str, object]:
    tail = "".join(chance.choices(string.ascii_uppercase, k=2))
    name = f"{chance.choice(FAMILIES)}{chance.choice(ENDS)}{tail}^{chance.choice(GIVEN)}"
    if number % 100 == 0:
        name += "=山田^太郎=やまだ^たろう"
    return {
        "id": number + 1,
        "patient_id": f"PID{number:07d}",
        "patient_name": name,
        "patient_name_key": person_name_key(name),
        "patient_name_words": name_words(name),
        "patient_birth_date": f"{chance.randrange(1930, 2020)}0{chance.randrange(1, 10)}15",
        "patient_sex": chance.choice("FM"),
        "n_studies": 1,
    }


def _study(number: int, chance: random.Random) -> dict[str, object]:
    day = chance.randrange(3650)
    hour, minute, second = chance.randrange(24), chance.randrange(60), chance.randrange(60)
    return {
        "id": number + 1,
        "patient_fk": number + 1,
        "study_instance_uid": f"1.2.826.0.1.3680043.8.498.{number}",
        "study_date": time.strftime("%Y%m%d", time.gmtime(1420070400 + day * 86400)),
        "study_time": f"{hour:02d}{minute:02d}{second:02d}",
        "accession_number": f"A{number:08d}",
        "study_id": str(number % 5000),
        "study_description": "SYNTHETIC STUDY",
        "referring_physician_name": "REFERRER^A",
        "referring_physician_name_key": "referrer^a",
        "referring_physician_name_words": name_words("REFERRER^A"),
        "modalities": chance.choice(MODALITIES),
        "timezone_offset_from_utc": chance.choice(("+0000", "+0100", "-0500", "")),
        "n_series": 3,
    }


def fill(path: Path, count: int) -> None:
    """Create an index with `count` synthetic studies."""
    migrate(path)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("PRAGMA synchronous = OFF")
        for patient, study in synthetic_studies(count):
            _insert(connection, "patient", patient)
            _insert(connection, "study", study)
    connection.close()


def _insert(connection: sqlite3.Connection, table: str, row: dict[str, object]) -> None:
    names = ", ".join(row)
    marks = ", ".join(f":{name}" for name in row)
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", row)


def identifier(**keys: str) -> bytes:
    """A STUDY level identifier with the usual return keys, encoded."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.QueryRetrieveLevel = "STUDY"
    for keyword, value in {**dict.fromkeys(KEYS, ""), **keys}.items():
        setattr(dataset, keyword, value)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = ENCODING.implicit, ENCODING.little_endian
    write_dataset(buffer, dataset)
    return bytes(buffer.getvalue())


def query_from(data: bytes, options: QueryOptions = BASELINE) -> Query:
    request = RequestIdentifier(data, EXPLICIT_VR_LE)
    return query_of(level_of(request.level), InformationModel.STUDY_ROOT, request.requested(), options)


async def answer(search: Search, query: Query) -> tuple[float, int]:
    """Answer a query: the seconds until the first responses are written, and the number of matches."""
    encoder = ResponseEncoder(query, ENCODING, "PACSNODE")
    started = time.perf_counter()
    first, matches = 0.0, 0
    async for chunk in search.find_encoded(query, encoder):
        matches += len(chunk)
        first = first or time.perf_counter() - started
    return first or time.perf_counter() - started, matches


Question = Callable[[random.Random], Query]


def questions(count: int) -> dict[str, Question]:
    """What is measured, by name."""
    fuzzy = QueryOptions(fuzzy_names=True)
    elsewhere = QueryOptions(adjust_timezone=True)

    def by(**keys: str) -> Question:
        return lambda _: query_from(identifier(**keys))

    return {
        "PatientID": lambda c: query_from(identifier(PatientID=f"PID{c.randrange(count):07d}")),
        "AccessionNumber": lambda c: query_from(identifier(AccessionNumber=f"A{c.randrange(count):08d}")),
        "StudyInstanceUID": lambda c: query_from(
            identifier(StudyInstanceUID=f"1.2.826.0.1.3680043.8.498.{c.randrange(count)}")
        ),
        "PatientName=SMITH*": by(PatientName="SMITH*"),
        "PatientName=SMITHSONA*": by(PatientName="SMITHSONA*"),
        "PatientName=*son*": by(PatientName="*son*"),
        "PatientName=*hson*": by(PatientName="*hson*"),
        "PatientName=*sonax*": by(PatientName="*sonax*"),
        "PatientName=*xy*": by(PatientName="*xy*"),
        "PatientName ideographic": by(PatientName="=山田*"),
        "fuzzy PatientName=MUELLERSON*": lambda _: query_from(identifier(PatientName="MUELLERSON*"), fuzzy),
        "fuzzy PatientName=Smithsen^Ana": lambda _: query_from(
            identifier(PatientName="SMITHSENTO^ANA"), fuzzy
        ),
        "week + modality": lambda c: query_from(_week(c)),
        "week on another clock": lambda c: query_from(_week(c, TimezoneOffsetFromUTC="+0900"), elsewhere),
    }


def _week(chance: random.Random, **keys: str) -> bytes:
    month = chance.randrange(1, 13)
    return identifier(StudyDate=f"2020{month:02d}01-2020{month:02d}07", ModalitiesInStudy="CT", **keys)


async def measure(path: Path, count: int) -> None:
    """Print, for each question, the time to the first responses and to all of them."""
    readers = Readers(path, 2)
    await readers.open()
    search = Search(readers, Answers())
    chance = random.Random(SEED)
    print(f"{'query':32} {'first p50':>9} {'p95 ms':>9} {'all p50':>9} {'p95 ms':>9} {'matches':>8}")
    for name, ask in questions(count).items():
        firsts, durations, matches = [], [], 0
        for _ in range(REPEATS):
            started = time.perf_counter()
            first, matches = await answer(search, ask(chance))
            firsts.append(first * 1000)
            durations.append((time.perf_counter() - started) * 1000)
        figures = (_percentiles(firsts), _percentiles(durations))
        print(f"{name:32}", *(f"{figure:9.2f}" for pair in figures for figure in pair), f"{matches:8}")
    started = time.perf_counter()
    _, rows = await answer(search, query_from(identifier()))
    print(f"all studies: {rows / (time.perf_counter() - started):,.0f} rows/s")
    await readers.close()


def _percentiles(values: list[float]) -> tuple[float, float]:
    """The median and the 95th percentile."""
    return statistics.median(values), statistics.quantiles(values, n=20)[-1]


def show_plans(path: Path, count: int) -> None:
    connection = sqlite3.connect(path)
    for name, ask in questions(count).items():
        bound = plan_for(ask(random.Random(SEED)))
        sql, constants = sql_of(bound.plan)
        print(f"\n{name}")
        for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", {**constants, **bound.parameters}):
            print("   ", row[3])
    connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--index", type=Path, help="reuse this file, filled if it does not exist")
    parser.add_argument("--plans", action="store_true", help="print what SQLite does for each query")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.index or Path(folder) / "index.sqlite"
        if not path.exists():
            fill(path, options.studies)
        if options.plans:
            show_plans(path, options.studies)
        asyncio.run(measure(path, options.studies))


if __name__ == "__main__":
    main()
