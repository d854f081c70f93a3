"""Every error pacsnode raises, drawn as a tree. Imports nothing.

PacsnodeError
+-- ConfigurationError            a setting, a flag or an environment variable is wrong
+-- RemoteError                   what a peer did or did not do
|   +-- InvalidPdu                bytes that are no PDU (PS3.8 9.3); answered with A-ABORT
|   +-- InvalidMessage            a command set that cannot be read (PS3.7 6.3); answered with A-ABORT
|   +-- InvalidMultipart          a body that is no multipart/related (RFC 2046 5.1); answered with 400
|   +-- AssociationRejected       A-ASSOCIATE-RJ received
|   +-- AssociationAborted        A-ABORT received, or the transport went away
|   +-- PeerUnreachable           no transport connection could be made
|   +-- PeerTimeout               no answer in time
|   +-- NoPresentationContext     the peer accepted no context for what is to be sent
+-- OperationError                a DIMSE or web request that cannot be carried out; has a status on the wire
|   +-- OutOfResources            disk full or below the reserve, too many operations
|   +-- DataSetMismatch           the data set is not what the command says it is
|   +-- CannotUnderstand          the data set cannot be read
|   +-- CannotTranscode           an object cannot be had in the transfer syntax that is wanted
|   +-- DuplicateInstance         another object has this SOP Instance UID and the policy is `refuse`
|   +-- InvalidIdentifier         an identifier against the rules of its information model
|   +-- MatchesNotCounted         what a retrieval asks for cannot be looked up
|   +-- UnknownDestination        a C-MOVE to an AE title that is no peer
|   +-- FramesNotFound            none of the frames asked for is in the instance
|   +-- CannotCreateInstance      no instance of this SOP class can be made of some of the frames
|   +-- CannotExtractFrames       the frames asked for cannot be cut out
|   +-- NotTimeBased              a time range of an instance whose frames have no times
|   +-- InvalidFrameRange         a frame range that contradicts itself
|   +-- SopClassNotSupported
|   +-- UnrecognizedOperation     a command this SOP class does not have
|   +-- NotAuthorized
|   +-- Cancelled                 the requestor sent C-CANCEL
|   +-- ProcessingFailure         a bug of ours, caught at the dispatcher
+-- JobRefused                    a job that no further attempt can do
+-- ArchiveError                  the data root or the index is unusable; the service cannot start
"""


class PacsnodeError(Exception):
    """Base of all errors raised on purpose."""


class ConfigurationError(PacsnodeError):
    """A setting is wrong. The text names the key, the value and what is allowed."""


class RemoteError(PacsnodeError):
    """A peer broke the protocol, refused, or went away."""


class InvalidPdu(RemoteError):
    """Bytes that are no PDU. `reason` is the A-ABORT reason to answer (PS3.8 9.3.8)."""

    def __init__(self, message: str, reason: int = 0) -> None:
        super().__init__(message)
        self.reason = reason


class InvalidMessage(RemoteError):
    """A command set or the order of its fragments is against PS3.7 6.3."""


class InvalidMultipart(RemoteError):
    """A request body is no multipart/related, or goes beyond a limit (PS3.18 8.6.1.2)."""


class AssociationRejected(RemoteError):
    """A-ASSOCIATE-RJ was received (PS3.8 9.3.4)."""

    def __init__(self, result: int, source: int, reason: int, meaning: str) -> None:
        super().__init__(meaning)
        self.result, self.source, self.reason = result, source, reason


class AssociationAborted(RemoteError):
    """The association ended without release."""


class PeerUnreachable(RemoteError):
    """No transport connection could be made."""


class PeerTimeout(RemoteError):
    """The peer did not answer in time."""


class NoPresentationContext(RemoteError):
    """The peer accepted no presentation context for what is to be sent."""


class OperationError(PacsnodeError):
    """A request that cannot be carried out. The text becomes the Error Comment (0000,0902)."""


class OutOfResources(OperationError):
    pass


class DataSetMismatch(OperationError):
    pass


class CannotUnderstand(OperationError):
    pass


class CannotTranscode(OperationError):
    pass


class DuplicateInstance(OperationError):
    pass


class InvalidIdentifier(OperationError):
    """`offending` holds the tags for Offending Element (0000,0901)."""

    def __init__(self, message: str, offending: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.offending = offending


class MatchesNotCounted(OperationError):
    pass


class UnknownDestination(OperationError):
    pass


class FramesNotFound(OperationError):
    pass


class CannotCreateInstance(OperationError):
    pass


class CannotExtractFrames(OperationError):
    pass


class NotTimeBased(OperationError):
    pass


class InvalidFrameRange(OperationError):
    """`offending` as for InvalidIdentifier."""

    def __init__(self, message: str, offending: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.offending = offending


class SopClassNotSupported(OperationError):
    pass


class UnrecognizedOperation(OperationError):
    pass


class NotAuthorized(OperationError):
    pass


class Cancelled(OperationError):
    pass


class ProcessingFailure(OperationError):
    pass


class JobRefused(PacsnodeError):
    """A job cannot be done, however often it is tried."""


class ArchiveError(PacsnodeError):
    """The data root or the index cannot be used."""
