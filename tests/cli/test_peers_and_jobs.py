"""`pacsnode peers` and `pacsnode jobs` beside a running node, each a process of its own."""

import json
from pathlib import Path

from tests.support.command import pacsnode
from tests.support.destination import Destination, Received, free_address, success
from tests.support.objects import made
from tests.support.sending import send_made
from tests.support.service import Service
from tests.support.waiting import eventually, eventually_true


async def test_a_peer_added_beside_a_running_node_can_be_sent_to_at_once(root: Path) -> None:
    items = [made(1), made(2)]
    async with Destination() as destination, await Service.start(root) as service:
        await send_made(service.port, items)
        move = (
            *("move", f"PACSNODE@127.0.0.1:{service.port}", "-k", f"StudyInstanceUID={items[0].study}"),
            *("--destination", "ADDED"),
        )
        unknown = await pacsnode(*move)
        assert unknown.status == 1, unknown.output
        assert "A801" in unknown.output
        added = await pacsnode("peers", "add", f"ADDED@{destination.address}", "--storage", root)
        assert added.status == 0, added.output
        moved = await pacsnode(*move)
        assert moved.status == 0, moved.output
        assert sorted(destination.sops) == [item.sop for item in items]


async def test_peers_are_listed_called_and_removed(root: Path) -> None:
    async with (
        Destination() as destination,
        await Service.start(root, "--peer", f"FLAG@{destination.address}") as service,
    ):
        here = ("--storage", root)
        await pacsnode("peers", "add", "AWAY@" + free_address(), *here)
        await pacsnode("peers", "add", f"SELF@127.0.0.1:{service.port}", *here)
        listed = json.loads((await pacsnode("peers", "list", "--json", *here)).output)
        assert [(peer["ae_title"], peer["configured"]) for peer in listed] == [
            ("AWAY", False),
            ("FLAG", True),
            ("SELF", False),
        ]
        table = (await pacsnode("peers", "list", *here)).output
        assert table.count("pacsnode peers add") == 2
        assert table.count("configuration") == 1
        echoed = await pacsnode("peers", "echo", "AWAY", "SELF", *here)
        assert echoed.status == 1
        assert "Connection refused" in echoed.output
        assert f"SELF@127.0.0.1:{service.port}: answers" in echoed.output
        refused = await pacsnode("peers", "remove", "FLAG", *here)
        assert refused.status == 1
        assert "stands in the configuration" in refused.output
        assert (await pacsnode("peers", "remove", "AWAY", *here)).status == 0


async def test_peers_are_called_by_the_title_of_the_node(root: Path, tmp_path: Path) -> None:
    """A peer that knows its callers would not answer another one."""
    config = tmp_path / "pacsnode.toml"
    config.write_text('[node]\nae_title = "HERE"\n[dimse]\nallowed_calling_ae_titles = ["HERE"]\n')
    here = ("--storage", root, "--config", config)
    async with await Service.start(root, "--config", str(config)) as service:
        await pacsnode("peers", "add", f"SELF@127.0.0.1:{service.port}", *here)
        echoed = await pacsnode("peers", "echo", *here)
        assert (echoed.status, echoed.output) == (0, f"SELF@127.0.0.1:{service.port}: answers\n")
        other = await pacsnode("peers", "echo", "--ae-title", "OTHER", *here)
        assert other.status == 1


async def test_dead_letters_are_shown_retried_and_cancelled(root: Path, tmp_path: Path) -> None:
    items = [made(1), made(2), made(3)]
    config = tmp_path / "pacsnode.toml"
    config.write_text('[jobs]\nretry_limit = 1\n[forward.all]\nto = ["DESTINATION"]\n')
    refused = items[1].sop

    async def answer(received: Received) -> int:
        return 0xA700 if received.sop == refused else 0

    here = ("--storage", root)
    async with Destination(answer=answer) as destination:
        peer = f"DESTINATION@{destination.address}"
        async with await Service.start(root, "--config", str(config), "--peer", peer) as service:
            await send_made(service.port, items)
            dead = await service.event("job.dead")
            assert "1 of 3 objects" in str(dead["reason"])
            listed = await pacsnode("jobs", "list", "--state", "dead", "--json", *here)
            (job,) = json.loads(listed.output)
            assert (job["kind"], job["peer"], job["items"], job["items_open"]) == (
                "forward",
                "DESTINATION",
                3,
                1,
            )
            assert "A700" in job["error"] or "as the test told it" in job["error"]
            assert "dead" in (await pacsnode("jobs", "list", *here)).output
            shown = await pacsnode("jobs", "show", job["id"], *here)
            assert f"open        {refused}" in shown.output
            destination.answer = success
            assert (await pacsnode("jobs", "retry", "--dead", *here)).status == 0
            await eventually(lambda: destination.sops.count(refused) == 2, "it comes again")
            await service.event("job.done", job=job["id"])
            again = await pacsnode("jobs", "cancel", job["id"], *here)
            assert again.status == 1
            assert "is done" in again.output


async def test_a_running_job_is_broken_off_from_another_process(root: Path, tmp_path: Path) -> None:
    config = tmp_path / "pacsnode.toml"
    config.write_text('[forward.all]\nto = ["HANGING"]\n')
    here = ("--storage", root)

    async def hang(received: Received) -> int:
        await received.request.association.ended.wait()
        return 0

    async with Destination(answer=hang) as destination:
        peer = f"HANGING@{destination.address}"
        async with await Service.start(root, "--config", str(config), "--peer", peer) as service:
            await send_made(service.port, [made(1)])
            await eventually(lambda: destination.sops, "it is being sent")
            assert (await pacsnode("jobs", "cancel", 1, *here)).status == 0
            await service.event("job.cancelled", job=1)

            async def cancelled() -> bool:
                job = json.loads((await pacsnode("jobs", "show", "1", "--json", *here)).output)
                return bool(job["state"] == "cancelled")

            await eventually_true(cancelled, "it stays so")
