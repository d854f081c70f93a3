"""The DIMSE face: one file per service class (PS3.4). SERVICE_CLASSES holds the registration lines.

A new service class is a file here and one line below; negotiation, dispatch and `pacsnode conformance`
read everything else from the class. ACTORS is what acts without being asked: on arrivals, in jobs.
"""

from collections.abc import Callable
from typing import Final

from pacsnode.net.service import ServiceClass, ServiceRegistry
from pacsnode.services.availability import Availability
from pacsnode.services.commitment import CommitmentService
from pacsnode.services.composite import CompositeInstanceRootService
from pacsnode.services.forwarding import Forwarding
from pacsnode.services.mpps import MppsService
from pacsnode.services.mpps_reporting import MppsReporting
from pacsnode.services.prefetch import Prefetching
from pacsnode.services.query import FindService
from pacsnode.services.retrieve import RetrieveService
from pacsnode.services.room import Room
from pacsnode.services.storage import StorageService
from pacsnode.services.verification import VerificationService
from pacsnode.services.without_bulk_data import WithoutBulkDataService
from pacsnode.services.worklist import WorklistService

SERVICE_CLASSES: Final[tuple[Callable[[Room], ServiceClass], ...]] = (
    VerificationService,
    StorageService,
    FindService,
    RetrieveService,
    CompositeInstanceRootService,
    WithoutBulkDataService,
    WorklistService,
    MppsService,
    CommitmentService,
)

ACTORS: Final[tuple[Callable[[Room], object], ...]] = (Forwarding, Prefetching, MppsReporting, Availability)


def build_registry(room: Room) -> ServiceRegistry:
    """All service classes on one archive and one configuration. Raises ConfigurationError over a rule."""
    for actor in ACTORS:
        actor(room)
    services = [service_class(room) for service_class in SERVICE_CLASSES]
    unknown = room.settings.dimse.accept_unknown_sop_classes
    fallback = next((s for s in services if isinstance(s, StorageService)), None) if unknown else None
    return ServiceRegistry(services, fallback=fallback)
