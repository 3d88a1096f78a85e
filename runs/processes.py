"""What tells this process from others: its name, when it began, and what its sessions are called.

Settings need it, so this module knows nothing of Django.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

__all__ = ["own_session_name", "process_name", "process_started", "session_name"]

_LONGEST = 63  # bytes that PostgreSQL keeps of an application_name


def process_name() -> str:
    """Return what people know this process by: its host's name and its id."""
    return f"{socket.gethostname()}:{os.getpid()}"


def process_started(pid: int) -> int | None:
    """Return when a process began, in ticks since boot; None if there is none, or only a zombie.

    Fields 3 (state) and 22 (starttime) of proc_pid_stat(5).
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def session_name(name: str, started: int) -> str:
    """Return what a process calls its database sessions; the instant tells containers apart."""
    return f"halting {started} {name}".encode()[:_LONGEST].decode(errors="ignore")


def own_session_name() -> str:
    return session_name(process_name(), process_started(os.getpid()) or 0)
