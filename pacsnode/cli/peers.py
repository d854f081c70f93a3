"""`pacsnode peers list|add|remove|echo`: the Application Entities a node may call."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pacsnode.cli.options import (
    ConfigFile,
    PeerText,
    Timeout,
    Verbose,
    configure_log,
    timeouts_of,
    title_of,
)
from pacsnode.cli.state import DataRoot, data_root, opened

if TYPE_CHECKING:
    from pacsnode.config import Peer
    from pacsnode.net.timeouts import Timeouts
    from pacsnode.workflow.peers import KnownPeer

Title = Annotated[str, typer.Argument(metavar="AET", help="The AE title of the peer.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def group() -> typer.Typer:
    """The `peers` group."""
    app = typer.Typer(help="The other nodes that this one may call.", no_args_is_help=True)
    app.command(name="list")(list_peers)
    app.command()(add)
    app.command()(remove)
    app.command()(echo)
    return app


def list_peers(config: ConfigFile = None, storage: DataRoot = None, as_json: AsJson = False) -> None:
    """Show the peers, and which of them stand in the configuration."""
    import asyncio

    known = asyncio.run(_known(config, storage))
    if as_json:
        print(json.dumps([{**one.peer.model_dump(), "configured": one.configured} for one in known]))
        return
    from rich.box import SIMPLE
    from rich.table import Table

    from pacsnode.cli.output import print_table

    table = Table(box=SIMPLE)
    for heading in ("AE title", "host", "port", "associations", "from"):
        table.add_column(heading, justify="right" if heading in ("port", "associations") else "left")
    for one in known:
        origin = "configuration" if one.configured else "pacsnode peers add"
        peer = one.peer
        table.add_row(peer.ae_title, peer.host, str(peer.port), str(peer.associations), origin)
    print_table(table)


def add(
    peer: PeerText,
    config: ConfigFile = None,
    storage: DataRoot = None,
    associations: Annotated[
        int, typer.Option(min=1, max=16, metavar="N", help="Associations at once for one C-MOVE.")
    ] = 1,
) -> None:
    """Add a peer, or change its address; a running node can call it from then on."""
    import asyncio

    from pacsnode.config import Peer
    from pacsnode.workflow.peers import Peers

    added = Peer.parse(peer).model_copy(update={"associations": associations})

    async def run() -> None:
        await _refuse_configured(added.ae_title, config, storage)
        async with opened(data_root(config, storage)) as database:
            await Peers(database).add(added)

    asyncio.run(run())
    print(f"{added} added")


def remove(ae_title: Title, config: ConfigFile = None, storage: DataRoot = None) -> int:
    """Forget a peer that was added. Those of the configuration are removed there."""
    import asyncio

    from pacsnode.workflow.peers import Peers

    async def run() -> bool:
        await _refuse_configured(ae_title, config, storage)
        async with opened(data_root(config, storage)) as database:
            return await Peers(database).remove(ae_title)

    removed = asyncio.run(run())
    print(f"{ae_title} removed" if removed else f"{ae_title} is no peer")
    return 0 if removed else 1


def echo(
    ae_titles: Annotated[
        list[str] | None, typer.Argument(metavar="[AET]...", help="Whom to call; all when none is named.")
    ] = None,
    config: ConfigFile = None,
    storage: DataRoot = None,
    ae_title: Annotated[
        str | None,
        typer.Option(metavar="AET", help="The AE title to call with; the node's own.", callback=title_of),
    ] = None,
    timeout: Timeout = 10.0,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> int:
    """Ask peers whether they are there (C-ECHO), all at once. The exit status is 1 when any is not."""
    import asyncio

    from pacsnode.config import load
    from pacsnode.errors import ConfigurationError

    configure_log(verbose)
    known = {one.peer.ae_title: one.peer for one in asyncio.run(_known(config, storage))}
    if unknown := [title for title in ae_titles or () if title not in known]:
        raise ConfigurationError(f"{', '.join(unknown)} is no peer; pacsnode peers list shows them")
    called = [known[title] for title in known if not ae_titles or title in ae_titles]
    calling = ae_title or load(config).node.ae_title
    results = asyncio.run(_echo_all(called, calling, timeouts_of(timeout)))
    if as_json:
        rows = ({"peer": str(peer), "reason": reason} for peer, reason in results)
        print(json.dumps([{**row, "ok": not row["reason"]} for row in rows]))
    else:
        for peer, reason in results:
            print(f"{peer}: {reason or 'answers'}")
    return 1 if any(reason for _, reason in results) else 0


async def _known(config: Path | None, storage: Path | None) -> "list[KnownPeer]":
    """What the node knows; and what the configuration says, should it not have run with it yet."""
    from pacsnode.config import load
    from pacsnode.workflow.peers import KnownPeer, Peers

    async with opened(data_root(config, storage)) as database:
        known = {one.peer.ae_title: one for one in await Peers(database).known()}
    configured = load(config).peers.values()
    known |= {peer.ae_title: KnownPeer(peer, configured=True, changed_at=0.0) for peer in configured}
    return [known[title] for title in sorted(known)]


async def _refuse_configured(ae_title: str, config: Path | None, storage: Path | None) -> None:
    from pacsnode.errors import ConfigurationError

    if any(one.configured for one in await _known(config, storage) if one.peer.ae_title == ae_title):
        raise ConfigurationError(f"peer {ae_title} stands in the configuration: change it there")


async def _echo_all(peers: "list[Peer]", ae_title: str, timeouts: "Timeouts") -> "list[tuple[Peer, str]]":
    import asyncio

    reasons = await asyncio.gather(*(_echo(peer, ae_title, timeouts) for peer in peers))
    return list(zip(peers, reasons, strict=True))


async def _echo(peer: "Peer", ae_title: str, timeouts: "Timeouts") -> str:
    """Why a peer does not answer; empty when it does."""
    from pacsnode.dicom.sop_class import IMPLICIT_VR_LE, VERIFICATION
    from pacsnode.errors import RemoteError
    from pacsnode.net.requestor import connect
    from pacsnode.ul.negotiation import ProposedContext

    contexts = [ProposedContext(1, VERIFICATION, (IMPLICIT_VR_LE,))]
    try:
        async with connect(peer, ae_title, contexts, timeouts=timeouts) as association:
            reply = await association.c_echo()
    except RemoteError as error:
        return str(error).removeprefix(f"{peer} ")
    return "" if reply.status == 0 else f"answers {reply.status:04X}H {reply.comment}".rstrip()
