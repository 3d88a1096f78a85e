"""Whether the database takes writes, as far as this process knows without writing.

A database on a full disk, or a standby, still answers queries. So what fails a write of this
process is remembered for a while: the recorder, heartbeats and claims repeat a failed write several
times a second, and a worker without runs renews its lease.
"""

from __future__ import annotations

import time

__all__ = ["READ_ONLY", "REMEMBERED_SECONDS", "note", "note_failure", "refusal"]

#: For how long a failed write counts.
REMEMBERED_SECONDS = 10.0

FULL, READ_ONLY, FAILING = "full", "read-only", "failing"
# disk_full; read_only_sql_transaction, as of a standby; io_error
_STATES = {"53100": FULL, "25006": READ_ONLY, "58030": FAILING}
# Primary result codes: FULL; READONLY, and CANTOPEN of a journal in a folder without the right.
_CODES = {13: FULL, 8: READ_ONLY, 14: READ_ONLY}
# Extended ones of IOERR: WRITE, FSYNC, DIR_FSYNC, TRUNCATE, SHMSIZE.
_WRITE_ERRORS = frozenset({778, 1034, 1290, 1546, 4874})

_noted: tuple[float, str] = (float("-inf"), "")


def note_failure(error: BaseException) -> None:
    """Remember an error of the database, if it says that nothing can be written."""
    cause: BaseException | None = error
    while cause is not None:  # Django's error has the driver's as its cause, and ours has Django's
        code = getattr(cause, "sqlite_errorcode", None) or 0
        kind = _STATES.get(getattr(cause, "sqlstate", None) or "")
        kind = kind or (FAILING if code in _WRITE_ERRORS else _CODES.get(code & 0xFF))
        if kind:
            note(kind)
        cause = cause.__cause__


def note(kind: str) -> None:
    """Remember that nothing can be written now."""
    global _noted
    _noted = (time.monotonic(), kind)


def refusal() -> str:
    """Say why the database takes no writes: full, read-only, failing; empty if nothing failed."""
    at, kind = _noted
    return kind if time.monotonic() - at < REMEMBERED_SECONDS else ""
