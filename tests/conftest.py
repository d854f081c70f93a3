"""Scenes that more than one room's tests need: a running node, real objects, real peers."""

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import pydicom.data
import pytest
import pytest_asyncio
import structlog
from pydicom import dcmread

from pacsnode.config import Settings
from pacsnode.log import VALUE_QUOTING_LOGGERS
from pacsnode.node import Node
from tests.support import pynetdicom_reactor

pynetdicom_reactor.patch()
REPOSITORY = Path(__file__).resolve().parent.parent
_NEEDED = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


@dataclass(frozen=True)
class Finished:
    """A peer's program that has ended."""

    status: int
    output: str


async def run(*command: str, env: dict[str, str] | None = None, limit: float = 60) -> Finished:
    """Run a peer's program to its end; its two outputs are joined."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **(env or {})},
    )
    try:
        async with asyncio.timeout(limit):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return Finished(process.returncode or 0, output.decode("utf-8", "replace"))


def needs(program: str) -> pytest.MarkDecorator:
    """Skip where a peer is not installed; `make test` installs them when it may."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def shared_data() -> Path | None:
    """The folder of real objects beside the checkout, when it is there."""
    named = os.environ.get("PACSNODE_TEST_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    return folder if folder.is_dir() else None


@cache
def real_objects() -> tuple[Path, ...]:
    """Every real object with File Meta and the UIDs that C-STORE needs: pydicom's, and those beside us."""
    # The folder itself: get_testdata_files would fetch what pydicom does not bundle from the network.
    candidates = sorted((Path(pydicom.data.__file__).parent / "test_files").rglob("*.dcm"))
    folder = shared_data()
    if folder is not None:
        candidates += sorted(folder.rglob("*.dcm"))
    return tuple(path for path in candidates if _is_storable(path))


def real_object(name: str) -> Path:
    """The real object in a file of that name; the test is skipped where it is not."""
    found = next((path for path in real_objects() if path.name == name), None)
    return found or pytest.skip(f"{name} is not here")


def at_least(beside: int, alone: int) -> int:
    """How many objects a test has to find: with those beside the checkout, or with pydicom's alone."""
    return beside if shared_data() is not None else alone


def _is_storable(path: Path) -> bool:
    try:
        found = dcmread(path, stop_before_pixels=True, specific_tags=list(_NEEDED))
    except Exception:  # a damaged file of the collection; tests of the scan look at those
        return False
    named = all(found.get(keyword) for keyword in _NEEDED)
    return bool(
        named and "TransferSyntaxUID" in found.file_meta and "MediaStorageSOPClassUID" in found.file_meta
    )


def settings_for(root: Path, **sections: dict[str, object]) -> Settings:
    """Settings with free ports and `root` as data root; sections as keyword arguments."""
    values: dict[str, dict[str, object]] = {
        "node": {"storage": str(root)},
        "dimse": {"host": "127.0.0.1", "port": 0},
        "web": {"host": "127.0.0.1", "port": 0},
        "storage": {"reserve": 0},
    }
    for section, given in sections.items():
        values[section] = {**values.get(section, {}), **given}
    return Settings.model_validate(values)


SettingsOf = Callable[..., Settings]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The data root of `settings_of` and `node`."""
    return tmp_path / "root"


@pytest.fixture
def settings_of(root: Path) -> SettingsOf:
    """`settings_for` with a data root of the test's own."""
    return partial(settings_for, root)


@pytest_asyncio.fixture
async def node(settings_of: SettingsOf) -> AsyncIterator[Node]:
    """A running node with the default configuration."""
    async with Node(settings_of()) as running:
        yield running


@pytest.fixture(autouse=True, scope="session")
def new_databases_are_copies() -> Iterator[None]:
    """Of the first that the migrations have made in this process: 0.2 s less work for each node."""
    from pacsnode.archive import migrations

    migrate = migrations.upgrade
    made: dict[Path, bytes] = {}

    def upgrade(path: Path, revision: str = "head", scripts: Path = Path(migrations.__file__).parent) -> None:
        is_new = revision == "head" and not (path.exists() and path.stat().st_size)
        if is_new and scripts in made:
            path.write_bytes(made[scripts])
            return
        migrate(path, revision, scripts)
        if is_new:
            made[scripts] = path.read_bytes()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrations, "upgrade", upgrade)
        yield


@pytest.fixture(autouse=True)
def logging_left_as_found() -> Iterator[None]:
    """A node that reloads its settings sets the level for all; a command logs to what is closed by now."""
    handlers, level = logging.root.handlers[:], logging.root.level
    library_levels = {name: logging.getLogger(name).level for name in VALUE_QUOTING_LOGGERS}
    yield
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()
    logging.captureWarnings(False)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    for name, value in library_levels.items():
        logging.getLogger(name).setLevel(value)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of whoever runs the tests must not configure the node."""
    for name in tuple(os.environ):
        if name.startswith("PACSNODE_") and not name.startswith("PACSNODE_TEST_"):
            monkeypatch.delenv(name)
