"""Agents that come back only when a file is there, whatever stops them."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

from agents import SubAgentStopped, SyncTools, Tools, agent


def _until_there(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.02)


@agent("site-stuck")
def stuck(tools: SyncTools, path: str) -> str:
    """Get stuck in a thread; later write to the log and the data store."""
    tools.log("stuck")
    _until_there(path)
    for number in range(1_000):
        tools.log(f"late {number}")
    try:
        tools.data_store.set("late", True)
    finally:
        Path(f"{path}.left").touch()
    return "late"


@agent("site-holds-the-interpreter")
def holds_the_interpreter(tools: SyncTools, path: str) -> str:
    """Read a FIFO by a C function that lets no other thread of the process run meanwhile."""
    end = os.open(path, os.O_RDWR)
    tools.log("stuck")
    _until_there(f"{path}.go")
    Path(f"{path}.held").touch()
    ctypes.PyDLL(None).read(end, ctypes.create_string_buffer(1), 1)
    os.close(end)
    Path(f"{path}.left").touch()
    tools.log("late")
    return "late"


@agent("site-stuck-on-the-loop")
async def stuck_on_the_loop(tools: Tools, path: str) -> None:
    """Get stuck on the loop of all agents."""
    tools.log("stuck")
    _until_there(path)


@agent("site-starts-stuck")
async def starts_stuck(tools: Tools, path: str) -> str:
    """Start the first one on any worker, and go on if that is given up."""
    child = await tools.agents.start("site-stuck", {"path": path})
    try:
        return str(await child)
    except SubAgentStopped:
        return "went on"
