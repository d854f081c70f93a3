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
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from pacsnode.archive.readers import Readers
from pacsnode.archive.schema import migrate
from pacsnode.archive.search import Search
from pacsnode.archive.sql import sql_of
from pacsnode.archive.statement import plan_for
from pacsnode.dicom.header import encoding_of
from pacsnode.dicom.identifier import RequestIdentifier, ResponseEncoder
from pacsnode.dicom.information_model import InformationModel
from pacsnode.dicom.query import Query, QueryOptions, level_of, query_of
from pacsnode.dicom.sop_class import EXPLICIT_VR_LE
from pacsnode.dicom.text import person_name_key

SEED = 7
FAMILIES = ("SMITH", "JONES", "GARCIA", "MULLER", "TANAKA", "NGUYEN", "KOWALSKI", "ROSSI", "SILVA", "DUBOIS")
GIVEN = ("ANNA", "JOHN", "MARIA", "PETER", "YUKI", "LINH", "EWA", "LUCA", "ANA", "JEAN", "OLGA", "LARS")
MODALITIES = ("CT", "CT", "MR", "CR", "DX", "US", "MG", "PT\\CT", "CT\\SR")
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
    """Yield the patient and the study row of each of `count` studies, two studies to a patient."""
    chance = random.Random(seed)
    patient: dict[str, object] = {}
    for number in range(count):
        if number % 2 == 0:
            name = f"{chance.choice(FAMILIES)}{chance.randrange(400)}^{chance.choice(GIVEN)}"
            if number % 100 == 0:
                name += "=山田^太郎=やまだ^たろう"
            patient = {
                "id": number // 2 + 1,
                "patient_id": f"PID{number // 2:07d}",
                "patient_name": name,
                "patient_name_key": person_name_key(name),
                "patient_birth_date": f"{chance.randrange(1930, 2020)}0{chance.randrange(1, 10)}15",
                "patient_sex": chance.choice("FM"),
                "n_studies": 2,
            }
        day = chance.randrange(3650)
        hour, minute, second = chance.randrange(24), chance.randrange(60), chance.randrange(60)
        yield (
            patient,
            {
                "id": number + 1,
                "patient_fk": patient["id"],
                "study_instance_uid": f"1.2.826.0.1.3680043.8.498.{number}",
                "study_date": time.strftime("%Y%m%d", time.gmtime(1420070400 + day * 86400)),
                "study_time": f"{hour:02d}{minute:02d}{second:02d}",
                "accession_number": f"A{number:08d}",
                "study_id": str(number % 5000),
                "study_description": "SYNTHETIC STUDY",
                "referring_physician_name": "REFERRER^A",
                "referring_physician_name_key": "referrer^a",
                "modalities": chance.choice(MODALITIES),
                "n_series": 3,
                "n_instances": 120,
            },
        )


def fill(path: Path, count: int) -> None:
    """Create an index with `count` synthetic studies."""
    migrate(path)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("PRAGMA synchronous = OFF")
        known = 0
        for patient, study in synthetic_studies(count):
            if patient["id"] != known:
                _insert(connection, "patient", patient)
                known = int(str(patient["id"]))
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
    for keyword in KEYS:
        setattr(dataset, keyword, keys.get(keyword, ""))
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = ENCODING.implicit, ENCODING.little_endian
    write_dataset(buffer, dataset)
    return bytes(buffer.getvalue())


def query_from(data: bytes) -> Query:
    request = RequestIdentifier(data, EXPLICIT_VR_LE)
    options = QueryOptions()
    return query_of(level_of(request.level), InformationModel.STUDY_ROOT, request.requested(), options)


async def answer(search: Search, data: bytes) -> int:
    """Answer one identifier; the number of matches."""
    query = query_from(data)
    encoder = ResponseEncoder(query, ENCODING, "PACSNODE")
    matches = 0
    async for chunk in search.find(query):
        for match in chunk:
            encoder.encode(match)
        matches += len(chunk)
    return matches


def questions(count: int) -> dict[str, Callable[[random.Random], bytes]]:
    """What is measured, by name."""
    return {
        "PatientID": lambda c: identifier(PatientID=f"PID{c.randrange(count // 2):07d}"),
        "AccessionNumber": lambda c: identifier(AccessionNumber=f"A{c.randrange(count):08d}"),
        "StudyInstanceUID": lambda c: identifier(
            StudyInstanceUID=f"1.2.826.0.1.3680043.8.498.{c.randrange(count)}"
        ),
        "PatientName=SMITH12*": lambda c: identifier(PatientName=f"Smith{c.randrange(10, 99)}*"),
        "PatientName=SMITH*": lambda _: identifier(PatientName="SMITH*"),
        "PatientName=*SMITH7*": lambda _: identifier(PatientName="*SMITH7*"),
        "PatientName ideographic": lambda _: identifier(PatientName="=山田*"),
        "week + modality": lambda c: identifier(
            StudyDate="2020{0:02d}01-2020{0:02d}07".format(c.randrange(1, 13)), ModalitiesInStudy="CT"
        ),
    }


async def measure(path: Path, count: int) -> None:
    readers = Readers(path, 2)
    await readers.open()
    search = Search(readers)
    chance = random.Random(SEED)
    print(f"{'query':28} {'p50 ms':>8} {'p95 ms':>8} {'matches':>8}")
    for name, ask in questions(count).items():
        durations, matches = [], 0
        for _ in range(300 if "*" not in name else 30):
            data = ask(chance)
            started = time.perf_counter()
            matches = await answer(search, data)
            durations.append((time.perf_counter() - started) * 1000)
        p95 = statistics.quantiles(durations, n=20)[-1]
        print(f"{name:28} {statistics.median(durations):8.2f} {p95:8.2f} {matches:8}")
    started = time.perf_counter()
    rows = await answer(search, identifier())
    print(f"all studies: {rows / (time.perf_counter() - started):,.0f} rows/s")
    await readers.close()


def show_plans(path: Path, count: int) -> None:
    connection = sqlite3.connect(path)
    for name, ask in questions(count).items():
        bound = plan_for(query_from(ask(random.Random(SEED))))
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
