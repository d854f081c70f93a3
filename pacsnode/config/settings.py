"""All settings together, and the table of them that documentation and reloads go by."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

from pacsnode.config.peer import Peer, titled
from pacsnode.config.sections import (
    Availability,
    Commitment,
    Dimse,
    Forward,
    Hl7,
    Jobs,
    Log,
    Mpps,
    Node,
    Prefetch,
    Query,
    Storage,
    Transcoding,
    Web,
    Workflow,
    Worklist,
)
from pacsnode.config.values import Allowed, Name, Section, Title
from pacsnode.dicom.uid import AETitle

PREFIX: Final = "PACSNODE_"
Key = tuple[str, str]  # section, name within it; for a peer ("peers", its AE title)
Values = dict[Key, object]

# The variables that mirror a flag of `pacsnode serve`. Every other setting is PACSNODE_<SECTION>__<KEY>.
SHORT_NAMES: Final[Mapping[str, Key]] = {
    "PACSNODE_AE_TITLE": ("node", "ae_title"),
    "PACSNODE_STORAGE": ("node", "storage"),
    "PACSNODE_DIMSE_HOST": ("dimse", "host"),
    "PACSNODE_DIMSE_PORT": ("dimse", "port"),
    "PACSNODE_WEB_HOST": ("web", "host"),
    "PACSNODE_WEB_PORT": ("web", "port"),
    "PACSNODE_LOG_LEVEL": ("log", "level"),
}
PEERS_VARIABLE: Final = "PACSNODE_PEERS"  # AET@HOST:PORT, several separated by commas


# What SIGHUP takes over; everything else waits for a restart.
RELOADABLE: Final = frozenset({"peers", "forward", "prefetch", "log.level"})


class Settings(BaseModel):
    """All that can be set, frozen. Sections are the tables of the TOML file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: Node = Node()
    dimse: Dimse = Dimse()
    web: Web = Web()
    storage: Storage = Storage()
    transcoding: Transcoding = Transcoding()
    query: Query = Query()
    workflow: Workflow = Workflow()
    jobs: Jobs = Jobs()
    worklist: Worklist = Worklist()
    hl7: Hl7 = Hl7()
    mpps: Mpps = Mpps()
    commitment: Commitment = Commitment()
    availability: Availability = Availability()
    log: Log = Log()
    peers: Annotated[
        Mapping[Title, Peer],
        BeforeValidator(titled),
        Allowed('tables or AET = "HOST:PORT", the AE title being the key'),
    ] = Field(default_factory=dict)
    forward: Annotated[Mapping[Name, Forward], Allowed("tables [forward.NAME]")] = Field(default_factory=dict)
    prefetch: Annotated[Mapping[Name, Prefetch], Allowed("tables [prefetch.NAME]")] = Field(
        default_factory=dict
    )


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table of settings, for the documentation and the template of the file."""

    section: str
    key: str
    default: object
    allowed: str
    meaning: str

    @property
    def name(self) -> str:
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        """The shortest environment variable that sets it."""
        for short, key in SHORT_NAMES.items():
            if key == (self.section, self.key):
                return short
        return f"{PREFIX}{self.section}__{self.key}".upper()


# Sections whose keys are names that the user gives.
ENTRIES: Final[Mapping[str, type[Section]]] = {"peers": Peer, "forward": Forward, "prefetch": Prefetch}


def settings_table() -> Iterator[Setting]:
    """Every setting but the peers, in the order of the file."""
    for section, model in sections_of_settings().items():
        for key, row in model.model_fields.items():
            yield Setting(section, key, row.get_default(), allowed_of(row), row.description or "")


def titles_called(settings: Settings) -> Iterator[tuple[str, AETitle]]:
    """The AE titles that settings name as those to call, each with the name of the setting."""
    for title in settings.mpps.forward:
        yield "mpps.forward", title
    for title in settings.mpps.notify:
        yield "mpps.notify", title
    for title in settings.availability.notify:
        yield "availability.notify", title
    for name, rule in settings.forward.items():
        yield from ((f"forward.{name}.to", title) for title in rule.to)
    for name, prefetch in settings.prefetch.items():
        yield f"prefetch.{name}.source", prefetch.source


@dataclass(frozen=True, slots=True)
class Changes:
    """The names of the settings in which two Settings differ."""

    reloadable: tuple[str, ...]
    need_restart: tuple[str, ...]


def changes(old: Settings, new: Settings) -> Changes:
    """Tell what a reload (SIGHUP) can take over and what has to wait for a restart."""
    names = [row.name for row in settings_table() if _value(old, row) != _value(new, row)]
    names += [name for name in ENTRIES if getattr(old, name) != getattr(new, name)]
    return Changes(
        reloadable=tuple(name for name in names if name in RELOADABLE),
        need_restart=tuple(name for name in names if name not in RELOADABLE),
    )


def sections_of_settings() -> dict[str, type[BaseModel]]:
    """The models of the tables, by name."""
    fields = Settings.model_fields.items()
    return {name: row.annotation for name, row in fields if isinstance(row.annotation, type)}


def allowed_of(row: FieldInfo) -> str:
    """What a value may be, in words."""
    notes = [note.text for note in row.metadata if isinstance(note, Allowed)]
    return notes[-1] if notes else ""  # what is said last is the closest


def _value(settings: Settings, row: Setting) -> object:
    return getattr(getattr(settings, row.section), row.key)
