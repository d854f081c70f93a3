"""Chromium and what viewers are made of, for tests in tests/web/browser.

The packages lie in a cache folder outside the repository, one for each lock file. `make test-browser` fills
it; without it, and without PACSNODE_TEST_BROWSER=1, the tests that want it are skipped.
"""

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY, run

SCRIPTS = REPOSITORY / "tests" / "web" / "browser"
OHIF = "@ohif/app@3.12.10"
OHIF_SHA512 = (
    "d24b85eba32af5cf5d303fbe6d4b138ccac9a57270699873f41e2e4b6e380dac"
    "008d2913c0860553dde9c4fb915108b16918bb4001e517715ed6ab9d06566b98"
)


@dataclass(frozen=True)
class Answers:
    """What became of the calls by their names, and what went wrong beside them."""

    results: dict[str, dict[str, Any]]
    errors: dict[str, str]
    complaints: list[str]


async def packages() -> Path:
    """The node_modules of the lock file; skips where they cannot be had."""
    _need_programs()
    folder = _cache() / hashlib.sha256((SCRIPTS / "package-lock.json").read_bytes()).hexdigest()[:16]
    if not (folder / "node_modules").is_dir():
        with _made_at(folder) as making:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(SCRIPTS / name, making)
            await _npm(making, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    return folder / "node_modules"


async def ohif() -> Path:
    """The folder of OHIF's built pages; skips where it cannot be had."""
    _need_programs()
    folder = _cache() / OHIF.replace("/", "-")
    if not folder.is_dir():
        with _made_at(folder) as making:
            await _npm(making, "pack", OHIF)
            (packed,) = making.glob("*.tgz")
            assert hashlib.sha512(packed.read_bytes()).hexdigest() == OHIF_SHA512
            await asyncio.to_thread(shutil.unpack_archive, packed, making, "gztar", filter="data")
            packed.unlink()
    return folder / "package" / "dist"


async def workshop(folder: Path) -> Path:
    """A folder with the scripts and the packages, where they can be run."""
    modules = await packages()
    for script in SCRIPTS.glob("*.mjs"):
        shutil.copy(script, folder)
    (folder / "node_modules").symlink_to(modules)
    return folder


async def script(folder: Path, name: str, given: object = None, *, limit: float = 120) -> Any:
    """What a script of the workshop writes, as JSON; it gets `given` on its standard input."""
    process = await asyncio.create_subprocess_exec(
        "node",
        name,
        cwd=folder,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "CHROMIUM": _chromium()},
    )
    try:
        async with asyncio.timeout(limit):
            output, errors = await process.communicate(json.dumps(given).encode())
    except TimeoutError:
        process.terminate()  # Playwright takes its browser along
        await process.wait()
        raise
    assert process.returncode == 0, errors.decode()
    return json.loads(output) if output else None


def _need_programs() -> None:
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing or not _chromium():
        pytest.skip(f"not installed: {', '.join(missing) or 'chromium'}")


def _chromium() -> str:
    return shutil.which("chromium") or shutil.which("chromium-browser") or ""


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pacsnode-browser"


@contextmanager
def _made_at(target: Path) -> Iterator[Path]:
    """A folder beside `target` that becomes it, so that a broken download is no cache."""
    if os.environ.get("PACSNODE_TEST_BROWSER") != "1":
        pytest.skip(f"{target.name} is not in the cache: `make test-browser` fetches it")
    making = target.with_name(f"{target.name}.{os.getpid()}")
    making.mkdir(parents=True)
    try:
        yield making
        making.rename(target)
    finally:
        shutil.rmtree(making, ignore_errors=True)


async def _npm(folder: Path, *arguments: str) -> None:
    to = ("--pack-destination" if arguments[0] == "pack" else "--prefix", str(folder))
    done = await run("npm", *arguments, *to, limit=300)
    if done.status != 0:
        pytest.skip(f"npm could not fetch them: {done.output.strip().splitlines()[-1:]}")
