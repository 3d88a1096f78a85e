"""What owners have used of their quotas, for the API, the pages and the admin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runs.conf import conf
from runs.models import OwnerUsage

from . import ledger
from .queued import count_queued

__all__ = ["NEAR_SHARE", "QUOTAS", "Quota", "quotas_of", "quotas_of_row"]

#: The share of a quota from which on people are told.
NEAR_SHARE = 0.8

#: In the order in which they are shown: name on the wire -> code of the refusal.
QUOTAS = {
    "queued_runs": "quota_queued",
    "stored_bytes": "quota_stored",
    "data_store_keys": "quota_keys",
}


@dataclass(frozen=True, slots=True)
class Quota:
    """One quota of one owner; ``allowed`` is None without a limit."""

    name: str
    used: int
    allowed: int | None

    @property
    def is_near(self) -> bool:
        return self.allowed is not None and self.used >= self.allowed * NEAR_SHARE


def quotas_of(owner_id: Any) -> list[Quota]:
    """Return the quotas of an owner; takes two queries at most."""
    used = ledger.usage(owner_id)
    return _quotas(count_queued([owner_id])[owner_id], used.stored_bytes, used.keys_count)


def quotas_of_row(row: OwnerUsage, queued: int) -> list[Quota]:
    """Return the quotas of the owner of a row, of whom ``queued`` runs are queued."""
    return _quotas(queued, max(0, row.stored_bytes), max(0, row.keys_count))


def _quotas(queued: int, stored_bytes: int, keys_count: int) -> list[Quota]:
    options = conf()
    values = (
        (queued, options.max_queued_per_owner),
        (stored_bytes, options.max_stored_bytes_per_owner),
        (keys_count, options.max_data_store_keys_per_owner),
    )
    return [
        Quota(name, used, allowed or None)
        for name, (used, allowed) in zip(QUOTAS, values, strict=True)
    ]
