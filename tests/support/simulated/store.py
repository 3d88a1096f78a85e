"""The data store of a simulated run, compared with what an omniscient observer knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runs.models import DataStoreEntry, RunRecord
from runs.status import Status
from runs.worker.data_store import OwnerStore

from .faults import observing
from .seen import SEEN

__all__ = ["WatchedStore"]


class WatchedStore(OwnerStore):
    """The data store of a run; a write under a lost claim must change nothing."""

    def is_covered(self) -> bool:
        """Tell whether a live lease covers the run, under the claim that this process has."""
        with observing():
            mine = RunRecord.objects.filter(pk=self._run.id, status=Status.RUNNING)
            mine = mine.filter(worker=self._run.worker, attempt=self._run.attempt)
            return mine.filter(worker__lost_at=None).exists()

    def is_abandoned(self) -> bool:
        """Tell whether it is over by an abandon, of which this process may not have heard yet."""
        with observing():
            mine = RunRecord.objects.filter(pk=self._run.id, stop_abandoned=True)
            mine = mine.filter(worker=self._run.worker, attempt=self._run.attempt)
            return mine.filter(worker__lost_at=None).exists()

    def _under_claim(self, work: Callable[[], int]) -> int:
        before, is_covered = self._all(), self.is_covered()
        is_taken = False
        try:
            count = super()._under_claim(work)
            is_taken = True
        finally:
            SEEN["writes refused" if not is_covered else "writes"] += 1
            if not is_covered:
                assert not is_taken, "a write under a lost claim was accepted"
                assert self._all() == before, "a write under a lost claim changed something"
        return count

    def _all(self) -> list[Any]:
        with observing():
            return list(DataStoreEntry.objects.order_by("pk").values_list("owner", "key", "value"))
