"""A peer as the settings have it."""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BeforeValidator, Field

from pacsnode.config.values import Allowed, Host, PeerPort, Section, Title, no_bool
from pacsnode.errors import ConfigurationError


class Peer(Section):
    """A remote Application Entity: its title, its presentation address, how it is sent to."""

    ae_title: Title
    host: Host
    port: PeerPort
    associations: Annotated[
        int, BeforeValidator(no_bool), Field(ge=1, le=16), Allowed("1 to 16 associations")
    ] = 1
    """Associations that share the objects of one C-MOVE."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `AET@HOST:PORT`; an IPv6 address stands in brackets. Raises ConfigurationError."""
        title, at, address = text.rpartition("@")
        try:
            if not at:
                raise ValueError
            return cls.model_validate({"ae_title": title, **_address(address)})
        except ValueError:  # pydantic's ValidationError is one
            raise ConfigurationError(
                f"{text!r} is no peer: AET@HOST:PORT is wanted, for example CT1@192.0.2.7:104 "
                "(AET: 1 to 16 characters, PORT: 1 to 65535)"
            ) from None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.ae_title}@{host}:{self.port}"


def _address(text: str) -> dict[str, object]:
    """Split `HOST:PORT`. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not (colon and host and port.isascii() and port.isdigit()) or (":" in host and not bracketed):
        raise ValueError('HOST:PORT is wanted, for example "192.0.2.7:104"')
    return {"host": host[1:-1] if bracketed else host, "port": int(port)}


def titled(peers: object) -> object:
    """Give every entry of [peers] the AE title that is its key."""
    if not isinstance(peers, Mapping):
        return peers
    return {title: _peer_values(title, entry) for title, entry in peers.items()}


def _peer_values(title: object, entry: object) -> object:
    try:
        if isinstance(entry, str):
            return {"ae_title": title, **_address(entry)}
    except ValueError as error:
        raise ValueError(f"peers.{title} = {entry!r}: {error}") from None
    if isinstance(entry, Mapping):
        if "ae_title" in entry:
            raise ValueError(f"peers.{title}.ae_title: the name of the table is the AE title")
        return {"ae_title": title, **entry}
    return entry
