"""The settings: one pydantic model per section of the TOML file. Imports `dicom` and `errors` only.

Four layers, the later one wins, key by key: the defaults below, the file, the environment, the flags of
`pacsnode serve`. `load` lays them over each other itself, so that an error can say where the value came from.
The models are the one table of settings: conf/pacsnode.toml, docs/configuration.md and the names of the
environment variables are made from them or tested against them (tests/test_docs.py).
"""

import difflib
import json
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pacsnode.dicom.uid import UID, AETitle, ae_title, is_uid
from pacsnode.errors import ConfigurationError

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


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a value may be, in words: the end of every complaint and a column of the documentation."""

    text: str


def _no_bool(value: object) -> object:
    if isinstance(value, bool):  # pydantic would take true for 1
        raise ValueError("a number is wanted")
    return value


def _split(value: object) -> object:
    """An environment variable holds a list as text with commas."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _uid(text: str) -> UID:
    if not is_uid(text):
        raise ValueError("not a UID")
    return UID(text)


def _pdu_length(value: int) -> int:
    if 0 < value < MIN_PDU_LENGTH:
        raise ValueError("too short")
    return value


def _keywords(keys: Mapping[str, str]) -> Mapping[str, str]:
    """Attributes by keyword; those inside a sequence as `Sequence.Attribute`."""
    if keys:
        from pydicom.datadict import dictionary_VR, tag_for_keyword  # slow to import, and seldom needed

        for path in keys:
            *sequences, last = (tag_for_keyword(keyword) for keyword in path.split("."))
            if last is None or not all(tag and dictionary_VR(tag) == "SQ" for tag in sequences):
                raise ValueError(f"{path} names no attribute")
    return keys


MIN_PDU_LENGTH: Final = 64  # bytes; shorter ones hold little more than the PDV's own header (PS3.8 9.3.5.1)
Title = Annotated[
    AETitle,
    AfterValidator(ae_title),
    Allowed("an AE title: 1 to 16 characters, no backslash, not only spaces"),
]
Port = Annotated[
    int, BeforeValidator(_no_bool), Field(ge=0, le=65535), Allowed("0 to 65535 (0: any free port)")
]
Host = Annotated[str, Field(min_length=1), Allowed("a host name or an IP address")]
Seconds = Annotated[
    float, BeforeValidator(_no_bool), Field(ge=0, le=86400), Allowed("seconds, 0 to 86400 (0: no limit)")
]
Patience = Annotated[
    float, BeforeValidator(_no_bool), Field(gt=0, le=86400), Allowed("seconds, more than 0, to 86400")
]
Threads = Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=64), Allowed("1 to 64")]
Size = Annotated[
    ByteSize, BeforeValidator(_no_bool), Field(ge=0), Allowed('bytes, or a size such as "512 MiB" or "1 GB"')
]
Switch = Annotated[bool, Allowed("true or false")]
PduLength = Annotated[
    int,
    BeforeValidator(_no_bool),
    Field(ge=0, le=2**32 - 1),
    AfterValidator(_pdu_length),
    Allowed(f"bytes, {MIN_PDU_LENGTH} to {2**32 - 1}, or 0 (no limit)"),
]
Titles = Annotated[tuple[Title, ...], BeforeValidator(_split), Allowed("a list of AE titles")]
Uids = Annotated[
    tuple[Annotated[UID, AfterValidator(_uid)], ...], BeforeValidator(_split), Allowed("a list of UIDs")
]
Hours = Annotated[
    float, BeforeValidator(_no_bool), Field(ge=0, le=87600), Allowed("hours, 0 to 87600 (0: never)")
]
Removals = Annotated[
    tuple[Literal["started", "completed", "arrived"], ...],
    BeforeValidator(_split),
    Allowed('a list of "started", "completed", "arrived"'),
]
Views = Annotated[
    tuple[
        Annotated[str, Field(pattern=r"^[^=]+= *(all|none|station|modality +[^ ].*|location +[^ ].*)$")], ...
    ],
    BeforeValidator(_split),
    Allowed('a list of "AET = all", "= none", "= station", "= modality CT/MR" or "= location ROOM 1"'),
]
Stations = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[A-Z0-9_ ]+= *[^= ][^=]*$")], ...],
    BeforeValidator(_split),
    Allowed('a list of "MODALITY = AET/AET"'),
]
CharacterSet = Annotated[
    str,
    Field(min_length=1),
    Allowed('a value of HL7 table 0211: "ASCII", "8859/1", "UNICODE UTF-8", "ISO IR87"'),
]
PublicUrl = Annotated[
    str,
    Field(pattern=r"^(https?://[^/?#\s]+(/[^?#\s]*)?)?$"),
    AfterValidator(lambda url: url.rstrip("/")),
    Allowed("an http or https URL without query, or empty"),
]
Origins = Annotated[
    tuple[Annotated[str, Field(pattern=r"^(\*|null|https?://[^/?#\s]+)$")], ...],
    BeforeValidator(_split),
    Allowed('a list of origins such as "https://viewer.example.org", or "*"'),
]
Methods = Annotated[
    tuple[Literal["GET", "HEAD", "POST", "PUT", "DELETE"], ...],
    BeforeValidator(_split),
    Allowed("a list of GET, HEAD, POST, PUT, DELETE"),
]
Texts = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_split), Allowed("a list of texts")
]
SomeTitles = Annotated[Titles, Field(min_length=1), Allowed("a list of AE titles, one at least")]
Patterns = Annotated[Texts, Allowed("a list of texts; `*` and `?` are wild cards")]
Keys = Annotated[
    Mapping[str, str],
    AfterValidator(_keywords),
    Allowed('a table: { PatientID = "A*", "RequestAttributesSequence.ScheduledProcedureStepID" = "S1" }'),
]
Priority = Annotated[Literal["high", "medium", "low"], Allowed('"high", "medium" or "low"')]
NAMES: Final = "1 to 32 letters, digits, hyphens and underscores"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$"), Allowed(NAMES)]
PeerPort = Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=65535), Allowed("1 to 65535")]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Peer(Section):
    """A remote Application Entity: its title, its presentation address, how it is sent to."""

    ae_title: Title
    host: Host
    port: PeerPort
    associations: Annotated[
        int, BeforeValidator(_no_bool), Field(ge=1, le=16), Allowed("1 to 16 associations")
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


def _titled(peers: object) -> object:
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


class Node(Section):
    ae_title: Title = AETitle("PACSNODE")
    """The AE title the node is called by and calls others with."""
    storage: Annotated[Path, Allowed("a folder")] = Path("storage")
    """The data root: objects, index and unfinished work. Relative to the working directory."""


class Dimse(Section):
    host: Host = "0.0.0.0"
    """Address the DICOM listener binds to."""
    port: Port = 11112
    """TCP port of the DICOM listener. 104 is DICOM's own; it needs CAP_NET_BIND_SERVICE."""
    max_pdu_length: PduLength = 262_144
    """Longest P-DATA-TF body peers are told they may send, in bytes."""
    max_associations: Annotated[
        int, BeforeValidator(_no_bool), Field(ge=1, le=10_000), Allowed("1 to 10000")
    ] = 64
    """Associations at one time; one more is rejected as transient, local limit exceeded."""
    async_window: Annotated[
        int, BeforeValidator(_no_bool), Field(ge=0, le=65535), Allowed("0 (no limit) to 65535")
    ] = 16
    """Operations one association may have outstanding, if it negotiates the window; 1 otherwise."""
    artim_timeout: Seconds = 30.0
    """Seconds to wait for an A-ASSOCIATE-RQ on a new connection, and for its close after the end."""
    dimse_timeout: Seconds = 60.0
    """Seconds to wait for the next part of a message, or for a response."""
    idle_timeout: Seconds = 600.0
    """Seconds without any message after which an association is aborted."""
    drain_timeout: Annotated[
        float, BeforeValidator(_no_bool), Field(ge=0, le=3600), Allowed("seconds, 0 to 3600")
    ] = 20.0
    """Seconds that running operations get to finish at SIGTERM before their association is aborted."""
    require_called_ae_title: Switch = False
    """Reject associations that call the node by another AE title."""
    allowed_calling_ae_titles: Titles = ()
    """AE titles that may open an association. Empty: any."""
    accept_unknown_sop_classes: Switch = False
    """Accept any unknown SOP class as a Storage SOP class."""
    extra_sop_classes: Uids = ()
    """Private SOP classes to accept for storage besides the standard ones."""
    move_to_caller: Switch = False
    """Send instances back to a calling AE that is no peer: C-MOVE to the address it calls from."""
    move_to_caller_port: PeerPort = 104
    """TCP port such an AE is taken to listen on."""
    preferred_transfer_syntaxes: Uids = ()
    """Transfer syntaxes to choose first, in this order; then in the requestor's, uncompressed for C-GET."""


class Web(Section):
    host: Host = "127.0.0.1"
    """Address the HTTP listener binds to."""
    port: Port = 8042
    """TCP port of the HTTP listener."""
    public_url: PublicUrl = ""
    """Where clients reach the HTTP listener, for URLs in answers. Empty: as Forwarded or the request says."""
    cors_origins: Origins = ("*",)
    """Origins whose pages may read: "*" is any, an empty list none (CORS)."""
    cors_methods: Methods = ("GET", "HEAD")
    """Methods that pages of those origins may use; add POST to let them store."""
    max_results: Annotated[
        int, BeforeValidator(_no_bool), Field(ge=1, le=1_000_000), Allowed("1 to 1000000")
    ] = 10_000
    """Most results in one answer to a search; a Warning tells how many more there are (PS3.18 8.3.4.4)."""


class Storage(Section):
    sync: Annotated[Literal["full", "file", "none"], Allowed('"full", "file" or "none"')] = "file"
    """What is synced before Success is answered: file and index, the file (the index soon after), nothing."""
    duplicates: Annotated[Literal["keep", "replace", "refuse"], Allowed('"keep", "replace" or "refuse"')] = (
        "keep"
    )
    """Another object under a known SOP Instance UID: kept aside, takes the place, refused (0111H)."""
    reserve: Size = ByteSize(2**30)
    """Free space below which no object is taken any more (A700H)."""
    workers: Threads = 4
    """Threads that write and sync object files."""
    readers: Threads = 4
    """Connections that read the index."""


class Transcoding(Section):
    enabled: Switch = True
    """Send objects in other transfer syntaxes than stored, where a peer does not take that one."""
    recompress_lossy: Switch = False
    """Compress again, without loss, what was compressed with loss, for peers that take nothing else."""
    workers: Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=256), Allowed("1 to 256")] = 2
    """Processes that transcode, extract frames and leave bulk data out; started when needed."""
    time_limit: Annotated[
        float, BeforeValidator(_no_bool), Field(gt=0, le=86400), Allowed("seconds, above 0 to 86400")
    ] = 120.0
    """Seconds an object may take; then it fails, and its process is ended."""
    memory_limit: Annotated[
        ByteSize, BeforeValidator(_no_bool), Field(ge=64 * 2**20), Allowed('"64 MiB" or more')
    ] = ByteSize(2 * 2**30)
    """Memory one of the processes may take."""


class Query(Section):
    lenient_hierarchy: Switch = False
    """Answer queries that lack the unique keys of the levels above their own (PS3.4 C.4.1.2.1)."""
    match_unknown: Switch = True
    """An attribute that is empty in the archive matches every key, as PS3.4 C.2.2.1.2 has it."""


class Worklist(Section):
    remove_on: Removals = ("completed", "arrived")
    """What takes an item out of the answers: its MPPS is in progress, is completed, its images arrive."""
    expire_hours: Hours = 48.0
    """Hours after its start, and after its last change, when an item that nothing happened to expires."""
    visibility: Views = ()
    """What a calling AE sees: the first entry that fits its title (`*` and `?` allowed), else all."""
    stations: Stations = ()
    """Scheduled stations, by modality, of HL7 orders that name none."""
    match_unknown: Switch = False
    """An attribute that an item lacks matches every key, against PS3.4 K.2.2.1.1.1."""
    folder_interval: Annotated[
        float, BeforeValidator(_no_bool), Field(ge=0, le=3600), Allowed("seconds, 0 to 3600 (0: never)")
    ] = 1.0
    """Seconds between looks into the folder `worklists` of the data root."""


class Hl7(Section):
    enabled: Switch = False
    """Listen for HL7 v2 messages over MLLP: orders for the worklist, changes of patients."""
    host: Host = "0.0.0.0"
    """Address the HL7 listener binds to."""
    port: Port = 2575
    """TCP port of the HL7 listener."""
    character_set: CharacterSet = "8859/1"
    """Character set of messages that name none (MSH-18) and are not UTF-8."""
    max_message: Size = ByteSize(2**20)
    """Longest message taken; the connection of a longer one is closed."""
    keep_days: Annotated[
        float, BeforeValidator(_no_bool), Field(ge=0, le=3650), Allowed("days, 0 to 3650 (0: for ever)")
    ] = 30.0
    """Days that messages are kept for inspection and to know one that comes again."""


class Workflow(Section):
    series_complete_after: Patience = 15.0
    """Seconds without a new object after which a series is taken to be complete."""
    study_stable_after: Patience = 60.0
    """Seconds without a new object after which a study is taken to be stable."""


class Jobs(Section):
    per_peer: Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=64), Allowed("1 to 64")] = 2
    """Jobs for one peer that run at one time; each has an association of its own."""
    retry_after: Patience = 10.0
    """Seconds before a job that failed is tried again; twice as long after each further failure."""
    retry_longest: Patience = 3600.0
    """The longest of these waits, in seconds."""
    retry_limit: Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=1000), Allowed("1 to 1000")] = 20
    """Attempts after which a job is given up: it is a dead letter then."""
    keep_finished: Annotated[
        float, BeforeValidator(_no_bool), Field(ge=0, le=31_536_000), Allowed("seconds, 0 to 31536000")
    ] = 604_800.0
    """Seconds for which jobs that are done or cancelled can be looked at. Dead letters stay."""


class Mpps(Section):
    lenient: Switch = False
    """Take steps that lack attributes they need, as many modalities send them (PS3.4 Table F.7.2-1)."""
    forward: Titles = ()
    """Peers that every N-CREATE and N-SET is handed on to, such as a RIS."""
    notify: Titles = ()
    """Peers told of each change by N-EVENT-REPORT (MPPS Notification SOP class)."""


class Commitment(Section):
    grace: Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=600), Allowed("seconds, 0 to 600")] = (
        1.0
    )
    """Seconds a peer has to release after its request; one that does not gets the result there."""
    wait: Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=600), Allowed("seconds, 0 to 600")] = 5.0
    """Seconds to leave the association open on which a peer was asked, for its result."""
    answer_within: Annotated[
        float,
        BeforeValidator(_no_bool),
        Field(ge=0, le=2_592_000),
        Allowed("seconds, 0 to 2592000 (0: never)"),
    ] = 86_400.0
    """Seconds after which a peer that took a request and sent no result is asked again, then twice that."""


class Availability(Section):
    notify: Titles = ()
    """Peers told by Instance Availability Notification that a study has become stable."""


class Forward(Section):
    """A table [forward.NAME]: what is sent on by itself, and to whom."""

    to: SomeTitles
    """The peers to send to."""
    when: Annotated[
        Literal["stored", "series-complete", "study-stable"],
        Allowed('"stored", "series-complete" or "study-stable"'),
    ] = "stored"
    """At once, or when nothing has come to the series or the study for a while."""
    calling_ae: Patterns = ()
    """Only objects stored by these AE titles. Empty: any."""
    modality: Patterns = ()
    """Only objects of these modalities. Empty: any."""
    match: Keys = Field(default_factory=dict)
    """Only objects with these attributes, as C-FIND matches them; an absent attribute does not."""
    transfer_syntax: Uids = ()
    """Transcode to the first of these that can be made of an object. Empty: as the peer takes it."""
    priority: Priority = "medium"
    """Which jobs for a peer go first; also the priority of the C-STORE requests."""
    commit: Switch = False
    """Ask the peers for Storage Commitment of what they were sent, and keep their answers."""


class Prefetch(Section):
    """A table [prefetch.NAME]: prior studies that are fetched from a peer before somebody asks for them."""

    source: Title
    """The peer to ask for studies, and to fetch them from."""
    when: Annotated[
        Literal["study-arrives", "study-stable", "order"],
        Allowed('"study-arrives", "study-stable" or "order"'),
    ] = "study-arrives"
    """At the first object of a study, when nothing has come to it for a while, or when it is ordered."""
    calling_ae: Patterns = ()
    """Only for studies stored by these AE titles. Empty: any. Orders have none."""
    modality: Patterns = ()
    """Only for studies, or orders, of these modalities. Empty: any."""
    prior_modality: Patterns = ()
    """Only prior studies with a series of these modalities. Empty: any."""
    most: Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=1000), Allowed("1 to 1000")] = 5
    """How many prior studies at most, the newest first."""
    newest_days: Annotated[
        int, BeforeValidator(_no_bool), Field(ge=0, le=36500), Allowed("days, 0 to 36500 (0: of any age)")
    ] = 0
    """Only studies of so many days before today."""
    method: Annotated[Literal["move", "get"], Allowed('"move" or "get"')] = "move"
    """C-MOVE to this node, which the peer has to know, or C-GET."""
    priority: Priority = "low"
    """Which jobs for a peer go first."""


class Log(Section):
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
        Allowed('"debug", "info", "warning" or "error"'),
    ] = "info"
    """Least important event that is written. Patient names and IDs appear at debug only."""
    format: Annotated[Literal["auto", "console", "json"], Allowed('"auto", "console" or "json"')] = "auto"
    """Lines for people or JSON lines; auto: for people when standard error is a terminal."""


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
        BeforeValidator(_titled),
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
_ENTRIES: Final[Mapping[str, type[Section]]] = {"peers": Peer, "forward": Forward, "prefetch": Prefetch}


def settings_table() -> Iterator[Setting]:
    """Every setting but the peers, in the order of the file."""
    for section, model in _sections().items():
        for key, row in model.model_fields.items():
            yield Setting(section, key, row.get_default(), _allowed(row), row.description or "")


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
    names += [name for name in _ENTRIES if getattr(old, name) != getattr(new, name)]
    return Changes(
        reloadable=tuple(name for name in names if name in RELOADABLE),
        need_restart=tuple(name for name in names if name not in RELOADABLE),
    )


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
        elif separator and section in _sections():
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
    entry = _ENTRIES.get(section) if len(rest) > 1 else None
    model, key = (entry, rest[1]) if entry else (_sections().get(section, Settings), rest[0])
    name = ".".join([section, *rest])
    if error["type"] == "missing":
        return f"{name}{where} is missing"
    value = f"{name} = {json.dumps(error['input'], default=str, ensure_ascii=False)}{where}"
    if error["type"] == "extra_forbidden":
        return f"{value} is no setting; {_nearest(key, model)}"
    return f"{value}; allowed: {_allowed(model.model_fields.get(key, Settings.model_fields[section]))}"


def _nearest(name: str, model: type[BaseModel]) -> str:
    near = difflib.get_close_matches(name, model.model_fields, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(model.model_fields)}"


def _variable_like(name: str) -> str | None:
    """The variable that a mistyped one was to be; others are somebody else's, PACSNODE_EXE for instance."""
    variables = [PEERS_VARIABLE, *SHORT_NAMES, *(row.variable for row in settings_table())]
    return next(iter(difflib.get_close_matches(name, variables, n=1, cutoff=0.9)), None)


def _sections() -> dict[str, type[BaseModel]]:
    fields = Settings.model_fields.items()
    return {name: row.annotation for name, row in fields if isinstance(row.annotation, type)}


def _allowed(row: FieldInfo) -> str:
    notes = [note.text for note in row.metadata if isinstance(note, Allowed)]
    return notes[-1] if notes else ""  # what is said last is the closest


def _value(settings: Settings, row: Setting) -> object:
    return getattr(getattr(settings, row.section), row.key)
