"""`pacsnode move`: has a peer send instances to an AE it knows (C-MOVE)."""

from typing import Annotated

import typer

from pacsnode.cli.options import (
    CallingTitle,
    Json,
    PeerText,
    Relational,
    RetrieveLevelText,
    RetrieveModelText,
    Timeout,
    UniqueKeys,
    Verbose,
    configure_log,
    timeouts_of,
    title_of,
)


def move(
    peer: PeerText,
    destination: Annotated[
        str,
        typer.Option(
            "--destination",
            "-d",
            metavar="AET",
            help="Who is to receive: an AE the peer knows.",
            callback=title_of,
        ),
    ],
    key: UniqueKeys,
    level: RetrieveLevelText = "STUDY",
    model: RetrieveModelText = "study",
    relational: Relational = False,
    as_json: Json = False,
    ae_title: CallingTitle = "PACSNODE",
    timeout: Timeout = 60.0,
    verbose: Verbose = False,
) -> int:
    """Have a peer send instances to another AE (C-MOVE).

    The exit status is 1 when any instance was not sent.
    """
    import asyncio
    from contextlib import aclosing

    from pacsnode.cli.retrieving import (
        MOVE_SOP_CLASS_OF,
        Outcome,
        Progress,
        negotiation_of,
        print_outcome,
        request_of,
    )
    from pacsnode.config import Peer
    from pacsnode.dicom.sop_class import EXPLICIT_VR_LE, IMPLICIT_VR_LE
    from pacsnode.net.requestor import connect
    from pacsnode.ul.negotiation import ProposedContext

    sop_class, identifier = request_of(level, model, key, MOVE_SOP_CLASS_OF)
    contexts = [ProposedContext(1, sop_class, (EXPLICIT_VR_LE, IMPLICIT_VR_LE))]

    called = Peer.parse(peer)

    async def run() -> Outcome:
        outcome = Outcome()
        with Progress() as progress:
            async with (
                connect(
                    called,
                    ae_title,
                    contexts,
                    extended=negotiation_of(sop_class, relational),
                    timeouts=timeouts_of(timeout),
                ) as association,
                aclosing(association.c_move(sop_class, identifier, destination)) as replies,
            ):
                async for reply in replies:
                    outcome.heard(reply)
                    progress.show(outcome)
        return outcome

    configure_log(verbose)
    outcome = asyncio.run(run())
    print_outcome(outcome, as_json)
    return 0 if outcome.is_good else 1
