"""Tables of the index and their migrations."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.schema import CreateIndex, CreateTable

from pacsnode.archive import migrations, schema
from pacsnode.dicom.fuzzy import name_words
from pacsnode.dicom.information_model import Level, columns_of
from pacsnode.errors import ArchiveError


@pytest.fixture
def index(tmp_path: Path) -> Path:
    path = tmp_path / "index.sqlite"
    schema.migrate(path)
    return path


def _keys(path: Path, table: str, column: str, value: str, wanted: str) -> tuple[object, ...]:
    with sqlite3.connect(path) as connection:
        connection.execute(f"INSERT INTO {table} ({column}) VALUES (?)", (value,))
        row = connection.execute(f"SELECT {wanted} FROM {table} ORDER BY id DESC LIMIT 1").fetchone()
    connection.close()
    return tuple(row)


def test_migrations_make_the_tables_the_code_describes(index: Path) -> None:
    engine = migrations.engine_for(index)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": _is_described})
        assert compare_metadata(context, schema.metadata) == []
        # compare_metadata looks at neither generated columns nor partial indexes: compare the DDL itself.
        made = dict(
            connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").all()
        )
        for table in schema.metadata.tables.values():
            described = str(CreateTable(table).compile(engine))
            assert sorted(_columns(made[table.name])) == sorted(_columns(described))
            for entry in table.indexes:
                assert made[str(entry.name)] == str(CreateIndex(entry).compile(engine))


def _is_described(name: str | None, kind: str, _parents: object) -> bool:
    """The tables of FTS5 are not in the metadata; test_full_text_tables_* compare what they find."""
    return kind != "table" or not str(name).startswith(
        tuple(table.name for table in schema.FULL_TEXT.values())
    )


def _columns(ddl: str) -> list[str]:
    """The columns and constraints of a CREATE TABLE, in whatever layout ALTER TABLE left it."""
    body = " ".join(ddl.split()).partition("(")[2].removesuffix(")")
    columns, depth = [""], 0
    for character in body:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            columns.append("")
        else:
            columns[-1] += character
    return [column.strip() for column in columns]


def test_revision_is_the_newest_migration(index: Path) -> None:
    assert schema.revision_of(index) == schema.REVISION
    versions = Path(migrations.__file__).parent / "versions"
    assert max(path.stem for path in versions.glob("v*.py"))[1:5] == schema.REVISION


@pytest.fixture
def first_index(tmp_path: Path) -> Path:
    """An index of revision 0001 with a patient, a study, a series, an instance and a conflict."""
    path = tmp_path / "index.sqlite"
    migrations.upgrade(path, "0001")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript("""
            INSERT INTO patient (id, patient_id, patient_name, patient_name_key, other_patient_names)
            VALUES (7, 'P', 'Müller^Jörg', 'müller^jörg', 'Smith^J'), (8, '', '', '', '');
            INSERT INTO study (id, patient_fk, study_instance_uid, referring_physician_name)
            VALUES (1, 7, '1.2', 'Meyer^Ute');
            INSERT INTO series (id, study_fk, series_instance_uid, operators_name)
            VALUES (1, 1, '1.2.3', 'Swain');
            INSERT INTO instance (id, series_fk, sop_instance_uid, token, path)
            VALUES (1, 1, '1.2.3.4', 't', 'p');
            INSERT INTO conflict (sop_instance_uid, token, path) VALUES ('1.2.3.4', 't', 'c');
        """)
    return path


def test_first_index_is_brought_up_to_date_with_all_its_rows(first_index: Path) -> None:
    schema.migrate(first_index)
    assert schema.revision_of(first_index) == schema.REVISION
    with closing(sqlite3.connect(first_index)) as connection:
        words = connection.execute(
            "SELECT patient_name_words, other_patient_names_words FROM patient"
        ).fetchall()
        assert words == [(" muller jorg MLR JRK ", " smith j SM0 "), ("", "")]
        row = connection.execute("SELECT referring_physician_name_words FROM study").fetchone()
        assert row == (name_words("Meyer^Ute"),)
        assert connection.execute("SELECT path FROM instance").fetchall() == [("p",)]
        assert connection.execute("SELECT path FROM conflict").fetchall() == [("c",)]
    assert _found(first_index, "name_words", '"mlr"') == [7]
    assert _found(first_index, "name_trigrams", '"üll"') == [7]


@pytest.mark.parametrize("forgotten", [0, 2, 3])
def test_numbers_of_changes_go_on_after_the_counter_is_gone(tmp_path: Path, forgotten: int) -> None:
    path = tmp_path / "index.sqlite"
    migrations.upgrade(path, "0004")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany("INSERT INTO change (instances) VALUES (?)", [("1",), ("2",), ("3",)])
        connection.execute("DELETE FROM change WHERE sequence <= ?", (forgotten,))
    schema.migrate(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        kept = connection.execute("SELECT sequence FROM change WHERE instances <> ''").fetchall()
        assert kept == [(number,) for number in (1, 2, 3) if number > forgotten]
        assert connection.execute("INSERT INTO change (instances) VALUES ('4')").lastrowid == 4


def _found(path: Path, table: str, query: str) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"SELECT rowid FROM {table} WHERE {table} MATCH ? ORDER BY rowid", (query,))
        return [number for (number,) in rows]


def test_full_text_tables_follow_the_patients(index: Path) -> None:
    with closing(sqlite3.connect(index)) as connection, connection:
        added = connection.execute(
            "INSERT INTO patient (patient_name_key, patient_name_words) VALUES ('doe^john', ' doe john JN ')"
        )
        assert added.lastrowid == 1  # the writer hangs studies under it
        connection.execute("INSERT INTO patient (patient_id, patient_name_key) VALUES ('2', 'johnson^ann')")
        assert _both(connection, "john", "jn") == ([1, 2], [1])
        connection.execute(
            "UPDATE patient SET patient_name_key = 'roe', patient_name_words = ' roe ' WHERE id = 1"
        )
        assert _both(connection, "john", "jn") == ([2], [])
        assert _both(connection, "roe", "roe") == ([1], [1])
        connection.execute("DELETE FROM patient WHERE id = 1")
        assert _both(connection, "roe", "roe") == ([], [])
        for table in schema.FULL_TEXT.values():
            connection.execute(f"INSERT INTO {table.name} ({table.name}) VALUES ('integrity-check')")


def _both(connection: sqlite3.Connection, part: str, word: str) -> tuple[list[int], list[int]]:
    """The patients with all trigrams of `part` in their names, and those with `word` among their words."""
    trigrams = " AND ".join(f'"{part[i : i + 3]}"' for i in range(len(part) - 2))
    rows = connection.execute("SELECT rowid FROM name_trigrams WHERE name_trigrams MATCH ?", (trigrams,))
    words = connection.execute("SELECT rowid FROM name_words WHERE name_words MATCH ?", (f'"{word}"',))
    return [number for (number,) in rows], [number for (number,) in words]


def test_migrating_twice_changes_nothing(index: Path) -> None:
    before = index.stat().st_mtime_ns
    schema.migrate(index)
    assert index.stat().st_mtime_ns == before


def test_index_is_in_wal_mode(index: Path) -> None:
    connection = sqlite3.connect(index)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_index_of_a_newer_version_is_refused(index: Path) -> None:
    with sqlite3.connect(index) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(ArchiveError, match="another version"):
        schema.migrate(index)


def test_file_that_is_no_index_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    path.write_bytes(b"not a database at all, but long enough to be looked at" * 40)
    with pytest.raises(ArchiveError, match="`pacsnode index rebuild`"):
        schema.migrate(path)


@pytest.mark.parametrize("level", list(Level))
def test_every_stored_attribute_has_its_column(level: Level) -> None:
    table = schema.TABLE_OF[level]
    for attribute in columns_of(level):
        assert attribute.column in table.c
        if attribute.key_column:
            assert attribute.key_column in table.c


@pytest.mark.parametrize(
    ("stored", "key"),
    [
        ("", ""),
        ("22", "220000.000000"),
        ("2230", "223000.000000"),
        ("223000", "223000.000000"),
        ("223000.5", "223000.500000"),
        ("22:30:00.25", "223000.250000"),
        ("223000.123456", "223000.123456"),
    ],
)
def test_times_are_compared_by_meaning(index: Path, stored: str, key: str) -> None:
    assert _keys(index, "patient", "patient_birth_time", stored, "patient_birth_time_key") == (key,)


@pytest.mark.parametrize(("stored", "key"), [("20240131", "20240131"), ("2024.01.31", "20240131"), ("", "")])
def test_dates_of_acr_nema_lose_their_dots(index: Path, stored: str, key: str) -> None:
    assert _keys(index, "patient", "patient_birth_date", stored, "patient_birth_date_key") == (key,)


@pytest.mark.parametrize(
    ("key", "groups"),
    [
        ("doe^john", ("doe^john", None, None)),
        ("yamada^tarou=山田^太郎=やまだ^たろう", ("yamada^tarou", "山田^太郎", "やまだ^たろう")),
        ("=山田^太郎", (None, "山田^太郎", None)),
        ("hong==홍", ("hong", None, "홍")),
        ("a=b=c=d", ("a", "b", "c")),
        ("", (None, None, None)),
    ],
)
def test_component_groups_of_a_name_are_apart(
    index: Path, key: str, groups: tuple[str | None, str | None, str | None]
) -> None:
    wanted = "patient_name_alphabetic, patient_name_ideographic, patient_name_phonetic"
    assert _keys(index, "patient", "patient_name_key", key, wanted) == groups
