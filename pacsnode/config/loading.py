"""Settings laid over each other: the file, the environment, the flags; and what is said when one is wrong."""

import difflib
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pacsnode.config.peer import Peer
from pacsnode.config.settings import (
    ENTRIES,
    PEERS_VARIABLE,
    PREFIX,
    SHORT_NAMES,
    Key,
    Settings,
    Values,
    allowed_of,
    sections_of_settings,
    settings_table,
)
from pacsnode.config.values import NAMES
from pacsnode.errors import ConfigurationError


def load(
    path: Path | None = None, overrides: Values | None = None, environ: Mapping[str, str] = os.environ
) -> Settings:
    """Lay flags over environment over file over defaults.

    Raises ConfigurationError, one line per wrong value: its full name, where it stands and what is allowed.
    """
    flags = {key: _Found(value, "on the command line") for key, value in (overrides or {}).items()}
    found = {**_read_file(path), **_read_environment(environ), **flags}
    document: dict[str, dict[str, object]] = {}
    for (section, key), item in found.items():
        document.setdefault(section, {})[key] = item.value
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        # a peer's bad title is reported at its key and at its value
        rows = [row for row in error.errors() if "[key]" not in row["loc"] or row["loc"][0] != "peers"]
        raise ConfigurationError("\n".join(_complaint(row, found) for row in rows)) from None


def peer_values(texts: Iterable[str]) -> Values:
    """Read peers given as `AET@HOST:PORT`, as flags and environment have them."""
    peers = [Peer.parse(text) for text in texts]
    return {("peers", peer.ae_title): peer for peer in peers}


@dataclass(frozen=True, slots=True)
class _Found:
    value: object
    where: str


def _read_file(path: Path | None) -> dict[Key, _Found]:
    if path is None:
        return {}
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not TOML: {error}") from None
    except RecursionError:
        raise ConfigurationError(f"{path}: nested too deeply") from None
    where = f"in {path}"
    for section, table in document.items():
        if section not in Settings.model_fields:
            raise ConfigurationError(f"{section} {where} is no section; {_nearest(section, Settings)}")
        if not isinstance(table, dict):
            raise ConfigurationError(f"{section} {where} has to be a table: [{section}]")
    return {(s, k): _Found(value, where) for s, table in document.items() for k, value in table.items()}


def _read_environment(environ: Mapping[str, str]) -> dict[Key, _Found]:
    """Take the variables that name a setting. An empty one counts as not set."""
    found: dict[Key, _Found] = {}
    for name, text in sorted(environ.items()):
        if not name.startswith(PREFIX) or not text:
            continue
        section, separator, key = name.removeprefix(PREFIX).lower().partition("__")
        where = f"in the variable {name}"
        if name == PEERS_VARIABLE:
            peers = peer_values(part for part in text.split(",") if part.strip())
            found.update({key: _Found(peer, where) for key, peer in peers.items()})
        elif name in SHORT_NAMES:
            found[SHORT_NAMES[name]] = _Found(text, where)
        elif separator and section in sections_of_settings():
            found[section, key] = _Found(text, where)
        elif separator:
            raise ConfigurationError(f"{name} names no section; {_nearest(section, Settings)}")
        elif meant := _variable_like(name):
            raise ConfigurationError(f"{name} is no setting; did you mean {meant}?")
    return found


def _complaint(error: ErrorDetails, found: Mapping[Key, _Found]) -> str:
    """Say in one line which value is wrong, where it stands and what is allowed."""
    section, *rest = (str(part) for part in error["loc"])
    if not rest:  # of _peer_values, which names the entry itself
        return error["msg"].removeprefix("Value error, ")
    item = found.get((section, rest[0]))
    where = f" {item.where}" if item else ""
    if rest[-1] == "[key]":
        return f"{section}.{rest[0]}{where} is no name; allowed: {NAMES}"
    entry = ENTRIES.get(section) if len(rest) > 1 else None
    model, key = (entry, rest[1]) if entry else (sections_of_settings().get(section, Settings), rest[0])
    name = ".".join([section, *rest])
    if error["type"] == "missing":
        return f"{name}{where} is missing"
    value = f"{name} = {json.dumps(error['input'], default=str, ensure_ascii=False)}{where}"
    if error["type"] == "extra_forbidden":
        return f"{value} is no setting; {_nearest(key, model)}"
    return f"{value}; allowed: {allowed_of(model.model_fields.get(key, Settings.model_fields[section]))}"


def _nearest(name: str, model: type[BaseModel]) -> str:
    near = difflib.get_close_matches(name, model.model_fields, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(model.model_fields)}"


def _variable_like(name: str) -> str | None:
    """The variable that a mistyped one was to be; others are somebody else's, PACSNODE_EXE for instance."""
    variables = [PEERS_VARIABLE, *SHORT_NAMES, *(row.variable for row in settings_table())]
    return next(iter(difflib.get_close_matches(name, variables, n=1, cutoff=0.9)), None)
