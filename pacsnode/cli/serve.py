"""`pacsnode serve`."""

from pathlib import Path
from typing import Annotated

import typer

from pacsnode.cli.options import ConfigFile


def serve(
    config: ConfigFile = None,
    ae_title: Annotated[str | None, typer.Option(metavar="AET", help="AE title of the node.")] = None,
    dimse_host: Annotated[str | None, typer.Option(metavar="HOST", help="Address for DICOM.")] = None,
    dimse_port: Annotated[str | None, typer.Option(metavar="PORT", help="TCP port for DICOM.")] = None,
    web_host: Annotated[str | None, typer.Option(metavar="HOST", help="Address for HTTP.")] = None,
    web_port: Annotated[str | None, typer.Option(metavar="PORT", help="TCP port for HTTP.")] = None,
    storage: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for all data.")] = None,
    peer: Annotated[
        list[str] | None, typer.Option(metavar="AET@HOST:PORT", help="A peer to know; may be repeated.")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="debug, info, warning, error.")
    ] = None,
) -> int:
    """Run the node in the foreground until SIGTERM or Ctrl-C.

    Flags beat the environment (PACSNODE_DIMSE_PORT ...), which beats the file, which beats the defaults.
    SIGHUP reads the settings again and takes over peers, rules and the log level.
    """
    from pacsnode import node
    from pacsnode.config import Settings, Values, load, peer_values

    flags: Values = {
        ("node", "ae_title"): ae_title,
        ("node", "storage"): storage,
        ("dimse", "host"): dimse_host,
        ("dimse", "port"): dimse_port,
        ("web", "host"): web_host,
        ("web", "port"): web_port,
        ("log", "level"): log_level,
    }
    given = {key: value for key, value in flags.items() if value is not None} | peer_values(peer or ())

    def settings() -> Settings:
        return load(config, given)

    return node.serve(settings)
