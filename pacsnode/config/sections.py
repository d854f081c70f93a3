"""The tables of the TOML file, a model each. The line below a setting is its documentation."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, ByteSize, Field

from pacsnode.config.values import (
    Allowed,
    CharacterSet,
    Host,
    Hours,
    Keys,
    Methods,
    Origins,
    Patience,
    Patterns,
    PduLength,
    PeerPort,
    Port,
    Priority,
    PublicUrl,
    Removals,
    Seconds,
    Section,
    Size,
    SomeTitles,
    Stations,
    Switch,
    Threads,
    Title,
    Titles,
    Uids,
    Views,
    no_bool,
)
from pacsnode.dicom.uid import AETitle


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
        int, BeforeValidator(no_bool), Field(ge=1, le=10_000), Allowed("1 to 10000")
    ] = 64
    """Associations at one time; one more is rejected as transient, local limit exceeded."""
    async_window: Annotated[
        int, BeforeValidator(no_bool), Field(ge=0, le=65535), Allowed("0 (no limit) to 65535")
    ] = 16
    """Operations one association may have outstanding, if it negotiates the window; 1 otherwise."""
    artim_timeout: Seconds = 30.0
    """Seconds to wait for an A-ASSOCIATE-RQ on a new connection, and for its close after the end."""
    dimse_timeout: Seconds = 60.0
    """Seconds to wait for the next part of a message, or for a response."""
    idle_timeout: Seconds = 600.0
    """Seconds without any message after which an association is aborted."""
    drain_timeout: Annotated[
        float, BeforeValidator(no_bool), Field(ge=0, le=3600), Allowed("seconds, 0 to 3600")
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
        int, BeforeValidator(no_bool), Field(ge=1, le=1_000_000), Allowed("1 to 1000000")
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
    workers: Annotated[int, BeforeValidator(no_bool), Field(ge=1, le=256), Allowed("1 to 256")] = 2
    """Processes that transcode, extract frames and leave bulk data out; started when needed."""
    time_limit: Annotated[
        float, BeforeValidator(no_bool), Field(gt=0, le=86400), Allowed("seconds, above 0 to 86400")
    ] = 120.0
    """Seconds an object may take; then it fails, and its process is ended."""
    memory_limit: Annotated[
        ByteSize, BeforeValidator(no_bool), Field(ge=64 * 2**20), Allowed('"64 MiB" or more')
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
        float, BeforeValidator(no_bool), Field(ge=0, le=3600), Allowed("seconds, 0 to 3600 (0: never)")
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
        float, BeforeValidator(no_bool), Field(ge=0, le=3650), Allowed("days, 0 to 3650 (0: for ever)")
    ] = 30.0
    """Days that messages are kept for inspection and to know one that comes again."""


class Workflow(Section):
    series_complete_after: Patience = 15.0
    """Seconds without a new object after which a series is taken to be complete."""
    study_stable_after: Patience = 60.0
    """Seconds without a new object after which a study is taken to be stable."""


class Jobs(Section):
    per_peer: Annotated[int, BeforeValidator(no_bool), Field(ge=1, le=64), Allowed("1 to 64")] = 2
    """Jobs for one peer that run at one time; each has an association of its own."""
    retry_after: Patience = 10.0
    """Seconds before a job that failed is tried again; twice as long after each further failure."""
    retry_longest: Patience = 3600.0
    """The longest of these waits, in seconds."""
    retry_limit: Annotated[int, BeforeValidator(no_bool), Field(ge=1, le=1000), Allowed("1 to 1000")] = 20
    """Attempts after which a job is given up: it is a dead letter then."""
    keep_finished: Annotated[
        float, BeforeValidator(no_bool), Field(ge=0, le=31_536_000), Allowed("seconds, 0 to 31536000")
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
    grace: Annotated[float, BeforeValidator(no_bool), Field(ge=0, le=600), Allowed("seconds, 0 to 600")] = 1.0
    """Seconds a peer has to release after its request; one that does not gets the result there."""
    wait: Annotated[float, BeforeValidator(no_bool), Field(ge=0, le=600), Allowed("seconds, 0 to 600")] = 5.0
    """Seconds to leave the association open on which a peer was asked, for its result."""
    answer_within: Annotated[
        float,
        BeforeValidator(no_bool),
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
    most: Annotated[int, BeforeValidator(no_bool), Field(ge=1, le=1000), Allowed("1 to 1000")] = 5
    """How many prior studies at most, the newest first."""
    newest_days: Annotated[
        int, BeforeValidator(no_bool), Field(ge=0, le=36500), Allowed("days, 0 to 36500 (0: of any age)")
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
