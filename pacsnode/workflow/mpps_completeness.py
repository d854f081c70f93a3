"""Whether what modalities say they made has arrived, looked at when a study is stable (PS3.4 F.7.2.2)."""

import structlog

from pacsnode.archive.lookup import Lookup
from pacsnode.dicom.uid import UID
from pacsnode.workflow.database import Transaction
from pacsnode.workflow.mpps import StepState, steps_of

log = structlog.get_logger()


class Completeness:
    """Compares the steps that have ended with the index."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    async def check(self, transaction: Transaction, study: UID) -> None:
        """Tell of each ended step of a study that so many of its instances are missing."""
        for step in await steps_of(transaction.fetch, study):
            told = {one.sop_instance for one in step.performed}
            if step.state is StepState.IN_PROGRESS or not told:
                continue
            held = {
                held.located.sop_instance
                for one in {one.study for one in step.scheduled}
                for held in await self._lookup.find((one,))
            }
            if missing := told - held:
                log.warning(
                    "mpps.instances_missing",
                    sop_instance=step.sop_instance,
                    study=study,
                    missing=len(missing),
                    instances=len(told),
                )
