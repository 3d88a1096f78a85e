"""Memory, threads and processor time of a process. Needs Linux."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["processor_seconds", "resident_kib", "thread_count"]


def resident_kib(pid: int) -> float:
    return _status(pid, "VmRSS")


def thread_count(pid: int) -> float:
    return _status(pid, "Threads")


def processor_seconds(pid: int) -> float:
    """Return the processor time of all the process's threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _status(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return float(line.split()[1])
    raise RuntimeError(f"no {name}: this benchmark needs Linux")
