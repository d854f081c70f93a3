"""pacsnode: an asynchronous DICOM node.

The rooms, and the one way they may import each other (tests/test_layers.py reads the imports):

    cli -> node -+-> services -> net -> dimse -> ul ----+--> dicom -> errors
                 |       +-> workflow -> archive -------+
                 |       +------------> pixels ---------+
                 +-> web -------------> workflow, archive, pixels
                 +-> hl7 -------------> workflow

`dicom`, `ul` and `dimse` are pure: bytes and time come in as arguments, no I/O happens in them. `net` is
their asyncio shell, `archive` is objects at rest and their index, `workflow` the state beside them (peers,
jobs, worklist, procedure steps, patients), `pixels` makes other transfer syntaxes, frames and pictures of
them in worker processes. The faces: `services`, one file per DICOM service class, `web`, one file per group
of HTTP resources, `hl7`, the MLLP listener. `node` is the only place that builds anything, `cli` the
command line. Everybody may use `config` (the settings) and `log`; `notify` speaks to systemd, `pulse`
watches the event loop.
"""

from typing import Final

__version__: Final = "0.1.0"
IMPLEMENTATION_CLASS_UID: Final = "2.25.270022360692362826805035939340511228478"
IMPLEMENTATION_VERSION_NAME: Final = "PACSNODE_0_1_0"  # at most 16 characters (PS3.7 D.3.3.2.3)
