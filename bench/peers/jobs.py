"""The work of all systems, and the instants that it writes into one file.

``time.monotonic_ns()`` is one clock for all processes of a machine, so the driver compares these
instants with its own.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable

__all__ = ["CHECKS", "NAMES", "check_cost", "first_line", "in_steps", "note", "waits"]

#: ``first``: write an instant. ``loop``: look for a stop every millisecond. ``wait``: every second.
#: ``checks``: look for a stop as often as it can.
NAMES = ("first", "loop", "wait", "checks")
CHECKS = 100_000

_file = -1


def note(key: str, what: str, value: int | None = None) -> None:
    """Append a line: the job's key, what happened, and when, in nanoseconds."""
    global _file
    if _file < 0:
        path = os.environ["PEERS_INSTANTS"]
        _file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(_file, f"{key} {what} {value or time.monotonic_ns()}\n".encode())


async def first_line(key: str) -> None:
    note(key, "first")


async def waits(key: str, pause: float, look: Callable[[], Awaitable[None]]) -> None:
    """Look for a stop after each pause; ``look`` raises if there is one."""
    note(key, "first")
    try:
        while True:
            await asyncio.sleep(pause)
            await look()
    finally:
        note(key, "left")


def in_steps(key: str, pause: float, look: Callable[[], None]) -> None:
    """Do as ``waits`` does, in a thread."""
    note(key, "first")
    try:
        while True:
            time.sleep(pause)
            look()
    finally:
        note(key, "left")


def check_cost(key: str, look: Callable[[], object], count: int = CHECKS) -> None:
    """Write what one check costs, in picoseconds: of a loop, less that of the empty loop."""
    note(key, "first")
    times = range(count)
    started = time.perf_counter_ns()
    for _ in times:
        pass
    empty = time.perf_counter_ns() - started
    started = time.perf_counter_ns()
    for _ in times:
        look()
    note(key, "cost", max(1, (time.perf_counter_ns() - started - empty) * 1000 // count))
