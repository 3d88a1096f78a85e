"""The identity of a process: its host, its name, its start, and the name of its sessions.

Settings import this module, so it must not import Django.
"""

from __future__ import annotations

import functools
import os
import socket
from pathlib import Path

__all__ = [
    "host_identity",
    "is_gone",
    "own_session_name",
    "process_name",
    "process_started",
    "session_name",
]

_LONGEST = 63  # bytes that PostgreSQL keeps of an application_name


def process_name() -> str:
    """Return the name that people read: the host's name and the process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


@functools.cache
def host_identity() -> str:
    """Return a text that differs for each host, boot and process-id namespace.

    Empty where the system does not say; then no worker can take over by process id.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return f"{socket.gethostname()} {boot} {namespace}"


def process_started(pid: int) -> int | None:
    """Return when a process started, in ticks since boot; None if it is gone or a zombie."""
    stat = _stat(pid)
    return None if stat is None or stat[0] in _DEAD else stat[1]


def is_gone(pid: int, started: int) -> bool:
    """Return whether the process that started at ``started`` is gone for certain.

    /proc may hide the processes of other users (hidepid=, systemd's ProtectProc=), so a process
    that is not in there may be alive.
    """
    stat = _stat(pid)
    if stat is not None:
        state, found = stat
        return state in _DEAD or found != started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        pass
    return False


_DEAD = "ZX"  # a zombie, and on its way out


def _stat(pid: int) -> tuple[str, int] | None:
    """Return fields 3 (state) and 22 (starttime) of proc_pid_stat(5); None if it can't be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def session_name(name: str, started: int) -> str:
    """Return the name of a process's database sessions; the start tells containers apart."""
    return f"halting {started} {name}".encode()[:_LONGEST].decode(errors="ignore")


def own_session_name() -> str:
    return session_name(process_name(), process_started(os.getpid()) or 0)
