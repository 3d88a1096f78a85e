"""Agents that leave threads behind when they return."""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from agents import Tools, agent

__all__: list[str] = []


def sleep_on(seconds: float) -> None:
    time.sleep(seconds)


def print_on(seconds: float) -> None:
    """Write to the process's own standard output, which Python closes at its end."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sys.__stdout__.write("x" * 200 + "\n")  # type: ignore[union-attr]


@agent("site-leaves")
async def leaves(tools: Tools, how: str, seconds: float = 60.0, fails: bool = False) -> str:
    """Leave a thread that goes on for ``seconds``, and return, or fail."""
    match how:
        case "executor":
            asyncio.get_running_loop().run_in_executor(None, sleep_on, seconds)
            await asyncio.sleep(0.1)
        case "pool":
            ThreadPoolExecutor(1).submit(sleep_on, seconds)
        case "thread":
            threading.Thread(target=sleep_on, args=[seconds]).start()
        case "daemon":
            work = functools.partial(print_on, seconds)
            threading.Thread(target=work, daemon=True).start()
    tools.log("has left a thread")
    if fails:
        raise ValueError("as it must")
    return "left"
