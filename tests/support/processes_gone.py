"""Whether a process that belongs to another is still there."""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = ["is_running", "wait_until_busy", "wait_until_gone"]


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that was not reaped yet does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return not Path("/proc/self/stat").exists()


def wait_until_busy(pid: int, seconds: float) -> None:
    """Wait until a process has computed for a third of a second: longer than it takes to begin."""
    until = time.monotonic() + seconds
    while sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])) < (
        os.sysconf("SC_CLK_TCK") // 3
    ):
        assert time.monotonic() < until, f"process {pid} is not busy"
        time.sleep(0.01)


def wait_until_gone(pid: int, seconds: float) -> None:
    until = time.monotonic() + seconds
    while is_running(pid):
        assert time.monotonic() < until, f"process {pid} is still running"
        time.sleep(0.01)
