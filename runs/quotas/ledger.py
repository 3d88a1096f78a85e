"""What each owner has stored: what the table said last, and what this process has added since.

Every start and every write asks, so an answer costs no query: the table is read at most once a
second for each owner. This process adds its own writes at once in memory, and to the table about
once a second (``keeper``). So within one process a quota is exact. With several processes an owner
can pass it by what the others have written within about two seconds.

A row in the table that each start and each log would update in its own transaction would be exact
everywhere. It was rejected: all transactions of an owner would wait for each other's commits.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from django.contrib.auth import get_user_model
from django.db import Error

from runs.conf import conf
from runs.db.alias import connection
from runs.db.users import key_as_parameter
from runs.exceptions import QuotaExceeded
from runs.models import OwnerUsage

__all__ = [
    "Reserving",
    "Usage",
    "add",
    "check",
    "flush",
    "forget",
    "is_full",
    "reserve",
    "reserving",
    "usage",
    "write",
]

logger = logging.getLogger(__name__)

FRESH_SECONDS = 1.0  # for how long what was read counts
KEEP_SECONDS = 600.0  # how long an owner who does nothing is remembered


@dataclass(frozen=True, slots=True)
class Usage:
    """What one owner has stored."""

    stored_bytes: int
    keys_count: int


@dataclass(slots=True)
class _Account:
    """One owner in this process."""

    stored_bytes: int = 0  # as the table said
    keys_count: int = 0
    added_bytes: int = 0  # by this process, and not in the table yet
    added_keys: int = 0
    read_at: float = -math.inf

    def usage(self) -> Usage:
        # Not below 0: a process that was killed may have deleted without adding what it had stored.
        stored, keys = self.stored_bytes + self.added_bytes, self.keys_count + self.added_keys
        return Usage(max(0, stored), max(0, keys))


_accounts: dict[Any, _Account] = {}
_lock = threading.Lock()  # of the accounts; held for a moment only
_io = threading.Lock()  # held while the table is read or written, so that nothing counts twice


class Reserving(Protocol):
    def __call__(self, owner_id: Any, stored_bytes: int, keys_count: int = 0) -> None: ...


def add(owner_id: Any, stored_bytes: int, keys_count: int = 0) -> None:
    """Note what was written, or removed if it is negative. Never asks and never refuses."""
    if stored_bytes or keys_count:
        with _lock:
            account = _accounts.setdefault(owner_id, _Account())
            account.added_bytes += stored_bytes
            account.added_keys += keys_count


def reserve(owner_id: Any, stored_bytes: int, keys_count: int = 0) -> None:
    """Note what is about to be written, if there is room for it; ``add`` takes it back.

    Raises:
        QuotaExceeded: it would pass a quota. What takes less than before is never refused.
    """
    try:
        _reserve(owner_id, stored_bytes, keys_count)
    except QuotaExceeded:
        usage(owner_id, fresh_seconds=0)  # another process may have removed something since
        _reserve(owner_id, stored_bytes, keys_count)


def check(owner_id: Any, stored_bytes: int, keys_count: int) -> None:
    """Raise as ``reserve`` does, and note nothing."""
    reserve(owner_id, stored_bytes, keys_count)
    add(owner_id, -stored_bytes, -keys_count)


@contextmanager
def reserving() -> Iterator[Reserving]:
    """Yield ``reserve``; take back what it has noted if the body raises."""
    taken: list[tuple[Any, int, int]] = []

    def note(owner_id: Any, stored_bytes: int, keys_count: int = 0) -> None:
        reserve(owner_id, stored_bytes, keys_count)
        taken.append((owner_id, stored_bytes, keys_count))

    try:
        yield note
    except BaseException:
        for owner_id, stored_bytes, keys_count in taken:
            add(owner_id, -stored_bytes, -keys_count)
        raise


def is_full(owner_id: Any) -> bool:
    """Tell whether an owner has used up the quota of bytes. Never raises."""
    allowed = conf().max_stored_bytes_per_owner
    if not allowed:
        return False
    try:
        return usage(owner_id).stored_bytes >= allowed
    except Error:
        logger.warning("the usage of an owner can't be read; its log goes on")
        return False


def usage(owner_id: Any, *, fresh_seconds: float = FRESH_SECONDS) -> Usage:
    """Return what an owner has stored.

    While another thread asks the table, the answer is what was known before, if anything was. It
    never waits for that thread: on SQLite that one may wait for the caller's transaction.
    """
    with _lock:
        account = _accounts.setdefault(owner_id, _Account())
        is_known = account.read_at > -math.inf
        if time.monotonic() - account.read_at < fresh_seconds:
            return account.usage()
    is_alone = _io.acquire(blocking=False)
    try:
        if is_alone or not is_known or not fresh_seconds:
            _read(owner_id, account)
    finally:
        if is_alone:
            _io.release()
    with _lock:
        return account.usage()


def flush() -> None:
    """Add what this process has noted to the table.

    Raises:
        django.db.Error: the database is away; nothing is lost, and the next call repeats it.
    """
    with _io:
        with _lock:
            noted = {
                owner: (account.added_bytes, account.added_keys)
                for owner, account in _accounts.items()
                if account.added_bytes or account.added_keys
            }
        for owner, (stored_bytes, keys_count) in noted.items():
            write(owner, stored_bytes, keys_count)
            with _lock:
                account = _accounts[owner]
                account.added_bytes -= stored_bytes
                account.added_keys -= keys_count
                account.stored_bytes += stored_bytes
                account.keys_count += keys_count
                account.read_at = min(account.read_at, 0.0)  # a read in between has counted it
        _forget_idle()


def forget() -> None:
    """Forget all owners, for tests."""
    with _io, _lock:
        _accounts.clear()


def _reserve(owner_id: Any, stored_bytes: int, keys_count: int) -> None:
    options = conf()
    most_bytes = options.max_stored_bytes_per_owner
    most_keys = options.max_data_store_keys_per_owner
    if most_bytes or most_keys:
        usage(owner_id)
    with _lock:
        account = _accounts.setdefault(owner_id, _Account())
        used = account.usage()
        if stored_bytes > 0 and 0 < most_bytes < used.stored_bytes + stored_bytes:
            raise QuotaExceeded(
                "quota_stored",
                f"{used.stored_bytes:,} of {most_bytes:,} bytes are stored: runs or entries of the "
                "data store must be deleted first.",
                used=used.stored_bytes,
                allowed=most_bytes,
            )
        if keys_count > 0 and 0 < most_keys < used.keys_count + keys_count:
            raise QuotaExceeded(
                "quota_keys",
                f"The data store has {used.keys_count:,} of {most_keys:,} keys: some must be "
                "deleted first.",
                used=used.keys_count,
                allowed=most_keys,
            )
        account.added_bytes += stored_bytes
        account.added_keys += keys_count


def _read(owner_id: Any, account: _Account) -> None:
    row = OwnerUsage.objects.filter(pk=owner_id).values_list("stored_bytes", "keys_count").first()
    with _lock:
        account.stored_bytes, account.keys_count = row or (0, 0)
        account.read_at = time.monotonic()


# SELECT, not VALUES: a user who was deleted meanwhile gets no row.
_ADD = """
INSERT INTO runs_ownerusage (owner_id, stored_bytes, keys_count)
SELECT {key}, %s, %s FROM {users} WHERE {key} = %s
ON CONFLICT (owner_id) DO UPDATE SET
    stored_bytes = runs_ownerusage.stored_bytes + excluded.stored_bytes,
    keys_count = runs_ownerusage.keys_count + excluded.keys_count
"""


def write(owner_id: Any, stored_bytes: int, keys_count: int) -> None:
    """Add to the row of an owner, unless the user was deleted."""
    meta = get_user_model()._meta
    quote: Callable[[str], str] = connection.ops.quote_name
    key = meta.pk
    assert key is not None
    sql = _ADD.format(users=quote(meta.db_table), key=quote(str(key.column)))
    with connection.cursor() as cursor:
        cursor.execute(sql, [stored_bytes, keys_count, key_as_parameter(owner_id)])


def _forget_idle() -> None:
    with _lock:
        before = time.monotonic() - KEEP_SECONDS
        for owner, account in list(_accounts.items()):
            if account.read_at < before and not (account.added_bytes or account.added_keys):
                del _accounts[owner]
