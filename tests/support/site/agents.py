"""Agents for real processes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from django.conf import settings

from agents import SyncTools, Tools, agent, check_should_stop
from runs.worker import claim_loop, heartbeat

from . import (  # noqa: F401  register their agents
    bending,
    forms,
    leavers,
    leaving_work,
    orm,
    starters,
    stuck,
    watch,
    witnesses,
)

if settings.POLL_SECONDS:
    claim_loop.POLL_SECONDS = heartbeat.POLL_SECONDS = settings.POLL_SECONDS


@agent("site-trivial")
async def trivial(tools: Tools, number: int = 0) -> int:
    return number


@agent("site-loop")
async def loop(tools: Tools) -> str:
    tools.log("looping")
    while True:
        await asyncio.sleep(0.02)
        check_should_stop()


@agent("site-partial")
async def partial(tools: Tools) -> str:
    """Run until a stop, and then return a partial result."""
    from agents import should_stop

    while not should_stop():
        await asyncio.sleep(0.02)
    return "so far"


@agent("site-deaf")
async def deaf(tools: Tools) -> str:
    """Never check the token: only a cancellation ends it."""
    await asyncio.sleep(3600)
    return "never"


@agent("site-held")
async def held(tools: Tools, path: str, document: str = "") -> str:
    """Ignore stops until a file is there."""
    while not Path(path).exists():
        await asyncio.sleep(0.05)
    return "let go"


@agent("site-again", on_worker_loss="requeue", max_attempts=3)
async def again(tools: Tools, key: str) -> str:
    """Loop in the first attempt, after a call of data_store.set; end in the second."""
    if await tools.data_store.get(key):
        return "second attempt"
    await tools.data_store.set(key, True)
    while True:
        await asyncio.sleep(0.02)
        check_should_stop()


@agent("site-tree")
async def tree(tools: Tools, width: int = 2) -> list[str]:
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(tools.agents.call("site-loop")) for _ in range(width)]
    return [call.result() for call in calls]


@agent("site-relay", on_worker_loss="requeue", max_attempts=5)
async def relay(tools: Tools, seconds: float = 3.0) -> str:
    """Start two others, on any worker, and log messages meanwhile."""
    children = [await tools.agents.start("site-chat", {"seconds": seconds}) for _ in range(2)]
    await _chat(tools, seconds)
    for child in children:
        await child
    return "done"


@agent("site-chat", on_worker_loss="requeue", max_attempts=5)
async def chat(tools: Tools, seconds: float = 3.0) -> None:
    await _chat(tools, seconds)


async def _chat(tools: Tools, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        tools.log("and so on")
        await asyncio.sleep(0.03)
        check_should_stop()


@agent("site-brief")
async def brief(tools: Tools, seconds: float = 0.5) -> str:
    await asyncio.sleep(seconds)
    return "done"


@agent("site-block")
async def block(tools: Tools, seconds: float = 2.0) -> str:
    """Block the loop of all agents, which agents must not do."""
    tools.log("blocking")
    await asyncio.sleep(0.1)
    time.sleep(seconds)
    await asyncio.sleep(0.5)  # long enough for the worker to be declared lost
    return "blocked"


@agent("site-compute")
def compute(tools: SyncTools, seconds: float = 2.0) -> int:
    """Keep the interpreter busy, in a thread."""
    tools.log("computing")
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        count += 1
    return count


@agent("site-asleep")
async def asleep(tools: Tools, path: str) -> None:
    """Sleep in a thread, which nothing can cut, until a file is there."""
    tools.log("asleep")
    await asyncio.to_thread(_sleep_until, path)


@agent("site-asleep-in-def")
def asleep_in_def(tools: SyncTools, path: str) -> None:
    """Do the same in the agent's own thread."""
    tools.log("asleep")
    _sleep_until(path)


def _sleep_until(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.05)


@agent("site-hold")
async def hold(tools: Tools, url: str, count: int = 1) -> int:
    """Have so many requests in flight at a time; fail with the first that fails."""
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(tools.http.get(url, timeout=60)) for _ in range(count)]
    return sum(call.result().status_code == 200 for call in calls)


@agent("site-hold-in-thread")
def hold_in_thread(tools: SyncTools, url: str) -> int:
    return tools.http.get(url, timeout=60).status_code
