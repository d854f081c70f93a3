"""Tables of the index and their migrations."""

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.schema import CreateIndex, CreateTable

from pacsnode.archive import migrations, schema
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
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
        # compare_metadata looks at neither generated columns nor partial indexes: compare the DDL itself.
        made = dict(
            connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").all()
        )
        for table in schema.metadata.tables.values():
            described = str(CreateTable(table).compile(engine))
            assert sorted(_lines(made[table.name])) == sorted(_lines(described))
            for entry in table.indexes:
                assert made[str(entry.name)] == str(CreateIndex(entry).compile(engine))


def _lines(ddl: str) -> list[str]:
    return [line.strip().rstrip(",") for line in ddl.strip().splitlines()]


def test_revision_is_the_newest_migration(index: Path) -> None:
    assert schema.revision_of(index) == schema.REVISION
    versions = Path(migrations.__file__).parent / "versions"
    assert max(path.stem for path in versions.glob("v*.py"))[1:5] == schema.REVISION


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
    with pytest.raises(ArchiveError):
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
