"""`pacsnode config check|show`: the settings as the node would see them."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from pacsnode.cli.options import ConfigFile

if TYPE_CHECKING:
    from pacsnode.config import Forward, Peer, Prefetch, Setting, Settings

_HEADING = """\
# pacsnode's settings. `pacsnode config check --config FILE` tells what is wrong with a file.
# Flags of `pacsnode serve` beat environment variables, which beat this file, which beats the defaults.
# SIGHUP (systemctl reload pacsnode) takes over peers, rules and log.level; all else waits for a restart.
"""
_PEERS = """\
# The Application Entities this node may call, by AE title. With PACSNODE_PEERS or --peer: AET@HOST:PORT.
[peers]
"""
_PEER_EXAMPLES = """\
# CT1 = "192.0.2.7:104"
# "MR 1" = "[2001:db8::7]:11112"
# ARCHIVE2 = { host = "192.0.2.9", port = 104, associations = 4 }
"""
_FORWARD_EXAMPLE = """\
# What arrives is sent on by these rules, a table each; docs/configuration.md has all keys.
# [forward.ct-to-workstation]
# to = ["WS1"]
# when = "series-complete"
# modality = ["CT"]
"""
_PREFETCH_EXAMPLE = """\
# Prior studies that are fetched before somebody asks for them.
# [prefetch.priors]
# source = "OLDPACS"
# most = 3
"""


def group() -> typer.Typer:
    """The `config` group."""
    app = typer.Typer(help="Check or show the settings.", no_args_is_help=True)
    app.command()(check)
    app.command()(show)
    return app


def check(config: ConfigFile = None) -> None:
    """Tell whether the node would start with these settings; every wrong one gets a line."""
    from pacsnode.config import load

    load(config)
    print(f"{config or 'the environment'}: valid")


def show(
    config: ConfigFile = None,
    defaults: Annotated[bool, typer.Option("--defaults", help="Ignore file and environment.")] = False,
) -> None:
    """Print the settings in force, as a file that would set them."""
    from pacsnode.config import Settings, load

    print(as_toml(Settings() if defaults else load(config)), end="")


def as_toml(settings: "Settings") -> str:
    """A settings file with every key, what it means and what is allowed."""
    return "\n".join([_HEADING, *_sections(settings), _peers(settings), *_rules(settings)])


def _sections(settings: "Settings") -> Iterator[str]:
    from itertools import groupby

    from pacsnode.config import settings_table

    for section, rows in groupby(settings_table(), key=lambda row: row.section):
        values = getattr(settings, section)
        yield "\n".join([f"[{section}]", *(_row(row, getattr(values, row.key)) for row in rows)]) + "\n"


def _row(row: "Setting", value: object) -> str:
    return f"# {row.meaning}\n# Allowed: {row.allowed}\n{row.key} = {toml_value(value)}"


def _peers(settings: "Settings") -> str:
    rows = "".join(f"{json.dumps(peer.ae_title)} = {_peer(peer)}\n" for peer in settings.peers.values())
    return _PEERS + (rows or _PEER_EXAMPLES)


def _peer(peer: "Peer") -> str:
    """`"HOST:PORT"`, or a table where more is set than the address."""
    if peer.associations == 1:
        return json.dumps(str(peer).rpartition("@")[2])
    return f"{{ host = {json.dumps(peer.host)}, port = {peer.port}, associations = {peer.associations} }}"


def _rules(settings: "Settings") -> Iterator[str]:
    for section, rules, example in (
        ("forward", settings.forward, _FORWARD_EXAMPLE),
        ("prefetch", settings.prefetch, _PREFETCH_EXAMPLE),
    ):
        yield "\n".join(_table(section, name, rule) for name, rule in rules.items()) or example


def _table(section: str, name: str, rule: "Forward | Prefetch") -> str:
    """What a rule says; keys that say nothing are left out."""
    values = {key: getattr(rule, key) for key in type(rule).model_fields}
    said = (f"{key} = {toml_value(value)}\n" for key, value in values.items() if value not in ((), {}))
    return f"[{section}.{name}]\n{''.join(said)}"


def toml_value(value: object) -> str:
    """A value as TOML writes it; sizes that are whole GiB or MiB for people."""
    from pydantic import ByteSize

    if isinstance(value, ByteSize):
        return _size(value)
    if isinstance(value, bool | int | float):
        return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{json.dumps(key)} = {toml_value(item)}' for key, item in value.items())} }}"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    return json.dumps(str(value), ensure_ascii=False)


def _size(value: int) -> str:
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20)):
        if value and value % factor == 0:
            return f'"{value // factor} {unit}"'
    return str(int(value))
