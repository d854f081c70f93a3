"""The settings: one pydantic model per section of the TOML file. Imports `dicom` and `errors` only.

    values      what the value of a setting may be
    sections    the tables of the file, `peer` an entry of [peers]
    settings    all of them together, and the table of settings
    loading     the layers laid over each other

Four layers, the later one wins, key by key: the defaults, the file, the environment, the flags of
`pacsnode serve`. They are laid over each other here, so that an error can say where the value came from.
The models are the one table of settings: conf/pacsnode.toml, docs/configuration.md and the names of the
environment variables are made from them or tested against them (tests/test_docs.py).
"""

from pacsnode.config.loading import load, peer_values
from pacsnode.config.peer import Peer
from pacsnode.config.sections import (
    Dimse,
    Forward,
    Hl7,
    Jobs,
    Mpps,
    Prefetch,
    Workflow,
    Worklist,
)
from pacsnode.config.settings import (
    PEERS_VARIABLE,
    RELOADABLE,
    SHORT_NAMES,
    Setting,
    Settings,
    Values,
    changes,
    settings_table,
    titles_called,
)

__all__ = [
    "PEERS_VARIABLE",
    "RELOADABLE",
    "SHORT_NAMES",
    "Dimse",
    "Forward",
    "Hl7",
    "Jobs",
    "Mpps",
    "Peer",
    "Prefetch",
    "Setting",
    "Settings",
    "Values",
    "Workflow",
    "Worklist",
    "changes",
    "load",
    "peer_values",
    "settings_table",
    "titles_called",
]
