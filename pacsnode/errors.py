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
|   +-- RequestFailed             a final response whose status is a failure, in net/client.py
+-- OperationError                a DIMSE or web request that cannot be carried out; has a status on the wire
|   +-- OutOfResources            disk full or below the reserve, too many operations
|   +-- DataSetMismatch           the data set is not what the command says it is
|   |   +-- StudyMismatch           it belongs to another study than the request names
|   +-- CannotUnderstand          the data set cannot be read
|   +-- CannotTranscode           an object cannot be had in the transfer syntax that is wanted
|   +-- CannotDeidentify          an object may identify the patient by what nobody can clean here
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
|   +-- InstanceFault             a managed SOP Instance (DIMSE-N) is not what the request takes it for
|   |   +-- NoSuchInstance
|   |   +-- NoSuchSopClass        the request names another SOP class than its presentation context
|   |   +-- InvalidInstance       a SOP Instance UID that is none
|   |   +-- ClassInstanceConflict
|   |   +-- NoLongerInProgress    a performed procedure step that has ended
|   +-- AttributeFault            attributes of a managed SOP Instance are wrong
|   |   +-- NoSuchAttribute
|   |   +-- InvalidAttributeValue
|   |   +-- MissingAttribute
|   |   +-- MissingAttributeValue
|   +-- ArgumentFault             an action or event that cannot be taken
|   |   +-- NoSuchActionType
|   |   +-- NoSuchEventType
|   |   +-- NoSuchArgument        information this type of action or event does not have
|   |   +-- InvalidArgumentValue
|   +-- ProcessingFailure         a bug of ours, caught at the dispatcher
+-- JobRefused                    a job that no further attempt can do
+-- IncompleteItem                a worklist item lacks what a modality must be told
+-- MessageRefused                an HL7 message that cannot be carried out; has a code in its acknowledgement
+-- RequestRefused                an HTTP request that is not answered as asked; has an HTTP status
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


class PeerNotListening(PeerUnreachable):
    """The peer's computer is there; nobody listens on the port."""


class PeerTimeout(RemoteError):
    """The peer did not answer in time."""


class NoPresentationContext(RemoteError):
    """The peer accepted no presentation context for what is to be sent."""


class RequestFailed(RemoteError):
    """The peer answered with a failure: `status`, and its Error Comment."""

    def __init__(self, status: int, comment: str = "") -> None:
        super().__init__(f"the peer answered {status:04X}H {comment}".rstrip())
        self.status, self.comment = status, comment


class OperationError(PacsnodeError):
    """A request that cannot be carried out. The text becomes the Error Comment (0000,0902)."""


class OutOfResources(OperationError):
    pass


class DataSetMismatch(OperationError):
    pass


class StudyMismatch(DataSetMismatch):
    pass


class CannotUnderstand(OperationError):
    pass


class CannotTranscode(OperationError):
    pass


class CannotDeidentify(OperationError):
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


class InstanceFault(OperationError):
    """A managed SOP Instance is not what the request takes it for (PS3.7 10.1)."""


class NoSuchInstance(InstanceFault):
    pass


class NoSuchSopClass(InstanceFault):
    pass


class InvalidInstance(InstanceFault):
    pass


class ClassInstanceConflict(InstanceFault):
    pass


class NoLongerInProgress(InstanceFault):
    """`error_id` is the Error ID (0000,0903) of PS3.4 Table F.7.2-2."""

    error_id = 0xA710


class AttributeFault(OperationError):
    """`attributes` holds the tags at fault, for the Attribute (Identifier) List of a response (PS3.7 C.5)."""

    def __init__(self, message: str, attributes: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.attributes = attributes


class NoSuchAttribute(AttributeFault):
    pass


class InvalidAttributeValue(AttributeFault):
    pass


class MissingAttribute(AttributeFault):
    pass


class MissingAttributeValue(AttributeFault):
    pass


class ArgumentFault(OperationError):
    """An action or event that cannot be taken (PS3.7 10.1.1, 10.1.4); the response repeats its type."""


class NoSuchActionType(ArgumentFault):
    pass


class NoSuchEventType(ArgumentFault):
    pass


class NoSuchArgument(ArgumentFault):
    pass


class InvalidArgumentValue(ArgumentFault):
    pass


class JobRefused(PacsnodeError):
    """A job cannot be done, however often it is tried."""


class IncompleteItem(PacsnodeError):
    """A worklist item lacks attributes of type 1 (PS3.4 Table K.6-1). The text names them."""


class MessageRefused(PacsnodeError):
    """An HL7 message that cannot be carried out.

    `code` is of HL7 table 0357, `location` the field in question ("OBR-24"). One that is `rejected` (AR) will
    never be understood; others (AE) may be mended and sent again.
    """

    def __init__(self, message: str, code: int, location: str = "", *, rejected: bool = False) -> None:
        super().__init__(message)
        self.code, self.location, self.rejected = code, location, rejected


class PatientRefused(PacsnodeError):
    """An update or merge of a patient, or its undoing, that cannot be: into itself, in a circle.

    `reason` says it without naming anybody, for logs.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class RequestRefused(PacsnodeError):
    """An HTTP request that is not answered as asked (PS3.18 8.5). The text is for the one who sent it.

    `headers` say to programs what would be possible.
    """

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers


class ArchiveError(PacsnodeError):
    """The data root or the index cannot be used."""
