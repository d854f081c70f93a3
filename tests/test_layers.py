"""The one-way rule between the rooms (drawn in pacsnode/__init__.py), read from every module's imports."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "pacsnode"

# room -> the rooms it stands on directly; whatever those stand on, it may import as well
STANDS_ON: dict[str, set[str]] = {
    "errors": set(),
    "log": set(),
    "notify": set(),
    "pulse": {"log"},
    "dicom": {"errors"},
    "config": {"dicom"},
    "ul": {"dicom"},
    "dimse": {"ul"},
    "net": {"dimse", "config", "log"},
    "archive": {"dicom", "config", "log"},
    "pixels": {"dicom", "log"},
    "workflow": {"archive"},
    "services": {"net", "workflow", "pixels"},
    "web": {"workflow", "pixels"},
    "hl7": {"workflow"},
    "node": {"services", "web", "hl7", "notify", "pulse"},
    "cli": {"node"},
}

PURE = {"errors", "dicom", "ul", "dimse"}
# clocks, threads, files, network, databases, processes: bytes and time come in as arguments instead
IMPURE = {
    "aiosqlite", "anyio", "asyncio", "concurrent", "fcntl", "logging", "multiprocessing", "os", "pathlib",
    "queue", "random", "sched", "select", "selectors", "shutil", "signal", "socket", "socketserver",
    "sqlalchemy", "sqlite3", "ssl", "structlog", "subprocess", "tempfile", "threading", "time", "uvloop",
}  # fmt: skip

MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(module: Path) -> str:
    """The first name below the package; empty for the package itself."""
    first = module.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py").replace("__init__", "")


@cache
def below(room: str) -> frozenset[str]:
    return frozenset(STANDS_ON[room]).union(*(below(other) for other in STANDS_ON[room]))


def imports(module: Path) -> Iterator[str]:
    """Every module name imported anywhere in the file, inside functions too."""
    package = ["pacsnode", *module.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield name
            if name == "pacsnode":
                yield from (f"pacsnode.{alias.name}" for alias in node.names)


def rooms_imported(module: Path) -> set[str]:
    names = (name.split(".") for name in imports(module))
    return {parts[1] for parts in names if parts[0] == "pacsnode" and len(parts) > 1} & set(STANDS_ON)


def named(module: Path) -> str:
    return str(module.relative_to(PACKAGE))


def test_every_room_has_its_place() -> None:
    assert {room_of(module) for module in MODULES} - {""} <= set(STANDS_ON)


@pytest.mark.parametrize("module", MODULES, ids=named)
def test_a_module_imports_its_own_room_and_those_below(module: Path) -> None:
    room = room_of(module)
    allowed = below(room) | {room} if room else frozenset()
    assert rooms_imported(module) <= allowed


@pytest.mark.parametrize("module", [m for m in MODULES if room_of(m) in PURE], ids=named)
def test_a_pure_module_touches_no_clock_thread_file_or_socket(module: Path) -> None:
    roots = {name.partition(".")[0] for name in imports(module)}
    assert not roots & IMPURE


def test_the_list_of_impure_modules_holds_no_typing_errors() -> None:
    installed = {"aiosqlite", "anyio", "sqlalchemy", "structlog", "uvloop"}
    assert IMPURE - set(sys.stdlib_module_names) == installed
