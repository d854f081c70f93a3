"""`pacsnode echo`: Verification SCU (PS3.4 A)."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from pacsnode.cli.options import CallingTitle, PeerText, Timeout, Verbose, configure_log, timeouts_of

if TYPE_CHECKING:
    from pacsnode.config import Peer
    from pacsnode.net.timeouts import Timeouts


def echo(
    peer: PeerText,
    ae_title: CallingTitle = "PACSNODE",
    count: Annotated[int, typer.Option(min=1, help="How many C-ECHO to send over the association.")] = 1,
    timeout: Timeout = 10.0,
    verbose: Verbose = False,
) -> int:
    """Ask a peer whether it is there (C-ECHO)."""
    import asyncio

    from pacsnode.config import Peer

    configure_log(verbose)
    return asyncio.run(_echo(Peer.parse(peer), ae_title, count, timeouts_of(timeout)))


async def _echo(peer: "Peer", ae_title: str, count: int, timeouts: "Timeouts") -> int:
    from pacsnode.dicom.sop_class import EXPLICIT_VR_LE, IMPLICIT_VR_LE, VERIFICATION
    from pacsnode.net.requestor import connect
    from pacsnode.ul.negotiation import ProposedContext

    contexts = [ProposedContext(1, VERIFICATION, (IMPLICIT_VR_LE, EXPLICIT_VR_LE))]
    begun = time.perf_counter()
    failed = 0
    async with connect(peer, ae_title, contexts, timeouts=timeouts) as association:
        print(f"{peer}: associated in {_ms_since(begun)} ms")
        for _ in range(count):
            begun = time.perf_counter()
            reply = await association.c_echo()
            print(f"{peer}: C-ECHO {reply.status:04X}H in {_ms_since(begun)} ms {reply.comment}".rstrip())
            failed += reply.status != 0
    return 1 if failed else 0


def _ms_since(begun: float) -> str:
    return f"{(time.perf_counter() - begun) * 1000:.1f}"
