"""Alembic migrations of the index: versions/ holds one module per revision, env.py is what Alembic runs.

`upgrade` serves any SQLite file with such a folder of its own (workflow.migrations is one).
"""

import time
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from pacsnode.errors import ArchiveError
from pacsnode.log import get_logger

log = get_logger()


def engine_for(path: Path) -> Engine:
    """A synchronous engine on an index file whose DDL is transactional: a failed migration leaves no half."""
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def _prepare(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        # WAL is a property of the file: readers keep their snapshot while the writer commits.
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.close()
        connection.isolation_level = None  # BEGIN is ours, else sqlite3 commits before each DDL

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def upgrade(path: Path, revision: str = "head", scripts: Path = Path(__file__).parent) -> None:
    """Bring the file at `path` to `revision` of `scripts` in one transaction."""
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    engine = engine_for(path)
    begun = time.perf_counter()
    try:
        with engine.begin() as connection:
            former = MigrationContext.configure(connection).get_current_revision()
            if former is not None:  # of a large archive it takes minutes
                log.info("database.migrating", file=path.name, revision=former)
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
        if former is not None:
            log.info("database.migrated", file=path.name, ms=round((time.perf_counter() - begun) * 1000))
    except CommandError as error:
        raise ArchiveError(f"{path.name} was written by another version of pacsnode: {error}") from error
    finally:
        engine.dispose()
