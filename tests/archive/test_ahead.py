"""Work ahead of time rests while somebody waits, but never for ever."""

import asyncio
import time
from dataclasses import dataclass

import pytest

from pacsnode.archive import ahead as module
from pacsnode.archive.ahead import Ahead

pytestmark = pytest.mark.asyncio


@dataclass
class Asked:
    asked_at: float = 0.0


async def test_it_rests_while_anybody_is_asked() -> None:
    files, searches = Asked(), Asked()
    ahead = Ahead(files, searches)
    assert not ahead.is_busy()
    for one in (files, searches):
        one.asked_at = time.monotonic()
        assert ahead.is_busy()
        one.asked_at = 0.0
    ahead.note_arrival()
    assert ahead.is_busy()


async def test_it_goes_on_when_it_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 3600)
    searches = Asked(time.monotonic())
    resting = asyncio.create_task(Ahead(searches).rest(0.001))
    await asyncio.sleep(0.05)
    assert not resting.done()
    searches.asked_at = 0.0
    async with asyncio.timeout(5):
        await resting


@pytest.mark.parametrize("in_thread", [False, True])
async def test_it_goes_on_where_it_is_never_quiet(in_thread: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    ahead = Ahead(Asked(time.monotonic() + 3600))
    async with asyncio.timeout(5):
        await (asyncio.to_thread(ahead.rest_in_thread, 0.001) if in_thread else ahead.rest(0.001))
    assert ahead.is_busy()
