"""What connections to the database of runs need, where the site has not said otherwise.

Called once at the start of a process, before its first connection. Django reads the options when it
connects, so they hold for all connections of the process: those of the site's own code to the same
database, too. That is safe. A transaction waits for another writer instead of failing at once, and
a reader waits for no writer; what a transaction reads and writes stays the same.

What the site has set itself, even to a value that is worse for us, stays.
"""

from __future__ import annotations

from typing import Any

from runs.process.names import own_session_name

from .alias import connection

__all__ = ["POOL_SIZE", "complete_options"]

#: Of a process that serves and runs agents.
POOL_SIZE = 20

_SQLITE = {
    # A deferred transaction that becomes a writer fails at once if another one is writing,
    # whatever the timeout: 509 "database is locked" errors in a burst, and 0 with IMMEDIATE.
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    # WAL: readers don't wait for the writer. NORMAL: with WAL, a crash of the process loses
    # nothing; only a power cut can lose the last transactions.
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
}


def complete_options() -> None:
    """Complete the options of the database of runs; again changes nothing."""
    options: dict[str, Any] = connection.settings_dict["OPTIONS"]  # of all threads
    if connection.vendor == "sqlite":
        for name, value in _SQLITE.items():
            options.setdefault(name, value)
    elif connection.vendor == "postgresql":
        if options.get("pool") is True:
            # psycopg_pool's own size is 4, and the threads of a worker hold eight.
            options["pool"] = {"max_size": POOL_SIZE}
        if "application_name" not in options:
            # Other processes find the sessions of a lost process that holds locks by this name.
            options.setdefault("fallback_application_name", own_session_name())
