"""Jobs: done, tried again, given up, withdrawn; by this process and by others; whatever crashes."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pacsnode.config import Jobs as JobSettings
from pacsnode.errors import JobRefused, OutOfResources, PeerUnreachable, RemoteError
from pacsnode.workflow.database import Database
from pacsnode.workflow.jobs import HIGH, LOW, Job, Jobs, State
from pacsnode.workflow.runner import Runner
from tests.support.waiting import eventually, eventually_true, running

QUICK = JobSettings(retry_after=0.01, retry_longest=0.05, retry_limit=3)


class Handler:
    """Does what the test tells it, job by job; 'calls' are the jobs in the order they came."""

    def __init__(self, *outcomes: Exception | None) -> None:
        self.calls: list[Job] = []
        self.at_once = 0
        self.most_at_once = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._outcomes = list(outcomes)

    async def __call__(self, job: Job) -> None:
        self.calls.append(job)
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            await self.gate.wait()
        finally:
            self.at_once -= 1
        outcome = self._outcomes.pop(0) if self._outcomes else None
        if outcome is not None:
            raise outcome

    @property
    def numbers(self) -> list[object]:
        return [job.payload["number"] for job in self.calls]


async def add(database: Database, jobs: Jobs, number: int = 1, peer: str = "WS", **options: object) -> int:
    async with database.transaction() as transaction:
        return await jobs.add(transaction, "test", peer, {"number": number}, **options)  # type: ignore[arg-type]


def is_in(jobs: Jobs, number: int, state: State) -> Callable[[], object]:
    async def check() -> bool:
        job = await jobs.get(number)
        return job is not None and job.state is state

    return check


async def reaches(jobs: Jobs, number: int, state: State) -> Job:
    await eventually_true(is_in(jobs, number, state), f"job {number} is {state}")  # type: ignore[arg-type]
    job = await jobs.get(number)
    assert job is not None
    return job


def scene(database: Database, handler: Handler, settings: JobSettings = QUICK) -> tuple[Jobs, Runner]:
    jobs = Jobs(database)
    jobs.register("test", handler)
    return jobs, Runner(database, jobs, settings)


async def test_a_job_is_done_once_and_kept_to_be_looked_at(opened: Database) -> None:
    handler = Handler()
    jobs, runner = scene(opened, handler)
    async with running(runner.run()):
        number = await add(opened, jobs)
        job = await reaches(jobs, number, State.DONE)
    assert (job.attempts, job.error, len(handler.calls)) == (1, "", 1)
    assert job.started_at is not None
    assert job.ended_at is not None
    assert job.started_at <= job.ended_at


async def test_a_failed_job_is_tried_again_and_tells_why(opened: Database) -> None:
    handler = Handler(RemoteError("aborted"), OutOfResources("full"))
    jobs, runner = scene(opened, handler)
    async with running(runner.run()):
        number = await add(opened, jobs)
        job = await reaches(jobs, number, State.DONE)
    assert job.attempts == 3
    assert [call.error for call in handler.calls] == ["", "aborted", "full"]


async def test_the_last_failure_makes_a_dead_letter_that_can_be_retried(opened: Database) -> None:
    handler = Handler(*(RemoteError(f"failure {number}") for number in range(3)))
    jobs, runner = scene(opened, handler)
    async with running(runner.run()):
        number = await add(opened, jobs)
        job = await reaches(jobs, number, State.DEAD)
        assert (job.attempts, job.error) == (3, "failure 2")
        assert await jobs.retry(number)
        assert (await reaches(jobs, number, State.DONE)).attempts == 1


async def test_a_refused_job_and_one_without_handler_are_dead_at_once(opened: Database) -> None:
    handler = Handler(JobRefused("no such study"))
    jobs, runner = scene(opened, handler)
    async with running(runner.run()):
        number = await add(opened, jobs)
        assert (await reaches(jobs, number, State.DEAD)).error == "no such study"
        async with opened.transaction() as transaction:
            unknown = await jobs.add(transaction, "unheard", "WS", {})
        assert "unheard" in (await reaches(jobs, unknown, State.DEAD)).error


async def test_a_bug_in_a_handler_costs_an_attempt_not_the_queue(opened: Database) -> None:
    handler = Handler(ZeroDivisionError("a bug"))
    jobs, runner = scene(opened, handler)
    async with running(runner.run()):
        number = await add(opened, jobs)
        assert (await reaches(jobs, number, State.DONE)).attempts == 2


async def test_so_many_jobs_of_a_peer_run_at_once_the_urgent_first(opened: Database) -> None:
    handler = Handler()
    handler.gate.clear()
    jobs, runner = scene(opened, handler, JobSettings(per_peer=2))
    for number, priority in enumerate((LOW, LOW, HIGH, HIGH), 1):
        await add(opened, jobs, number, priority=priority)
    await add(opened, jobs, 5, peer="OTHER")
    async with running(runner.run()):
        await eventually(lambda: len(handler.calls) == 3, "two of a peer and one of the other run")
        handler.gate.set()
        await eventually(lambda: len(handler.calls) == 5, "all have run")
    assert sorted(handler.numbers[:3]) == [3, 4, 5]  # type: ignore[type-var]
    assert handler.most_at_once == 3


async def test_a_peer_that_is_away_is_tried_with_one_job(opened: Database) -> None:
    away = [PeerUnreachable("down")] * 2
    handler = Handler(*away)
    settings = JobSettings(per_peer=1, retry_after=0.2, retry_limit=9)
    jobs, runner = scene(opened, handler, settings)
    for number in range(50):
        await add(opened, jobs, number)
    async with running(runner.run()):
        await eventually(lambda: len(handler.calls) >= 2, "it is tried again")
        assert len(handler.calls) == 2
        assert sum(job.attempts for job in await jobs.all()) == 2
        await eventually(lambda: len(handler.calls) == 52, "then all go")


async def test_a_key_that_is_unfinished_is_not_added_again(opened: Database) -> None:
    handler = Handler()
    jobs, runner = scene(opened, handler)
    first = await add(opened, jobs, key="K")
    assert await add(opened, jobs, key="K") == first
    async with running(runner.run()):
        await reaches(jobs, first, State.DONE)
        assert await add(opened, jobs, key="K") != first


async def test_a_job_waits_for_its_time(opened: Database) -> None:
    handler = Handler()
    jobs, runner = scene(opened, handler)
    due = time.time() + 0.3
    number = await add(opened, jobs, not_before=due)
    async with running(runner.run()):
        job = await reaches(jobs, number, State.DONE)
    assert job.started_at is not None
    assert job.started_at >= due


async def test_what_ran_when_the_process_died_runs_again(opened: Database, other: Database) -> None:
    crashed = Handler()
    crashed.gate.clear()
    jobs, runner = scene(opened, crashed)
    number = await add(opened, jobs)
    task = asyncio.create_task(runner.run())
    await eventually(lambda: crashed.calls, "it runs")
    assert (await jobs.get(number)).state is State.RUNNING  # type: ignore[union-attr]
    handler = Handler()
    again, second = scene(other, handler)  # as the next process finds the file
    async with running(second.run()):
        assert (await reaches(again, number, State.DONE)).attempts == 2
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_runs_when_the_node_stops_is_queued_as_it_was(opened: Database) -> None:
    handler = Handler()
    handler.gate.clear()
    jobs, runner = scene(opened, handler)
    number = await add(opened, jobs)
    async with running(runner.run()):
        await eventually(lambda: handler.calls, "it runs")
    job = await jobs.get(number)
    assert job is not None
    assert (job.state, job.attempts) == (State.QUEUED, 0)


async def test_another_process_cancels_and_retries_within_a_second(opened: Database, other: Database) -> None:
    handler = Handler()
    handler.gate.clear()
    jobs, runner = scene(opened, handler)
    beside = Jobs(other)
    async with running(runner.run()):
        number = await add(opened, jobs)
        await eventually(lambda: handler.at_once == 1, "it runs")
        assert await beside.cancel(number)
        begun = time.monotonic()
        await eventually(lambda: handler.at_once == 0, "it was broken off")
        assert time.monotonic() - begun < 1.5
        assert not await beside.cancel(number)
        handler.gate.set()
        assert await beside.retry(number)
        await reaches(jobs, number, State.DONE)
    assert len(handler.calls) == 2


async def test_items_gather_until_the_job_is_taken(opened: Database) -> None:
    handler = Handler()
    handler.gate.clear()
    jobs, runner = scene(opened, handler, JobSettings(per_peer=1))

    async def gather(*items: str) -> None:
        async with opened.transaction() as transaction:
            await jobs.gather(transaction, "test", "WS", {"number": 1}, items, key="forward:WS")

    await gather("1", "2")
    await gather("2", "3")
    async with running(runner.run()):
        await eventually(lambda: handler.calls, "the first is taken")
        await gather("4")
        await gather("5")
        handler.gate.set()
        await eventually(lambda: len(handler.calls) == 2, "the second is taken")
    assert [call.items for call in handler.calls] == [3, 2]


async def test_a_held_job_is_due_when_released(opened: Database) -> None:
    handler = Handler()
    jobs, runner = scene(opened, handler)
    async with running(runner.run()):
        async with opened.transaction() as transaction:
            await jobs.gather(
                transaction, "test", "WS", {"number": 1}, ["1"], key="series", until_released=True
            )
        await add(opened, jobs, 2)
        await eventually(lambda: handler.numbers == [2], "the other runs")
        assert [job.state for job in await jobs.all([State.GATHERING])] == [State.GATHERING]
        async with opened.transaction() as transaction:
            await jobs.release(transaction, "series")
        await eventually(lambda: handler.numbers == [2, 1], "it runs")


async def test_acknowledged_items_are_not_open_any_more(opened: Database) -> None:
    jobs = Jobs(opened)
    open_items: list[list[str]] = []

    async def send(job: Job) -> None:
        async with jobs.receipts(job) as receipts:
            items = await jobs.open_items(job, 10)
            open_items.append(items)
            receipts.note(items[0])
            if len(items) > 1:
                raise RemoteError("broken off after one")

    jobs.register("test", send)
    async with opened.transaction() as transaction:
        await jobs.gather(transaction, "test", "WS", {}, ["a", "b", "c"], key="k")
    async with running(Runner(opened, jobs, QUICK).run()):
        await reaches(jobs, 1, State.DONE)
    assert open_items == [["a", "b", "c"], ["b", "c"], ["c"]]
    job = await jobs.get(1)
    assert job is not None
    assert (job.items, job.items_open) == (3, 0)


async def test_finished_jobs_go_after_their_time_and_dead_letters_stay(opened: Database) -> None:
    handler = Handler(None, JobRefused("never"))
    jobs, runner = scene(opened, handler)
    async with running(runner.run()):
        done = await add(opened, jobs)
        await reaches(jobs, done, State.DONE)
        dead = await add(opened, jobs)
        await reaches(jobs, dead, State.DEAD)
    async with running(Runner(opened, jobs, JobSettings(keep_finished=0)).run()):
        await eventually_true(lambda: _is_gone(jobs, done), "it is removed")
    assert await jobs.get(dead) is not None


async def _is_gone(jobs: Jobs, number: int) -> bool:
    return await jobs.get(number) is None


async def test_ten_thousand_jobs_cost_little_each(opened: Database) -> None:
    handler = Handler()
    jobs, runner = scene(opened, handler, JobSettings(per_peer=64))
    async with opened.transaction() as transaction:
        for number in range(2000):
            await jobs.add(transaction, "test", "AWAY", {"number": number}, not_before=time.time() + 3600)
        for number in range(2000):
            await jobs.add(transaction, "test", f"WS{number % 4}", {"number": number})
    begun = time.process_time()
    async with running(runner.run()):
        await eventually(lambda: len(handler.calls) == 2000, "all are done", limit=60)
    per_job = (time.process_time() - begun) / 2000
    assert per_job < 0.005, f"{per_job * 1000:.2f} ms of processor time a job"


@pytest.mark.parametrize("state", [State.QUEUED, State.DONE])
async def test_only_what_can_be_retried_is(opened: Database, state: State, tmp_path: Path) -> None:
    jobs, runner = scene(opened, Handler())
    number = await add(opened, jobs)
    if state is State.DONE:
        async with running(runner.run()):
            await reaches(jobs, number, State.DONE)
        assert not await jobs.cancel(number)
    assert not await jobs.retry(number)
    assert not await jobs.retry(number + 1)


async def test_a_retry_does_not_wait_for_a_peer_that_is_held(opened: Database) -> None:
    handler = Handler(PeerUnreachable("down"))
    jobs, runner = scene(opened, handler, JobSettings(retry_after=3600))
    async with running(runner.run()):
        number = await add(opened, jobs)
        await reaches(jobs, number, State.WAITING)
        assert await jobs.retry(number)
        await reaches(jobs, number, State.DONE)
