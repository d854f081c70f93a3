"""`pacsnode get`: fetches instances from a peer into a folder (C-GET)."""

from pathlib import Path
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
)


def get(
    peer: PeerText,
    key: UniqueKeys,
    folder: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the files go; made if missing.")
    ],
    level: RetrieveLevelText = "STUDY",
    model: RetrieveModelText = "study",
    relational: Relational = False,
    sop_class: Annotated[
        list[str] | None,
        typer.Option(metavar="UID", help="A Storage SOP class to take; none given: the usual ones."),
    ] = None,
    transfer_syntax: Annotated[
        list[str] | None,
        typer.Option(
            metavar="UID", help="One to take besides the uncompressed ones; wants --sop-class, too."
        ),
    ] = None,
    as_json: Json = False,
    window: Annotated[
        int, typer.Option(min=1, max=256, metavar="N", help="Instances outstanding, if the peer agrees.")
    ] = 16,
    ae_title: CallingTitle = "PACSNODE",
    timeout: Timeout = 60.0,
    verbose: Verbose = False,
) -> int:
    """Fetch instances from a peer into a folder (C-GET), as the peer sends them.

    Each becomes FOLDER/<SOP Instance UID>.dcm. The exit status is 1 when any instance did not come.
    """
    import asyncio
    from contextlib import aclosing

    from pacsnode.cli.receiving import FolderStorage
    from pacsnode.cli.retrieving import (
        GET_SOP_CLASS_OF,
        Outcome,
        Progress,
        contexts_to_get,
        negotiation_of,
        print_outcome,
        request_of,
    )
    from pacsnode.config import Peer
    from pacsnode.net.requestor import connect

    model_class, identifier = request_of(level, model, key, GET_SOP_CLASS_OF)
    contexts = contexts_to_get(model_class, sop_class or (), transfer_syntax or ())
    called = Peer.parse(peer)
    storage = FolderStorage(folder, {context.abstract_syntax for context in contexts[1:]})

    async def run() -> Outcome:
        outcome = Outcome(storage)
        with Progress() as progress:
            async with (
                connect(
                    called,
                    ae_title,
                    contexts,
                    window=window,
                    roles={uid: (False, True) for uid in storage.sop_classes()},
                    extended=negotiation_of(model_class, relational),
                    services=(storage,),
                    timeouts=timeouts_of(timeout),
                ) as association,
                aclosing(association.c_get(model_class, identifier)) as replies,
            ):
                async for reply in replies:
                    outcome.heard(reply)
                    progress.show(outcome)
        return outcome

    configure_log(verbose)
    folder.mkdir(parents=True, exist_ok=True)
    outcome = asyncio.run(run())
    print_outcome(outcome, as_json)
    return 0 if outcome.is_good else 1
